"""A reader of event streams, with the standard library alone. It does what a browser's EventSource does: it comes back after a break, says what it saw last,
waits as long as the server asks, and stops at 204."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_SILENCE_S = 60.0
"""The gateway sends a heartbeat every 15 s."""
_CONNECT_S = 5.0
_MAX_FAILURES = 10
_MAX_LINE_BYTES = 1024 * 1024

Event = dict[str, Any]


class NotAUrl(ValueError):
    """Raised when an address is none of http or https."""


class StreamRefused(Exception):
    """Raised when the server answers, but with no stream."""

    def __init__(self, url: str, status: int) -> None:
        """Keep the HTTP status."""
        super().__init__(f"{url} answers with status {status}")
        self.status = status


class StreamUnavailable(Exception):
    """Raised when the server can't be reached several times in a row."""


@dataclass
class _Memory:
    """What outlives a connection."""

    last_id: str = ""
    retry_s: float = 2.0


async def follow(url: str) -> AsyncGenerator[Event, None]:
    """Yield the data of each event until the server says that nothing more comes.

    Raises:
        NotAUrl: the address is none of http or https.
        StreamRefused: there is no such stream.
        StreamUnavailable: the server could not be reached ten times in a row.
    """
    memory = _Memory()
    failures = 0
    while True:
        try:
            async for event in _one_connection(url, memory):
                failures = 0
                yield event
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError) as error:
            failures += 1
            if failures >= _MAX_FAILURES or (failures > 1 and not memory.last_id):
                raise StreamUnavailable(f"{url} can't be reached: {error or type(error).__name__}") from error
        except _Ended:
            return
        await asyncio.sleep(memory.retry_s)


class _Ended(Exception):
    """Raised at status 204."""


async def _one_connection(url: str, memory: _Memory) -> AsyncIterator[Event]:
    reader, writer = await _connect(url)
    try:
        writer.write(_request(url, memory.last_id))
        chunked = await _read_head(url, reader)
        async for line in _lines(_chunks(reader) if chunked else _rest(reader)):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                memory.last_id = value
            elif field == "retry" and value.isdigit():
                memory.retry_s = int(value) / 1000
            elif field == "data":  # the gateway writes one line of data per event
                yield json.loads(value)
    finally:
        writer.close()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotAUrl(f"{url!r} is no http or https URL")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    async with asyncio.timeout(_CONNECT_S):
        return await asyncio.open_connection(parts.hostname, parts.port or (443 if tls else 80), ssl=tls, limit=_MAX_LINE_BYTES)


def _request(url: str, last_id: str) -> bytes:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}", "Accept: text/event-stream", "Cache-Control: no-store", "Connection: close"]
    if last_id:
        headers.append(f"Last-Event-ID: {last_id}")
    return "\r\n".join([*headers, "", ""]).encode()


async def _read_head(url: str, reader: asyncio.StreamReader) -> bool:
    """Check the answer; returns whether its body is chunked."""
    head = (await _heard(reader.readuntil(b"\r\n\r\n"))).decode("latin-1").split("\r\n")
    words = head[0].split(" ")
    if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
        raise OSError("the answer is no HTTP")
    status = int(words[1])
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in head[1:])}
    if status == 204:
        raise _Ended
    if status != 200 or not headers.get("content-type", "").startswith("text/event-stream"):
        raise StreamRefused(url, status)
    return "chunked" in headers.get("transfer-encoding", "")


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := _chunk_size(await _heard(reader.readuntil(b"\r\n"))):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError:
        raise OSError("a chunk of the answer has no size") from None


async def _rest(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await _heard(reader.read(65536)):
        yield data


async def _heard(reading: Awaitable[bytes]) -> bytes:
    """What is read, unless the stream is silent for too long (TimeoutError)."""
    async with asyncio.timeout(_SILENCE_S):
        return await reading


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    pending = b""
    async for piece in pieces:
        *whole, pending = (pending + piece).split(b"\n")
        if len(pending) > _MAX_LINE_BYTES:
            raise OSError(f"a line of more than {_MAX_LINE_BYTES} bytes")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")
