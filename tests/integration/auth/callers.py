"""Asking a gateway that wants to know who asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from jobwire.v1 import admin_service_pb2 as admin

from tests.support import Broker, Gateway
from tests.support.api import api
from tests.support.credentials import bearer

GONE = "no-such-job"
HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}


@asynccontextmanager
async def client(gateway: Gateway, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False, headers=headers, limits=httpx.Limits(max_connections=16)) as http:
        yield http


def said(credentials: str | None) -> dict[str, str]:
    return {} if credentials is None else {"Authorization": f"Bearer {credentials}"}


async def minted(broker: Broker, key: str, *names: str, single_use: bool = False, ttl_s: int = 0) -> str:
    request = admin.CreateWatchTokenRequest(names=names, single_use=single_use)
    if ttl_s:
        request.ttl.FromSeconds(ttl_s)
    async with api(broker) as connected:
        return (await connected.admin.CreateWatchToken(request, metadata=bearer(key))).token
