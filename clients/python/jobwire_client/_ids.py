"""Job ids: 16 bytes in the layout of UUIDv7, as 32 hexadecimal digits in lower case. They sort by the millisecond in which they were made.

The random bits are the system's, so an id says nothing of the next one; they are fetched for 1,024 ids at once, since a system call would cost more than all
the rest. A forked child does not go on with its parent's.
"""

from collections.abc import Iterator
from os import urandom
from struct import iter_unpack
from time import time_ns
from typing import Any

from jobwire_client._fork import generation, watch_forks

_POOLED = 1024
_VARIANT = 0x8000_0000_0000_0000
_VARIANT_BITS = 0x3FFF_FFFF_FFFF_FFFF
_VERSION = 0x7000

_pool: tuple[int, Iterator[tuple[Any, ...]]] = (-1, iter(()))
"""The fork that the pool belongs to, and pairs of 64 and 16 random bits. Taking one is atomic, so threads need no lock."""


def new_id() -> str:
    """Mint an id."""
    global _pool
    owner, pairs = _pool
    if owner != generation() or (pair := next(pairs, None)) is None:
        watch_forks()
        pairs = iter_unpack("=QH", urandom(10 * _POOLED))
        pair = next(pairs)
        _pool = (generation(), pairs)
    long, short = pair
    return f"{time_ns() // 1_000_000:012x}{_VERSION | (short & 0xFFF):04x}{_VARIANT | (long & _VARIANT_BITS):016x}"
