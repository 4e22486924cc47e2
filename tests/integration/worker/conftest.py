"""A client beside a real broker, on Valkey and on Redis 7.0."""

from collections.abc import AsyncIterator

import pytest
from jobwire_client import Client

from tests.support import Broker


@pytest.fixture(params=["valkey", "redis"])
def each_broker(request: pytest.FixtureRequest) -> Broker:
    """The shared broker on each store."""
    broker: Broker = request.getfixturevalue("shared_broker" if request.param == "valkey" else "shared_redis_broker")
    return broker


@pytest.fixture
async def client(each_broker: Broker) -> AsyncIterator[Client]:
    """A client of `each_broker`."""
    async with Client(each_broker.address) as client:
        yield client
