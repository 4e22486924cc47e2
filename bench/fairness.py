"""What one tenant's flood does to the others' waits: `python -m bench.fairness`. A real store, a broker, a worker, and the clock of the one process that makes
and handles the jobs.

The worker takes up to `CAPACITY` jobs a second. Ten tenants come at random moments, nine of them at a tenth of the rate of the first, with 100 jobs each;
together they take `LOAD` of the worker. The wait of a job is from just before `enqueue` is called to the first line of its handler. The same nine come at the
same moments when the first tenant has 100,000 jobs waiting instead: it takes whatever they leave. Floor: their p99 wait beside the flood is at most 1.5 x that
without it.

A job that comes while all slots are taken waits for one to come free: no order of jobs can spare it that. So the worker is well used in the run without a
flood, too; beside slots that are always free (`alone`, which is told as well) every wait for a slot would look like one behind the flood.
"""

import asyncio
import json
import os
import random
import sys
import time
from itertools import accumulate
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
LOAD = 0.9
#: Of the first tenant; with nine that go at a tenth of it, this is what they come to.
FIRST_RATE = CAPACITY * LOAD / (1 + TENANTS / 10)
FLOOR = 1.5
RUNS = 3
SEED = 7
QUEUE = "bench"
FIRST = "first"
#: What the first tenant does.
FLOODING, AT_ITS_RATE, AWAY = "floods", "goes at its rate", "is away"


def moments(first: str) -> list[tuple[float, str]]:
    """When each job comes, in seconds, and whose it is: those of the nine, and those of the first tenant when it goes at its rate."""
    draw = random.Random(SEED)
    found = [(at, f"t{tenant}") for tenant in range(TENANTS) for at in _arrivals(draw, FIRST_RATE / 10, TENANT_JOBS)]
    if first == AT_ITS_RATE:
        found += [(at, FIRST) for at in _arrivals(draw, FIRST_RATE, 10 * TENANT_JOBS)]
    return sorted(found)


def _arrivals(draw: random.Random, rate: float, count: int) -> list[float]:
    return list(accumulate(draw.expovariate(rate) for _ in range(count)))


async def waits(target: str, first: str) -> list[float]:
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
            if group != FIRST:
                asked[f"n{number}"] = time.monotonic()
            await client.enqueue(QUEUE, "work", id=f"n{number}", group=group)

        await client.enqueue_many(JobSpec(QUEUE, "work", group=FIRST) for _ in range(FLOOD if first == FLOODING else 0))
        async with worker, asyncio.TaskGroup() as tasks:
            await asyncio.sleep(2)  # all slots are taken, and no longer at the same moment
            began = time.monotonic()
            for number, (at, group) in enumerate(moments(first)):
                await asyncio.sleep(began + at - time.monotonic())
                tasks.create_task(one(number, group))
            async with asyncio.timeout(60):
                while len(found) < TENANTS * TENANT_JOBS:
                    await asyncio.sleep(0.05)
    return found


async def p99_ms(first: str) -> float:
    """The p99 wait of the nine in milliseconds, on a store of their own."""
    async with Store() as store, Broker(store, None) as broker:
        return quantiles(await waits(broker.target, first), n=100)[98] * 1000


async def measure(runs: int) -> tuple[list[float], list[float]]:
    """p99 waits beside the flood and without it, in turn."""
    found = [(await p99_ms(FLOODING), await p99_ms(AT_ITS_RATE)) for _ in range(runs)]
    return [beside for beside, _ in found], [without for _, without in found]


def main() -> int:
    """Measure; 1 when the floor is missed and --strict was given."""
    beside, without = asyncio.run(measure(RUNS))
    ratio = median(own / other for own, other in zip(beside, without, strict=True))
    found = {"p99_beside_flood_ms": beside, "p99_without_ms": without, "p99_alone_ms": asyncio.run(p99_ms(AWAY)), "ratio": ratio, "floor": FLOOR}
    sys.stdout.write(json.dumps(found, indent=2) + os.linesep)
    return 1 if ratio > FLOOR and "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
