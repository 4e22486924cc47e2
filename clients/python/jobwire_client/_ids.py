"""Job ids: 16 bytes in the layout of UUIDv7, as 32 hexadecimal digits in lower case. They sort by the millisecond in which they were made."""

from os import urandom
from time import time_ns

_VARIANT = 0x8000_0000_0000_0000
_VERSION = 0x7000


def new_id() -> str:
    """Mint an id. The random bits come from the system at each call, so a forked process never repeats those of its parent."""
    chance = int.from_bytes(urandom(10), "big")
    return f"{time_ns() // 1_000_000:012x}{_VERSION | (chance & 0xFFF):04x}{_VARIANT | (chance >> 18):016x}"
