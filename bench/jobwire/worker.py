"""Handles jobs that do nothing, counts them, and takes the time of those that carry a stamp."""

import asyncio
import math
import time
from typing import Any

from jobwire_worker import Worker

from bench.jobwire.lines import say, serve, settings, start


class Handling:
    """The counts, and the worker that runs at the moment."""

    def __init__(self, target: str, queue: str, concurrency: int) -> None:
        self._target = target
        self._queue = queue
        self._concurrency = concurrency
        self._worker: Worker | None = None
        self._handled = 0
        self._wanted: float = math.inf
        self._first_ns = 0
        self._stamps_ns: list[int] = []
        self._teller: asyncio.Task[None] | None = None

    async def run(self, command: dict[str, Any]) -> None:
        """Start a worker."""
        self._worker = Worker(self._target, queues=[self._queue], concurrency=self._concurrency)
        self._worker.handler("noop")(self.noop)
        self._worker.handler("stamp")(self.stamp)
        await self._worker.__aenter__()

    async def pause(self, command: dict[str, Any]) -> dict[str, Any]:
        """Stop it."""
        await self.stop()
        return {"paused": True}

    async def stop(self) -> None:
        """Stop the worker, if one runs."""
        if self._worker is not None:
            await self._worker.__aexit__(None, None, None)
            self._worker = None

    async def noop(self, payload: dict[str, Any]) -> None:
        """Handle a job that does nothing."""
        self._count()

    async def stamp(self, payload: dict[str, Any]) -> None:
        """Handle a job that carries the time."""
        self._stamps_ns.append(time.monotonic_ns() - payload["t"])
        self._count()

    def _count(self) -> None:
        if self._handled == 0:
            self._first_ns = time.monotonic_ns()
        self._handled += 1
        if self._handled == self._wanted:
            say({"handled": self._handled, "first_ns": self._first_ns, "last_ns": time.monotonic_ns()})

    async def expect(self, command: dict[str, Any]) -> None:
        """Answer when so many have been handled from now on."""
        self._handled, self._wanted = 0, command["count"]

    async def tell(self, command: dict[str, Any]) -> None:
        """Say the total again and again."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(command["every_ms"] / 1000)
                say({"total": self._handled})

        self._teller = asyncio.create_task(tell())

    async def latencies(self, command: dict[str, Any]) -> dict[str, Any]:
        """Hand over what the stamps gave."""
        stamps, self._stamps_ns = self._stamps_ns, []
        return {"latencies_ns": stamps}


async def main() -> None:
    """Serve until stdin closes."""
    given = settings()
    handling = Handling(given["target"], given["queue"], given["concurrency"])
    say({"ready": True})
    await serve({name: getattr(handling, name) for name in ("run", "pause", "expect", "tell", "latencies")})
    await handling.stop()


if __name__ == "__main__":
    start(main)
