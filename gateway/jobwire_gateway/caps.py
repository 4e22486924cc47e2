"""How much one caller may have: requests in a time, open streams at once, and attempts with credentials that nobody knows."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import limits
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from jobwire_gateway.problems import Problem


class Rate:
    """How often something may happen for each key. Counted in this process alone."""

    def __init__(self, rate: str) -> None:
        """`rate` is as `limits` reads it, for example `100/second` or `5000/minute`. Raises ValueError."""
        self._item = limits.parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def take(self, key: str) -> None:
        """Count one. Raises Problem: 429, with when to come back."""
        if not await self._limiter.hit(self._item, key):
            resets_at = (await self._limiter.get_window_stats(self._item, key)).reset_time
            left_ms = max(1_000, math.ceil(1000 * (resets_at - time.time())))
            raise Problem(429, "That is too often; come back later.", reason="RATE_LIMITED", code="resource_exhausted", retry_after_ms=left_ms)

    async def is_used_up(self, key: str) -> bool:
        """Whether one more would be too many. Counts nothing."""
        return not await self._limiter.test(self._item, key)


class Shares:
    """How many streams each key has open. 0 is no limit."""

    def __init__(self, *, per_address: int = 0, per_identity: int = 0, per_tenant: int = 0) -> None:
        self._limits = {"address": per_address, "identity": per_identity, "tenant": per_tenant}
        self.are_limited = any(self._limits.values())
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one(self, **owners: str) -> Iterator[bool]:
        """Hold one stream of an address, an identity and a tenant; of those that are empty nothing is counted. Gives False when there are too many
        already; then nothing is held."""
        keys = [key for key in owners.items() if key[1] and self._limits[key[0]]]
        if any(self._open[key] >= self._limits[key[0]] for key in keys):
            yield False
            return
        self._open.update(keys)
        try:
            yield True
        finally:
            for key in keys:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
