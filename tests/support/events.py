"""What workers tell the test: a line per event through a named pipe, so that the kill of a worker loses nothing that it had written.

A write of less than PIPE_BUF is atomic and is the kernel's from then on. A thread reads, adds to the History, and wakes those who wait.
"""

import asyncio
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.history import Event, History

_PIPE_BYTES = 1 << 20


class EventSink:
    """A worker's end. It blocks only while the test run is a whole megabyte behind."""

    def __init__(self, path: str) -> None:
        self._pipe = os.open(path, os.O_WRONLY)
        self._pid = os.getpid()

    def write(self, kind: str, job: str, token: int, attempt: int) -> None:
        line = json.dumps([kind, job, token, attempt, time.monotonic(), self._pid]) + "\n"
        os.write(self._pipe, line.encode())


class EventLog:
    """The test's end: a context manager that fills `history`."""

    def __init__(self, history: History | None = None) -> None:
        self.history = history or History()
        self._directory = Path(tempfile.mkdtemp(prefix="jobwire-events-"))
        self.path = self._directory / "events"
        self._waiting: list[tuple[Callable[[], bool], Future[None]]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        os.mkfifo(self.path)
        # Open for both ways, the pipe never ends while workers come and go.
        self._pipe = os.open(self.path, os.O_RDWR)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._thread = threading.Thread(target=self._read, name="events of workers", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.write(self._pipe, b"null\n")
        self._thread.join()
        os.close(self._pipe)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def until(self, holds: Callable[[], bool], timeout: float, what: str = "the condition") -> None:
        """Wait until a condition on the history holds; it is looked at after each batch of events."""
        met: Future[None] = Future()
        with self._lock:
            if holds():
                return
            self._waiting.append((holds, met))
        try:
            await asyncio.wait_for(asyncio.wrap_future(met), timeout)
        except TimeoutError:
            raise TimeoutError(f"{what} did not hold within {timeout} s: {self.history.verdict()}") from None

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._pipe, 1 << 16)).split(b"\n")
            for line in lines:
                if line == b"null":
                    return
                self.history.add(_event(line))
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            met = [w for w in self._waiting if w[1].done() or w[0]()]
            self._waiting = [w for w in self._waiting if w not in met]
        for _, future in met:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


def _event(line: bytes) -> Event:
    kind, job, token, attempt, at_s, pid = json.loads(line)
    return Event(kind=kind, job=job, token=token, attempt=attempt, at_s=at_s, pid=pid)
