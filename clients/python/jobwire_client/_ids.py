"""Job ids: 16 bytes in the layout of UUIDv7, as 32 hexadecimal digits in lower case. They sort by the millisecond in which they were made.

The random bits are the system's, so an id says nothing of the next one; they are fetched for 1,024 ids at once, since a system call would cost more than all
the rest. A forked child does not go on with its parent's.
"""

from collections.abc import Iterator
from os import urandom
from time import time_ns

from jobwire_client._fork import generation, watch_forks

_POOLED = 1024
_RANDOM = 10
"""Bytes of an id that are not its time."""
_VERSION = bytes(0x70 | (i & 0x0F) for i in range(256))
_VARIANT = bytes(0x80 | (i & 0x3F) for i in range(256))

_moment: tuple[int, str] = (0, "")
"""The millisecond in which the last id was minted, and its digits: at many ids a second, most share theirs."""
_pool: tuple[int, Iterator[str]] = (-1, iter(()))
"""The fork that the pool belongs to, and the random digits of further ids. Taking one is atomic, so threads need no lock."""


def new_id() -> str:
    """Mint an id."""
    global _moment, _pool
    owner, tails = _pool
    if owner != generation() or (tail := next(tails, None)) is None:
        watch_forks()
        tails = _tails()
        tail = next(tails)
        _pool = (generation(), tails)
    now = time_ns() // 1_000_000
    last, digits = _moment
    if now != last:
        digits = f"{now:012x}"
        _moment = (now, digits)
    return digits + tail


def _tails() -> Iterator[str]:
    """The last 20 digits of as many ids: version, variant and 74 random bits each."""
    random = bytearray(urandom(_RANDOM * _POOLED))
    random[0::_RANDOM] = random[0::_RANDOM].translate(_VERSION)
    random[2::_RANDOM] = random[2::_RANDOM].translate(_VARIANT)
    digits = random.hex()
    return iter([digits[at : at + 2 * _RANDOM] for at in range(0, len(digits), 2 * _RANDOM)])
