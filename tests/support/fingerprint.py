"""The fingerprint of a failure once more: lua/lib/failures.lua in Python."""

from __future__ import annotations

import hashlib
import re

from google.protobuf.message import DecodeError
from jobwire.v1 import job_pb2

_QUOTED = [(rb'"[^"]*"', b'"'), (rb"`[^`]*`", b"`"), (rb"([^A-Za-z0-9])'[^']*'", rb"\1'")]
_UUID = rb"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def shape(message: bytes) -> bytes:
    """A message without quoted text, numbers and ids."""
    text = b" " + message[:1024]
    for pattern, kept in _QUOTED:
        text = re.sub(pattern, kept, text)
    text = re.sub(_UUID, b"#", text)
    text = re.sub(rb"[A-Za-z0-9]+", lambda word: b"#" if _is_number_or_id(word[0]) else word[0], text)
    return re.sub(rb"[-+]?#[#.,:-]*", b"#", text)[:256]


def fingerprint(job_name: str, failure: bytes) -> bytes:
    """The fingerprint of a job that ended with this jobwire.v1.Failure."""
    message = job_pb2.Failure()
    try:
        message.MergeFromString(failure)
    except DecodeError:
        message.Clear()
    parts = [job_name.encode(), message.type.encode(), message.reason.encode(), shape(message.message.encode())]
    return hashlib.sha1(b"\0".join(parts)).digest()[:8]


def _is_number_or_id(word: bytes) -> bool:
    return re.search(rb"[0-9]", word) is not None or (len(word) >= 8 and re.fullmatch(rb"[0-9A-Fa-f]+", word) is not None)
