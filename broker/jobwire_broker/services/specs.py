"""Jobs to be made: checked in full before anything is done, and put into the form of the store."""

from __future__ import annotations

from jobwire.v1 import job_pb2

from jobwire_broker.errors import InvalidField
from jobwire_broker.names import check_job_name, check_queue, id_to_bytes, mint_id
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.store.codec import Backoff, encode_body
from jobwire_broker.store.queue_store import JobItem

MAX_PAYLOAD_BYTES = 1 << 20
MAX_ATTEMPTS = 1000
DEFAULT_ATTEMPTS = 3
DEFAULT_PRIORITY = 5
_DAY_MS = 86_400_000
_MAX_DELAY_MS = 3650 * _DAY_MS
_MAX_BASE_MS = 7 * _DAY_MS
_MAX_BACKOFF_MS = 30 * _DAY_MS


def item_of(spec: job_pb2.JobSpec, at: str = "job") -> tuple[str, JobItem]:
    """The queue and the item for the store. `at` is the path that errors name. Raises InvalidField."""
    check_queue(spec.queue, f"{at}.queue")
    raw_id = id_to_bytes(spec.id, f"{at}.id") if spec.id else mint_id()
    check_job_name(spec.job_name, f"{at}.job_name")
    payload = _payload_of(spec.payload, f"{at}.payload") if spec.HasField("payload") else b""
    attempts = spec.attempts or DEFAULT_ATTEMPTS
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise InvalidField(f"{at}.attempts must be from 1 to {MAX_ATTEMPTS}, or 0 for the default; it is {attempts}", field=f"{at}.attempts")
    backoff = _backoff_of(spec.backoff, f"{at}.backoff") if spec.HasField("backoff") else None
    due, delay_ms = _due_of(spec, at)
    body = encode_body(spec.job_name, payload, backoff, delay_ms)
    return spec.queue, JobItem(raw_id, due, spec.priority if spec.HasField("priority") else DEFAULT_PRIORITY, attempts, body)


def _payload_of(payload: job_pb2.Payload, at: str) -> bytes:
    encoded = payload.SerializeToString()
    if len(encoded) > MAX_PAYLOAD_BYTES:
        size = max(len(payload.json.encode()), len(payload.data))
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidField(
                f"{at} may have {MAX_PAYLOAD_BYTES} bytes; it has {size}: enqueue a reference to it instead", field=at, reason="PAYLOAD_TOO_LARGE"
            )
    if len(payload.content_type) > 128 or not payload.content_type.isprintable():
        raise InvalidField(f"{at}.content_type may have 128 printable characters", field=f"{at}.content_type")
    return encoded


def _due_of(spec: job_pb2.JobSpec, at: str) -> tuple[str, int]:
    """When the job is due, in the form of the store, and the delay that was asked for."""
    if spec.HasField("delay"):
        if spec.HasField("delay_until"):
            raise InvalidField(f"{at} may have one of delay and delay_until", field=f"{at}.delay_until")
        ms = duration_ms(spec.delay, f"{at}.delay", low_ms=0, high_ms=_MAX_DELAY_MS)
        return (f"+{ms}", ms) if ms else ("", 0)
    if spec.HasField("delay_until"):
        ms = spec.delay_until.ToMilliseconds()
        if not 0 <= ms < 1 << 52:
            raise InvalidField(f"{at}.delay_until is no date after 1970", field=f"{at}.delay_until")
        return str(ms), 0
    return "", 0


def _backoff_of(backoff: job_pb2.Backoff, at: str) -> Backoff:
    base_ms = duration_ms(backoff.base, f"{at}.base", low_ms=0, high_ms=_MAX_BASE_MS) if backoff.HasField("base") else 2000
    max_ms = duration_ms(backoff.max_delay, f"{at}.max_delay", low_ms=0, high_ms=_MAX_BACKOFF_MS) if backoff.HasField("max_delay") else _DAY_MS
    factor = backoff.factor or 2.0
    if not 1 <= factor <= 10:
        raise InvalidField(f"{at}.factor must be from 1 to 10; it is {factor:g}", field=f"{at}.factor")
    jitter = backoff.jitter if backoff.HasField("jitter") else 0.1
    if not 0 <= jitter <= 1:
        raise InvalidField(f"{at}.jitter must be from 0 to 1; it is {jitter:g}", field=f"{at}.jitter")
    return Backoff(base_ms, round(factor * 1000), max_ms, round(jitter * 10_000))
