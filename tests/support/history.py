"""What happened, judged in the terms of Jepsen's total-queue checker.

Clients say what they tried and what was acknowledged; workers say what they started and what they finished. `History.verdict()` then counts:

attempted     an enqueue was tried and not surely refused
acknowledged  an enqueue was answered as made
completed     a handler did all its work, the side effect included
lost          acknowledged and never completed
unexpected    completed and never attempted
recovered     completed though the enqueue was never acknowledged: allowed, since "unknown" may mean "made"
duplicated    completed more than once, with the reason where a rule allows it (at-least-once: the worker died between its side effect and
              the ack, its lease was surely over, or the store lost its last writes)
restarted     one (job, token) was started more than once: never allowed

A history is valid if and only if `lost`, `unexpected` and `restarted` are empty. Whether a duplicate is acceptable is for the test to say.
Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

# A finish reaches the store this long after the side effect, at the latest, when nothing else is wrong.
_ACK_TIME_S = 1.0
_KILLED = "worker killed before its ack"
# What an append-only file at everysec may lose.
STORE_LOSS_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A handler began (`start`), did its work (`done`) or gave up (`stopped`)."""

    kind: str
    job: str
    token: int
    attempt: int
    at_s: float
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A job that was completed more than once. `reason` is None when no rule allows it."""

    job: str
    tokens: tuple[int, ...]
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The sets of the checker."""

    attempted: frozenset[str]
    acknowledged: frozenset[str]
    completed: frozenset[str]
    lost: frozenset[str]
    unexpected: frozenset[str]
    recovered: frozenset[str]
    duplicated: tuple[Duplicate, ...]
    restarted: frozenset[tuple[str, int]]

    @property
    def valid(self) -> bool:
        """Nothing was lost, nothing came from nowhere, and no lease was run twice."""
        return not (self.lost or self.unexpected or self.restarted)

    @property
    def unexcused(self) -> tuple[Duplicate, ...]:
        """Duplicates that no rule allows."""
        return tuple(d for d in self.duplicated if d.reason is None)

    def __str__(self) -> str:
        reasons: dict[str, int] = defaultdict(int)
        for duplicate in self.duplicated:
            reasons[duplicate.reason or "NO REASON"] += 1
        why = f" ({', '.join(f'{n} {r}' for r, n in sorted(reasons.items()))})" if reasons else ""
        counts = (
            f"attempted {len(self.attempted)}, acknowledged {len(self.acknowledged)}, completed {len(self.completed)}, lost {len(self.lost)}, "
            f"duplicated {len(self.duplicated)}{why}, unexpected {len(self.unexpected)}, recovered {len(self.recovered)}, restarted {len(self.restarted)}"
        )
        examples = [
            f"{name}: {', '.join(map(str, sorted(found)[:5]))}"
            for name, found in (("lost", self.lost), ("unexpected", self.unexpected), ("restarted", self.restarted))
            if found
        ]
        return "; ".join([counts, *examples, *(f"unexcused: {d.job} {d.tokens}" for d in self.unexcused[:5])])


@dataclass(frozen=True, slots=True)
class _Excuse:
    """Side effects of `pid` (None: of any) that were done in this span may be done again."""

    pid: int | None
    from_s: float
    to_s: float
    reason: str

    def covers(self, event: Event) -> bool:
        return self.pid in (None, event.pid) and self.from_s <= event.at_s <= self.to_s


@dataclass
class History:
    """Collects from any thread. What is collected is only added to, never changed."""

    attempted: dict[str, float] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    starts: list[Event] = field(default_factory=list)
    dones: list[Event] = field(default_factory=list)
    stops: list[Event] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)
    _starts_of: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    _excuses: list[_Excuse] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # Clients say:

    def attempt(self, jobs: Iterable[str]) -> None:
        """These are about to be enqueued."""
        now = time.monotonic()
        self.attempted.update((job, now) for job in jobs)

    def acknowledge(self, jobs: Iterable[str]) -> None:
        """These were answered as made."""
        now = time.monotonic()
        self.acknowledged.update((job, now) for job in jobs)

    def refuse(self, jobs: Iterable[str]) -> None:
        """These were surely not made: if one of them runs, it is unexpected."""
        for job in jobs:
            del self.attempted[job]

    # Workers say:

    def add(self, event: Event) -> None:
        with self._lock:
            if event.kind == "start":
                self.starts.append(event)
                self._starts_of[event.job].append(event)
            elif event.kind == "done":
                self.dones.append(event)
                self.completed.add(event.job)
            else:
                self.stops.append(event)

    # The test says what it broke:

    def killed(self, pid: int, at_s: float | None = None) -> None:
        """A worker was killed: what it did just before may not have been acked."""
        at_s = time.monotonic() if at_s is None else at_s
        self._excuses.append(_Excuse(pid, at_s - _ACK_TIME_S, at_s, _KILLED))

    def lease_over(self, pid: int, from_s: float, to_s: float | None = None) -> None:
        """A worker was frozen, or cut off, past its session: what it does with the leases of that time may be done by others, too."""
        to_s = time.monotonic() + _ACK_TIME_S if to_s is None else to_s
        self._excuses.append(_Excuse(pid, from_s, to_s, "lease was over"))

    def store_lost_writes(self, killed_s: float, back_s: float) -> None:
        """The store was killed without having synced: finishes of its last seconds may be forgotten."""
        self._excuses.append(_Excuse(None, killed_s - STORE_LOSS_S - _ACK_TIME_S, back_s, "store lost its last writes"))

    def running(self) -> int:
        """How many leases have started and neither ended nor had their worker killed."""
        with self._lock:
            dead = {excuse.pid for excuse in self._excuses if excuse.reason == _KILLED}
            return sum(e.pid not in dead for e in self.starts) - sum(e.pid not in dead for e in self.dones + self.stops)

    # The judgement:

    def verdict(self) -> Verdict:
        with self._lock:
            starts, dones = list(self.starts), list(self.dones)
        attempted, acknowledged = frozenset(self.attempted), frozenset(self.acknowledged)
        completed = frozenset(event.job for event in dones)
        return Verdict(
            attempted=attempted,
            acknowledged=acknowledged,
            completed=completed,
            lost=acknowledged - completed,
            unexpected=completed - attempted,
            recovered=(completed & attempted) - acknowledged,
            duplicated=tuple(self._duplicates(dones)),
            restarted=_restarted(starts),
        )

    def unfinished_of(self, pid: int, at_s: float) -> set[tuple[str, int]]:
        """The leases that a process had started and not finished at a moment."""
        with self._lock:
            ended = {(e.job, e.token) for e in self.dones + self.stops if e.pid == pid and e.at_s <= at_s}
            return {(e.job, e.token) for e in self.starts if e.pid == pid and e.at_s <= at_s} - ended

    def next_start(self, job: str, token: int) -> Event | None:
        """The first start of a job under a later token."""
        with self._lock:
            later = [e for e in self._starts_of[job] if e.token > token]
        return min(later, key=lambda e: e.at_s, default=None)

    def _duplicates(self, dones: list[Event]) -> Iterable[Duplicate]:
        by_job: dict[str, list[Event]] = defaultdict(list)
        for event in dones:
            by_job[event.job].append(event)
        for job, events in by_job.items():
            if len(events) > 1:
                events.sort(key=lambda e: e.token)
                yield Duplicate(job=job, tokens=tuple(e.token for e in events), reason=self._reason(events))

    def _reason(self, events: list[Event]) -> str | None:
        """All but the last completion of a job need an excuse; two under one token have none."""
        if len({e.token for e in events}) < len(events):
            return None
        reasons = [next((x.reason for x in self._excuses if x.covers(e)), None) for e in events[:-1]]
        return None if None in reasons else reasons[0]


def _restarted(starts: list[Event]) -> frozenset[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()
    twice: set[tuple[str, int]] = set()
    for event in starts:
        lease = (event.job, event.token)
        (twice if lease in seen else seen).add(lease)
    return frozenset(twice)
