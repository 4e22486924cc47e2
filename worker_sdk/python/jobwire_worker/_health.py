"""A port that says over plain HTTP whether the worker is alive: 200, or 503 when its stream is dead.

It is served on the stream's thread, so that a handler that blocks its event loop does not make the worker look dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from .errors import HealthPortError, RegistrationError

REQUEST_LIMIT_BYTES = 8192
READ_TIMEOUT_S = 5.0

Probe = Callable[[], dict[str, Any]]
"""What to answer; `status` is "ok" or "down"."""


def parse_health(address: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8081`. Port 0 takes a free one. Raises RegistrationError."""
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise RegistrationError(f"health must be 'host:port', for example '127.0.0.1:8081', got {address!r}")
    return host.strip("[]"), int(port)


class HealthServer:
    """Answers any GET or HEAD."""

    def __init__(self, host: str, port: int, probe: Probe) -> None:
        self._host = host
        self._port = port
        self._probe = probe
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """The port that it listens on. Raises HealthPortError."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=REQUEST_LIMIT_BYTES)
        except OSError as error:
            reason = str(error.strerror).rpartition(": ")[2]  # asyncio says the address before it, as a tuple
            raise HealthPortError(f"health checks can't be answered at {self._host}:{self._port}: {reason}; free it, or give another address") from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """May be called before start, and twice."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request.partition(b" ")[0]))
                await writer.drain()
        writer.close()

    def _answer(self, method: bytes) -> bytes:
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"")
        state = self._probe()
        body = json.dumps(state).encode() + b"\n"
        return _response("200 OK" if state["status"] == "ok" else "503 Service Unavailable", body, send_body=method == b"GET")


def _response(status: str, body: bytes, *, send_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    return head.encode() + (body if send_body else b"")
