"""Makes jobs in every way that the benchmark asks for."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from jobwire_client import Client, JobSpec

from bench.jobwire.lines import say, serve, settings, start

PAUSE_S = 0.005


class Producer:
    """The commands, over one client."""

    def __init__(self, client: Client, queue: str, payload_bytes: int) -> None:
        self._client = client
        self._queue = queue
        self._noop = {"p": "x" * (payload_bytes - len('{"p":""}'))}
        self._handled = 0
        self._moved = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None

    async def bulk(self, command: dict[str, Any]) -> dict[str, Any]:
        """`count` jobs in batches, `calls` of them under way at once."""
        batch = command["batch"]
        return await seconds_of(in_lanes(command["calls"], command["count"] // batch, lambda: self._make(batch)))

    async def lanes(self, command: dict[str, Any]) -> dict[str, Any]:
        """`count` jobs, one call each, by `lanes` tasks that await it."""
        return await seconds_of(in_lanes(command["lanes"], command["count"], lambda: self._client.enqueue(self._queue, "noop", self._noop)))

    async def stamps(self, command: dict[str, Any]) -> dict[str, Any]:
        """`count` jobs that carry the time, one at a time."""
        for _ in range(command["count"]):
            await asyncio.sleep(command["gap_ms"] / 1000 * random.uniform(0.5, 1.5))
            await self._client.enqueue(self._queue, "stamp", {"t": time.monotonic_ns(), "p": self._noop["p"][25:]})
        return {"done": True}

    async def feed(self, command: dict[str, Any]) -> None:
        """Keep between none and `backlog` jobs waiting for `seconds`; the answer comes at the end."""
        self._handled = 0
        self._feeding = asyncio.create_task(self._feed(**{key: value for key, value in command.items() if key != "do"}))

    async def handled(self, command: dict[str, Any]) -> None:
        """So many jobs have been handled."""
        self._handled = command["total"]
        self._moved.set()

    async def _feed(self, *, seconds: float, batch: int, calls: int, backlog: int) -> None:
        end = time.monotonic() + seconds
        made = 0

        async def lane() -> None:
            nonlocal made
            while time.monotonic() < end:
                if made + batch - self._handled > backlog:
                    self._moved.clear()
                    await asyncio.wait([asyncio.ensure_future(self._moved.wait())], timeout=PAUSE_S)
                    continue
                made += batch
                await self._make(batch)

        await asyncio.gather(*(lane() for _ in range(calls)))
        say({"made": made})

    async def _make(self, count: int) -> None:
        await self._client.enqueue_many([JobSpec(self._queue, "noop", self._noop) for _ in range(count)])


async def in_lanes(lanes: int, count: int, call: Callable[[], Awaitable[object]]) -> None:
    """Make `count` calls from so many loops, each of which awaits one before the next."""
    left = count

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(lane() for _ in range(lanes)))


async def seconds_of(work: Awaitable[object]) -> dict[str, Any]:
    """Await the work and return how long it took."""
    started = time.perf_counter()
    await work
    return {"seconds": time.perf_counter() - started}


async def main() -> None:
    """Serve until stdin closes."""
    given = settings()
    async with Client(given["target"]) as client:
        producer = Producer(client, given["queue"], given["payload_bytes"])
        say({"ready": True})
        await serve({name: getattr(producer, name) for name in ("bulk", "lanes", "stamps", "feed", "handled")})


if __name__ == "__main__":
    start(main)
