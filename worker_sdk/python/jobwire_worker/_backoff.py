"""How long to wait between two tries to connect."""

from __future__ import annotations

import random

BASE_S = 0.1
CAP_S = 5.0


class Backoff:
    """Exponential with jitter: the n-th wait is between a fifth and the whole of 0.1 s · 2^n, at most 5 s.

    While the worker holds jobs, no wait is longer than a third of the session time: their leases run out at its end.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._failures = 0

    def next_wait_s(self, *, addresses: int, holds_jobs: bool, session_time_s: float) -> float:
        """The wait before the next try. With several addresses each round through them counts once."""
        round_number = self._failures // max(1, addresses)
        self._failures += 1
        longest_s: float = min(CAP_S, BASE_S * 2.0 ** min(round_number, 16))
        if holds_jobs:
            longest_s = min(longest_s, session_time_s / 3)
        return longest_s * self._rng.uniform(0.2, 1.0)

    def reset(self) -> None:
        """A stream worked: the next wait is a first one."""
        self._failures = 0
