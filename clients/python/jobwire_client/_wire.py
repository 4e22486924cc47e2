"""Numbers and lengths as protobuf writes them."""

from functools import lru_cache


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """A number that is not negative."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
