"""One supervised child process: started, watched for its ready line, its output handed on line by line, stopped."""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_LAUNCHER = Path(__file__).with_name("launch.py")
_LINE_LIMIT_BYTES = 64 * 1024
_TAIL_LINES = 12
_OWN_WORDS = re.compile(r"jobwire(?: \w+)?: (.+)")
"""How the last line of a command begins that says by itself why it has ended."""

LineSink = Callable[[str, str], None]
"""Takes a part's name and one line of its output."""


class PartFailed(Exception):
    """Raised when a part ended, or did not become ready. The message names the part and holds its own last words, or the last lines it wrote."""

    def __init__(self, sentence: str, returncode: int | None = None) -> None:
        """`returncode` is that of a part that ended while it started."""
        super().__init__(sentence)
        self.returncode = returncode


class Ending(NamedTuple):
    """How a part ended."""

    sentence: str
    """`broker ended by SIGKILL`."""
    tail: str
    """The last lines that it wrote."""

    def __str__(self) -> str:
        """Both, for the last message of all."""
        return f"{self.sentence}; its last lines:\n{self.tail}" if self.tail else self.sentence


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """What to start, and how it is told to end."""

    name: str
    """The prefix of its lines."""
    argv: Sequence[str]
    """The program by its absolute path, and its arguments. Seen by every user of the machine: no secrets."""
    env: Mapping[str, str] | None = None
    """The whole environment. None hands on ours."""
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when this process dies. A part without state of its own needs no time to end; a store does."""
    ready: re.Pattern[str] | None = None
    """Found in a line when the part serves. None: `ready` never completes."""
    keep_fds: Sequence[int] = field(default=())
    """File descriptors that it inherits."""


class Child:
    """A process in a process group of its own, so that the terminal's Ctrl-C reaches only the supervisor, which then ends the parts in order."""

    def __init__(self, spec: ChildSpec, sink: LineSink) -> None:
        """Prepare; `start` starts it."""
        self._spec = spec
        self._sink = sink
        self._process: asyncio.subprocess.Process | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ready: asyncio.Future[re.Match[str]] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The process id, also after it has ended."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """How it ended: the exit code, or minus the signal's number. None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start the process."""
        spec = self._spec
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(spec.death_signal))]
        self._process = await asyncio.create_subprocess_exec(
            *launcher,
            *spec.argv,
            env=spec.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=tuple(spec.keep_fds),
            process_group=0,
            limit=_LINE_LIMIT_BYTES,
        )
        assert self._process.stdout is not None
        self._pumps = [asyncio.create_task(self._pump(self._process.stdout), name=f"{spec.name}.output")]

    async def ready(self, timeout_s: float) -> re.Match[str]:
        """Wait for the line that says the part serves.

        Raises:
            PartFailed: the process ended, or said nothing in time.
        """
        ended = asyncio.create_task(self.wait())
        either: list[asyncio.Future[Any]] = [ended, self._ready]
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self._ready.done():
            return self._ready.result()
        if self.returncode is not None:
            said = _OWN_WORDS.match(self._tail[-1]) if self._tail else None
            raise PartFailed(f"{self._spec.name} did not start: {said.group(1)}" if said else str(self.ending()), self.returncode)
        raise PartFailed(f"{self._spec.name} was not ready after {timeout_s:g} s")

    async def wait(self) -> int:
        """Wait until the process has ended and its output was handed on."""
        code = await self._started().wait()
        await asyncio.wait(self._pumps, timeout=1.0)  # what it forked may hold the pipe open
        return code

    async def stop(self, grace_s: float) -> int:
        """Send SIGTERM, after `grace_s` SIGKILL, and wait for the end. To stop what has ended is no error."""
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self._sink(self._spec.name, f"did not end within {grace_s:g} s and is killed")
            self.send_signal(signal.SIGKILL)
            return await self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return

    def ending(self) -> Ending:
        """How the process ended."""
        return Ending(f"{self._spec.name} ended {describe_returncode(self.returncode)}", "\n".join(self._tail))

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self._spec.name} was not started")
        return self._process

    async def _pump(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line over the limit: readline has dropped what it had of it
                continue
            if not raw:
                return
            self._take(raw.decode(errors="replace").rstrip())

    def _take(self, line: str) -> None:
        self._tail.append(line)
        self._sink(self._spec.name, line)
        if self._spec.ready is not None and not self._ready.done() and (match := self._spec.ready.search(line)):
            self._ready.set_result(match)


def describe_returncode(code: int | None) -> str:
    """`with exit code 1` or `by SIGKILL`."""
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"
