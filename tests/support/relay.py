"""A TCP relay in asyncio: what the proxies that break things have in common.

One relay stands before one address. Each connection is two pumps; what a pump does with the bytes is the proxy's business.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Link:
    """One connection through a relay: the side that came to us, and ours to the target."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far

    def cut(self) -> None:
        """Break the connection both ways at once."""
        self.near.transport.abort()
        self.far.transport.abort()


class Relay:
    """Forwards connections to `target`, `HOST:PORT` or the path of a unix socket. An async context manager; `address` is valid inside it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        """Forward one way until the end. A proxy overrides this."""
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    def cut_all(self) -> None:
        """Break every connection now; new ones are let through."""
        for link in list(self.links):
            link.cut()

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once, as an address without a listener would."""
        self._refusing = refusing

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            near.transport.abort()
            return
        try:
            far_reader, far = await self._connect()
        except OSError:
            near.transport.abort()
            return
        link = Link(near, far)
        self.links.add(link)
        try:
            await _first_end(lambda: self.pump(link, reader, far, up=True), lambda: self.pump(link, far_reader, near, up=False))
        finally:
            self.links.discard(link)
            near.close()
            far.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("/"):
            return await asyncio.open_unix_connection(self.target)
        host, port = self.target.rsplit(":", 1)
        return await asyncio.open_connection(host, int(port))


async def _first_end(*pumps: Callable[[], Awaitable[None]]) -> None:
    """Run the pumps until one ends; a broken connection is an end like any other."""

    async def guarded(pump: Callable[[], Awaitable[None]]) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await pump()

    tasks = [asyncio.ensure_future(guarded(pump)) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
