"""One `jobwire up` per data directory.

The lock is flock's, on an open file description. The store inherits that description, so the directory stays locked until the supervisor *and* its store are
gone: a store that still writes its file after a `kill -9` of the supervisor never meets a second one.
"""

import asyncio
import fcntl
import os
from pathlib import Path

_ENDING_WAIT_S = 30.0
_POLL_S = 0.05


class DirectoryInUse(Exception):
    """Raised when another process holds the data directory. Nothing in it was touched."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        """Say who holds `directory`; `pid` is None when that is not known."""
        who = f"process {pid}" if pid is not None else "another process"
        super().__init__(f"{directory} is in use by {who}: stop it first, or give another --data-dir")
        self.directory = directory
        self.pid = pid


class DirectoryLock:
    """The lock on one data directory. Released by `release`, or when every holder of its file is gone."""

    def __init__(self, directory: Path) -> None:
        """Prepare the lock; nothing is touched before `acquire`."""
        self._directory = directory
        self._path = directory / "lock"
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The file descriptor to hand on to the store."""
        if self._fd is None:
            raise RuntimeError("the lock is not held")
        return self._fd

    async def acquire(self) -> None:
        """Take the lock. When only the store of a supervisor that is gone still holds it, waits up to 30 s for that store to end.

        Raises:
            DirectoryInUse: another supervisor lives there, or the store of a dead one does not end.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            await self._lock(fd)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    async def _lock(self, fd: int) -> None:
        deadline = asyncio.get_running_loop().time() + _ENDING_WAIT_S
        while not _try_lock(fd):
            holder = _read_pid(fd)
            if holder is None or _is_alive(holder) or asyncio.get_running_loop().time() > deadline:
                raise DirectoryInUse(self._directory, holder)
            await asyncio.sleep(_POLL_S)

    def release(self) -> None:
        """Give the lock back. To release twice is no error."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
