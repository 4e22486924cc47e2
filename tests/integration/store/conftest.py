"""Every test of the store's functions runs on Valkey and on Debian's Redis 7.0."""

from collections.abc import AsyncIterator

import pytest

from tests.support import Store, StoreKind
from tests.support.queue_lab import QueueLab, open_lab


@pytest.fixture(params=list(StoreKind), ids=str)
def product(request: pytest.FixtureRequest) -> Store:
    """A running store that all tests share."""
    name = "shared_store" if request.param is StoreKind.VALKEY else "shared_redis_store"
    store: Store = request.getfixturevalue(name)
    return store


@pytest.fixture
async def q(product: Store, queue: str) -> AsyncIterator[QueueLab]:
    """A queue of this test's own."""
    async with open_lab(product, queue) as lab:
        yield lab
