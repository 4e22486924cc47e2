"""Who asks, while a request is answered: what the parts of the gateway need to know of it, and nothing of how it was found out (access.py).

A request's caller stands in a context variable, so that calls to the broker carry its credentials and not ours, and streams end with them. Where nobody has to
say who they are it is not set, and everything is allowed.
"""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote

from jobwire_gateway.problems import Problem

MAX_PAGE_S = 3_660.0
"""A watch token lives for an hour at most; some more for clocks that differ."""


Rights = tuple[str, frozenset[str]]
"""A tenant, and the scopes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity:
    """Somebody whom the broker knows."""

    name: str
    tenant: str = ""
    scopes: tuple[str, ...] = ()
    """`VERB:QUEUE`, `VERB:PREFIX*`, `VERB:QUEUE/JOB_ID`, `VERB:QUEUE/groups/GROUP`, `VERB:QUEUE/labels/KEY=VALUE`."""
    expires_at: float | None = None
    """Seconds since 1970; None for never. Of a ticket: when the stream that it opens must end."""
    stream_token: str = field(default="", repr=False)
    """Of a ticket, which is spent: what tells the broker whose stream this is, and is good for nothing else."""

    def may_watch(self, topic: str) -> bool:
        """Whether it may follow `queues`, `queues/{queue}`, or a job, group or label in one."""
        _, _, rest = topic.partition("queues")
        queue, _, part = rest.removeprefix("/").partition("/")
        if self.tenant and not queue.startswith(f"{self.tenant}."):
            return False
        part = _in_scopes(part)
        return any(_covers(scope, queue, part) for scope in self.scopes)

    def is_page(self) -> bool:
        """Whether the credentials may do no more, and for no longer, than what is made for pages: a watch token or a ticket."""
        if not all(scope.startswith("watch:") for scope in self.scopes):
            return False
        return bool(self.stream_token) or (self.expires_at is not None and self.expires_at <= time.time() + MAX_PAGE_S)

    @property
    def rights(self) -> Rights:
        """What it may do."""
        return self.tenant, frozenset(self.scopes)

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


@dataclass(frozen=True, kw_only=True, eq=False)
class Caller:
    """Who made the request that is being answered."""

    credentials: str = field(repr=False)
    identity: Identity
    address: str


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
set_caller = _caller.set


def caller() -> Caller | None:
    """Who asks; None where nobody has to say who they are, and in what the gateway does by itself."""
    return _caller.get()


def allow_watch(topics: Iterable[str]) -> None:
    """Raise Problem, 403, for the first topic that the caller may not follow. It says the same whether there is such a thing or not."""
    asking = _caller.get()
    if asking is None:
        return
    for topic in topics:
        if not asking.identity.may_watch(topic):
            raise Problem(403, f"These credentials may not watch {topic}.", reason="NOT_PERMITTED", code="permission_denied", metadata={"verb": "watch"})


def _in_scopes(part: str) -> str:
    """A part of a queue as scopes write it: a job by its id alone, a label's value percent-encoded."""
    if part.startswith("labels/"):
        key, _, value = part.partition("=")
        return f"{key}={quote(value, safe='')}"
    return part.removeprefix("jobs/")


def _covers(scope: str, queue: str, part: str) -> bool:
    verb, _, target = scope.partition(":")
    if verb not in ("watch", "*"):
        return False
    if target == "*":
        return True
    if target.endswith("*") and "/" not in target:
        return bool(queue) and queue.startswith(target[:-1])
    of_queue, _, of_part = target.partition("/")
    return bool(queue) and queue == of_queue and of_part in ("", part)
