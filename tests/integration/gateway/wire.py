"""An event stream at the level of bytes: what really stands on the wire, which an HTTP library would hide."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Self

WAIT_S = 15.0


@contextmanager
def stalled(address: str, head: str) -> Iterator[socket.socket]:
    """A connection that sends this head of a request, and whose kernel takes little of the answer as long as nobody reads it."""
    host, _, port = address.rpartition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((host, int(port)))
        connection.sendall(f"{head}\r\nHost: {address}\r\n\r\n".encode())
        yield connection


def stalled_stream(address: str, path: str) -> AbstractContextManager[socket.socket]:
    """The same of an EventSource."""
    return stalled(address, f"GET {path} HTTP/1.1\r\nAccept: text/event-stream")


def events_in(body: bytes) -> list[dict[str, Any]]:
    """What a page would have seen."""
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


class Wire:
    """One connection with one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.chunks = 0
        self.ended = False

    @classmethod
    async def ask(cls, address: str, path: str, *, method: str = "GET", **headers: str) -> Self:
        """Send the request of an EventSource, and read the head of its answer."""
        host, _, port = address.rpartition(":")
        wire = cls(*await asyncio.open_connection(host, int(port)))
        lines = {"Host": address, "Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        wire._writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        await wire._read_head()
        return wire

    async def until(self, text: bytes, wait_s: float = WAIT_S) -> bytes:
        """Read until the body has this in it. Gives the body so far."""
        try:
            async with asyncio.timeout(wait_s):
                while text not in self.body and not self.ended:
                    await self._read_chunk()
        except TimeoutError:
            pass
        assert text in self.body, self.body
        return self.body

    async def rest(self) -> bytes:
        """Read to the end of the answer. Gives the whole body."""
        async with asyncio.timeout(WAIT_S):
            while not self.ended:
                await self._read_chunk()
        return self.body

    async def first_chunk(self) -> bytes:
        """Read what is sent first."""
        async with asyncio.timeout(WAIT_S):
            await self._read_chunk()
        return self.body

    def events(self) -> list[dict[str, Any]]:
        """What a page would have seen."""
        return events_in(self.body)

    def ids(self) -> list[str]:
        """All ids, in their order."""
        return [line[4:].decode() for line in self.body.split(b"\n") if line.startswith(b"id: ")]

    async def close(self) -> None:
        """Go away."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _read_head(self) -> None:
        async with asyncio.timeout(WAIT_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        for line in filter(None, lines):
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value
        self.ended = self.status in (204, 304) or self.headers.get("content-length") == "0"

    async def _read_chunk(self) -> None:
        if "content-length" in self.headers:
            self.body += await self._reader.readexactly(int(self.headers["content-length"]))
            self.ended = True
            return
        size = int((await self._reader.readuntil(b"\r\n")).strip(), 16)
        self.body += await self._reader.readexactly(size)
        self.chunks += 1
        await self._reader.readexactly(2)
        self.ended = size == 0
