"""Every refusal is counted and logged with its reason, never with the credentials, and never with a query."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import Scope

from jobwire_gateway.addresses import Network, client_address
from jobwire_gateway.callers import caller
from jobwire_gateway.problems import Problem

_log = logging.getLogger("jobwire.gateway")

MAX_LINES_PER_SECOND = 20
"""More than these are counted only, so that who knocks often cannot fill the disk."""

_STATUSES = (401, 403, 408, 413, 421)
"""Of problems: who asks, from where, how slowly, how much. What else goes wrong is no refusal."""


class Refusals:
    """`counts` has a number for each reason, which is a word from a short list."""

    def __init__(self, proxies: Sequence[Network] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self._proxies = proxies
        self._second = 0
        self._lines = 0
        self._silent = 0

    def note(self, reason: str, scope: Scope, name: str = "") -> None:
        """Count one request, or one thing that was asked on a connection, and say so. `name` is the caller's, where it is not set yet."""
        self.counts[reason] += 1
        asking = caller()
        name = name or (asking.identity.name if asking is not None else "")
        self._say(
            "gateway.refused reason=%s method=%s path=%r address=%s name=%r",
            (reason, scope.get("method", "WS"), scope["path"][:200], client_address(scope, self._proxies), name[:80]),
        )

    def note_problem(self, problem: Problem, scope: Scope) -> None:
        """The same for a request that ends with this problem, if it is a refusal."""
        if problem.status in _STATUSES:
            self.note(problem.reason or HTTPStatus(problem.status).name, scope)

    def note_head(self, reason: str, address: str) -> None:
        """The same for a head that was not read to its end."""
        self.counts[reason] += 1
        self._say("gateway.refused reason=%s address=%s", (reason, address))

    def note_turned_away(self, reason: str) -> None:
        """Say that a stream was told to come back later; it is counted among those."""
        asking = caller()
        self._say("gateway.turned_away reason=%s name=%r", (reason, asking.identity.name[:80] if asking is not None else ""))

    def _say(self, line: str, values: tuple[str, ...]) -> None:
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
        _log.warning(line, *values)
