"""A client of the WebSocket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support import Gateway

WAIT_S = 15.0


class Socket:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def subscribe(self, *topics: str) -> None:
        await self.say(type="subscribe", topics=topics)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            text = await self.connection.recv()
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        return frame

    async def until(self, kind: str, **members: object) -> dict[str, Any]:
        while (frame := await self.next())["type"] != kind or any(frame.get(name) != value for name, value in members.items()):
            pass
        return frame

    async def closed(self) -> int:
        """Read to the end. Gives the close code."""
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(self._read(), WAIT_S)
        assert caught.value.rcvd is not None, "the connection broke"
        return caught.value.rcvd.code

    async def _read(self) -> None:
        while True:
            await self.connection.recv()


@asynccontextmanager
async def opened(gateway: Gateway, **options: Any) -> AsyncIterator[Socket]:
    async with connect(f"ws://{gateway.address}/v1/ws", compression=None, proxy=None, **options) as connection:
        yield Socket(connection)
