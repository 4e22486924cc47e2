"""The body of `POST /v1/queues/{queue}/jobs`, made into the broker's requests.

    {"jobName": "thumbnail", "payload": {"path": "a.jpg"}, "id": "…", "priority": 5 | "HIGH", "delay": "5s", "delayUntil": "2030-01-01T00:00:00Z",
     "attempts": 3, "backoff": {"base": "2s", "factor": 2, "maxDelay": "3600s", "jitter": 0.1}, "durability": "store" | "disk"}

or many of them: `{"jobs": [{"jobName": …}, …], "durability": …}`. `jobName` alone is needed. Lengths of time are proto JSON Durations: seconds with
an `s` behind them. What is checked here is the form; the bounds are the broker's, but for lengths of time that are negative.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1.job_pb2 import Backoff, Durability, JobSpec, Payload
from starlette.datastructures import Headers

from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import invalid, refuse_unknown

_FIELDS = ("attempts", "backoff", "delay", "delayUntil", "id", "jobName", "payload", "priority")
_BACKOFF_FIELDS = ("base", "factor", "jitter", "maxDelay")
_PRIORITIES = {"CRITICAL": 0, "HIGH": 1, "NORMAL": 5, "MEDIUM": 5, "LOW": 10, "BATCH": 20}
_DURABILITIES = {"store": Durability.DURABILITY_STORE, "disk": Durability.DURABILITY_DISK}
_INT32 = range(-(2**31), 2**31)


MAX_JOBS = 1_000
"""The contract's limit on one call."""

_KEY = re.compile(r"[!-~]{1,255}")

Mint = Callable[[int], str]
"""Makes the id of the job at a place of the request, where the job brings none."""


def job_spec(queue: str, members: Mapping[str, object], place: int, mint: Mint) -> JobSpec:
    """One job. Its id is minted here when it has none, so that the call may be repeated.

    Raises:
        Problem: 400, a member is unknown or is not what it should be.
    """
    refuse_unknown(members, _FIELDS)
    if "jobName" not in members:
        raise invalid("jobName", "is required")
    job = JobSpec(queue=queue, job_name=_text(members, "jobName"), id=_text(members, "id") if "id" in members else mint(place))
    if "payload" in members:
        job.payload.CopyFrom(Payload(json=json.dumps(members["payload"], ensure_ascii=False, separators=(",", ":"))))
    if "priority" in members:
        job.priority = _priority(members["priority"])
    if "delay" in members:
        job.delay.CopyFrom(duration("delay", members["delay"]))
    if "delayUntil" in members:
        job.delay_until.CopyFrom(_date("delayUntil", members["delayUntil"]))
    if "attempts" in members:
        job.attempts = _attempts(members["attempts"])
    if "backoff" in members:
        job.backoff.CopyFrom(_backoff(members["backoff"]))
    return job


def job_members(body: Mapping[str, object]) -> list[object]:
    """The `jobs` of a body that has many.

    Raises:
        Problem: 400, it holds something else as well, or too few or too many.
    """
    refuse_unknown(body, ("durability", "jobs"))
    jobs = body["jobs"]
    if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_JOBS:
        raise invalid("jobs", f"must be an array of 1 to {MAX_JOBS} jobs; more may be sent as application/x-ndjson, one in each line")
    return jobs


def durability_of(body: Mapping[str, object]) -> Durability.ValueType:
    """How long the answer waits.

    Raises:
        Problem: 400, it is neither "store" nor "disk".
    """
    value = body.get("durability", "store")
    if not isinstance(value, str) or value not in _DURABILITIES:
        raise invalid("durability", 'must be "store" or "disk"')
    return _DURABILITIES[value]


def minting(queue: str, headers: Headers) -> Mint:
    """How ids are made for this request: new ones, or with an `Idempotency-Key` always the same ones for the same key and queue.

    Raises:
        Problem: 400, the key is out of its bounds.
    """
    if "idempotency-key" not in headers:
        return lambda place: new_id()
    key = headers["idempotency-key"]
    if not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "must be 1 to 255 visible characters of ASCII")
    return lambda place: "key-" + hashlib.sha256(f"{queue}\0{key}\0{place}".encode()).hexdigest()[:32]


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
        backoff.factor = _factor(value["factor"])
    if "maxDelay" in value:
        backoff.max_delay.CopyFrom(duration("backoff.maxDelay", value["maxDelay"]))
    if "jitter" in value:
        backoff.jitter = _number("backoff.jitter", value["jitter"])
    return backoff


def _factor(value: object) -> float:
    factor = _number("backoff.factor", value)
    if factor == 0:
        # To the contract it would be no factor at all.
        raise invalid("backoff.factor", "must be from 1 to 10")
    return factor


def _date(field: str, value: object) -> Timestamp:
    date = Timestamp()
    try:
        date.FromJsonString(_string(field, value))
    except ValueError:
        raise invalid(field, 'must be a date such as "2030-01-01T00:00:00Z"') from None
    return date


def _text(members: Mapping[str, object], field: str) -> str:
    text = _string(field, members[field])
    if not text:
        raise invalid(field, "must not be empty")
    return text


def _string(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    return value


def _whole(field: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 5.0 is as whole as 5
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
