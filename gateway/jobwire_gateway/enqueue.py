"""The body of `POST /v1/queues/{queue}/jobs`, made into the broker's requests.

    {"jobName": "thumbnail", "payload": {"path": "a.jpg"}, "id": "…", "priority": 5 | "HIGH", "delay": "5s", "delayUntil": "2030-01-01T00:00:00Z",
     "attempts": 3, "backoff": {"base": "2s", "factor": 2, "maxDelay": "3600s", "jitter": 0.1}, "durability": "store" | "disk",
     "group": "acme", "labels": {"order": "17"}, "unique": {"key": "order-17"}, …}

or many of them: `{"jobs": [{"jobName": …}, …], "durability": …}`. `jobName` alone is needed. Lengths of time are proto JSON Durations: seconds with
an `s` behind them. What is checked here is the form; the bounds are the
broker's, but for lengths of time that are negative.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping

from jobwire.v1.job_pb2 import Durability, JobSpec, Payload
from starlette.datastructures import Headers

from jobwire_gateway.contract import fields_of, read_field, string, whole
from jobwire_gateway.requests import invalid, refuse_unknown

_SPECIAL = ("id", "jobName", "payload", "priority")
_PLAIN = {name: field for name, field in fields_of(JobSpec).items() if name not in (*_SPECIAL, "queue")}
"""What is read as the contract has it."""
_FIELDS = (*_SPECIAL, *_PLAIN)
_IDENTITIES = tuple(field.json_name for field in JobSpec.DESCRIPTOR.oneofs_by_name["identity"].fields)
_PRIORITIES = {"CRITICAL": 0, "HIGH": 1, "NORMAL": 5, "MEDIUM": 5, "LOW": 10, "BATCH": 20}
_DURABILITIES = {"store": Durability.DURABILITY_STORE, "disk": Durability.DURABILITY_DISK}

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
    _refuse_both(members)
    job = JobSpec(queue=queue, job_name=_text(members, "jobName"), id=_text(members, "id") if "id" in members else mint(place))
    if "payload" in members:
        job.payload.CopyFrom(payload_of(members["payload"]))
    if "priority" in members:
        job.priority = priority_of(members["priority"])
    for name, field in _PLAIN.items():
        if name in members:
            read_field(job, field, members[name], name)
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


def new_id() -> str:
    """Make an id in the layout of UUIDv7, so that ids sort by time."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{bits:032x}"


def priority_of(value: object) -> int:
    """Read a priority.

    Raises:
        Problem: 400, it is neither a whole number nor one of the names.
    """
    if isinstance(value, str):
        if value.upper() not in _PRIORITIES:
            raise invalid("priority", f"must be a whole number or one of {', '.join(_PRIORITIES)}")
        return _PRIORITIES[value.upper()]
    return whole("priority", value)


def payload_of(value: object) -> Payload:
    """A payload of any JSON."""
    return Payload(json=json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _refuse_both(members: Mapping[str, object]) -> None:
    """The contract keeps only the last of several identities; here each is seen."""
    there = [name for name in _IDENTITIES if name in members]
    if len(there) > 1:
        raise invalid(there[1], f"can't stand beside {there[0]}: give one of them")


def _text(members: Mapping[str, object], field: str) -> str:
    text = string(field, members[field])
    if not text:
        raise invalid(field, "must not be empty")
    return text
