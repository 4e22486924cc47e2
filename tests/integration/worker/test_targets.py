"""Jobs of urgent classes start within their targets, however much of the others waits and runs."""

import asyncio
import math
import time
from collections import defaultdict

from jobwire_client import Client, JobSpec, QueuePolicy
from jobwire_worker import Job, Worker

from tests.support import Broker, Store

SLOTS = {"critical": 20, "high": 10, "medium": 5, "low": 2, "batch": 1}
WAITING_BATCH = 50_000
ARRIVALS = {"critical": 100, "high": 50, "medium": 50}
TARGET_S = {"critical": 1.0, "high": 5.0, "medium": 30.0}
LONG_S, SHORT_S = 0.5, 0.1


async def test_urgent_jobs_start_within_their_targets_beside_50_000_that_wait(store: Store) -> None:
    waits: dict[str, list[float]] = defaultdict(list)
    made: dict[str, float] = {}
    most: dict[str, int] = defaultdict(int)
    running: dict[str, int] = defaultdict(int)
    async with Broker(store) as broker, Client(broker.address) as client:
        for name in SLOTS:
            await client.update_queue(name, QueuePolicy(queue_class=name))
        await client.enqueue_many([JobSpec("batch", "work") for _ in range(WAITING_BATCH)] + [JobSpec("low", "work") for _ in range(200)])
        worker = Worker(broker.address, queues=list(SLOTS), concurrency=sum(SLOTS.values()), drain_grace=0)
        is_full = asyncio.Event()

        @worker.handler("work")
        async def work(job: Job) -> None:
            running[job.queue] += 1
            most[job.queue] = max(most[job.queue], running[job.queue])
            if running["low"] == SLOTS["low"] and running["batch"] == SLOTS["batch"]:
                is_full.set()
            if job.id in made:
                waits[job.queue].append(time.monotonic() - made[job.id])
            try:
                await asyncio.sleep(SHORT_S if job.queue in TARGET_S else LONG_S)
            finally:
                running[job.queue] -= 1

        async with worker:
            async with asyncio.timeout(20):
                await is_full.wait()
            specs = [JobSpec(queue, "work", id=f"{queue}-{i}") for queue, count in ARRIVALS.items() for i in range(count)]
            made.update(dict.fromkeys((spec.id or "" for spec in specs), time.monotonic()))
            await client.enqueue_many(specs)
            async with asyncio.timeout(40):
                while any(len(waits[queue]) < count for queue, count in ARRIVALS.items()):
                    await asyncio.sleep(0.05)
        started = {found.queue_class: (found.started, found.started_late) for found in await client.classes()}
    p99 = {queue: sorted(found)[math.ceil(len(found) * 0.99) - 1] for queue, found in waits.items()}
    assert all(p99[queue] < target for queue, target in TARGET_S.items()), p99
    # No queue ever had more than its slots, and the broker says the same of the waits.
    assert all(most[queue] <= slots for queue, slots in SLOTS.items()), most
    assert {queue: started[queue] for queue in ARRIVALS} == {queue: (count, 0) for queue, count in ARRIVALS.items()}
