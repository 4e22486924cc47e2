"""A cancel reaches the handler at once, where nothing else goes on."""

import asyncio
import math
import time

from jobwire_client import Client
from jobwire_worker import Job, Worker

from tests.support import Broker, Store, outcomes

CANCELS = 400
P99_S = 0.1


async def test_99_of_100_cancels_are_in_their_handler_within_a_tenth_of_a_second(store: Store) -> None:
    times: list[float] = []
    async with Broker(store) as broker, Client(broker.address) as client:
        worker = Worker(broker.address, queues=["q"])
        started, heard = asyncio.Event(), asyncio.Event()

        @worker.handler("waits")
        async def waits(job: Job) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                times.append(time.monotonic())
                heard.set()

        async with worker:
            for _ in range(CANCELS):
                started.clear()
                heard.clear()
                job = await client.enqueue("q", "waits")
                await started.wait()
                asked = time.monotonic()
                await client.cancel(job)
                await heard.wait()
                times[-1] -= asked
    times.sort()
    p99 = times[math.ceil(0.99 * CANCELS) - 1]
    outcomes.tell("cancels", f"from call to handler: median {times[CANCELS // 2] * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, longest {times[-1] * 1000:.1f} ms")
    assert p99 < P99_S
