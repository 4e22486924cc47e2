"""The whole state of one queue in the store, decoded and checked, so that a test can say all of it with one `==`.

Numbers that differ from run to run (revisions, tokens, orders, the clock) take no part in comparisons; `numbers` and `clock` hold them. While it decodes,
`read_state` asserts what must hold in every state: each job stands in exactly one index, at the place that its record says; every lease has a session;
nothing else lies about.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jobwire.v1 import job_pb2
from jobwire_broker.names import id_to_text
from jobwire_broker.store import codec

from tests.support.fingerprint import fingerprint
from tests.support.key_dump import DUMP, KeyDump
from tests.support.line_state import HASHES, LINE_META, SORTED_SETS, GroupView, LineKeys, check_place, read_lines

ENDS = ("", "COMPLETE", "FAIL", "SNOOZE", "RELEASE", "CANCEL", "TIMEOUT", "LIMIT")
FLAGS = {
    codec.FLAG_CANCEL_REQUESTED: "CANCEL_REQUESTED",
    codec.FLAG_CANCEL_DELIVERED: "CANCEL_DELIVERED",
    codec.FLAG_ALONE: "ALONE",
    codec.FLAG_LOST: "LOST",
    codec.FLAG_TIMED: "TIMED",
    codec.FLAG_COUNTED: "COUNTED",
}
SECTIONS = {codec.TAG_BACKOFF: "backoff", codec.TAG_DELAY: "delay", codec.TAG_PROGRESS: "progress", codec.TAG_RESULT: "result", codec.TAG_FAILURE: "failure"}
SECTIONS |= {codec.TAG_IDENTITY: "identity", codec.TAG_RETENTION: "retention", codec.TAG_ORIGINAL: "original"}
FINAL_INDEX = {"f": "FAILED", "x": "CANCELLED", "e": "EXPIRED"}
State = job_pb2.JobState
_SORTED_SETS = ("w", "o", "d", "a", "t", "f", "x", "e", "u", "D", "R", "F", "K", "K5", "K6", "K7", "K8")
END_ENTRY = struct.Struct(">QQQB")
_APART, _KEPT = 128, 64


def state_name(state: int) -> str:
    """COMPLETED for JOB_STATE_COMPLETED."""
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_")


@dataclass(frozen=True)
class JobView:
    """A job's record. `sections` leaves out the payload, and the fingerprint, which follows from the rest; `progress` is in percent."""

    state: str
    attempt: int = 0
    losses: int = 0
    flags: frozenset[str] = frozenset()
    progress: float | None = None
    ended: str = ""
    returns: int = 0
    priority: int = 5
    attempts: int = 3
    sections: Mapping[str, bytes] = field(default_factory=dict)


class Numbers(NamedTuple):
    """What of a record differs from run to run."""

    revision: int
    order: int
    token: int
    created: int


class SessionView(NamedTuple):
    """A session. `solo` is the id of the job that it runs alone."""

    epoch: int
    solo: str = ""
    descriptor: bytes = b""


class RunView(NamedTuple):
    """A bulk run."""

    done: int = 0
    skipped: int = 0
    ending: str = ""
    stopped_by: str = ""
    head: bytes = b""


@dataclass
class QueueState:
    """All keys of a queue. Lists are in the order of their index; `timers` are ms until the deadline on the pulse clock."""

    jobs: dict[str, JobView] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    delayed: list[str] = field(default_factory=list)
    active: dict[str, str] = field(default_factory=dict)
    completed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    sessions: dict[str, SessionView] = field(default_factory=dict)
    timers: dict[str, int] = field(default_factory=dict)
    cancels: dict[str, str] = field(default_factory=dict)
    ring: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """What was decided about failed jobs."""
    identities: dict[str, str] = field(default_factory=dict)
    own: dict[str, list[str]] = field(default_factory=dict)
    """Ended jobs with a retention of their own, by state."""
    runs: dict[str, RunView] = field(default_factory=dict)
    """The bulk runs by their numbers."""
    paused: bool = False
    hungry: bool = False
    expiring: list[str] = field(default_factory=list)
    untold: dict[str, list[str]] = field(default_factory=dict)
    """The sessions that are to be told of timeouts of a job; empty for one that is gone."""
    solo: str = ""
    policy: str = ""
    completed_total: int = 0
    failed_total: int = 0
    lines: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, GroupView] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict, compare=False)
    clock: int = field(default=0, compare=False)
    n: int = field(default=0, compare=False)
    seq: int = field(default=0, compare=False)
    payloads: dict[str, bytes] = field(default_factory=dict, compare=False)
    history: dict[str, list[tuple[int, str]]] = field(default_factory=dict, compare=False)
    """The attempts that are kept of a job: number and end."""
    stages: dict[str, str] = field(default_factory=dict, compare=False)
    """How far the cancel of a job that ran is: REQUESTED, DELIVERED, DONE, FORCED."""
    dates: dict[str, int] = field(default_factory=dict, compare=False)
    """When jobs expire, in ms."""
    logs: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)
    """By job: cursor, attempt and message of each line."""
    checkpoints: dict[str, bytes] = field(default_factory=dict)


def session_bytes(name: str) -> bytes:
    """A session with a readable name."""
    return name.encode().ljust(16, b"-")


def session_name(session: bytes) -> str:
    """The name in session_bytes."""
    return session.rstrip(b"-").decode("latin-1")


async def read_state(redis: Any, base: str, *, dates_moved: bool = False) -> QueueState:
    """Read and check all keys that begin with `base`. `dates_moved`: the test has moved due dates in the index, so they differ from the records."""
    keys = KeyDump(base, await redis.eval(DUMP, 0, base))
    known = {"m", "s", "k", "c", "T", "S", "g0", "g1", "g2", "g3", "g4", *_SORTED_SETS, *SORTED_SETS, *HASHES}
    unknown = [key for key in keys.names if key[0] not in "jphiBlnqLyOQ" and key not in known]
    assert unknown == [], unknown
    indexes = {suffix: keys.sorted_set(suffix) for suffix in _SORTED_SETS}
    ring = {raw_id: entry for slot in range(5) for raw_id, entry in keys.hash(f"g{slot}").items()}
    by_key = {key.encode("latin-1"): keys.string(key) for key in keys.names if key[0] in "jphi"}
    meta, sessions, cancels, untold = (keys.hash(suffix) for suffix in "mskT")
    decoder = _Decoder(meta, sessions, cancels, untold, indexes, keys.items("c"), ring, by_key, dates_moved, _line_keys(keys))
    state = decoder.decode()
    _add_kept(state, keys, {key[1:]: record for key, record in by_key.items() if key[:1] == b"j"})
    state.runs = _runs(keys)
    return state


def _line_keys(keys: KeyDump) -> LineKeys:
    """What queues with groups and limits alone have; the meta hash and the records are filled in later."""
    sets = {key: dict(keys.sorted_set(key)) for key in SORTED_SETS}
    hashes = {key: keys.hash(key) for key in HASHES}
    lines = {key: keys.sorted_set(key) for key in keys.names if key[0] in "ln" or (key[0] == "q" and len(key) > 1)}
    turns = {key[1:].encode("latin-1"): [group for group, _ in keys.sorted_set(key)] for key in keys.names if key[0] == "Q"}
    return LineKeys(sets, hashes, lines, turns, {}, {})


def _runs(keys: KeyDump) -> dict[str, RunView]:
    """The bulk runs; each is forgotten within a day of its last step."""
    runs, begun = {}, keys.sorted_set("B")
    assert not begun or 0 < keys.left_ms("B") <= 7 * 86_400_000
    for number, score in begun:
        key = "B" + number.decode("latin-1")
        record = keys.hash(key)
        if record:
            assert 0 < keys.left_ms(key) <= 86_400_000
            assert (int(record[b"begun"]), record[b"ended"] != b"0") == (score, record[b"end"] != b"")
            counts = (int(record[b"done"]), int(record[b"skipped"]))
            runs[number.decode("latin-1")] = RunView(*counts, record[b"end"].decode(), record[b"by"].decode(), record[b"head"])
    assert len(runs) == sum(key[0] == "B" and key != "B" for key in keys.names), "a bulk run that nobody can find"
    return runs


def _add_kept(state: QueueState, keys: KeyDump, records: Mapping[bytes, bytes]) -> None:
    logs = {key[1:].encode("latin-1"): keys.items(key) for key in keys.names if key[0] == "L"}
    checkpoints = {key[1:].encode("latin-1"): keys.string(key) for key in keys.names if key[0] == "y" and key != "y"}
    for raw_id, entries in logs.items():
        *pieces, packed = entries
        head = codec.LogHead.of(packed)
        lines = [line for piece in pieces for line in codec.decode_lines(piece)]
        assert (head.lines, head.size) == (len(lines), sum(map(len, pieces))), "the head of a log that counts wrong"
        assert [line.cursor for line in lines] == list(range(head.cursor - len(lines) + 1, head.cursor + 1)), "lines without a cursor of their own"
        assert 0 < head.lines <= 1000
        assert head.size <= 262_144
        state.logs[id_to_text(raw_id)] = [(line.cursor, line.attempt, line.message) for line in lines]
    state.checkpoints = {id_to_text(raw_id): left[16:] for raw_id, left in checkpoints.items() if len(left) > 16}
    for raw_id in (*logs, *checkpoints):
        assert codec.header_of(records[raw_id]).flags & codec.FLAG_KEPT, f"keys that will not go with their job: {raw_id!r}"


class _Decoder:
    def __init__(
        self,
        meta: Mapping[bytes, bytes],
        sessions: Mapping[bytes, bytes],
        cancels: Mapping[bytes, bytes],
        untold: Mapping[bytes, bytes],
        indexes: Mapping[str, Sequence[tuple[bytes, float]]],
        completed: Sequence[bytes],
        ring: Mapping[bytes, bytes],
        strings: Mapping[bytes, bytes],
        dates_moved: bool,
        lines: LineKeys,
    ) -> None:
        self._meta, self._sessions, self._cancels, self._indexes, self._ring = meta, sessions, cancels, indexes, ring
        self._completed, self._untold = completed, untold
        self._records = {key[1:]: value for key, value in strings.items() if key[:1] == b"j"}
        self._apart = {key[1:]: value for key, value in strings.items() if key[:1] == b"p"}
        self._held = {key[1:]: value for key, value in strings.items() if key[:1] == b"i"}
        self._histories = {key[1:]: value for key, value in strings.items() if key[:1] == b"h"}
        self._headers = {raw_id: codec.header_of(record) for raw_id, record in self._records.items()}
        self._dates_moved = dates_moved
        lines.meta, lines.records = meta, self._records
        self._lines = lines
        self._sids = {key: value for key, value in sessions.items() if len(key) == 4}
        self._indexed: dict[bytes, str] = {}
        self._ends: dict[bytes, int] = {}
        self._alike: dict[bytes, bool] = {}
        self.state = QueueState()

    def decode(self) -> QueueState:
        self._decode_meta()
        self._decode_sessions()
        for raw_id, header in self._headers.items():
            self._decode_job(raw_id, header)
        for suffix, state in (("w", "WAITING"), ("o", "WAITING"), ("d", "DELAYED"), *((line, "WAITING") for line in self._lines.lines)):
            self._decode_queued(suffix, state)
        found = read_lines(self._lines)
        self.state.lines, self.state.groups = found.lines, found.groups
        self._decode_active()
        self._decode_completed()
        for suffix, state in FINAL_INDEX.items():
            self._decode_final(suffix, state)
        self._decode_own_ends()
        self._check_failures()
        self._decode_timers()
        self._decode_cancels()
        self._decode_identities()
        self._decode_expiring()
        for raw_id, history in self._histories.items():
            self._decode_history(raw_id, history)
        for key, sid in self._untold.items():
            self.state.untold.setdefault(id_to_text(key[8:]), []).append(session_name(self._sids.get(sid, b"")))
            self.state.untold[id_to_text(key[8:])].sort()
        for raw_id, entry in self._ring.items():
            self.state.ring[id_to_text(raw_id)] = state_name(entry[17]), ENDS[entry[16]]
        not_indexed = self._headers.keys() - self._indexed.keys()
        assert not not_indexed, f"jobs in no index: {not_indexed}"
        return self.state

    def _decode_meta(self) -> None:
        known = {
            b"n",
            b"made_total",
            b"ended_total",
            b"rates",
            b"seq",
            b"clock",
            b"last_pulse",
            b"paused",
            b"hungry",
            b"solo",
            b"sid",
            b"bucket",
            b"newest",
            b"completed_total",
            b"failed_total",
            b"started",
            b"started_late",
            b"holes",
        }
        assert self._meta.keys() <= known | LINE_META, self._meta
        number = {key: int(value) for key, value in self._meta.items() if key in known and key not in (b"solo", b"rates")}
        self.state.policy = self._meta.get(b"policy", b"").decode()
        state = self.state
        state.n, state.seq, state.clock = number.get(b"n", 0), number.get(b"seq", 0), number.get(b"clock", 0)
        state.paused, state.hungry = number.get(b"paused") == 1, number.get(b"hungry") == 1
        state.solo = session_name(self._meta.get(b"solo", b""))
        state.completed_total, state.failed_total = number.get(b"completed_total", 0), number.get(b"failed_total", 0)

    def _decode_sessions(self) -> None:
        for key, value in self._sessions.items():
            if len(key) == 4:
                assert self._sessions[value][:4] == key, "a session number that names a session with another number"
                continue
            if key[:1] == b"r" and len(key) == 17:
                assert key[1:] in self._sessions, "the number of an attach of a session that is not there"
                continue
            sid, epoch, solo_token = struct.unpack_from(">4sIQ", value)
            assert self._sessions[sid] == key, "a session whose number names another"
            solo = [id_to_text(raw_id) for raw_id, header in self._headers.items() if solo_token and header.token == solo_token]
            assert len(solo) == (1 if solo_token else 0), "a session that runs a job alone, which it does not hold"
            self.state.sessions[session_name(key)] = SessionView(epoch, "".join(solo), value[16:])

    def _decode_job(self, raw_id: bytes, header: codec.Header) -> None:
        assert header.format == codec.FORMAT
        record = self._records[raw_id]
        found = codec.sections(record, codec.body_start(record))
        text = id_to_text(raw_id)
        is_apart = bool(header.flags & codec.FLAG_APART)
        assert is_apart == (raw_id in self._apart), "a payload that is kept apart without its mark, or the mark without the payload"
        self.state.payloads[text] = self._apart[raw_id] if is_apart else found.pop(codec.TAG_PAYLOAD, b"")
        assert codec.TAG_PAYLOAD not in found
        self._take_failure(raw_id, header, found)
        found.pop(codec.TAG_FIRST_START, None)
        if codec.TAG_CANCEL in found:
            asked_us, heard_us, went = struct.unpack(">QQB", found.pop(codec.TAG_CANCEL))
            assert 0 < asked_us <= (heard_us or asked_us)
            self.state.stages[text] = ("DELIVERED" if heard_us else "REQUESTED", "DONE", "FORCED")[went]
        self.state.numbers[text] = Numbers(header.revision, header.order, header.token, header.created)
        self.state.jobs[text] = JobView(
            state_name(header.state),
            header.attempt,
            header.losses,
            frozenset({name for bit, name in FLAGS.items() if header.flags & bit} | ({"KEPT"} if self._is_kept(raw_id, header, found) else set())),
            None if header.progress == codec.NO_PROGRESS else header.progress / 100,
            ENDS[header.ended],
            header.returns,
            header.priority,
            header.attempts,
            {SECTIONS.get(tag, str(tag)): body for tag, body in found.items()},
        )
        assert header.revision <= self.state.n
        assert header.token <= header.revision
        assert header.created <= header.revision

    def _take_failure(self, raw_id: bytes, header: codec.Header, found: dict[int, bytes]) -> None:
        """A failed job has the fingerprint that its failure has here as well, and no other has one; its place is made of it and of its end."""
        own, resolution = found.pop(codec.TAG_FINGERPRINT, None), found.pop(codec.TAG_RESOLUTION, b"")
        if header.state != job_pb2.JOB_STATE_FAILED:
            assert (own, resolution) == (None, b""), f"{raw_id!r} has not failed, and has a fingerprint or a note"
            return
        job_name = self._records[raw_id][codec.HEADER_SIZE + 1 : codec.body_start(self._records[raw_id])].decode()
        assert own == fingerprint(job_name, found.get(codec.TAG_FAILURE, b"")), f"{raw_id!r} has a fingerprint of another failure"
        self._ends[raw_id] = header.revision
        if resolution:
            self._ends[raw_id], date = struct.unpack_from(">QQ", resolution)
            assert self._ends[raw_id] < header.revision
            assert date <= header.revision
            self.state.notes[id_to_text(raw_id)] = resolution[16:].decode()
        self._alike[own + self._ends[raw_id].to_bytes(8, "big") + raw_id] = bool(resolution)

    def _check_failures(self) -> None:
        """The three indexes of failed jobs say what the records say."""
        assert dict(self._indexes["D"]) == dict.fromkeys(self._alike, 0)
        assert dict(self._indexes["R"]) == {place: 0 for place, is_resolved in self._alike.items() if is_resolved}
        latest: dict[bytes, int] = {}
        for place in sorted(self._alike):
            latest[place[:8]] = int.from_bytes(place[8:16], "big")
        assert dict(self._indexes["F"]) == latest

    def _is_kept(self, raw_id: bytes, header: codec.Header, found: Mapping[int, bytes]) -> bool:
        """Whether something but its history, log and checkpoint, which may be gone, makes a job one that has keys of its own."""
        if not header.flags & codec.FLAG_KEPT:
            return False
        return codec.TAG_IDENTITY in found or codec.TAG_RETENTION in found

    def _put(self, raw_id: bytes, suffix: str, state: str) -> codec.Header:
        assert raw_id in self._headers, f"index {suffix} names {raw_id!r}, which has no record"
        assert raw_id not in self._indexed, f"{raw_id!r} is in {suffix} and in {self._indexed.get(raw_id)}"
        self._indexed[raw_id] = suffix
        header = self._headers[raw_id]
        assert state_name(header.state) == state, f"{raw_id!r} is in {suffix}, and its record says {state_name(header.state)}"
        return header

    def _decode_queued(self, suffix: str, state: str) -> None:
        target = {"w": self.state.waiting, "o": self.state.alone, "d": self.state.delayed}.get(suffix, [])
        for member, score in self._indexes[suffix] if suffix in self._indexes else self._lines.lines[suffix]:
            header = self._put(member[8:], suffix, state)
            assert struct.unpack_from(">Q", member)[0] == header.order, f"{member!r} stands at a place that its record does not say"
            if suffix != "d":
                check_place(self._lines, suffix, self._records[member[8:]], score)
            elif not self._dates_moved:
                assert score * 1000 == header.order
            assert header.sid == 0, "a job that waits and names a session"
            target.append(id_to_text(member[8:]))

    def _decode_active(self) -> None:
        for member, score in self._indexes["a"]:
            sid, token, raw_id = member[:4], struct.unpack_from(">Q", member, 4)[0], member[12:]
            header = self._put(raw_id, "a", "ACTIVE")
            assert (score, header.token, header.sid) == (0, token, struct.unpack(">I", sid)[0])
            assert sid in self._sids, f"{raw_id!r} is leased to a session that is not there"
            self.state.active[id_to_text(raw_id)] = session_name(self._sids[sid])

    def _decode_completed(self) -> None:
        revisions = [END_ENTRY.unpack_from(entry)[0] for entry in self._completed]
        assert revisions == sorted(revisions), "completed jobs that are not in the order of their ends"
        entries = [entry for entry in self._completed if len(entry) > END_ENTRY.size]
        assert len(self._completed) - len(entries) == int(self._meta.get(b"holes", 0)), "holes that are not counted"
        assert entries[:1] == self._completed[:1], "a hole at the old end"
        for entry in entries:
            raw_id = entry[END_ENTRY.size :]
            header = self._put(raw_id, "c", "COMPLETED")
            marks = header.ended + (_APART if header.flags & codec.FLAG_APART else 0) + (_KEPT if header.flags & codec.FLAG_KEPT else 0)
            assert END_ENTRY.unpack_from(entry) == (header.revision, header.token, header.created, marks)
            self.state.completed.append(id_to_text(raw_id))

    def _decode_final(self, suffix: str, state: str) -> None:
        for raw_id, score in self._indexes[suffix]:
            header = self._put(raw_id, suffix, state)
            assert score == self._ends.get(raw_id, header.revision), "an ended job that does not stand at its end"
            getattr(self.state, state.lower()).append(id_to_text(raw_id))

    def _decode_timers(self) -> None:
        for member, score in self._indexes["t"]:
            left = int(score) - self.state.clock
            if member[:1] == b"S":
                assert member[1:] in self._sessions, "a deadline of a session that is not there"
                self.state.timers[f"session {session_name(member[1:])}"] = left
            elif member[:1] == b"T":
                assert self._headers[member[1:]].flags & codec.FLAG_TIMED
                assert self._headers[member[1:]].state < State.JOB_STATE_COMPLETED
                self.state.timers[f"total {id_to_text(member[1:])}"] = left
            else:
                token, raw_id = struct.unpack_from(">Q", member, 1)[0], member[9:]
                header = self._headers[raw_id]
                assert (header.token, header.state) == (token, State.JOB_STATE_ACTIVE)
                assert header.flags & (codec.FLAG_CANCEL_REQUESTED if member[:1] == b"J" else codec.FLAG_TIMED)
                self.state.timers[f"{'cancel' if member[:1] == b'J' else 'attempt'} {id_to_text(raw_id)}"] = left
        missing = [name for name in self.state.sessions if f"session {name}" not in self.state.timers]
        assert not missing, f"sessions without a deadline: {missing}"

    def _decode_expiring(self) -> None:
        for raw_id, score in self._indexes["u"]:
            header = self._headers[raw_id]
            assert header.flags & codec.FLAG_TIMED
            assert (header.token, header.state < State.JOB_STATE_ACTIVE) == (0, True), "an expiry of a job that has started"
            self.state.expiring.append(id_to_text(raw_id))
            self.state.dates[id_to_text(raw_id)] = int(score)

    def _decode_history(self, raw_id: bytes, history: bytes) -> None:
        assert raw_id in self._headers, "a history without its job"
        assert self._headers[raw_id].flags & codec.FLAG_KEPT, "a history without its mark"
        entries = []
        at = 0
        while at < len(history):
            token, end_us, _, number, end, size = struct.unpack_from(">QQIHBI", history, at)
            assert 0 < token <= self._headers[raw_id].token
            assert token <= end_us
            entries.append((number, job_pb2.AttemptEnd.Name(job_pb2.AttemptEnd.ValueType(end)).removeprefix("ATTEMPT_END_")))
            at += 27 + size
        assert at == len(history)
        self.state.history[id_to_text(raw_id)] = entries

    def _decode_cancels(self) -> None:
        for raw_id, entry in self._cancels.items():
            sid, token = entry[:4], struct.unpack_from(">Q", entry, 4)[0]
            assert self._headers[raw_id].token == token
            self.state.cancels[id_to_text(raw_id)] = session_name(self._sids[sid])

    def _decode_identities(self) -> None:
        unfinished = {raw_id: header for raw_id, header in self._headers.items() if state_name(header.state) in ("WAITING", "DELAYED", "ACTIVE")}
        for key, value in self._held.items():
            kind = key[:1].decode()
            holder = value[1 : 1 + value[0]] if kind == "k" else value[8:] if kind == "d" else value
            self.state.identities[f"{kind} {key[1:].decode('latin-1')}"] = id_to_text(holder)
            if kind in "ud":
                assert holder in unfinished, f"{key!r} is held by {holder!r}, which has ended"
                assert unfinished[holder].flags & codec.FLAG_KEPT
        for raw_id in unfinished:
            asked = codec.sections(self._records[raw_id], codec.body_start(self._records[raw_id])).get(codec.TAG_IDENTITY, b"")
            assert asked[:1] != b"u" or self._held.get(asked) == raw_id, f"{raw_id!r} has not ended, and does not hold its key"

    def _decode_own_ends(self) -> None:
        """Ended jobs with a retention of their own: by state in K5 to K8, and by when they are to be forgotten in K."""
        expected: dict[bytes, float] = {}
        for number in range(5, 9):
            state = state_name(number)
            for raw_id, score in self._indexes[f"K{number}"]:
                header = self._put(raw_id, f"K{number}", state)
                end = self._ends.get(raw_id, header.revision)
                assert score == end
                record = self._records[raw_id]
                own_ms = int.from_bytes(codec.sections(record, codec.body_start(record))[codec.TAG_RETENTION], "big")
                assert own_ms > 0, "a job that was to be forgotten at its end"
                expected[bytes((number,)) + raw_id] = end // 1000 + own_ms
                self.state.own.setdefault(state, []).append(id_to_text(raw_id))
        assert dict(self._indexes["K"]) == expected
