"""Start the parts of the demo as a user would at a terminal, and stop them in order."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

_START_S = 60.0
_STOP_S = 20.0

REPOSITORY = Path(__file__).resolve().parents[2]


class PartEnded(Exception):
    """Raised when a part of the system ended, or did not get ready. The message holds the last lines it wrote."""


class Part:
    """One process. Its output goes to a file, and is shown when something went wrong."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, name: str, folder: Path, *arguments: str) -> "Part":
        """Start `jobwire ARGUMENTS…`, with its output in `folder`."""
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            # A process group of its own: Ctrl-C reaches the demo alone, which then stops the parts in order.
            process = await asyncio.create_subprocess_exec(
                *_end_with_us(),
                sys.executable,
                "-m",
                "jobwire_cli",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
                env=_environment(),
                process_group=0,
            )
        return cls(name, process, log)

    async def said(self, text: str) -> None:
        """Wait until it has written `text`."""
        deadline = asyncio.get_running_loop().time() + _START_S
        while text not in self._written():
            if self._process.returncode is not None:
                raise PartEnded(f"{self.name} ended with exit code {self._process.returncode}:\n{self.tail()}")
            if asyncio.get_running_loop().time() > deadline:
                raise PartEnded(f"{self.name} was not ready after {_START_S:g} s:\n{self.tail()}")
            await asyncio.sleep(0.05)

    async def ended(self) -> None:
        """Wait until it ends, which it should not do by itself.

        Raises:
            PartEnded: always.
        """
        code = await self._process.wait()
        raise PartEnded(f"{self.name} ended with exit code {code}:\n{self.tail()}")

    async def stop(self) -> None:
        """Let it drain and end; kill it when it takes longer than 20 s."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._written().splitlines()[-20:])

    def _written(self) -> str:
        return self._log.read_text(errors="replace")


@contextlib.asynccontextmanager
async def running(folder: Path, *, grpc: str, http: str, workers: int, handlers: str) -> AsyncIterator[Sequence[Part]]:
    """`jobwire up` on the embedded store, and worker processes; all of it is gone afterwards."""
    parts: list[Part] = []
    try:
        up = await Part.start("up", folder, "up", "--data-dir", str(folder / "data"), "--grpc", grpc, "--http", http)
        parts.append(up)
        await up.said("up.ready")
        for number in range(1, workers + 1):
            parts.append(await Part.start(f"worker-{number}", folder, "worker", handlers, "--target", grpc))
        yield parts
    finally:
        # Workers first, so that they hand back what they hold.
        await asyncio.gather(*(part.stop() for part in parts[1:]))
        await asyncio.gather(*(part.stop() for part in parts[:1]))


def address(port: int) -> str:
    """This port of 127.0.0.1 if nobody has it, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return address(0)
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _environment() -> dict[str, str]:
    """Ours without what would point the parts to another store or broker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBWIRE_", "REDIS_"))}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _end_with_us() -> list[str]:
    """On Linux, a part is told to end also when this process is killed without a chance to stop it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv and os.name == "posix" else []
