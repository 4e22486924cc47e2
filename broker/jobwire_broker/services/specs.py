"""Jobs to be made: checked in full before anything is done, and put into the form of the store."""

from __future__ import annotations

from jobwire.v1 import job_pb2

from jobwire_broker.errors import InvalidField
from jobwire_broker.labels import MAX_LABELS, MAX_REQUIRED_LABELS, check_labels
from jobwire_broker.names import check_group, check_job_name, check_queue, id_to_bytes, mint_id
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.services.identities import debounce_delay_ms, identity_of, signature_of
from jobwire_broker.store.codec import (
    TAG_GROUP,
    TAG_IDENTITY,
    TAG_LABELS,
    TAG_REQUIRED_LABELS,
    TAG_RETENTION,
    TAG_UNITS,
    Backoff,
    encode_body,
    encode_labels,
    encode_ms,
    encode_units,
)
from jobwire_broker.store.queue_store import Ask, JobItem

MAX_PAYLOAD_BYTES = 1 << 20
MAX_ATTEMPTS = 1000
MAX_UNITS = 1000
_DAY_MS = 86_400_000
_MAX_DELAY_MS = 3650 * _DAY_MS
_MAX_BASE_MS = 7 * _DAY_MS
_MAX_RETENTION_MS = 3650 * _DAY_MS
#: The last second of 9999, where google.protobuf.Timestamp ends.
_LAST_DATE_S = 253_402_300_799
_MAX_BACKOFF_MS = 30 * _DAY_MS


def item_of(spec: job_pb2.JobSpec) -> tuple[str, JobItem]:
    """The queue and the item for the store. Raises InvalidField, whose path begins at the spec."""
    queue = check_queue(spec.queue)
    raw_id = id_to_bytes(spec.id) if spec.id else mint_id()
    check_job_name(spec.job_name)
    payload = _payload_of(spec.payload) if spec.HasField("payload") else b""
    attempts = spec.attempts
    if not 0 <= attempts <= MAX_ATTEMPTS:
        raise InvalidField(f"attempts must be from 1 to {MAX_ATTEMPTS}, or 0 for that of the queue; it is {attempts}", field="attempts")
    backoff = _backoff_of(spec.backoff) if spec.HasField("backoff") else None
    due, delay_ms = _due_of(spec)
    rules = _rules_of(spec)
    identity = identity_of(spec, payload)
    if identity:
        rules[TAG_IDENTITY] = identity
        if wait_ms := debounce_delay_ms(identity):
            due = f"+{wait_ms}"
    body = encode_body(spec.job_name, payload, backoff, delay_ms, rules)
    ask = None
    if identity or TAG_RETENTION in rules:
        ask = Ask(identity, signature_of(spec, body) if identity[:1] == b"k" else b"")
    return queue, JobItem(raw_id, due, spec.priority if spec.HasField("priority") else None, attempts, body, ask)


def _rules_of(spec: job_pb2.JobSpec) -> dict[int, bytes]:
    """The sections of the rules that the job uses, by tag."""
    rules: dict[int, bytes] = {}
    if spec.group:
        rules[TAG_GROUP] = check_group(spec.group).encode()
    if spec.labels:
        rules[TAG_LABELS] = encode_labels(check_labels(spec.labels, "labels", MAX_LABELS))
    if spec.required_labels:
        rules[TAG_REQUIRED_LABELS] = encode_labels(check_labels(spec.required_labels, "required_labels", MAX_REQUIRED_LABELS))
    if spec.units not in (0, 1):
        if not 0 <= spec.units <= MAX_UNITS:
            raise InvalidField(f"units must be from 1 to {MAX_UNITS}, or 0 for 1; it is {spec.units}", field="units")
        rules[TAG_UNITS] = encode_units(spec.units)
    if spec.HasField("retention"):
        rules[TAG_RETENTION] = encode_ms(duration_ms(spec.retention, "retention", low_ms=0, high_ms=_MAX_RETENTION_MS))
    return rules


def _payload_of(payload: job_pb2.Payload) -> bytes:
    encoded = payload.SerializeToString()
    if len(encoded) > MAX_PAYLOAD_BYTES:
        size = max(len(payload.json.encode()), len(payload.data))
        if size > MAX_PAYLOAD_BYTES:
            message = f"payload may have {MAX_PAYLOAD_BYTES} bytes; it has {size}: enqueue a reference to it instead"
            raise InvalidField(message, field="payload", reason="PAYLOAD_TOO_LARGE")
    content_type = payload.content_type
    if content_type and (len(content_type) > 128 or not content_type.isprintable()):
        raise InvalidField("payload.content_type may have 128 printable characters", field="payload.content_type")
    return encoded


def _due_of(spec: job_pb2.JobSpec) -> tuple[str, int]:
    """When the job is due, in the form of the store, and the delay that was asked for."""
    if spec.HasField("delay"):
        if spec.HasField("delay_until"):
            raise InvalidField("delay_until can't stand beside delay: give one of them", field="delay_until")
        ms = duration_ms(spec.delay, "delay", low_ms=0, high_ms=_MAX_DELAY_MS)
        return (f"+{ms}", ms) if ms else ("", 0)
    if spec.HasField("delay_until"):
        seconds, nanos = spec.delay_until.seconds, spec.delay_until.nanos
        if not (0 <= seconds <= _LAST_DATE_S and 0 <= nanos < 1_000_000_000):
            raise InvalidField("delay_until must be a date from 1970 to 9999", field="delay_until")
        return str(seconds * 1000 + nanos // 1_000_000), 0
    return "", 0


def _backoff_of(backoff: job_pb2.Backoff) -> Backoff:
    base_ms = duration_ms(backoff.base, "backoff.base", low_ms=0, high_ms=_MAX_BASE_MS) if backoff.HasField("base") else 2000
    max_ms = duration_ms(backoff.max_delay, "backoff.max_delay", low_ms=0, high_ms=_MAX_BACKOFF_MS) if backoff.HasField("max_delay") else _DAY_MS
    factor = backoff.factor or 2.0
    if not 1 <= factor <= 10:
        raise InvalidField(f"backoff.factor must be from 1 to 10; it is {factor:g}", field="backoff.factor")
    jitter = backoff.jitter if backoff.HasField("jitter") else 0.1
    if not 0 <= jitter <= 1:
        raise InvalidField(f"backoff.jitter must be from 0 to 1; it is {jitter:g}", field="backoff.jitter")
    return Backoff(base_ms, round(factor * 1000), max_ms, round(jitter * 10_000))
