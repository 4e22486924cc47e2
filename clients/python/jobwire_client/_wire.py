"""Numbers, lengths and durations as protobuf writes them."""

from datetime import timedelta
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration


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
    """A Duration from a timedelta or seconds."""
    message = Duration()
    message.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return message
