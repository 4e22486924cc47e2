"""Payloads: anything that JSON can say, dataclasses, or bytes."""

import dataclasses
import json
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any, NoReturn

from jobwire.v1 import job_pb2

from jobwire_client._wire import varint
from jobwire_client.errors import InvalidRequest

_PAYLOAD = b"\x22"
"""The tag of `JobSpec.payload`."""
_JSON, _DATA = b"\x0a", b"\x12"
"""The tags of the two fields of a Payload."""


class NotJson(str):
    """A text that was sent as JSON and is none, as it came. A text that came as JSON is a plain str."""

    __slots__ = ()


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} is neither JSON nor a dataclass")


def _encoder() -> Callable[[object], str]:
    """One encoder for all calls. JSONEncoder.encode makes a new one in C at each call, which costs more than the encoding of a small payload."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain).encode
    # Without a memory of what it is inside of, a payload that contains itself ends as RecursionError.
    in_c = make(None, _plain, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(in_c(value, 0))


_encode = _encoder()


def encoded(payload: object) -> tuple[bytes, bytes]:
    """The payload as the field of a JobSpec, in two pieces, of which the second is the content: bytes as they are, everything else as JSON. A message of
    protobuf would cost twice as much as all of this.

    Raises:
        InvalidRequest: JSON can't say it.
    """
    if isinstance(payload, (bytes, bytearray, memoryview)):
        data = bytes(payload)
        return _head(_DATA, len(data)), data
    try:
        text = _encode(payload).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the payload can't be sent as JSON: {error}; send bytes, or something that json.dumps or a dataclass can say") from error
    return _head(_JSON, len(text)), text


@lru_cache(maxsize=4096)
def _head(kind: bytes, size: int) -> bytes:
    """What stands before a content of so many bytes."""
    head = kind + varint(size)
    return _PAYLOAD + varint(len(head) + size) + head


def payload_message(payload: object) -> job_pb2.Payload:
    """The payload as a message, for calls that are rare. Raises InvalidRequest."""
    return job_pb2.JobSpec.FromString(b"".join(encoded(payload))).payload


def from_message(payload: job_pb2.Payload) -> Any:
    """What was sent: the parsed JSON, bytes, or None. A text that is no JSON, or is nested too deeply to be read, is a NotJson."""
    kind = payload.WhichOneof("content")
    if kind == "data":
        return payload.data
    if kind is None:
        return None
    try:
        return _decode(payload.json)
    except (ValueError, RecursionError):
        return NotJson(payload.json)


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_decode = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode
"""Python alone would take NaN and make 1e999 infinite, which nobody can write as JSON again."""
