"""One timer for the heartbeats of all streams, instead of one timer each.

Every stream is visited once in two thirds of the interval, and skipped when it has written within the last third: so a stream is never silent
for longer than the interval, and a busy one gets no heartbeats.
"""

import asyncio
from typing import Protocol

_SLOTS = 20


class Beating(Protocol):
    """What is visited."""

    last_write: float

    def heartbeat(self) -> None:
        """Say something that means nothing."""


class Wheel:
    """Runs until `stop`. `interval_s` is the longest silence."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._slots: list[set[Beating]] = [set() for _ in range(_SLOTS)]
        self._where: dict[Beating, int] = {}
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: Beating) -> None:
        """Visit a stream from now on."""
        # The slot just passed: its first visit is a whole turn away.
        self._where[stream] = slot = (self._next - 1) % _SLOTS
        self._slots[slot].add(stream)

    def remove(self, stream: Beating) -> None:
        """Visit it no more. One that was not added is ignored."""
        slot = self._where.pop(stream, None)
        if slot is not None:
            self._slots[slot].discard(stream)

    def start(self) -> None:
        """Begin. To start twice is no error."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeats")

    async def stop(self) -> None:
        """End. To stop twice, or before the start, is no error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def turn(self, now: float) -> None:
        """Visit the next slot."""
        silent_since = now - self._interval_s / 3
        for stream in list(self._slots[self._next]):
            if stream.last_write <= silent_since:
                stream.heartbeat()
        self._next = (self._next + 1) % _SLOTS

    async def _run(self) -> None:
        step_s = self._interval_s * 2 / 3 / _SLOTS
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(step_s)
            self.turn(loop.time())
