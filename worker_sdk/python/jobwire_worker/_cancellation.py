"""`job.cancelled`: whether, and why, an attempt is to be given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from functools import partial


class CancelReason(Enum):
    """Why an attempt is to be given up."""

    REQUESTED = "requested"
    """Somebody cancelled the job. A handler that completes all the same, within the grace, still counts."""
    STALE_LEASE = "stale_lease"
    """The lease is another worker's. What the handler still does will not count."""
    TIMEOUT = "timeout"
    """The timeout of the job, its queue or its handler is over: the attempt fails, or has failed already."""
    SHUTDOWN = "shutdown"
    """The worker ends, and its grace for running jobs is over. The job goes back uncharged."""
    LEASE_UNCERTAIN = "lease_uncertain"
    """No broker could say for a while that the lease still holds. Another worker may have the job. It may pass: then `cancelled` is falsy again."""


class Cancellation:
    """Truthy when the attempt is to be given up. Safe to read from any thread."""

    __slots__ = ("_reason", "_waiters", "grace")

    def __init__(self) -> None:
        self._reason: CancelReason | None = None
        self._waiters: list[Callable[[], None]] | None = None
        self.grace: timedelta | None = None
        """How long the handler has from the request on, where there is a bound; else None."""

    @property
    def reason(self) -> CancelReason | None:
        """Why; None while nothing is cancelled."""
        return self._reason

    @property
    def definite(self) -> bool:
        """Whether it will not pass: any reason but LEASE_UNCERTAIN."""
        return self._reason is not None and self._reason is not CancelReason.LEASE_UNCERTAIN

    def __bool__(self) -> bool:
        return self._reason is not None

    def __repr__(self) -> str:
        return f"<Cancellation {self._reason.value if self._reason else 'none'}>"

    async def wait(self) -> CancelReason:
        """Return the reason as soon as there is one."""
        loop = asyncio.get_running_loop()
        while self._reason is None:
            told = asyncio.Event()
            self._watch(partial(_tell, loop, told))
            await told.wait()
        return self._reason

    def wait_in_thread(self, timeout: float | None = None) -> CancelReason | None:
        """Block this thread until there is a reason, at most `timeout` seconds (None: for ever). The reason, or None when the time is over."""
        if self._reason is None:
            told = threading.Event()
            self._watch(told.set)
            told.wait(timeout)
        return self._reason

    def _watch(self, tell: Callable[[], None]) -> None:
        waiters = self._waiters
        if waiters is None:
            waiters = self._waiters = []
        waiters.append(tell)
        if self._reason is not None:  # it came meanwhile: nobody would tell
            tell()

    def _set(self, reason: CancelReason, grace: timedelta | None = None) -> None:
        """A definite reason replaces an uncertain one, and a lost lease any other."""
        if self.definite and (reason is CancelReason.LEASE_UNCERTAIN or self._reason is CancelReason.STALE_LEASE):
            return
        self._reason = reason
        self.grace = grace
        waiters, self._waiters = self._waiters, None
        for tell in waiters or ():
            tell()

    def _clear_uncertain(self) -> None:
        if self._reason is CancelReason.LEASE_UNCERTAIN:
            self._reason = None


def _tell(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(told.set)
