"""Jobs to be made: checked in full before anything is done, and put into the form of the store."""

from __future__ import annotations

from jobwire.v1 import job_pb2

from jobwire_broker.errors import InvalidField
from jobwire_broker.labels import MAX_LABELS, MAX_REQUIRED_LABELS, check_labels
from jobwire_broker.names import check_group, check_job_name, check_queue, id_to_bytes, mint_id
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.services.identities import debounce_delay_ms, identity_of, signature_of
from jobwire_broker.services.timing import DAY_MS, backoff_of, check_error_names, date_ms, delays_of, time_sections
from jobwire_broker.store.arguments import Ask, JobItem
from jobwire_broker.store.codec import (
    FLAG_COUNTED,
    FLAG_TIMED,
    TAG_DELAYS,
    TAG_GROUP,
    TAG_IDENTITY,
    TAG_LABELS,
    TAG_PERMANENT,
    TAG_REQUIRED_LABELS,
    TAG_RETENTION,
    TAG_UNITS,
    encode_body,
    encode_labels,
    encode_ms,
    encode_names,
    encode_units,
)

MAX_PAYLOAD_BYTES = 1 << 20
MAX_ATTEMPTS = 1000
MAX_UNITS = 1000
_MAX_DELAY_MS = 3650 * DAY_MS
_MAX_RETENTION_MS = 3650 * DAY_MS
#: A job with one of these waits in a line of its own kind.
_LINE_TAGS = frozenset((TAG_GROUP, TAG_REQUIRED_LABELS, TAG_UNITS))


def item_of(spec: job_pb2.JobSpec) -> tuple[str, JobItem]:
    """The queue and the item for the store. Raises InvalidField, whose path begins at the spec."""
    queue = check_queue(spec.queue)
    raw_id = id_to_bytes(spec.id) if spec.id else mint_id()
    check_job_name(spec.job_name)
    payload = payload_of(spec.payload) if spec.HasField("payload") else b""
    attempts = spec.attempts
    if not 0 <= attempts <= MAX_ATTEMPTS:
        raise InvalidField(f"attempts must be from 1 to {MAX_ATTEMPTS}, or 0 for that of the queue; it is {attempts}", field="attempts")
    backoff = backoff_of(spec.backoff) if spec.HasField("backoff") and not spec.backoff.delays else None
    due, delay_ms = _due_of(spec)
    rules, times = _rules_of(spec), time_sections(spec)
    identity = identity_of(spec, payload)
    if identity:
        rules[TAG_IDENTITY] = identity
        if wait_ms := debounce_delay_ms(identity):
            due = f"+{wait_ms}"
    body = encode_body(spec.job_name, payload, backoff, delay_ms, rules | times if times else rules)
    flags = FLAG_TIMED if times else 0
    if not rules.keys().isdisjoint(_LINE_TAGS):
        flags |= FLAG_COUNTED
    ask = None
    if identity or TAG_RETENTION in rules:
        ask = Ask(identity, signature_of(spec, body) if identity[:1] == b"k" else b"")
    return queue, JobItem(raw_id, due, spec.priority if spec.HasField("priority") else None, attempts, body, ask, flags)


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
    if spec.HasField("backoff") and spec.backoff.delays:
        rules[TAG_DELAYS] = delays_of(spec.backoff)
    if spec.permanent_errors:
        rules[TAG_PERMANENT] = encode_names(check_error_names(spec.permanent_errors, "permanent_errors"))
    return rules


def payload_of(payload: job_pb2.Payload) -> bytes:
    """A payload as it stands in a record. Raises InvalidField."""
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
        return str(date_ms(spec.delay_until, "delay_until")), 0
    return "", 0
