"""A proxy between a worker and a broker that cuts the connection after a chosen frame.

It reads HTTP/2 so far that it knows where frames end, and counts DATA frames that carry something, each way. gRPC sends a small message as one
of them, so "after the third frame down" is a place in the conversation that stays the same from run to run.

gRPC throws away what it has received when the connection ends before the program read it. So after the frame nothing more passes either way, and only a
moment later the connection breaks: the frame has had its effect, and no answer to it comes back.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.relay import Link, Relay

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES = 9
_DATA = 0
_MOMENT_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Where to cut: after the `frame`-th DATA frame (from 1) that goes `up` to the broker, or down to the worker. The frame itself arrives."""

    up: bool
    frame: int

    def __str__(self) -> str:
        return f"after frame {self.frame} {'up' if self.up else 'down'}"


class CuttingProxy(Relay):
    """Cuts once, at `cut`, counting over all its connections; lets everything else through. Without `cut` it only counts.

    With `then_refuse`, nobody gets through after the cut, so that the worker must find another broker.
    """

    def __init__(self, target: str, cut: Cut | None = None, *, then_refuse: bool = False) -> None:
        super().__init__(target)
        self.frames: Counter[bool] = Counter()
        self.done = asyncio.Event()
        self.on_cut: Callable[[], None] = lambda: None
        self._cut = cut
        self._then_refuse = then_refuse
        self._held: Link | None = None

    @property
    def frames_up(self) -> int:
        return self.frames[True]

    @property
    def frames_down(self) -> int:
        return self.frames[False]

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        if up:
            writer.write(await reader.readexactly(len(_PREFACE)))
        while True:
            header = await reader.readexactly(_HEADER_BYTES)
            length = int.from_bytes(header[:3])
            payload = await reader.readexactly(length)
            if link is self._held:
                await asyncio.Event().wait()  # until the other pump cuts
            writer.write(header + payload)
            await writer.drain()
            if header[3] == _DATA and length:
                self.frames[up] += 1
                if self._is_due(up):
                    await self._fire(link)
                    return

    def _is_due(self, up: bool) -> bool:
        return self._cut is not None and self._held is None and up == self._cut.up and self.frames[up] == self._cut.frame

    async def _fire(self, link: Link) -> None:
        self._held = link
        await asyncio.sleep(_MOMENT_S)
        self.refuse(self._then_refuse)
        link.cut()
        self.on_cut()
        self.done.set()
