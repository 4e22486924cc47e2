"""Identities of jobs: what a caller may ask for so that there is one job where several ask for it, in the form of the store (lua/lib/identity.lua)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from struct import Struct

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2

from jobwire_broker.errors import InvalidField
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.store import codec

_SECOND_MS, _DAY_MS = 1000, 86_400_000
_DEFAULT_TTL_MS = _DAY_MS
_KEY = re.compile(r"[ -~]{1,255}")
_ONE, _TWO = Struct(">cQ"), Struct(">cQQ")
_DIGEST_SIZE = 8
#: Parts of a signature that are no sections of a body.
_JOB_NAME, _ATTEMPTS, _PRIORITY = 0, 254, 255
#: What callers call the parts of a signature.
_PART_NAMES = {
    _JOB_NAME: "job_name",
    1: "payload",
    2: "backoff",
    3: "delay",
    4: "group",
    5: "labels",
    6: "required_labels",
    7: "units",
    8: "expires_at",
    9: "timeout",
    10: "total_timeout",
    12: "retention",
    13: "backoff",
    14: "permanent_errors",
    _ATTEMPTS: "attempts",
    _PRIORITY: "priority",
}


def identity_of(spec: job_pb2.JobSpec, payload: bytes) -> bytes:
    """The section of the record; empty when the job asks for nothing. Raises InvalidField."""
    kind = spec.WhichOneof("identity")
    if kind is None:
        return b""
    if kind == "idempotency":
        ttl_ms = _DEFAULT_TTL_MS
        if spec.idempotency.HasField("ttl"):
            ttl_ms = duration_ms(spec.idempotency.ttl, "idempotency.ttl", low_ms=_SECOND_MS, high_ms=30 * _DAY_MS)
        return _ONE.pack(b"k", ttl_ms) + _key(spec.idempotency.key, "idempotency.key")
    if kind == "unique":
        return b"u" + (_key(spec.unique.key, "unique.key") if spec.unique.key else _derived_key(spec.job_name, payload))
    if kind == "throttle":
        period_ms = _required(spec.throttle.period, spec.throttle.HasField("period"), "throttle.period", 30 * _DAY_MS)
        return _ONE.pack(b"t", period_ms) + _key(spec.throttle.key, "throttle.key")
    return _debounce(spec)


def _debounce(spec: job_pb2.JobSpec) -> bytes:
    asked = spec.debounce
    delay_ms = _required(asked.delay, asked.HasField("delay"), "debounce.delay", _DAY_MS)
    for field in ("delay", "delay_until"):
        if spec.HasField(field):
            raise InvalidField(f"{field} can't stand beside debounce, which has a delay of its own", field=field)
    most_ms = 0
    if asked.HasField("max_wait"):
        most_ms = duration_ms(asked.max_wait, "debounce.max_wait", low_ms=delay_ms, high_ms=30 * _DAY_MS)
    return _TWO.pack(b"d", delay_ms, most_ms) + _key(asked.key, "debounce.key")


def debounce_delay_ms(identity: bytes) -> int:
    """How long a job with this identity waits at first; 0 when it is no debounce."""
    return int(_TWO.unpack_from(identity)[1]) if identity[:1] == b"d" else 0


def _required(value: Duration, is_set: bool, field: str, high_ms: int) -> int:
    if not is_set:
        raise InvalidField(f"{field} is required", field=field)
    return duration_ms(value, field, low_ms=1, high_ms=high_ms)


def _key(key: str, field: str) -> bytes:
    if not _KEY.fullmatch(key):
        found = f"has {len(key)}" if not 1 <= len(key) <= 255 else f"is {key!r}"
        raise InvalidField(f"{field} must be 1 to 255 printable characters of ASCII; it {found}", field=field)
    return key.encode()


def _derived_key(job_name: str, payload: bytes) -> bytes:
    """No key that a caller can choose begins like it."""
    return b"\x00" + blake2b(job_name.encode() + b"\x00" + payload, digest_size=16).digest()


def signature_of(spec: job_pb2.JobSpec, body: bytes) -> bytes:
    """What the content of a job is known by, part by part: what the caller said, and not what the queue adds to it."""
    parts: dict[int, bytes] = {_JOB_NAME: spec.job_name.encode(), **codec.sections(body, 1 + body[0])}
    parts.pop(codec.TAG_IDENTITY, None)
    if spec.attempts:
        parts[_ATTEMPTS] = b"%d" % spec.attempts
    if spec.HasField("priority"):
        parts[_PRIORITY] = b"%d" % spec.priority
    return b"".join(bytes((part,)) + blake2b(parts[part], digest_size=_DIGEST_SIZE).digest() for part in sorted(parts))


def differences(one: bytes, other: bytes) -> list[str]:
    """The names of the parts in which two signatures differ, in the order of the contract."""
    first, second = dict(_parts(one)), dict(_parts(other))
    return list(dict.fromkeys(_name(part) for part in sorted(first.keys() | second.keys()) if _differs(first, second, part)))


def _parts(signature: bytes) -> Iterator[tuple[int, bytes]]:
    step = 1 + _DIGEST_SIZE
    return ((signature[at], signature[at + 1 : at + step]) for at in range(0, len(signature), step))


def _differs(first: Mapping[int, bytes], second: Mapping[int, bytes], part: int) -> bool:
    return first.get(part) != second.get(part)


def _name(part: int) -> str:
    return _PART_NAMES.get(part, f"part {part}")
