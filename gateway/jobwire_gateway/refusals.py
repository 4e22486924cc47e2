"""Every refusal is counted and logged with its reason, never with the credentials, and never with a query."""

import logging
import time
from collections import Counter

_log = logging.getLogger("jobwire.gateway")

MAX_LINES_PER_SECOND = 20
"""More than these are counted only, so that who knocks often cannot fill the disk."""


class Refusals:
    """`counts` has a number for each reason, which is a word from a short list."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._second = 0
        self._lines = 0
        self._silent = 0

    def note(self, reason: str, *, method: str, path: str, address: str, name: str = "") -> None:
        """Count one, and say so."""
        self.counts[reason] += 1
        second = int(time.monotonic())
        if second != self._second:
            if self._silent:
                _log.warning("gateway.refused_more count=%d", self._silent)
            self._second, self._lines, self._silent = second, 0, 0
        if self._lines >= MAX_LINES_PER_SECOND:
            self._silent += 1
            return
        self._lines += 1
        # Path and name are anybody's: as literals they can begin no line of their own.
        _log.warning("gateway.refused reason=%s method=%s path=%r address=%s name=%r", reason, method, path[:200], address, name[:80])
