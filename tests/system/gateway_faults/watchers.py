"""A thousand pages that each follow one job, as browsers do it: one EventSource each, behind an address that leads to any gateway that answers.

A watcher does what the standard says: it remembers `retry:` and the last id, comes back after the one with the other (also when it was refused the
connection), gives up after 204, and holds any other status for the end.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tests.support import Gateway


class Watcher:
    """One page with one EventSource."""

    def __init__(self, gateways: Sequence[Gateway], path: str, opened: list[float]) -> None:
        self.live = asyncio.Event()
        self.final: dict[str, Any] | None = None
        self.finals = 0
        self.trouble = ""
        self._gateways = gateways
        self._path = path
        self._opened = opened
        self._retry_s = 3.0
        self._last_id = ""
        self._revision = 0

    async def run(self) -> None:
        """Follow the job until the gateway says that there is no more."""
        due = time.monotonic()
        while True:
            # When it was to come: that a busy test comes later, and with many at once, is not the gateway's doing.
            self._opened.append(due)
            with suppress(OSError, EOFError):
                status = await self._open()
                if status == 204:
                    return
                if status != 200:
                    self.trouble = f"status {status}, which ends an EventSource for good"
                    return
            due = time.monotonic() + self._retry_s
            await asyncio.sleep(self._retry_s)

    async def _open(self) -> int:
        reader, writer = await self._connect()
        try:
            again = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
            writer.write(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{again}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split()[1])
            if status == 200:
                await self._read(reader)
            return status
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for gateway in random.sample(self._gateways, len(self._gateways)):
            if gateway.running and not gateway_drains(gateway):
                host, _, port = gateway.address.rpartition(":")
                with suppress(OSError):
                    return await asyncio.open_connection(host, int(port))
        raise ConnectionRefusedError

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b": ")
        if field == b"retry":
            self._retry_s = int(value) / 1000
        elif field == b"id":
            self._last_id = value.decode()
        elif field == b"data":
            self._see(json.loads(value))

    def _see(self, frame: dict[str, Any]) -> None:
        if frame["type"] in ("update", "final"):
            if frame["revision"] < self._revision:
                self.trouble = f"revision {frame['revision']} after {self._revision}"
            self._revision = frame["revision"]
            self.live.set()
        if frame["type"] == "final":
            self.finals += 1
            self.final = frame


def gateway_drains(gateway: Gateway) -> bool:
    """Whether a balancer that looks at `/readyz` would send nobody there any more."""
    return "gateway.draining" in gateway.tail(5)


def busiest_second(moments: Sequence[float], window_s: float = 1.0) -> int:
    """How many of these moments fall into the busiest second."""
    ordered = sorted(moments)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
