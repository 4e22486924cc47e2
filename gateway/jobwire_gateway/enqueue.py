"""The body of `POST /v1/queues/{queue}/jobs`, made into the broker's request.

    {"jobName": "thumbnail", "payload": {"path": "a.jpg"}, "id": "…", "priority": 5 | "HIGH", "delay": "5s", "delayUntil": "2030-01-01T00:00:00Z",
     "attempts": 3, "backoff": {"base": "2s", "factor": 2, "maxDelay": "3600s", "jitter": 0.1}, "durability": "store" | "disk"}

`jobName` alone is needed. Lengths of time are proto JSON Durations: seconds with an `s` behind them. What is checked here is the form; the bounds
are the broker's, but for lengths of time that are negative.
"""

import json
import secrets
import time

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1.job_pb2 import Backoff, Durability, JobSpec, Payload
from jobwire.v1.job_service_pb2 import EnqueueRequest

from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import invalid, refuse_unknown

_FIELDS = ("attempts", "backoff", "delay", "delayUntil", "durability", "id", "jobName", "payload", "priority")
_BACKOFF_FIELDS = ("base", "factor", "jitter", "maxDelay")
_PRIORITIES = {"CRITICAL": 0, "HIGH": 1, "NORMAL": 5, "MEDIUM": 5, "LOW": 10, "BATCH": 20}
_DURABILITIES = {"store": Durability.DURABILITY_STORE, "disk": Durability.DURABILITY_DISK}
_INT32 = range(-(2**31), 2**31)


def enqueue_request(queue: str, body: dict[str, object]) -> EnqueueRequest:
    """Make the request. The id is minted here when the body has none, so that the call may be repeated.

    Raises:
        Problem: 400, a field is unknown or is not what it should be.
    """
    refuse_unknown(body, _FIELDS)
    if "jobName" not in body:
        raise invalid("jobName", "is required")
    job = JobSpec(queue=queue, job_name=_text(body, "jobName"), id=_text(body, "id") if "id" in body else new_id())
    if "payload" in body:
        job.payload.CopyFrom(Payload(json=json.dumps(body["payload"], ensure_ascii=False, separators=(",", ":"))))
    if "priority" in body:
        job.priority = _priority(body["priority"])
    if "delay" in body:
        job.delay.CopyFrom(duration("delay", body["delay"]))
    if "delayUntil" in body:
        job.delay_until.CopyFrom(_date("delayUntil", body["delayUntil"]))
    if "attempts" in body:
        job.attempts = _attempts(body["attempts"])
    if "backoff" in body:
        job.backoff.CopyFrom(_backoff(body["backoff"]))
    return EnqueueRequest(job=job, durability=_durability(body.get("durability", "store")))


def duration(field: str, value: object) -> Duration:
    """Read a length of time.

    Raises:
        Problem: 400, it is none, or it is negative.
    """
    length = Duration()
    try:
        length.FromJsonString(_string(field, value))
    except ValueError:
        raise invalid(field, 'must be a length of time in seconds with an s, for example "1.5s"') from None
    if length.seconds < 0 or length.nanos < 0:
        raise invalid(field, "must not be negative")
    return length


def new_id() -> str:
    """Make an id in the layout of UUIDv7, so that ids sort by time."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{bits:032x}"


def _priority(value: object) -> int:
    if isinstance(value, str):
        if value not in _PRIORITIES:
            raise invalid("priority", f"must be a whole number or one of {', '.join(_PRIORITIES)}")
        return _PRIORITIES[value]
    return _whole("priority", value)


def _attempts(value: object) -> int:
    number = _whole("attempts", value)
    if number < 1:
        raise invalid("attempts", "must be at least 1")
    return number


def _backoff(value: object) -> Backoff:
    if not isinstance(value, dict):
        raise invalid("backoff", "must be an object")
    refuse_unknown(value, _BACKOFF_FIELDS)
    backoff = Backoff()
    if "base" in value:
        backoff.base.CopyFrom(duration("backoff.base", value["base"]))
    if "factor" in value:
        backoff.factor = _number("backoff.factor", value["factor"])
    if "maxDelay" in value:
        backoff.max_delay.CopyFrom(duration("backoff.maxDelay", value["maxDelay"]))
    if "jitter" in value:
        backoff.jitter = _number("backoff.jitter", value["jitter"])
    return backoff


def _durability(value: object) -> Durability.ValueType:
    if not isinstance(value, str) or value not in _DURABILITIES:
        raise invalid("durability", 'must be "store" or "disk"')
    return _DURABILITIES[value]


def _date(field: str, value: object) -> Timestamp:
    date = Timestamp()
    try:
        date.FromJsonString(_string(field, value))
    except ValueError:
        raise invalid(field, 'must be a date such as "2030-01-01T00:00:00Z"') from None
    return date


def _text(body: dict[str, object], field: str) -> str:
    text = _string(field, body[field])
    if not text:
        raise invalid(field, "must not be empty")
    return text


def _string(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    return value


def _whole(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _INT32:
        raise invalid(field, "must be a whole number of 32 bits")
    return value


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _not_a_number(field)
    try:
        return float(value)
    except OverflowError:
        raise _not_a_number(field) from None


def _not_a_number(field: str) -> Problem:
    return invalid(field, "must be a number")
