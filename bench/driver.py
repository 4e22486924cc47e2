"""A driver is a small program that makes or handles jobs for one contender, and speaks JSON lines. README.md lists the commands."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 300.0
LINE_LIMIT_BYTES = 4 << 20


class DriverError(Exception):
    """Raised when a driver ends, or does not answer in time."""


class Driver:
    """One driver process. Use it as an async context manager; it ends when its stdin is closed, and is killed when it does not."""

    def __init__(self, name: str, command: Sequence[str], settings: dict[str, Any], cwd: Path) -> None:
        self._name = name
        self._command = [*command, json.dumps(settings)]
        self._cwd = cwd
        self._process: asyncio.subprocess.Process | None = None
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self.on_total: Callable[[int], None] = lambda total: None

    @property
    def pid(self) -> int:
        """The driver's process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, cwd=self._cwd, limit=LINE_LIMIT_BYTES)
        self._reader = asyncio.create_task(self._read())
        await self.answer(START_TIMEOUT_S)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reader is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reader.cancel()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a command whose answer, if it has one, is read later."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self.send(do, **arguments)
        return await self.answer()

    async def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """Return the next answer. Raises DriverError when none comes."""
        try:
            answer = await asyncio.wait_for(self._answers.get(), timeout_s)
        except TimeoutError:
            raise DriverError(f"{self._name} did not answer within {timeout_s:.0f} s") from None
        if "ended" in answer:
            raise DriverError(f"{self._name} ended with exit code {answer['ended']}")
        return answer

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "total" in message:
                self.on_total(message["total"])
            else:
                self._answers.put_nowait(message)
        self._answers.put_nowait({"ended": await self._process.wait()})
