"""The rules of time that a job brings with it, checked and put into the form of its record: waits between attempts, expiry, timeouts."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2

from jobwire_broker.errors import InvalidField
from jobwire_broker.rules.reports import MAX_TYPE, clip, duration_ms
from jobwire_broker.store import codec

MAX_DELAYS = 32
MAX_PERMANENT = 32
DAY_MS = 86_400_000
MIN_TIME_MS, MAX_TIMEOUT_MS, MAX_TOTAL_MS = 100, 30 * DAY_MS, 365 * DAY_MS
MAX_BACKOFF_MS = 30 * DAY_MS
_MAX_BASE_MS = 7 * DAY_MS
#: The last second of 9999, where google.protobuf.Timestamp ends.
_LAST_DATE_S = 253_402_300_799


def date_ms(date: Timestamp, field: str) -> int:
    """A date in ms since 1970. Raises InvalidField."""
    if not (0 <= date.seconds <= _LAST_DATE_S and 0 <= date.nanos < 1_000_000_000):
        raise InvalidField(f"{field} must be a date from 1970 to 9999", field=field)
    return date.seconds * 1000 + date.nanos // 1_000_000


def backoff_of(backoff: job_pb2.Backoff) -> codec.Backoff:
    """Raises InvalidField."""
    base_ms = duration_ms(backoff.base, "backoff.base", low_ms=0, high_ms=_MAX_BASE_MS) if backoff.HasField("base") else 2000
    max_ms = duration_ms(backoff.max_delay, "backoff.max_delay", low_ms=0, high_ms=MAX_BACKOFF_MS) if backoff.HasField("max_delay") else DAY_MS
    factor = backoff.factor or 2.0
    if not 1 <= factor <= 10:
        raise InvalidField(f"backoff.factor must be from 1 to 10; it is {factor:g}", field="backoff.factor")
    return codec.Backoff(base_ms, round(factor * 1000), max_ms, _jitter_of(backoff))


def delays_of(backoff: job_pb2.Backoff) -> bytes:
    """The section of waits that are named one by one. Raises InvalidField."""
    if backoff.HasField("base") or backoff.factor:
        raise InvalidField("backoff.delays can't stand beside base and factor: give the waits one by one, or how they grow", field="backoff.delays")
    if len(backoff.delays) > MAX_DELAYS:
        raise InvalidField(f"backoff.delays may hold {MAX_DELAYS}; it holds {len(backoff.delays)}", field="backoff.delays")
    delays = [duration_ms(delay, f"backoff.delays[{i}]", low_ms=0, high_ms=MAX_BACKOFF_MS) for i, delay in enumerate(backoff.delays)]
    return codec.encode_delays(_jitter_of(backoff), delays)


def _jitter_of(backoff: job_pb2.Backoff) -> int:
    jitter = backoff.jitter if backoff.HasField("jitter") else 0.1
    if not 0 <= jitter <= 1:
        raise InvalidField(f"backoff.jitter must be from 0 to 1; it is {jitter:g}", field="backoff.jitter")
    return round(jitter * 10_000)


def time_sections(spec: job_pb2.JobSpec) -> dict[int, bytes]:
    """The sections of expiry and timeouts, by tag: those that make a job's record one with FLAG_TIMED. Raises InvalidField."""
    found: dict[int, bytes] = {}
    if spec.HasField("expires_at"):
        if spec.HasField("expires_in"):
            raise InvalidField("expires_in can't stand beside expires_at: give one of them", field="expires_in")
        found[codec.TAG_EXPIRY] = codec.encode_expiry("d", date_ms(spec.expires_at, "expires_at"))
    elif spec.HasField("expires_in"):
        ms = duration_ms(spec.expires_in, "expires_in", low_ms=MIN_TIME_MS, high_ms=MAX_TOTAL_MS)
        found[codec.TAG_EXPIRY] = codec.encode_expiry("r", ms)
    if spec.HasField("timeout"):
        found[codec.TAG_TIMEOUT] = codec.encode_ms(duration_ms(spec.timeout, "timeout", low_ms=MIN_TIME_MS, high_ms=MAX_TIMEOUT_MS))
    if spec.HasField("total_timeout"):
        found[codec.TAG_TOTAL_TIMEOUT] = codec.encode_ms(duration_ms(spec.total_timeout, "total_timeout", low_ms=MIN_TIME_MS, high_ms=MAX_TOTAL_MS))
    return found


def check_error_names(names: Sequence[str], field: str) -> Sequence[str]:
    """Names of errors, without repetition. Raises InvalidField."""
    if len(names) > MAX_PERMANENT:
        raise InvalidField(f"{field} may hold {MAX_PERMANENT}; it holds {len(names)}", field=field)
    for i, name in enumerate(names):
        if not 1 <= len(name) <= MAX_TYPE or not name.isprintable():
            raise InvalidField(f"{field}[{i}] must be 1 to {MAX_TYPE} printable characters", field=f"{field}[{i}]")
    # In the form in which the type of a failure is kept, or they would never be equal.
    return list(dict.fromkeys(clip(name, MAX_TYPE) for name in names))
