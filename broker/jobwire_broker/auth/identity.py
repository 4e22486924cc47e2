"""Identities, and the scopes that say what they may do.

A scope is `VERB:QUEUE`, `VERB:PREFIX*` or `VERB:QUEUE/JOB_ID`; to watch, `VERB:QUEUE/groups/GROUP` and `VERB:QUEUE/labels/KEY=VALUE` as well, with the value
percent-encoded. The only wildcard is one star at the end, so matching is linear and nobody has to think about
patterns. VERB is one of VERBS, or `*` for all of them. An identity with a tenant reaches only queues whose names begin with the tenant and a dot, whatever its
scopes say.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobwire_broker.names import ID_PATTERN, QUEUE_PATTERN

VERBS = ("admin", "control", "enqueue", "manage", "read", "watch", "work")
"""What may be done: look at the system itself; act on jobs; make jobs; act on queues; read jobs and queues; follow them; take jobs and give back results."""

MAX_SCOPES = 200
_TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_REMEMBERED = 1000
_PART = re.compile(rf"groups/{ID_PATTERN.pattern}|labels/[A-Za-z0-9._/-]{{1,63}}=[A-Za-z0-9._~%-]{{0,384}}")


@dataclass(frozen=True, slots=True)
class Scope:
    """One verb on one queue, on all queues with a prefix, or on one job or other part of a queue (`job_id`). `*` stands for all verbs."""

    verb: str
    queue: str
    is_prefix: bool = False
    job_id: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read `VERB:TARGET`. Raises ValueError, whose message names the scope."""
        verb, colon, target = text.partition(":")
        if not colon or verb not in (*VERBS, "*"):
            raise ValueError(f"the scope {text[:80]!r} must be VERB:QUEUE with a verb of {', '.join(VERBS)} or *")
        queue, slash, job_id = target.partition("/")
        is_prefix = queue.endswith("*") and not slash
        queue = queue.removesuffix("*") if is_prefix else queue
        if not (is_prefix and not queue) and not QUEUE_PATTERN.fullmatch(queue):
            raise ValueError(f"the scope {text[:80]!r} must name a queue, a prefix with a star behind it, or * for all queues")
        if slash and not (ID_PATTERN.fullmatch(job_id) or _PART.fullmatch(job_id)):
            raise ValueError(f"the scope {text[:80]!r} must name a job behind its slash, or groups/GROUP, or labels/KEY=VALUE")
        return cls(verb, queue, is_prefix, job_id)

    def covers(self, verb: str, queue: str, job_id: str = "") -> bool:
        """Whether it allows `verb` on this queue, or on this job of it."""
        if self.verb not in (verb, "*"):
            return False
        if self.is_prefix:
            return queue.startswith(self.queue)
        return queue == self.queue and self.job_id in ("", job_id)

    def common(self, other: Scope) -> Scope | None:
        """What both allow; None when that is nothing."""
        if self.verb != other.verb and "*" not in (self.verb, other.verb):
            return None
        verb = other.verb if self.verb == "*" else self.verb
        for narrow, wide in ((self, other), (other, self)):
            if (wide.is_prefix or not narrow.is_prefix) and wide.covers(verb, narrow.queue, narrow.job_id):
                return Scope(verb, narrow.queue, narrow.is_prefix, narrow.job_id)
        return None

    def __str__(self) -> str:
        return f"{self.verb}:{self.queue}{'*' if self.is_prefix else ''}{f'/{self.job_id}' if self.job_id else ''}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity:
    """Somebody who may do something. Kept for as long as its credentials are, so decisions are remembered in it."""

    name: str
    """The name of the key, the subject of the token, or the name in the certificate."""

    scopes: tuple[Scope, ...] = ()

    tenant: str = ""
    """Queues that do not begin with it and a dot are out of reach. Empty: no such limit."""

    expires_at: float | None = None
    """Seconds since 1970; None for never."""

    root: str = ""
    """The short name of the key or certificate that all this comes from: what was made with a key ends with it. Empty for identities of an outside provider."""

    parent: Identity | None = None
    """Who made the token that this is. It may never do more than its parent may now."""

    ticket: str = ""
    """The number of a token that can be used once. Empty for all others."""

    is_spent: bool = False
    """Whether it stands for the stream that a ticket opened, and not for the ticket."""

    stream_until: float | None = None
    """Of a ticket: when the stream that it opens must end, in seconds since 1970."""

    _decided: dict[tuple[str, str, str], bool] = field(default_factory=dict, repr=False)

    def may(self, verb: str, queue: str, job_id: str = "") -> bool:
        """Whether it may do `verb` to the queue, or to the job in it."""
        question = (verb, queue, job_id)
        decided = self._decided.get(question)
        if decided is None:
            if len(self._decided) >= _MAX_REMEMBERED:
                self._decided.clear()
            reachable = (not self.tenant or queue.startswith(f"{self.tenant}.")) and (self.parent is None or self.parent.may(verb, queue, job_id))
            decided = self._decided[question] = reachable and any(scope.covers(verb, queue, job_id) for scope in self.scopes)
        return decided

    def may_everywhere(self, verb: str) -> bool:
        """Whether it may do `verb` to every queue there is or will be."""
        if self.parent is not None and not self.parent.may_everywhere(verb):
            return False
        return not self.tenant and any(scope.verb in (verb, "*") and scope.is_prefix and not scope.queue for scope in self.scopes)

    def has_expired(self, now: float | None = None) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= (time.time() if now is None else now)


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Read scopes. Raises ValueError for one that is none, for none at all and for very many."""
    scopes = tuple(dict.fromkeys(Scope.parse(text) for text in texts))
    if not 1 <= len(scopes) <= MAX_SCOPES:
        raise ValueError(f"1 to {MAX_SCOPES} scopes are needed; there are {len(scopes)}")
    return scopes


def common_scopes(ours: Iterable[Scope], theirs: Sequence[Scope]) -> tuple[Scope, ...]:
    """What both lists allow."""
    found = (one.common(other) for one in ours for other in theirs)
    return tuple(dict.fromkeys(scope for scope in found if scope is not None))


def known_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes among words of which some are for others, as in a token of an identity provider."""
    found: dict[Scope, None] = {}
    for text in texts:
        try:
            found[Scope.parse(text)] = None
        except ValueError:
            continue
        if len(found) == MAX_SCOPES:
            break
    return tuple(found)


def check_tenant(tenant: str) -> str:
    """Return the tenant's name. Raises ValueError."""
    if not _TENANT_PATTERN.fullmatch(tenant):
        raise ValueError(f"the tenant {tenant[:80]!r} must be 1 to 64 of [A-Za-z0-9_-], the first a letter or digit")
    return tenant
