"""A process that delivers webhooks, started as a user starts it, and a receiver of webhooks."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.broker import Broker
from tests.support.process import Process, python

WAIT_S = 120.0
"""On a busy machine all is slow; who waits for what comes pays nothing for a long bound."""


class WebhooksProcess(Process):
    """One `jobwire webhooks`. After `kill()`, `restart()` brings it back."""

    ready_line = r"webhooks\.ready"

    def __init__(self, broker: Broker, file: Path, *, extra: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        super().__init__("webhooks")
        self._env = dict(env or {})
        self._arguments = ["--file", str(file), "--broker", broker.address, *extra]

    def command(self) -> list[str]:
        return python("-m", "jobwire_cli.main", "webhooks", *self._arguments)

    def environment(self) -> Mapping[str, str]:
        return self._env


class Received(NamedTuple):
    """One request."""

    path: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes

    @property
    def id(self) -> str:
        """What a receiver tells repeats by."""
        return self.headers["webhook-id"]


Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
"""The bytes of an answer, or what writes one."""


async def silence(writer: asyncio.StreamWriter) -> None:
    """The answer of one that never answers."""
    await asyncio.Event().wait()


OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An answer's bytes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Receiver:
    """Answers each request with the next of `answers`, and with 204 when there are no more."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.port = 0
        self._answers: list[Answer] = []
        self._arrived = asyncio.Condition()
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def listening(cls, answers: Iterable[Answer] = (), tls: ssl.SSLContext | None = None) -> AsyncIterator["Receiver"]:
        """One on a port of loopback."""
        receiver = cls()
        receiver._answers = list(answers)
        server = await asyncio.start_server(receiver._connected, "127.0.0.1", 0, ssl=tls)
        receiver.port = server.sockets[0].getsockname()[1]
        try:
            yield receiver
        finally:
            server.close()
            serving = list(receiver._serving)
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/hook?of=test"

    def then(self, *answers: Answer) -> None:
        """Answer the next requests like this."""
        self._answers += answers

    async def next(self, count: int = 1) -> list[Received]:
        """All requests so far, as soon as there are `count`."""
        async with asyncio.timeout(WAIT_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            given: Answer = self._answers.pop(0) if self._answers else OK
            async with self._arrived:
                self.received.append(Received(first.split(" ")[1], headers, body))
                self._arrived.notify_all()
            if isinstance(given, bytes):
                writer.write(given)
                await writer.drain()
            else:
                await given(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # it gave up, which is its right
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
