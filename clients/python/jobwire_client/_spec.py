"""What a caller says of a job that is to be made, and how it travels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from operator import index
from typing import Any, Literal

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2

from jobwire_client._batches import MAX_BYTES
from jobwire_client._bounds import fitting
from jobwire_client._identity import Debounce, Throttle, encode_identity
from jobwire_client._payload import encoded
from jobwire_client._wire import duration, sendable, varint
from jobwire_client.errors import InvalidRequest, PayloadTooLarge

_JOBS = b"\x0a"
"""The tag of `EnqueueStreamRequest.jobs`; below, those of the fields of a JobSpec that nearly every job has. tests/unit/client compares with protobuf."""
_QUEUE, _ID, _JOB_NAME = b"\x0a", b"\x12", b"\x1a"

Durability = Literal["store", "disk"]
"""How long an enqueue waits: until the store has the job in memory, or until its append-only file has it on disk (up to a second more)."""


class Priority(IntEnum):
    """Lower runs first; any other 32-bit integer is a priority as well. MEDIUM is another word for NORMAL."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 5
    MEDIUM = 5
    LOW = 10
    BATCH = 20


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """The waits between attempts: run n waits base · factor^(n-2), at most `max_delay`, plus jitter; or the waits of `delays`, plus jitter."""

    base: timedelta | float = 2.0
    """The wait before the second run. A number is seconds. 0 retries at once; at most 7 days."""
    factor: float = 2.0
    """What each further wait is multiplied by, from 1 (a fixed wait) to 10."""
    max_delay: timedelta | float | None = None
    """No wait is longer. None means 1 day; at most 30 days."""
    jitter: float | None = None
    """The share of the wait that is added at random, from 0 (exact) to 1. None means 0.1."""
    delays: Sequence[timedelta | float] = ()
    """The waits one by one, instead of `base`, `factor` and `max_delay`: the last one holds for all later attempts. At most 32, each of at most 30 days."""


@dataclass(frozen=True)
class JobSpec:
    """One job for `enqueue_many`. The fields are the arguments of `enqueue`."""

    queue: str
    """The queue's name: 1 to 100 of [A-Za-z0-9._~-], the first a letter or digit."""
    job_name: str
    """Which handler runs it."""
    payload: Any = None
    """What the handler receives: anything that JSON can say, a dataclass, or bytes."""
    id: str | None = None
    """The id in its queue. None mints one."""
    priority: int | str | None = None
    """A number or a name of Priority. None means NORMAL, 5."""
    delay: timedelta | float | None = None
    """Do not start before this much time from now. A number is seconds."""
    delay_until: datetime | None = None
    """Do not start before this date. It needs a time zone."""
    attempts: int | None = None
    """How many times it may run. None means as the queue says, 3 by default."""
    backoff: Backoff | None = None
    """The waits between attempts. None: as the queue says; by default 2 s, then twice as long each time, plus up to a tenth."""
    group: str | None = None
    """Whose job it is, for example a tenant: fair shares, limits and pauses hold per group. None: nobody's."""
    labels: Mapping[str, str] | None = None
    """For people and filters: at most 16; keys of 1 to 63 of [A-Za-z0-9._/-], values of at most 128 bytes."""
    required_labels: Mapping[str, str] | None = None
    """Only a worker with all of these labels gets it. At most 8."""
    units: int | None = None
    """How much it counts in limits, from 1 to 1,000. None means 1."""
    timeout: timedelta | float | None = None
    """How long one attempt may take: then it has failed, whatever its worker does. From 0.1 s to 30 days. None: as the queue says."""
    total_timeout: timedelta | float | None = None
    """How long it may take over all attempts and the waits between them, from its first start. From 0.1 s to 365 days. None: as the queue says."""
    expires_at: datetime | None = None
    """If it has not started by then, it is EXPIRED. It needs a time zone."""
    expires_in: timedelta | float | None = None
    """The same, counted from the enqueue or the due date. From 0.1 s to 365 days. None: as the queue says."""
    permanent_errors: Sequence[str] = ()
    """Errors that end it at once, by their type, beside those of the queue. At most 32."""
    idempotency_key: str | None = None
    """The same key with the same content finds the job, for `idempotency_ttl`; with other content it is refused."""
    idempotency_ttl: timedelta | float | None = None
    """How long the key is known. A number is seconds. None means 1 day; from 1 s to 30 days."""
    unique: bool | str = False
    """While a job with this key has not ended, it is found. True: a key made of job name and payload."""
    debounce: Debounce | None = None
    """A later call takes the place of an earlier one that waits still."""
    throttle: Throttle | None = None
    """The first call in a window wins."""
    retention: timedelta | float | None = None
    """How long its end is kept; 0 removes it at once. None: as its queue says. At most 3,650 days."""


def encode(
    queue: str,
    job_name: str,
    payload: Any,
    job_id: str,
    priority: int | str | None,
    delay: timedelta | float | None,
    delay_until: datetime | None,
    attempts: int | None,
    backoff: Backoff | None,
    rules: bytes = b"",
) -> bytes:
    """The job as one `jobs` field of an EnqueueStreamRequest, so that a batch is made by joining. `rules` are the fields of `encode_rules`.

    Raises:
        InvalidRequest: a value is of the wrong type, or can't be sent. The other bounds are the broker's to check.
        PayloadTooLarge: no call can carry it.
    """
    try:
        text = _text(job_id)
        before, behind = _around_id(queue, job_name, len(text))
        head, content = (b"", b"") if payload is None else encoded(payload)
        if priority is not None or delay is not None or delay_until is not None or attempts is not None or backoff is not None:
            rules = _options(priority, delay, delay_until, attempts, backoff) + rules
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"job {job_name!r} can't be sent: {error}") from error
    size = len(before) + len(text) + len(behind) + len(head) + len(content) + len(rules)
    if size > MAX_BYTES:
        raise PayloadTooLarge(f"the job has {size} bytes, and one call carries at most {MAX_BYTES}; send a reference instead", reason="PAYLOAD_TOO_LARGE")
    return b"".join((_JOBS, varint(size), before, text, behind, head, content, rules))


def encode_rules(group: str | None, labels: Mapping[str, str] | None, required_labels: Mapping[str, str] | None, units: int | None) -> bytes:
    """Fields 10 and above of a JobSpec: what a job says only when it uses a rule.

    Raises:
        InvalidRequest: as `encode` does.
    """
    if group is None and labels is None and required_labels is None and units is None:
        return b""
    spec = job_pb2.JobSpec()
    if group is not None:
        if group == "":  # on the wire this is no group
            raise InvalidRequest("group must not be empty; leave it out for a job of no group")
        with sendable("group"):
            spec.group = group
    for name, given in (("labels", labels), ("required_labels", required_labels)):
        if given is not None:
            with sendable(name):
                getattr(spec, name).update(given)
    if units is not None:
        with sendable("units"):
            spec.units = _units(units)
    return spec.SerializeToString(deterministic=True)


def encode_times(
    timeout: timedelta | float | None,
    total_timeout: timedelta | float | None,
    expires_at: datetime | None,
    expires_in: timedelta | float | None,
    permanent_errors: Sequence[str],
) -> bytes:
    """Fields 14 to 18 of a JobSpec.

    Raises:
        InvalidRequest: as `encode` does.
    """
    if timeout is None and total_timeout is None and expires_at is None and expires_in is None and not permanent_errors:
        return b""
    try:
        return _times(timeout, total_timeout, expires_at, expires_in, permanent_errors).SerializeToString()
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidRequest(f"the job can't be sent: {error}") from error


def _times(
    timeout: timedelta | float | None,
    total_timeout: timedelta | float | None,
    expires_at: datetime | None,
    expires_in: timedelta | float | None,
    permanent_errors: Sequence[str],
) -> job_pb2.JobSpec:
    if isinstance(permanent_errors, str):
        raise TypeError("permanent_errors must be several names, not one text")
    if expires_at is not None and expires_in is not None:
        raise ValueError("give expires_at or expires_in, not both")
    spec = job_pb2.JobSpec(permanent_errors=permanent_errors)
    for name, value in (("timeout", timeout), ("total_timeout", total_timeout), ("expires_in", expires_in)):
        if value is not None:
            getattr(spec, name).CopyFrom(duration(value))
    if expires_at is not None:
        spec.expires_at.CopyFrom(_timestamp(expires_at, "expires_at"))
    return spec


def encode_spec(spec: JobSpec, job_id: str) -> bytes:
    """The same for a JobSpec."""
    rules = encode_rules(spec.group, spec.labels, spec.required_labels, spec.units)
    rules += encode_times(spec.timeout, spec.total_timeout, spec.expires_at, spec.expires_in, spec.permanent_errors)
    rules += encode_identity(spec.idempotency_key, spec.idempotency_ttl, spec.unique, spec.debounce, spec.throttle, spec.retention)
    return encode(spec.queue, spec.job_name, spec.payload, job_id, spec.priority, spec.delay, spec.delay_until, spec.attempts, spec.backoff, rules)


@lru_cache(maxsize=4096)
def _around_id(queue: str, job_name: str, id_size: int) -> tuple[bytes, bytes]:
    """What stands before and behind an id of so many bytes, which is the same for many jobs: the queue and the beginning of the id; the job name."""
    if not id_size:  # on the wire this asks the broker for an id, which a repeated call would not have
        raise ValueError("id must not be empty; leave it out to have one made")
    return _text_field(_QUEUE, queue) + _ID + varint(id_size), _text_field(_JOB_NAME, job_name)


def _text_field(tag: bytes, value: str) -> bytes:
    """A field of text; nothing for an empty one."""
    text = _text(value)
    return b"".join((tag, varint(len(text)), text)) if text else b""


def _text(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value.encode()


def _options(priority: int | str | None, delay: timedelta | float | None, delay_until: datetime | None, attempts: int | None, backoff: Backoff | None) -> bytes:
    """Fields 5 to 9."""
    spec = job_pb2.JobSpec()
    if priority is not None:
        spec.priority = priority_number(priority)
    if delay is not None or delay_until is not None:
        _set_delay(spec, delay, delay_until)
    if attempts is not None:
        spec.attempts = _attempts(attempts)
    if backoff is not None:
        spec.backoff.CopyFrom(backoff_message(backoff))
    return spec.SerializeToString()


def priority_number(value: int | str) -> int:
    """The number of a priority. Raises ValueError and TypeError."""
    if type(value) is int:
        if -(2**31) <= value < 2**31:
            return value
        raise ValueError(f"priority must be a whole number of 32 bits; it is {value}")
    if isinstance(value, str):
        try:
            return Priority[value.upper()].value
        except KeyError:
            raise ValueError(f"{value!r} is no priority; use a number or one of critical, high, normal, medium, low, batch") from None
    if isinstance(value, bool):
        raise TypeError("priority must be a number or a name, not a bool")
    return priority_number(index(value))


def _attempts(value: int) -> int:
    if isinstance(value, bool) or value < 1:  # 0 would mean the default on the wire
        raise ValueError(f"attempts must be at least 1, not {value!r}")
    return fitting(value, "JobSpec", "attempts", "attempts")


def _units(value: int) -> int:
    if isinstance(value, bool) or value < 1:  # 0 would mean the default on the wire
        raise ValueError(f"it must be at least 1, not {value!r}")
    return fitting(value, "JobSpec", "units", "it")


def _set_delay(spec: job_pb2.JobSpec, delay: timedelta | float | None, delay_until: datetime | None) -> None:
    if delay is not None and delay_until is not None:
        raise ValueError("give delay or delay_until, not both")
    if delay is not None:
        spec.delay.CopyFrom(duration(delay))
    if delay_until is not None:
        spec.delay_until.CopyFrom(_timestamp(delay_until, "delay_until"))


def _timestamp(date: datetime, name: str) -> Timestamp:
    if not isinstance(date, datetime):
        raise TypeError(f"{name} must be a datetime with a time zone, not {date!r}")
    if date.tzinfo is None:
        raise ValueError(f"{name} needs a time zone, for example datetime.now(UTC)")
    message = Timestamp()
    message.FromDatetime(date.astimezone(UTC))
    return message


def backoff_message(backoff: Backoff) -> job_pb2.Backoff:
    """A Backoff as it travels."""
    if backoff.delays:
        message = job_pb2.Backoff(delays=map(duration, backoff.delays))
    else:
        message = job_pb2.Backoff(base=duration(backoff.base), factor=backoff.factor)
        if backoff.max_delay is not None:
            message.max_delay.CopyFrom(duration(backoff.max_delay))
    if backoff.jitter is not None:
        message.jitter = backoff.jitter
    return message
