"""The answers to the calls on one queue, and how they are unpacked. Its words are those of the functions."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import StrEnum
from typing import Any, NamedTuple

from jobwire_broker.errors import StoreFault
from jobwire_broker.store.arguments import OwnLimit
from jobwire_broker.store.codec import LogHead


class Word(StrEnum):
    """The words with which the functions answer."""

    MADE = "MADE"
    EXISTS = "EXISTS"
    OK = "OK"
    HELD = "HELD"
    ALREADY_FINISHED = "ALREADY_FINISHED"
    STALE_LEASE = "STALE_LEASE"
    CANCELLED = "CANCELLED"
    NOT_FOUND = "NOT_FOUND"
    WRONG_STATE = "WRONG_STATE"
    FOUND = "FOUND"
    REPLACED = "REPLACED"
    CONFLICT = "CONFLICT"
    FULL = "FULL"
    TOO_LARGE = "TOO_LARGE"
    STORE_FULL = "STORE_FULL"
    KEY_HELD = "KEY_HELD"
    NO_SESSION = "NO_SESSION"
    SESSION_MOVED = "SESSION_MOVED"
    TOO_OLD = "TOO_OLD"
    CHANGED = "CHANGED"
    MORE = "MORE"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    STOPPED = "STOPPED"
    ABANDONED = "ABANDONED"
    TOO_MANY = "TOO_MANY"


class PolicyChanged(StoreFault):
    """Raised when jobs were to take the queue's priority, which is another now. Nothing was made; `text` is the policy that holds."""

    def __init__(self, text: str) -> None:
        super().__init__("the queue's priority was changed")
        self.text = text


class Other(NamedTuple):
    """The answer to a job that was not made because of another: FOUND, REPLACED, or CONFLICT with the signature of the other."""

    word: str
    raw_id: bytes
    signature: bytes = b""


class Lease(NamedTuple):
    """The answer to one request: OK with jobs as (id, token, record as it was before the lease), or why there are none."""

    word: str
    jobs: list[tuple[bytes, int, bytes]]


class Settled(NamedTuple):
    """What became of one turn item."""

    word: str
    state: int


class Attached(NamedTuple):
    """The answer to an attach: a word per held job, and the policy's text."""

    settled: list[Settled]
    policy: str


class TurnReport(NamedTuple):
    """The answer to a turn or an enqueue."""

    words: list[str | Other]
    settled: list[Settled]
    leases: list[Lease]
    waiting: int
    seq: int
    opens_ms: int = -1
    """When leases may be asked for again, where a limit held some back; -1: nobody knows."""


class PendingCancel(NamedTuple):
    """A cancel that its worker has not confirmed. `at` is the position of the session in the pulse's list."""

    at: int
    raw_id: bytes
    token: int
    grace_ms: int


class PulseReport(NamedTuple):
    """The answer to a pulse. `due_ms` and `deadline_ms` are -1 when there is none."""

    words: list[str]
    held: list[int]
    cancels: list[PendingCancel]
    seq: int
    waiting: int
    active: int
    delayed: int
    due_ms: int
    deadline_ms: int
    more: bool
    timeouts: list[tuple[int, bytes, int]]
    """Attempts that took too long and were ended: position of the session in the pulse's list, id, token."""
    policy: str | None
    """The policy's text; None when it is the one whose version was given."""


class Stats(NamedTuple):
    """The counts of a queue."""

    waiting: int
    active: int
    delayed: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    completed_total: int
    failed_total: int
    paused: bool
    sessions: int
    seq: int
    policy: str
    rate_in_milli: int
    rate_out_milli: int
    started: int
    """Counted while the queue has a class or a target."""
    started_late: int


class Found(NamedTuple):
    """What is known of a job: its record; or, when it is gone, the state and revision of its end, 0 when nothing is."""

    record: bytes
    state: int
    revision: int


class Inspected(NamedTuple):
    """All that is known of a job: whole, who holds it, and how it went. `labels` are those of the sessions that ran it, by their numbers in records."""

    found: Found
    descriptor: bytes
    history: bytes
    labels: dict[int, bytes]


class Logs(NamedTuple):
    """Part of a job's log. When the job is gone, the state of its end, 0 when nothing is known. Decode the pieces with codec.decode_lines."""

    there: bool
    state: int
    head: LogHead
    pieces: list[bytes]


class Crew(NamedTuple):
    """A session of the queue, and how many of the queue's jobs it holds. `alone`: it is kept for one that is delivered alone, or runs one."""

    session: bytes
    held: int
    alone: bool
    descriptor: bytes


class KeptRoom(NamedTuple):
    """Room is kept for another job, under the limit of `what`: queue, group or name."""

    what: str
    raw_id: bytes
    units: int
    alone: bool


class Judged(NamedTuple):
    """What limits say of a job. Each date is in ms from when its queue, group or job name may start it: 0 now, infinite when that takes more than time."""

    queue_opens: float
    group_opens: float
    name_opens: float
    group: str
    group_paused: bool
    holders: dict[bytes, int]
    """Where a concurrency is used up: how many of the jobs that count each session holds."""
    groups_before: int
    labeled: bool
    """Whether some session has the labels that it requires."""
    kept: tuple[KeptRoom, ...] = ()
    """That it could use."""


class Explained(NamedTuple):
    """What decides whether a job runs. `record` is empty when it is gone, and `state` then that of its end, 0 when nothing is known. -1: there is none."""

    record: bytes
    state: int
    now_us: int
    paused: bool
    before: int
    before_by_priority: int
    holder: bytes
    lease_left_ms: int
    cancel_left_ms: int
    crew: list[Crew]
    judged: Judged | None = None
    """Of a job that waits or is delayed."""


class Oldest(NamedTuple):
    """Since when the oldest jobs wait and run; 0: none does."""

    now_us: int
    waiting_us: int
    active_us: int
    crew: list[Crew]
    open: bool
    """Whether a job waits that could start if a worker had room."""


class Group(NamedTuple):
    """A group. `own` is None when it has no limit of its own; `limited_until_ms` is a date, 0 when it is not limited."""

    name: str
    waiting: int
    active_units: int
    paused: bool
    express: bool
    weight: float
    own: OwnLimit | None
    limited_until_ms: int


class Changed(NamedTuple):
    """The answer to a verb on a job. `holder`: with KEY_HELD, the job that holds its key."""

    word: str
    state: int
    record: bytes
    holder: bytes = b""


class BulkStep(NamedTuple):
    """What a bulk verb did: how many jobs all steps of its run acted on, and how many of this step it did not. STOPPED, by whom, and NOT_FOUND: nothing."""

    word: str
    done: int
    skipped: int = 0
    stopped_by: str = ""


class Run(NamedTuple):
    """A bulk run. `state` is RUNNING, FINISHED, STOPPED or ABANDONED; `ended_ms` is 0 while it runs, and when it was last heard of where it is ABANDONED."""

    number: bytes
    state: str
    begun_ms: int
    ended_ms: int
    done: int
    skipped: int
    stopped_by: str
    head: bytes


class FailedAlike(NamedTuple):
    """The failed jobs of one fingerprint. `latest` is the id of the one that failed last, with its record without payload."""

    fingerprint: bytes
    jobs: int
    resolved: int
    first_us: int
    last_us: int
    latest: bytes
    record: bytes


class Cleaned(NamedTuple):
    """What a step of a clean forgot. `newest` is the revision up to which the clean goes, the same in all of its steps."""

    forgotten: int
    newest: int
    more: bool


class Purged(NamedTuple):
    """What a step of a purge deleted, and where the next one begins: no index at the end."""

    deleted: int
    newest: int
    next_index: bytes
    cursor: bytes


class _SettledAnswers(dict[bytes, Settled]):
    """Answers by their bytes: there are few different ones, and one for every finish."""

    def __missing__(self, answer: bytes) -> Settled:
        word, state = answer.decode().split(" ")
        settled = self[answer] = Settled(word, int(state))
        return settled


_SETTLED = _SettledAnswers()


def _leases(answers: list[list[Any]]) -> list[Lease]:
    return [Lease(a[0].decode(), list(zip(a[1::3], a[2::3], a[3::3], strict=True))) for a in answers]


def group_of(row: list[Any]) -> Group:
    name, waiting, active, paused, express, weight, has_own, concurrency, count, period, burst, until = row
    own = OwnLimit(concurrency, count, period, burst) if has_own else None
    return Group(name.decode(), waiting, active, bool(paused), bool(express), float(weight), own, int(until))


def judged_of(found: Any) -> Judged | None:
    if not found:
        return None
    queue_opens, group_opens, name_opens, group, paused, holders, before, labeled, kept = found
    return Judged(
        float(queue_opens),
        float(group_opens),
        float(name_opens),
        group.decode(),
        bool(paused),
        dict(zip(holders[::2], holders[1::2], strict=True)),
        before,
        bool(labeled),
        tuple(KeptRoom(what.decode(), raw_id, units, bool(alone)) for what, raw_id, units, alone in zip(*(kept[i::4] for i in range(4)), strict=True)),
    )


def crew_of(flat: list[Any]) -> list[Crew]:
    return [Crew(flat[i], flat[i + 1], bool(flat[i + 2]), flat[i + 3]) for i in range(0, len(flat), 4)]


def step_of(word: bytes, done: int, skipped: int, stopped_by: bytes) -> BulkStep:
    return BulkStep(word.decode(), done, skipped, stopped_by.decode())


def run_of(number: bytes, state: bytes, begun_ms: int, ended_ms: int, done: int, skipped: int, stopped_by: bytes, head: bytes) -> Run:
    return Run(number, state.decode(), begun_ms, ended_ms, done, skipped, stopped_by.decode(), head)


async def enqueued(answer: Awaitable[Any], count: int) -> TurnReport:
    answered = await answer
    if len(answered) == 1:
        raise PolicyChanged(answered[0].decode())
    words, granted, waiting, seq, opens_ms = answered
    return TurnReport([_enqueue_word(word) for word in words] or [Word.MADE] * count, [], _leases(granted), waiting, seq, opens_ms)


def _enqueue_word(answer: bytes) -> str | Other:
    word, _, rest = answer.partition(b" ")
    if not rest:
        return word.decode()
    if word == b"CONFLICT":
        return Other(Word.CONFLICT, rest[1 : 1 + rest[0]], rest[1 + rest[0] :])
    return Other(word.decode(), rest)


async def turned(answer: Awaitable[Any]) -> TurnReport:
    answers, granted, waiting, seq, opens_ms = await answer
    return TurnReport([], [_SETTLED[answer] for answer in answers], _leases(granted), waiting, seq, opens_ms)
