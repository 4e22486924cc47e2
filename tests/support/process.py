"""A part of the system as a process of its own: started, read, killed, frozen, and started again at the same address.

Who owns what: a thread per process reads its output, so a process belongs to no event loop and may be shared by a whole test session. All
waiting is for a line of output or for the end of the process, never for time. A child dies with the test run, also when that is killed
(`setpriv --pdeathsig`, where there is one); it runs in a process group of its own, so Ctrl-C reaches it through us alone.

The kernel sends the death signal when the *thread* that started the child ends: start processes from the main thread, or from one that lives
as long as they shall.
"""

import asyncio
import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self

# A loaded machine starts ten processes at once in that time.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
# A client's `timeout` in tests that are not of waiting: its default of 2 s is over where a busy machine stands still for a moment.
PATIENT_S = 60.0
_KEPT_LINES = 2_000
# Variables of the test run that would change what a part does: they name another store, or configure Jobwire.
_FOREIGN = ("REDIS_", "JOBWIRE_")

REPOSITORY = Path(__file__).resolve().parents[2]


class ProcessEnded(Exception):
    """Raised when a process ended while its output was waited for. The message holds its last lines."""


@dataclass
class _Awaited:
    """A line that somebody waits for."""

    pattern: re.Pattern[str]
    found: "Future[re.Match[str]]"
    missing: int
    """How many lines more must match."""

    def match(self, line: str) -> re.Match[str] | None:
        """The match, if this line is the one."""
        match = self.pattern.search(line)
        if match is None:
            return None
        self.missing -= 1
        return None if self.missing else match


class _Output:
    """The lines of one run of a process, and those who wait for one of them."""

    def __init__(self, label: str, popen: "subprocess.Popen[bytes]") -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.exit: Future[int] = Future()
        self._label = label
        self._waiting: list[_Awaited] = []
        self._lock = threading.Lock()
        self._popen = popen
        assert popen.stdout is not None
        threading.Thread(target=self._read, args=(popen.stdout,), name=f"output of {label}", daemon=True).start()

    def expect(self, pattern: str, *, past: bool, times: int) -> "Future[re.Match[str]]":
        """Give a future of the line that matches for so many times, counting those that came before only when `past`."""
        compiled = re.compile(pattern)
        found: Future[re.Match[str]] = Future()
        with self._lock:
            matches = [m for m in map(compiled.search, self.lines) if m] if past else []
            if len(matches) >= times:
                found.set_result(matches[times - 1])
            elif self.exit.done():
                found.set_exception(self._ended(compiled))
            else:
                self._waiting.append(_Awaited(compiled, found, times - len(matches)))
        return found

    def tail(self, count: int = 40) -> str:
        with self._lock:
            return "\n".join(list(self.lines)[-count:])

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                self._take(raw.decode(errors="replace").rstrip("\n"))
        code = self._popen.wait()
        with self._lock:
            self.exit.set_result(code)
            waiting, self._waiting = self._waiting, []
        for awaited in waiting:
            if awaited.found.set_running_or_notify_cancel():
                awaited.found.set_exception(self._ended(awaited.pattern))

    def _take(self, line: str) -> None:
        with self._lock:
            self.lines.append(line)
            hits = [(awaited.found, match) for awaited in self._waiting if (match := awaited.match(line))]
            self._waiting = [awaited for awaited in self._waiting if awaited.missing]
        for found, match in hits:
            if found.set_running_or_notify_cancel():
                found.set_result(match)

    def _ended(self, pattern: re.Pattern[str]) -> ProcessEnded:
        code = self.exit.result(0) if self.exit.done() else self._popen.returncode
        return ProcessEnded(f"{self._label} ended with {code} before it said {pattern.pattern!r}:\n" + "\n".join(list(self.lines)[-40:]))


class Process:
    """One part. Subclasses give its command, and the line by which it says that it is ready.

    `async with part:` starts it, waits until it is ready, and stops it; `with part.started():` does the same without an event loop.
    """

    _all: ClassVar["weakref.WeakSet[Process]"] = weakref.WeakSet()

    def __init__(self, label: str) -> None:
        self.label = label
        self.starts = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._output: _Output | None = None
        self._frozen = False
        Process._all.add(self)

    # What a subclass says about itself.

    def command(self) -> Sequence[str]:
        raise TypeError(f"{type(self).__name__} has no command")

    def environment(self) -> Mapping[str, str]:
        """Variables beside those of the test run."""
        return {}

    ready_line: str = "."

    def on_ready(self, match: re.Match[str]) -> None:
        """Take what the ready line tells, such as the port."""

    # Life.

    def spawn(self) -> None:
        """Start it and do not wait."""
        assert not self.running, f"{self.label} runs already"
        command = [*_die_with_us(), *self.command()]
        env = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)} | {"PYTHONUNBUFFERED": "1", **self.environment()}
        self._popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=REPOSITORY, process_group=0
        )
        self._output = _Output(self.label, self._popen)
        self._frozen = False
        self.starts += 1

    async def start(self, timeout: float = START_TIMEOUT_S) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        self.on_ready(await self.line(self.ready_line, past=True, timeout=timeout))

    def start_blocking(self, timeout: float = START_TIMEOUT_S) -> None:
        self.spawn()
        self.on_ready(self._now.expect(self.ready_line, past=True, times=1).result(timeout))

    async def stop(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """Ask it to end, as an operator would; kill it when it does not. Returns the exit code."""
        self._ask_to_end()
        try:
            return await self.ended(timeout)
        except TimeoutError:
            await self.kill()
            raise TimeoutError(f"{self.label} did not end within {timeout} s of SIGTERM:\n{self.tail()}") from None

    def stop_blocking(self, timeout: float = STOP_TIMEOUT_S) -> int:
        self._ask_to_end()
        try:
            return self._now.exit.result(timeout)
        except TimeoutError:
            self._signal_group(signal.SIGKILL)
            self._now.exit.result(STOP_TIMEOUT_S)
            raise TimeoutError(f"{self.label} did not end within {timeout} s of SIGTERM:\n{self.tail()}") from None

    async def kill(self) -> int:
        """`kill -9`, and wait until the kernel has taken it away."""
        self._signal_group(signal.SIGKILL)
        return await self.ended()

    async def restart(self) -> None:
        """Start it again where it was: same address, same data."""
        await self.start()

    def clean(self) -> None:
        """End it by all means, and take away what it left. Never raises for a process that is gone already."""
        if self.running:
            self._signal_group(signal.SIGKILL)
            self._now.exit.result(STOP_TIMEOUT_S)

    def freeze(self) -> None:
        """SIGSTOP: it neither runs nor closes anything."""
        self.send(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)
        self._frozen = False

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    # What is known of it.

    @property
    def running(self) -> bool:
        return self._popen is not None and self._output is not None and not self._output.exit.done()

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.label} was never started"
        return self._popen.pid

    def line(self, pattern: str, *, past: bool = False, times: int = 1, timeout: float = START_TIMEOUT_S) -> Coroutine[Any, Any, re.Match[str]]:
        """Wait for a line of its output that matches, the `times`-th; with `past`, those that are there already count. It listens from this call on."""
        return self._said(self._now.expect(pattern, past=past, times=times), pattern, timeout)

    async def _said(self, found: "Future[re.Match[str]]", pattern: str, timeout: float) -> re.Match[str]:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(found), timeout)
        except TimeoutError:
            raise TimeoutError(f"{self.label} did not say {pattern!r} within {timeout} s:\n{self.tail()}") from None

    async def ended(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """Wait for its end. Returns the exit code, negative for a signal."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._now.exit)), timeout)

    def lines(self) -> list[str]:
        """Everything that this run said, up to a bound."""
        return list(self._now.lines)

    def tail(self, count: int = 40) -> str:
        return "" if self._output is None else self._output.tail(count)

    @classmethod
    def living(cls) -> "list[Process]":
        """Every process of the test run that has not ended."""
        return [p for p in cls._all if p.running]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.clean()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            # A test that failed has no use for an orderly end, and a test that passed proves that there is one.
            if self.running and kind is None and not self._frozen:
                await self.stop()
            elif error is not None:
                error.add_note(f"--- last lines of {self.label} (pid {self.pid}):\n{self.tail(15)}")
        finally:
            self.clean()

    @contextmanager
    def started(self) -> Iterator[Self]:
        """The same without an event loop, for fixtures of the whole session."""
        try:
            self.start_blocking()
            yield self
            self.stop_blocking()
        finally:
            self.clean()

    # Details.

    @property
    def _now(self) -> _Output:
        assert self._output is not None, f"{self.label} was never started"
        return self._output

    def _ask_to_end(self) -> None:
        if self.running:
            if self._frozen:
                self.thaw()
            with suppress(ProcessLookupError):
                self.send(signal.SIGTERM)

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def python(*arguments: str) -> list[str]:
    """The command that runs this Python, the one with all dependencies."""
    return [sys.executable, *arguments]


def _die_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


@atexit.register
def _kill_the_rest() -> None:
    for process in Process.living():
        process._signal_group(signal.SIGKILL)
