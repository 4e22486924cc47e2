"""A real store under virtual time: its process, one blocking connection, and the library with five things replaced.

`TIME` answers what the simulation says; keys that `SET` gives a time to live go when that time is over there, and `PTTL` says when; `PUBLISH` hands its message
to the caller, who decides who hears of it and when; and `PUBSUB NUMSUB` answers who listens in the simulation. All else is the library as brokers load it.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hiredis
from jobwire_broker.store import functions
from redis.exceptions import ResponseError

from tests.support.process import Process
from tests.support.store import valkey_server

_PRELUDE = """#!lua name=jobwire_{version}
local sim_us, sim_heard, sim_mail = 0, {{}}, {{}}
local function sim_time() return {{ string.format('%.0f', math.floor(sim_us / 1000000)), string.format('%.0f', sim_us % 1000000) }} end
local function sim_publish(channel, message)
  sim_mail[#sim_mail + 1] = channel
  sim_mail[#sim_mail + 1] = message
end
local function sim_numsub(channel) return {{ channel, sim_heard[channel] or 0 }} end
local sim_expiring = false
local function sim_pexpire(key, ms)
  sim_expiring = true
  redis.call('ZADD', 'sim:expiring', sim_us / 1000 + ms, key)
  redis.call('PEXPIRE', key, 3000000)
end
local function sim_set(key, value, px, ms)
  redis.call('SET', key, value)
  redis.call('ZREM', 'sim:expiring', key)
  if ms then sim_pexpire(key, ms) end
end
local function sim_expire()
  local late = redis.call('ZRANGEBYSCORE', 'sim:expiring', '-inf', sim_us / 1000)
  for i = 1, #late do redis.call('UNLINK', late[i]) end
  redis.call('ZREMRANGEBYSCORE', 'sim:expiring', '-inf', sim_us / 1000)
end
local function register(name, callback, flags)
  local reads = flags[1] == 'no-writes'
  redis.register_function{{ function_name = 'jobwire_{version}_' .. name, flags = flags, callback = function(keys, argv)
    sim_mail = {{}}
    if sim_expiring and not reads then sim_expire() end
    local answer = callback(keys, argv)
    return {{ answer, sim_mail }}
  end }}
end
redis.register_function{{ function_name = 'jobwire_{version}_sim', flags = {{ 'no-writes' }}, callback = function(keys, argv)
  sim_us, sim_heard = tonumber(argv[1]), {{}}
  for i = 2, #argv do sim_heard[argv[i]] = 1 end
  return 0
end }}
-- In a function of its own: Lua allows 200 local names in one, and the library needs nearly all of them.
local function load_library()
"""
_END = "end\nload_library()\n"
_REPLACED = {
    "redis.call('TIME')": "sim_time()",
    "redis.call('PUBLISH', ": "sim_publish(",
    "redis.call('PUBSUB', 'NUMSUB', ": "sim_numsub(",
    "redis.call('SET', ": "sim_set(",
    "redis.call('PEXPIRE', ": "sim_pexpire(",
}


@dataclass(frozen=True, slots=True)
class Library:
    """A library that is loaded under a name of its own."""

    version: str
    source: str


def library(changes: Iterable[tuple[str, str]] = ()) -> Library:
    """The library for the simulation. Each change is a text of the source and what stands there instead; it must be found exactly once."""
    body = "".join(f"-- {name}\n{text}\n" for name, text in functions.source_files())
    for old, new in changes:
        if body.count(old) != 1:
            raise LookupError(f"{old!r} is in the library {body.count(old)} times, not once")
        body = body.replace(old, new)
    for old, new in _REPLACED.items():
        if old not in body:
            raise LookupError(f"{old!r} is not in the library")
        body = body.replace(old, new)
    version = "sim" + hashlib.sha256(body.encode()).hexdigest()[:8]
    return Library(version, _PRELUDE.format(version=version) + body + _END)


class RealStore:
    """A connection to a store, used by one simulation at a time, which may load several libraries."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader(replyError=ResponseError)
        self._loaded: set[str] = set()
        self._heard: tuple[str, ...] = ()
        self._us = -1
        self.library = Library("", "")
        self.calls = 0

    def use(self, chosen: Library) -> None:
        """Call the functions of this library from now on."""
        if chosen.version not in self._loaded:
            try:
                self.ask("FUNCTION", "LOAD", chosen.source)
            except ResponseError as error:
                if "already exists" not in str(error):
                    raise
            self._loaded.add(chosen.version)
        self.library = chosen
        self._us = -1

    def ask(self, *args: Any) -> Any:
        """One command of the simulation's own. Raises ResponseError."""
        return self._answer(_packed(*args))

    def ask_all(self, commands: Sequence[Any]) -> list[Any]:
        """Several at once."""
        self._socket.sendall(b"".join(_packed(*command) for command in commands))
        return [self._next() for _ in commands]

    def call(self, packed: bytes, us: int, heard: tuple[str, ...]) -> Any:
        """A call that a broker sent, carried out at this time. Gives {answer, published}; errors are given back, not raised."""
        self.calls += 1
        if us == self._us and heard == self._heard:
            self._socket.sendall(packed)
            return self._next()
        self._us, self._heard = us, heard
        self._socket.sendall(_packed("FCALL", f"jobwire_{self.library.version}_sim", 0, us, *heard) + packed)
        self._next()
        return self._next()

    def _answer(self, packed: bytes) -> Any:
        self._socket.sendall(packed)
        answer = self._next()
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def _next(self) -> Any:
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the store of the simulation is gone")
            self._reader.feed(data)
        return answer

    def forget(self, base: str) -> None:
        """Remove all keys of one run."""
        keys = self.ask("KEYS", base + "*")
        if keys:
            self.ask("UNLINK", *keys)

    def dump(self, base: str) -> dict[bytes, tuple[bytes, int]]:
        """All keys of a run: each value in the store's own form, and how long it lives."""
        keys = sorted(self.ask("KEYS", base + "*"))
        found = self.ask_all([command for key in keys for command in (("DUMP", key), ("PTTL", key))])
        return {key: (value, max(0, ttl_ms)) for key, value, ttl_ms in zip(keys, found[::2], found[1::2], strict=True)}

    def restore(self, base: str, keys: Mapping[bytes, tuple[bytes, int]]) -> None:
        """Let a run have these keys and no others."""
        self.forget(base)
        self.ask_all([("RESTORE", key, ttl_ms, value) for key, (value, ttl_ms) in keys.items()])

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class StoreProcess(Process):
    """A store that keeps nothing on disk."""

    ready_line = "[Rr]eady to accept connections"

    def __init__(self) -> None:
        super().__init__("simulation's store")
        self.directory = Path(tempfile.mkdtemp(prefix="jobwire-simulation-"))
        self.socket = str(self.directory / "store.sock")

    def command(self) -> list[str]:
        kept = ["--appendonly", "no", "--save", "", "--dir", str(self.directory), "--daemonize", "no"]
        return [str(valkey_server()), "--port", "0", "--unixsocket", self.socket, *kept]

    def clean(self) -> None:
        super().clean()
        shutil.rmtree(self.directory, ignore_errors=True)


def _packed(*command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed
