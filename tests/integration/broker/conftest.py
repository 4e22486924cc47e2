"""A connection for each test to the brokers that are started once."""

from collections.abc import AsyncIterator

import pytest

from tests.support import Broker
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
