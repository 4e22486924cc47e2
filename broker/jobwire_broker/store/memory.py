"""Whether the store comes near its memory limit. Read while jobs come in, once a second at most, and beside their calls: nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from jobwire_broker.errors import StoreFault, StoreUnavailable

#: From this share of the limit on, jobs are refused; what is left is for finishes, cancels and cleaning.
FULL_SHARE = 0.9
READ_EVERY_S = 1.0
#: What was read longer ago than this says nothing: the store itself refuses at its limit.
GOOD_FOR_S = 3.0


class MemoryWatch:
    """Of one store."""

    def __init__(self, read: Callable[[], Awaitable[tuple[int, int]]]) -> None:
        """`read` tells how many bytes are used, and the limit, 0 for none."""
        self._read = read
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._is_full = False
        self._task: asyncio.Task[None] | None = None

    def is_full(self) -> bool:
        """Whether the store takes no more jobs, as far as is known."""
        now = time.monotonic()
        if now - self._asked_at >= READ_EVERY_S:
            self._asked_at = now
            self._task = asyncio.create_task(self._look())
        return self._is_full and now - self._read_at < GOOD_FOR_S

    def refused(self) -> None:
        """The store has refused a call for its size."""
        self._is_full, self._read_at = True, time.monotonic()

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _look(self) -> None:
        with contextlib.suppress(StoreUnavailable, StoreFault):
            used, limit = await self._read()
            self._is_full, self._read_at = 0 < limit * FULL_SHARE <= used, time.monotonic()
