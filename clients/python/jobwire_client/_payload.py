"""Payloads: anything that JSON can say, dataclasses, or bytes."""

import dataclasses
import json
from typing import Any

from jobwire.v1 import job_pb2

from jobwire_client.errors import InvalidRequest


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} is neither JSON nor a dataclass")


# One encoder for all: json.dumps with options makes a new one at each call.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain).encode


def put(payload: object, message: job_pb2.Payload) -> None:
    """Fill `message` with the payload as it travels: bytes as they are, everything else as JSON.

    Raises:
        InvalidRequest: JSON can't say it.
    """
    if isinstance(payload, (bytes, bytearray, memoryview)):
        message.data = bytes(payload)
        return
    try:
        message.json = _encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the payload can't be sent as JSON: {error}; send bytes, or something that json.dumps or a dataclass can say") from error


def from_message(payload: job_pb2.Payload) -> Any:
    """What was sent: the parsed JSON, bytes, or None. A text that is no JSON comes as it is."""
    kind = payload.WhichOneof("content")
    if kind == "data":
        return payload.data
    if kind is None:
        return None
    try:
        return json.loads(payload.json)
    except ValueError:
        return payload.json
