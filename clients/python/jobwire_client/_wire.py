"""Numbers, lengths and durations as protobuf writes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration

from jobwire_client.errors import InvalidRequest


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """A number that is not negative."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def duration(value: timedelta | float) -> Duration:
    """A Duration from a timedelta or seconds. Raises TypeError, ValueError and OverflowError."""
    if isinstance(value, str):
        raise TypeError(f"{value!r} is no length of time; give seconds or a timedelta")
    message = Duration()
    message.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return message


@contextmanager
def sendable(field: str) -> Iterator[None]:
    """A value that a message can't hold is InvalidRequest, with the name of the field."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidRequest(f"{field} can't be sent: {error}") from error
