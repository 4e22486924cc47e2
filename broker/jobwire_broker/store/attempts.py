"""The attempts of a job, from what lua/lib/history.lua keeps of those that ended and from the record of the last one."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2

from jobwire_broker.store.codec import header_of

#: token, end (µs), sid, number, how it ended, length of the failure that follows.
_ENTRY = Struct(">QQIHBI")
_ACTIVE, _COMPLETED = job_pb2.JOB_STATE_ACTIVE, job_pb2.JOB_STATE_COMPLETED


def attempts_of(record: bytes, history: bytes, labels: Mapping[int, bytes]) -> list[job_pb2.Attempt]:
    """All that are known, the oldest first. `labels` are those of sessions by their numbers."""
    header = header_of(record)
    is_open = header.state in (_ACTIVE, _COMPLETED)
    attempts = []
    at = 0
    while at < len(history):
        token, end_us, sid, number, end, size = _ENTRY.unpack_from(history, at)
        at += _ENTRY.size
        # A lease that was taken for lost, and went on: what was noted of it was not its end.
        if not (is_open and token == header.token):
            attempt = _attempt(token, sid, number, end, labels)
            attempt.end_time.CopyFrom(_date(end_us))
            if size:
                attempt.failure.MergeFromString(history[at : at + size])
            attempts.append(attempt)
        at += size
    if is_open:
        end = job_pb2.ATTEMPT_END_COMPLETED if header.state == _COMPLETED else job_pb2.ATTEMPT_END_UNSPECIFIED
        attempts.append(_attempt(header.token, header.sid, header.attempt, end, labels))
        if header.state == _COMPLETED:
            attempts[-1].end_time.CopyFrom(_date(header.revision))
    return attempts


def _attempt(token: int, sid: int, number: int, end: int, labels: Mapping[int, bytes]) -> job_pb2.Attempt:
    return job_pb2.Attempt(
        number=number,
        start_time=_date(token),
        worker=labels.get(sid, b"").decode(errors="replace"),
        end=job_pb2.AttemptEnd.ValueType(end),
        token=token,
    )


def _date(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)
