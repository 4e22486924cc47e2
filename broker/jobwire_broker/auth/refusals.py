"""Every refusal is counted and logged with its reason, never with the credentials."""

from __future__ import annotations

import logging
import time
from collections import Counter

from jobwire_broker.auth.errors import Refused
from jobwire_broker.auth.identity import Identity

log = logging.getLogger(__name__)

MAX_LINES_PER_SECOND = 20
"""More than these are counted only, so that who knocks often can't fill the disk."""


class Refusals:
    """`counts` has a number for each (reason, detail); both are words from a short list."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._second = 0
        self._lines = 0
        self._silent = 0

    def note(self, error: Refused, *, call: str, peer: str, identity: Identity | None) -> None:
        """Count one, and say so."""
        self.counts[error.reason, error.detail] += 1
        second = int(time.monotonic())
        if second != self._second:
            if self._silent:
                log.warning("auth.refused_more count=%d", self._silent)
            self._second, self._lines, self._silent = second, 0, 0
        if self._lines >= MAX_LINES_PER_SECOND:
            self._silent += 1
            return
        self._lines += 1
        log.warning(
            "auth.refused call=%s peer=%s name=%s reason=%s detail=%s verb=%s queue=%s",
            call,
            peer,
            _shown(identity.name) if identity else "-",
            error.reason,
            error.detail,
            error.metadata.get("verb", "-"),
            error.metadata.get("queue", "-"),
        )


def _shown(name: str) -> str:
    """A name out of a token may hold anything, line breaks as well."""
    return name[:80] if name.isprintable() and name.isascii() and " " not in name else repr(name[:80])
