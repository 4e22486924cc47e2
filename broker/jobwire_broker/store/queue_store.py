"""The calls on one queue, each one atomic call to a function: arguments packed, answers unpacked, nothing decided.

At most MAX_ITEMS items and about MAX_BYTES per call, so that no call holds the store up (RULES 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from enum import StrEnum
from struct import Struct
from typing import Any, NamedTuple

from jobwire_broker.errors import StoreFault
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.codec import LogHead
from jobwire_broker.store.policy import DEFAULT_PRIORITY

MAX_ITEMS = 128
MAX_BYTES = 1 << 20
#: What takes a group's own limit away.
NO_LIMIT = "none"
#: The wait after a failure, where it is no number of milliseconds.
BY_BACKOFF, PERMANENT = -1, -2
#: The kinds of turn items that end an attempt.
FINISHES = frozenset("CFSRG")


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


class Ask(NamedTuple):
    """What of a job `enqueue` looks at, beside what every job has. `identity` is its section of the body, empty when it has only a retention of its own."""

    identity: bytes
    signature: bytes = b""


class JobItem(NamedTuple):
    """A job to be made. `due` is empty for now, `+ms` from now, `ms` a date; `priority` None and `attempts` 0 are what the queue says."""

    raw_id: bytes
    due: str
    priority: int | None
    attempts: int
    body: bytes
    ask: Ask | None = None
    flags: int = 0
    """Of its record: what rules it uses. The store looks for none where this is 0."""


class Other(NamedTuple):
    """The answer to a job that was not made because of another: FOUND, REPLACED, or CONFLICT with the signature of the other."""

    word: str
    raw_id: bytes
    signature: bytes = b""


class TurnItem(NamedTuple):
    """What a worker says of a job. Kinds and their arguments: lua/lib/finishes.lua; D is not used here, for a C with a result becomes one."""

    kind: str
    raw_id: bytes
    token: int
    a: bytes | str | int = b""
    b: bytes | str | int = b""


class LeaseRequest(NamedTuple):
    """Room for jobs in a session. `payload_bytes` is a hard limit on their payloads; -1: none but that of the call."""

    session: bytes
    epoch: int
    jobs: int
    payload_bytes: int = -1


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


class Renewal(NamedTuple):
    """A session to renew. `age_ms` since its last frame; -1: it sent nothing since the last pulse."""

    session: bytes
    epoch: int
    age_ms: int


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


class OwnLimit(NamedTuple):
    """The limit of one group; 0 for what it does not bound."""

    concurrency: int = 0
    starts: int = 0
    period_ms: int = 0
    burst: int = 1


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
_TAIL_HEAD = Struct(">Hi")
_HEADS: dict[tuple[int, int], bytes] = {}
#: How many arguments follow an item of a turn; ARGUMENTS of lua/lib/finishes.lua.
TURN_ARGUMENTS = {"D": 1, "F": 2, "S": 1, "G": 1, "R": 1, "P": 2, "E": 1, "L": 1, "K": 2}


def _tail_head(attempts: int, priority: int) -> bytes:
    if len(_HEADS) > 1000:
        _HEADS.clear()
    return _HEADS.setdefault((attempts, priority), _TAIL_HEAD.pack(attempts, priority))


def item_args(items: Sequence[JobItem], default: int) -> list[Any]:
    """What `enqueue` says of the jobs to the store, where `default` is the priority of the queue."""
    ids = [item.raw_id for item in items]
    args: list[Any] = [len(items), int(len(set(ids)) < len(ids)), *_dates(ids), ""]
    own: list[Any] = []
    special: list[Any] = []
    asks: list[Any] = []
    for number, (raw_id, due, priority, attempts, body, ask, flags) in enumerate(items, 1):
        if priority is None:
            args[4] = priority = default
        else:
            own += (number, priority)
        args += (raw_id, (_HEADS.get((attempts, priority)) or _tail_head(attempts, priority)) + body)
        if due or flags:
            special += (number, due, flags)
        if ask is not None:
            asks += (number, *ask)
    return [*args, len(own) // 2, *own, len(special) // 3, *special, len(asks) // 3, *asks]


def _dates(ids: Sequence[bytes]) -> tuple[int, int]:
    """The first and the last date in ids that we made, in ms; the first is 0 when one was chosen by its caller."""
    if not ids:
        return 0, 0
    first, last = min(ids), max(ids)
    return (int.from_bytes(first[:6], "big") if last[0] < 0x20 else 0), int.from_bytes(last[:6], "big")


def _turn_args(items: Sequence[TurnItem]) -> list[Any]:
    args: list[Any] = [len(items)]
    for kind, raw_id, token, a, b in items:
        if kind == "C":
            if a == b"":
                args.append(b"C" + token.to_bytes(8, "big", signed=True) + raw_id)
            else:
                args += (b"D" + token.to_bytes(8, "big", signed=True) + raw_id, a)
        else:
            args += (kind.encode() + token.to_bytes(8, "big", signed=True) + raw_id, a, b)[: 1 + TURN_ARGUMENTS.get(kind, 0)]
    return args


def _leases(answers: list[list[Any]]) -> list[Lease]:
    return [Lease(a[0].decode(), list(zip(a[1::3], a[2::3], a[3::3], strict=True))) for a in answers]


def _lease_args(requests: Sequence[LeaseRequest]) -> list[Any]:
    args: list[Any] = [len(requests)]
    for r in requests:
        args += (r.session, r.epoch, r.jobs, r.payload_bytes)
    return args


def _group(row: list[Any]) -> Group:
    name, waiting, active, paused, express, weight, has_own, concurrency, count, period, burst, until = row
    own = OwnLimit(concurrency, count, period, burst) if has_own else None
    return Group(name.decode(), waiting, active, bool(paused), bool(express), float(weight), own, int(until))


def _judged(found: Any) -> Judged | None:
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


def _crew(flat: list[Any]) -> list[Crew]:
    return [Crew(flat[i], flat[i + 1], bool(flat[i + 2]), flat[i + 3]) for i in range(0, len(flat), 4)]


def _step(word: bytes, done: int, skipped: int, stopped_by: bytes) -> BulkStep:
    return BulkStep(word.decode(), done, skipped, stopped_by.decode())


def _run(number: bytes, state: bytes, begun_ms: int, ended_ms: int, done: int, skipped: int, stopped_by: bytes, head: bytes) -> Run:
    return Run(number, state.decode(), begun_ms, ended_ms, done, skipped, stopped_by.decode(), head)


async def _enqueued(answer: Awaitable[Any], count: int) -> TurnReport:
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


async def _turned(answer: Awaitable[Any]) -> TurnReport:
    answers, granted, waiting, seq, opens_ms = await answer
    return TurnReport([], [_SETTLED[answer] for answer in answers], _leases(granted), waiting, seq, opens_ms)


class QueueStore:
    """The keys of one queue."""

    def __init__(self, client: StoreClient, queue: str) -> None:
        self._call = client.call
        self._begin = client.begin
        self.queue = queue
        base = client.base(queue)
        self._meta = base + "m"
        self.events_channel = base + "E"
        self.wake_channel = base + "W"

    def enqueue(
        self, items: Sequence[JobItem], leases: Sequence[LeaseRequest] = (), priority: int = DEFAULT_PRIORITY, args: list[Any] | None = None
    ) -> Awaitable[TurnReport]:
        """Make jobs, then lease. `words` are MADE, EXISTS, FULL, TOO_LARGE or Other; `priority` is the queue's, for items that name none. The call is sent
        before this returns when a connection is free; to be awaited once. `args`: the item_args of items and priority, where they were made ahead.
        Raises PolicyChanged.
        """
        said = item_args(items, priority) if args is None else args
        return _enqueued(self._begin("enqueue", self._meta, said + _lease_args(leases)), len(items))

    def known(self, items: Sequence[JobItem], priority: int = DEFAULT_PRIORITY) -> Awaitable[TurnReport]:
        """What `enqueue` would say of jobs that are there already; STORE_FULL for the others. Makes nothing."""
        return _enqueued(self._begin("known", self._meta, [*item_args(items, priority), 0]), len(items))

    def turn(self, items: Sequence[TurnItem], leases: Sequence[LeaseRequest] = ()) -> Awaitable[TurnReport]:
        """Settle what workers say, then lease. Sent as `enqueue` is."""
        return _turned(self._begin("turn", self._meta, _turn_args(items) + _lease_args(leases)))

    async def attach(
        self,
        session: bytes,
        epoch: int,
        session_ms: int,
        descriptor: bytes,
        held: Sequence[tuple[bytes, int]],
        *,
        number: int = 1,
        labels: bytes = b"",
    ) -> Attached | None:
        """Bind a session to its newest stream. A word per held job; None when a newer stream has it.

        `number` grows with each call of an epoch, so that one which comes late does not undo a later one. `labels` are packed as those of a job.
        """
        args: list[Any] = [session, epoch, number, session_ms, descriptor, len(held)]
        for raw_id, token in held:
            args += (raw_id, token)
        if labels:
            args.append(labels)
        while (answer := await self._call("attach", self._meta, args))[0] != b"SESSION_MOVED" and answer[6]:
            pass
        if answer[0] == b"SESSION_MOVED":
            return None
        return Attached([Settled(word.decode(), state) for word, state in zip(answer[1], answer[2], strict=True)], answer[5].decode())

    async def detach(self, session: bytes, epoch: int) -> None:
        """End a session; what it holds goes back, some of it with each call."""
        while (await self._call("detach", self._meta, (session, epoch)))[0].decode() == Word.MORE:
            pass

    async def pulse(self, session_ms: int, renewals: Sequence[Renewal], policy_version: int = 0) -> PulseReport:
        """Renew sessions and do what is due; learn the policy when it is not that of `policy_version`."""
        args: list[Any] = [session_ms, len(renewals)]
        for renewal in renewals:
            args += renewal
        args.append(policy_version)
        words, held, cancels, seq, waiting, active, delayed, due_ms, deadline_ms, more, late, text = await self._call("pulse", self._meta, args)
        policy = None if text is None else text.decode()
        pending = [PendingCancel(cancels[i] - 1, *cancels[i + 1 : i + 4]) for i in range(0, len(cancels), 4)]
        timeouts = [(late[i] - 1, late[i + 1], late[i + 2]) for i in range(0, len(late), 3)]
        return PulseReport([w.decode() for w in words], held, pending, seq, waiting, active, delayed, due_ms, deadline_ms, bool(more), timeouts, policy)

    async def cancel(self, raw_id: bytes, grace_ms: int) -> Changed:
        """Cancel a job."""
        return self._changed(await self._call("cancel", self._meta, (grace_ms, raw_id)))

    async def retry(self, raw_id: bytes) -> Changed:
        """Put an ended job back."""
        return self._changed(await self._call("retry", self._meta, (raw_id,)))

    async def redrive(self, raw_id: bytes, payload: bytes) -> Changed:
        """Put an ended job back with another payload, which comes as a section. Raises StoreFull."""
        return self._changed(await self._call("redrive", self._meta, (payload, raw_id)))

    async def update(self, raw_id: bytes, changes: Sequence[str | bytes | int]) -> Changed:
        """Change a job that waits: pairs of what and to what, as in lua/verbs.lua. Raises StoreFull."""
        return self._changed(await self._call("update", self._meta, (raw_id, *changes)))

    async def promote(self, raw_id: bytes) -> Changed:
        """Let a delayed job wait for a worker now."""
        return self._changed(await self._call("promote", self._meta, (raw_id,)))

    async def delete(self, raw_id: bytes) -> Changed:
        """Delete a job that does not run."""
        return self._changed(await self._call("delete", self._meta, (raw_id,)))

    async def resolve(self, raw_id: bytes, note: str) -> Changed:
        """Leave a note on a failed job."""
        return self._changed(await self._call("resolve", self._meta, (note, raw_id)))

    async def moment(self) -> int:
        """The last number given: whatever changes later gets a greater revision."""
        return int(await self._call("moment", self._meta, ()))

    async def bulk(self, verb: str, argument: str | int, newest: int, run: bytes, skipped: int, raw_ids: Sequence[bytes] = ()) -> BulkStep:
        """Act on those of at most MAX_ITEMS jobs that have not changed since `newest`; without ids, only say that the run goes on. `skipped` is how many its
        steps before have left alone.
        """
        return _step(*await self._call("bulk", self._meta, (verb, argument, newest, run, skipped, *raw_ids)))

    async def begin_run(self, run: bytes, newest: int, head: bytes) -> BulkStep:
        """Begin a bulk run, or go on with it: OK, TOO_OLD, TOO_MANY or STOPPED. `head` is kept with it."""
        word, done, stopped_by = await self._call("begin_run", self._meta, (run, newest, head))
        return _step(word, done, 0, stopped_by)

    async def end_run(self, run: bytes, state: str, *, skipped: int | None = None, stopped_by: str = "") -> tuple[str, Run | None]:
        """Say how a run ends. OK; or NOT_FOUND; or FINISHED or STOPPED when it had ended so before, which it then stays."""
        word, found = await self._call("end_run", self._meta, (run, state, "" if skipped is None else skipped, stopped_by))
        return word.decode(), _run(*found) if found else None

    async def runs(self, numbers: Sequence[bytes] = ()) -> list[Run]:
        """Those of these bulk runs that are known; without numbers all, the one that began last first."""
        return [_run(*found) for found in await self._call("runs", self._meta, numbers)]

    @staticmethod
    def _changed(answers: list[list[Any]]) -> Changed:
        answer, state, record = answers[0]
        word, _, holder = answer.partition(b" ")
        return Changed(word.decode(), state, record, holder)

    async def clean(self, state: int, grace_ms: int, newest: int = 0) -> Cleaned:
        """Forget jobs that ended in this state, at most a step of them. `newest` is that of the answer before."""
        forgotten, newest, more = await self._call("clean", self._meta, (state, grace_ms, newest))
        return Cleaned(forgotten, newest, bool(more))

    async def purge(self, at: Purged | None = None) -> Purged:
        """Delete jobs that wait or are delayed, at most a step of them. `at` is the answer before."""
        args = (0, b"", b"") if at is None else (at.newest, at.next_index, at.cursor)
        return Purged._make(await self._call("purge", self._meta, args))

    async def pause(self, paused: bool) -> None:
        """Stop or start delivery."""
        await self._call("pause", self._meta, (int(paused),))

    async def set_policy(self, version: int, text: str, paused: bool | None = None) -> tuple[str, str]:
        """Put a policy in the place of the one with `version`, and stop or start delivery. OK, or CHANGED when another call came first; and the text of now."""
        word, now = await self._call("policy", self._meta, (version, text, "" if paused is None else int(paused)))
        return word.decode(), now.decode()

    async def set_group(
        self,
        group: str,
        *,
        paused: bool | None = None,
        express: bool | None = None,
        weight: float | None = None,
        limit: OwnLimit | str = "",
        thaw: bool = False,
    ) -> Group:
        """Change what is given of a group's rules. `limit` is NO_LIMIT for none of its own; `thaw`: no worker's word holds it any more."""
        args: list[Any] = [group]
        for name, flag in (("paused", paused), ("express", express)):
            if flag is not None:
                args += (name, int(flag))
        if weight is not None:
            args += ("weight", repr(weight))
        if limit:
            args += ("limit", "" if limit == NO_LIMIT else " ".join(map(str, limit)))
        if thaw:
            args += ("thaw", 1)
        return _group(await self._call("set_group", self._meta, args))

    async def group(self, group: str) -> Group:
        """One group, whether it has anything or not."""
        return _group(await self._call("group", self._meta, (group,)))

    async def groups(self, after: str, limit: int) -> list[Group]:
        """Groups that have jobs or rules, by name."""
        return [_group(row) for row in await self._call("groups", self._meta, (after, limit))]

    async def get(self, raw_ids: Sequence[bytes]) -> list[Found]:
        """Read jobs without their payloads, at most MAX_ITEMS: as many of the first as about MAX_BYTES hold, and one at least."""
        return [Found(*answer) for answer in await self._call("get", self._meta, raw_ids)]

    async def logs(self, raw_id: bytes, after: int, limit: int) -> Logs:
        """Read pieces of a job's log."""
        there, state, head, *pieces = await self._call("logs", self._meta, [raw_id, after, limit])
        return Logs(bool(there), state, LogHead.of(head), pieces)

    async def kept(self, raw_id: bytes) -> tuple[LogHead, bytes]:
        """The head of a job's log, and its checkpoint; empty when there is none."""
        head, checkpoint = await self._call("kept", self._meta, [raw_id])
        return LogHead.of(head), checkpoint

    async def inspect(self, raw_id: bytes) -> Inspected:
        """Read all of a job."""
        record, state, revision, descriptor, history, *labels = await self._call("inspect", self._meta, (raw_id,))
        by_sid = {int.from_bytes(sid, "big"): label for sid, label in zip(labels[::2], labels[1::2], strict=True)}
        return Inspected(Found(record, state, revision), descriptor, history, by_sid)

    async def page(self, index: str | bytes, cursor: bytes, limit: int, *, upward: bool = False) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """One page of an index: the cursor of the next one, and (id, record without payload and result), of about MAX_BYTES at the most. `upward`: what has
        ended comes oldest first.
        """
        answer = await self._call("list", self._meta, (index, cursor, limit, int(upward)))
        return answer[0], list(zip(answer[1::2], answer[2::2], strict=True))

    async def failures(
        self, cursor: bytes, limit: int, *, job_name: bytes = b"", from_us: int | None = None, before_us: int | None = None
    ) -> tuple[bytes, int, list[FailedAlike]]:
        """One page of the groups of failed jobs, the latest first: the cursor of the next one, how many jobs have failed, and those of `limit` groups that have
        jobs of this name which ended in this time, as far as they have.
        """
        span = ("" if bound is None else bound for bound in (from_us, before_us))
        answer = await self._call("failures", self._meta, (cursor, limit, job_name, *span))
        return answer[0], answer[1], [FailedAlike(fingerprint, *row) for fingerprint, row in zip(answer[2::2], answer[3::2], strict=True)]

    async def stats(self) -> Stats:
        """The counts."""
        answer = Stats._make(await self._call("stats", self._meta, ()))
        return answer._replace(paused=bool(answer.paused), policy=bytes(answer.policy).decode())  # type: ignore[arg-type]  # bytes, as they came

    async def explain(self, raw_id: bytes) -> Explained:
        """What decides whether a job runs."""
        answer = Explained._make(await self._call("explain", self._meta, (raw_id,)))
        return answer._replace(paused=bool(answer.paused), crew=_crew(answer.crew), judged=_judged(answer.judged))

    async def oldest(self) -> Oldest:
        """Since when the oldest jobs wait and run. A call for each 500 lines or so, of groups or others."""
        *answer, after = await self._call("oldest", self._meta, ())
        now_us, waiting_us, active_us, crew, is_open = answer
        while after:
            in_lines_us, after = await self._call("oldest_in_lines", self._meta, (after,))
            waiting_us = min(filter(None, (waiting_us, in_lines_us)), default=0)
        return Oldest(now_us, waiting_us, active_us, _crew(crew), bool(is_open))

    async def sessions(self) -> list[tuple[bytes, int, bytes]]:
        """The sessions that take jobs from this queue: session, held count, descriptor."""
        flat = await self._call("sessions", self._meta, ())
        return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]

    async def holders(self, sids: Sequence[int]) -> dict[int, bytes]:
        """The descriptors of sessions by their numbers in records; empty for one that is gone."""
        return dict(zip(sids, await self._call("holders", self._meta, sids), strict=True))
