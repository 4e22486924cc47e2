"""A connection for each test to the brokers that are started once."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import Broker, Store
from tests.support.api import Api
from tests.support.api import api as connected


@pytest.fixture
async def api(shared_broker: Broker) -> AsyncIterator[Api]:
    """The services of the shared broker, on Valkey."""
    async with connected(shared_broker) as api:
        yield api


@pytest.fixture
async def redis_api(shared_redis_broker: Broker) -> AsyncIterator[Api]:
    """The services of the shared broker on Redis 7.0."""
    async with connected(shared_redis_broker) as api:
        yield api


@pytest.fixture(scope="session")
def second_broker(shared_store: Store) -> Iterator[Broker]:
    """Another broker on the store of the shared one."""
    with Broker(shared_store).started() as broker:
        yield broker


@pytest.fixture(scope="session")
def quick_broker(shared_store: Store) -> Iterator[Broker]:
    """Another broker on the store of the shared one, with a session time of 2 s and a ping every half second."""
    with Broker(shared_store, session_time="2s").started() as broker:
        yield broker
