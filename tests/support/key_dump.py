"""Every key of a queue as it was at one moment, read in one call: a client spends far more time on a call than the store on reading a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DUMP = """
local readers = {
  string = function(key) return redis.call('GET', key) end,
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
}
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  found[#found + 1] = { key, kind, redis.call('PTTL', key), readers[kind](key) }
end
return found
"""
"""A script. Its argument is what the keys begin with, without wildcards."""


class KeyDump:
    """What the script found. Keys go by what follows their common beginning, as text in Latin-1; one that is not there is empty."""

    def __init__(self, base: str, found: Sequence[Sequence[Any]]) -> None:
        self._keys = {key.decode("latin-1").removeprefix(base): (kind.decode(), left_ms, value) for key, kind, left_ms, value in found}
        self.names = list(self._keys)

    def string(self, name: str) -> bytes:
        value: bytes = self._read(name, "string") or b""
        return value

    def hash(self, name: str) -> dict[bytes, bytes]:
        flat = self._read(name, "hash")
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def items(self, name: str) -> list[bytes]:
        return list(self._read(name, "list"))

    def sorted_set(self, name: str) -> list[tuple[bytes, float]]:
        """The members in their order, with their scores."""
        flat = self._read(name, "zset")
        return [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]

    def left_ms(self, name: str) -> int:
        """How long the key lives on; negative for one that stays, and for none."""
        left_ms: int = self._keys[name][1] if name in self._keys else -2
        return left_ms

    def _read(self, name: str, kind: str) -> Any:
        if name not in self._keys:
            return ()
        assert self._keys[name][0] == kind, f"{name} is a {self._keys[name][0]}"
        return self._keys[name][2]
