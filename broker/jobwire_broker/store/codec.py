"""The record of a job: its only codec on this side. lua/lib/codec.lua is its twin and says what the form is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2

from jobwire_broker.names import id_to_text

HEADER = Struct(">BBBBBHBHQIQQQHi")
HEADER_SIZE = HEADER.size
FORMAT = 1
_FORMAT_BYTE = bytes((FORMAT,))
NO_PROGRESS = 65535
SECTION = Struct(">BI")
_BACKOFF = Struct(">QIQH")
_DELAY = Struct(">Q")
_UNITS = Struct(">H")
_RESOLUTION = Struct(">QQ")

FLAG_CANCEL_REQUESTED, FLAG_CANCEL_DELIVERED, FLAG_ALONE, FLAG_APART, FLAG_LOST, FLAG_COUNTED, FLAG_TIMED, FLAG_KEPT = 1, 2, 4, 8, 16, 32, 64, 128
TAG_PAYLOAD, TAG_BACKOFF, TAG_DELAY = 1, 2, 3
#: Text; pairs of key and value, sorted, each with its length before it (1 byte); the same; a number (2 bytes).
TAG_GROUP, TAG_LABELS, TAG_REQUIRED_LABELS, TAG_UNITS = 4, 5, 6, 7
#: A letter (d: a date, r: a time from when it is due) and ms (8 bytes); ms; ms; jitter (2 bytes) and ms each; names, each with its length before it (1 byte).
TAG_EXPIRY, TAG_TIMEOUT, TAG_TOTAL_TIMEOUT, TAG_DELAYS, TAG_PERMANENT = 8, 9, 10, 13, 14
#: What lua/lib/identity.lua says; milliseconds (8 bytes); a digest of what the job carried before it was changed.
TAG_IDENTITY, TAG_RETENTION, TAG_ORIGINAL = 11, 12, 73
TAG_PROGRESS, TAG_RESULT, TAG_FAILURE, TAG_WAS, TAG_TRUNCATED, TAG_LOG = 64, 65, 66, 125, 126, 127
#: Only in FAILED: when it ended and when it was resolved (8 bytes each), and the note; what its failure has in common with others (8 bytes).
TAG_RESOLUTION, TAG_FINGERPRINT = 69, 72
#: When it was asked for and when the worker heard of it (8 bytes each, µs, 0: it did not), and how it went (1 byte, CANCEL_DONE or CANCEL_FORCED).
TAG_CANCEL = 70
#: The pulse clock (ms) at the first start of a job with a total timeout.
TAG_FIRST_START = 71
CANCEL_DONE, CANCEL_FORCED = 1, 2
_CANCEL = Struct(">QQB")
_MS = Struct(">Q")
_EXPIRY = Struct(">cQ")
#: Only behind the record of a delivery: jobwire.v1.Payload.
TAG_CHECKPOINT = 68

#: The sections of a job that uses no rule.
_OUTCOME = frozenset((TAG_PAYLOAD, TAG_BACKOFF, TAG_DELAY, TAG_PROGRESS, TAG_RESULT, TAG_FAILURE))

State = job_pb2.JobState
FINAL_STATES = frozenset((State.JOB_STATE_COMPLETED, State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED, State.JOB_STATE_EXPIRED, State.JOB_STATE_REMOVED))


class Header(NamedTuple):
    """The fixed part of a record, in the order of its bytes."""

    format: int = FORMAT
    state: int = State.JOB_STATE_WAITING
    flags: int = 0
    losses: int = 0
    ended: int = 0
    progress: int = NO_PROGRESS
    returns: int = 0
    attempt: int = 0
    revision: int = 0
    sid: int = 0
    token: int = 0
    created: int = 0
    order: int = 0
    attempts: int = 3
    priority: int = 5


def is_readable(record: bytes) -> bool:
    """Whether the record is of a form that this broker knows: a newer one may write others."""
    return record[:1] == _FORMAT_BYTE


def header_of(record: bytes) -> Header:
    """The header of a record, by names."""
    return Header._make(HEADER.unpack_from(record))


_LINE = Struct(">QH")
_PIECE = Struct(">QHH")
_LOG_HEAD = Struct(">QQQII")


def encode_lines(lines: Sequence[job_pb2.LogLine]) -> bytes:
    """Lines of a log as a worker's report brings them to the store."""
    parts: list[bytes] = []
    for line in lines:
        encoded = line.SerializeToString()
        parts += (_LINE.pack(line.sequence, len(encoded)), encoded)
    return b"".join(parts)


def decode_lines(piece: bytes) -> list[job_pb2.LogLine]:
    """Lines of a piece of a log (lua/lib/kept.lua), each with its cursor and its attempt."""
    cursor, attempt, count = _PIECE.unpack_from(piece)
    lines, at = [], _PIECE.size
    for i in range(count):
        end = at + 2 + int.from_bytes(piece[at : at + 2], "big")
        line = job_pb2.LogLine.FromString(piece[at + 2 : end])
        line.cursor, line.attempt = cursor + i, attempt
        lines.append(line)
        at = end
    return lines


class LogHead(NamedTuple):
    """The head of a log: what came last, and how much is kept."""

    token: int = 0
    sequence: int = 0
    cursor: int = 0
    lines: int = 0
    size: int = 0

    @classmethod
    def of(cls, packed: bytes) -> LogHead:
        """Read it; empty bytes are that of no log."""
        return cls._make(_LOG_HEAD.unpack(packed)) if packed else cls()


# Where single fields of a header stand, for readers of very many records.


def state_of(record: bytes) -> int:
    """The state."""
    return record[1]


def revision_of(record: bytes) -> int:
    """The revision."""
    return int.from_bytes(record[10:18], "big")


def token_of(record: bytes) -> int:
    """The token of the last lease."""
    return int.from_bytes(record[22:30], "big")


def created_of(record: bytes) -> int:
    """When the job was made."""
    return int.from_bytes(record[30:38], "big")


class Backoff(NamedTuple):
    """The waits between attempts, as they stand in a record."""

    base_ms: int
    factor_milli: int
    max_ms: int
    jitter_e4: int


def encode_body(job_name: str, payload: bytes, backoff: Backoff | None, delay_ms: int, rules: Mapping[int, bytes] | None = None) -> bytes:
    """What never changes of a job: everything behind the header. `rules` are the sections that it has only when it uses their rule, by tag.

    The sections come in the order of their tags, with the payload last, so that the same job always has the same bytes.
    """
    name = job_name.encode()
    parts = [bytes((len(name),)), name]
    if backoff is not None:
        parts += (SECTION.pack(TAG_BACKOFF, _BACKOFF.size), _BACKOFF.pack(*backoff))
    if delay_ms:
        parts += (SECTION.pack(TAG_DELAY, _DELAY.size), _DELAY.pack(delay_ms))
    if rules:
        for tag in sorted(rules):
            parts += (SECTION.pack(tag, len(rules[tag])), rules[tag])
    if payload:
        parts += (SECTION.pack(TAG_PAYLOAD, len(payload)), payload)
    return b"".join(parts)


def encode_labels(labels: Mapping[str, str]) -> bytes:
    """Labels as they stand in a record; keys and values have at most 255 bytes."""
    parts: list[bytes] = []
    for key in sorted(labels):
        for text in (key.encode(), labels[key].encode()):
            parts += (bytes((len(text),)), text)
    return b"".join(parts)


def decode_labels(packed: bytes) -> dict[str, str]:
    """Labels from a record."""
    texts, at = [], 0
    while at < len(packed):
        end = at + 1 + packed[at]
        texts.append(packed[at + 1 : end].decode())
        at = end
    return dict(zip(texts[::2], texts[1::2], strict=True))


def encode_expiry(kind: str, ms: int) -> bytes:
    """An expiry as it stands in a record: `d` and a date in ms, `r` and a time from when the job is due."""
    return _EXPIRY.pack(kind.encode(), ms)


def encode_ms(ms: int) -> bytes:
    """A time as it stands in a record."""
    return _MS.pack(ms)


def encode_delays(jitter_e4: int, delays_ms: Sequence[int]) -> bytes:
    """The waits between attempts one by one, as they stand in a record."""
    return b"".join((_UNITS.pack(jitter_e4), *map(_MS.pack, delays_ms)))


def encode_names(names: Sequence[str]) -> bytes:
    """Names of at most 255 bytes as they stand in a record."""
    return b"".join(bytes((len(name.encode()),)) + name.encode() for name in names)


def encode_units(units: int) -> bytes:
    """Units as they stand in a record."""
    return _UNITS.pack(units)


def sections(record: bytes, start: int) -> dict[int, bytes]:
    """The sections of a record from position `start` on, by tag."""
    found = {}
    end = len(record)
    while start + 5 <= end:
        tag, size = SECTION.unpack_from(record, start)
        found[tag] = record[start + 5 : start + 5 + size]
        start += 5 + size
    return found


def body_start(record: bytes) -> int:
    """Where the sections of a whole record begin."""
    return HEADER_SIZE + 1 + record[HEADER_SIZE]


def timeout_of(record: bytes) -> int:
    """How long an attempt of the job may take, in ms; 0 when the record does not say."""
    own = sections(record, body_start(record)).get(TAG_TIMEOUT) if record[2] & FLAG_TIMED else None
    return int.from_bytes(own, "big") if own else 0


def sid_of(record: bytes) -> int:
    """The number of the session that holds the job; 0 when none does."""
    return header_of(record).sid


def ended_us(record: bytes, found: Mapping[int, bytes]) -> int:
    """When an ended job did. `found` are its sections."""
    if TAG_RESOLUTION in found:
        return int(_RESOLUTION.unpack_from(found[TAG_RESOLUTION])[0])
    return header_of(record).revision


def _timestamp(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


def job_from_record(queue: str, raw_id: bytes, record: bytes) -> job_pb2.Job:
    """A job from its whole record, or from one without its payload."""
    (_, state, flags, losses, _, progress, _, attempt, revision, _, token, created, order, attempts, priority) = HEADER.unpack_from(record)
    start = body_start(record)
    text = id_to_text(raw_id)
    job = job_pb2.Job(
        name=f"queues/{queue}/jobs/{text}",
        queue=queue,
        id=text,
        job_name=record[HEADER_SIZE + 1 : start].decode(),
        state=state,
        revision=revision,
        priority=priority,
        attempt=attempt,
        max_attempts=attempts,
        create_time=_timestamp(created),
        token=token,
        cancel_requested=bool(flags & FLAG_CANCEL_REQUESTED),
        cancel_delivered=bool(flags & FLAG_CANCEL_DELIVERED),
        losses=losses,
    )
    found = sections(record, start)
    if progress != NO_PROGRESS:
        if TAG_PROGRESS in found:
            job.progress.MergeFromString(found[TAG_PROGRESS])
        job.progress.percent = progress / 100
    _add_times(job, state, revision, order, token)
    if not found.keys() <= _OUTCOME:
        _add_rules(job, found, order)
    _add_outcome(job, state, found)
    if TAG_CANCEL in found or state == State.JOB_STATE_CANCELLED:
        _add_cancel(job, found.get(TAG_CANCEL, b""))
    return job


def _add_times(job: job_pb2.Job, state: int, revision: int, order: int, token: int) -> None:
    # The header holds no dates of its own: a token is the moment of the lease, the last revision of an ended job that of its end.
    if state == State.JOB_STATE_DELAYED:
        job.due_time.CopyFrom(_timestamp(order))
    if token:
        job.start_time.CopyFrom(_timestamp(token))
    if state in FINAL_STATES:
        job.finish_time.CopyFrom(_timestamp(revision))


def _add_rules(job: job_pb2.Job, found: Mapping[int, bytes], order: int) -> None:
    if TAG_GROUP in found:
        job.group = found[TAG_GROUP].decode()
    if TAG_LABELS in found:
        job.labels.update(decode_labels(found[TAG_LABELS]))
    if TAG_REQUIRED_LABELS in found:
        job.required_labels.update(decode_labels(found[TAG_REQUIRED_LABELS]))
    if TAG_UNITS in found:
        (job.units,) = _UNITS.unpack(found[TAG_UNITS])
    if job.state == State.JOB_STATE_FAILED:
        if TAG_FINGERPRINT in found:
            job.fingerprint = found[TAG_FINGERPRINT].hex()
        if TAG_RESOLUTION in found:
            ended, resolved = _RESOLUTION.unpack_from(found[TAG_RESOLUTION])
            job.finish_time.CopyFrom(_timestamp(ended))
            job.resolution.note = found[TAG_RESOLUTION][_RESOLUTION.size :].decode()
            job.resolution.resolve_time.CopyFrom(_timestamp(resolved))
    if TAG_TIMEOUT in found:
        job.timeout.FromMilliseconds(*_MS.unpack(found[TAG_TIMEOUT]))
    if TAG_TOTAL_TIMEOUT in found:
        job.total_timeout.FromMilliseconds(*_MS.unpack(found[TAG_TOTAL_TIMEOUT]))
    if TAG_EXPIRY in found and not job.token and job.state not in FINAL_STATES:
        kind, ms = _EXPIRY.unpack(found[TAG_EXPIRY])
        job.expire_time.FromMilliseconds(ms if kind == b"d" else order // 1000 + ms)


def _add_cancel(job: job_pb2.Job, packed: bytes) -> None:
    # A job that did not run ends with the call that cancels it, and its record keeps no more of it than that.
    asked_us, heard_us, went = _CANCEL.unpack(packed) if packed else (job.revision, 0, CANCEL_DONE)
    job.cancel_time.CopyFrom(_timestamp(asked_us))
    stages = {CANCEL_DONE: job_pb2.CANCEL_STAGE_DONE, CANCEL_FORCED: job_pb2.CANCEL_STAGE_FORCED}
    job.cancel_stage = stages.get(went) or (job_pb2.CANCEL_STAGE_DELIVERED if heard_us else job_pb2.CANCEL_STAGE_REQUESTED)


def _add_outcome(job: job_pb2.Job, state: int, found: dict[int, bytes]) -> None:
    if TAG_PAYLOAD in found:
        job.payload.MergeFromString(found[TAG_PAYLOAD])
    if state == State.JOB_STATE_COMPLETED:
        if TAG_RESULT in found:
            job.result.MergeFromString(found[TAG_RESULT])
    elif TAG_FAILURE in found:
        job.failure.MergeFromString(found[TAG_FAILURE])
