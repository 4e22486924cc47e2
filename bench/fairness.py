"""What one tenant's flood does to the others' waits: `python -m bench.fairness`. A real store, a broker, a worker, and the clock of the one process that makes
and handles the jobs.

The worker takes up to `CAPACITY` jobs a second. One tenant has 100,000 jobs waiting; nine have 100 each, and come at a tenth of the rate at which the flood
goes when they do: at random moments, so that they queue among themselves, too. The same nine come at the same moments without it. The wait of a job is from
just before `enqueue` is called to the first line of its handler. Floor: p99 beside the flood at most 1.5 x that without it.
"""

import asyncio
import json
import os
import random
import sys
import time
from statistics import median, quantiles
from typing import Any

from jobwire_client import Client, JobSpec
from jobwire_worker import Job, Worker

from bench.contenders import Broker
from bench.store import Store

FLOOD, TENANTS, TENANT_JOBS = 100_000, 9, 100
SLOTS, HANDLER_S = 50, 0.1
"""The mean of a handler's time, which is from half of it to half as much again, so that slots do not come free at the same moment."""
CAPACITY = SLOTS / HANDLER_S
#: The flood takes what the nine leave: x + 9 · x / 10 is all there is.
TENANT_RATE = CAPACITY / (1 + TENANTS / 10) / 10
FLOOR = 1.5
RUNS = 3
SEED = 7
QUEUE = "bench"


def moments() -> list[tuple[float, str]]:
    """When each job of the nine comes, in seconds, and whose it is."""
    draw = random.Random(SEED)
    found = []
    for tenant in range(TENANTS):
        at = 0.0
        for _ in range(TENANT_JOBS):
            at += draw.expovariate(TENANT_RATE)
            found.append((at, f"t{tenant}"))
    return sorted(found)


async def waits(target: str, flood: int) -> list[float]:
    """The waits of the nine in seconds."""
    asked: dict[str, float] = {}
    found: list[float] = []
    worker = Worker(target, queues=[QUEUE], concurrency=SLOTS, drain_grace=0)

    @worker.handler("work")
    async def work(job: Job[Any]) -> None:
        if job.id in asked:
            found.append(time.monotonic() - asked[job.id])
        await asyncio.sleep(HANDLER_S * random.uniform(0.5, 1.5))

    async with Client(target) as client:

        async def one(number: int, group: str) -> None:
            asked[f"n{number}"] = time.monotonic()
            await client.enqueue(QUEUE, "work", id=f"n{number}", group=group)

        await client.enqueue_many(JobSpec(QUEUE, "work", group="flood") for _ in range(flood))
        async with worker, asyncio.TaskGroup() as tasks:
            await asyncio.sleep(2)  # all slots are taken, and no longer at the same moment
            began = time.monotonic()
            for number, (at, group) in enumerate(moments()):
                await asyncio.sleep(began + at - time.monotonic())
                tasks.create_task(one(number, group))
            async with asyncio.timeout(60):
                while len(found) < TENANTS * TENANT_JOBS:
                    await asyncio.sleep(0.05)
    return found


async def p99_ms(flood: int) -> float:
    """The p99 wait of the nine in milliseconds, on a store of their own."""
    async with Store() as store, Broker(store, None) as broker:
        return quantiles(await waits(broker.target, flood), n=100)[98] * 1000


async def measure(runs: int) -> tuple[list[float], list[float]]:
    """p99 waits beside the flood and without it, in turn."""
    beside, alone = [], []
    for _ in range(runs):
        beside.append(await p99_ms(FLOOD))
        alone.append(await p99_ms(0))
    return beside, alone


def main() -> int:
    """Measure; 1 when the floor is missed and --strict was given."""
    beside, alone = asyncio.run(measure(RUNS))
    ratio = median(beside) / median(alone)
    sys.stdout.write(json.dumps({"p99_beside_flood_ms": beside, "p99_alone_ms": alone, "ratio": ratio, "floor": FLOOR}, indent=2) + os.linesep)
    return 1 if ratio > FLOOR and "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
