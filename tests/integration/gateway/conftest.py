"""What the gateway's tests talk to."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support import Broker, Gateway
from tests.support.api import Api, api


@pytest.fixture
async def http(shared_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """The shared gateway."""
    async with httpx.AsyncClient(base_url=shared_gateway.url, timeout=20, trust_env=False) as http:
        yield http


@pytest.fixture
async def worker(shared_broker: Broker) -> AsyncIterator[Api]:
    """The shared broker's services, for a worker of single calls."""
    async with api(shared_broker) as services:
        yield services
