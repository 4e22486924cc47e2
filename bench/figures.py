"""How each figure is measured. Every function brings up a fresh rig, so no figure is paid for by the one before."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.contenders import Contender, Rig
from bench.driver import DriverError
from bench.machine import CpuUse, cpu_between, read_cpu

SETTLE_S = 0.5
DRAINED_TIMEOUT_S = 30.0
POLL_S = 0.01
BATCH = 1_000
LANES = 64
WARM_JOBS = 200
SUSTAIN_WARM_S = 1.5
SUSTAIN_BACKLOG = 4_000
STAMP_GAP_MS = 10


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    runs: int = 3
    bulk_jobs: int = 30_000
    lane_jobs: int = 20_000
    sustain_s: float = 8.0
    stamps: int = 400
    waiting_jobs: int = 30_000
    kept_jobs: int = 800
    """Together with WARM_JOBS this is the 1,000 that Jobwire keeps by default."""
    scale_waiting: int = 1_000_000
    scale_jobs: int = 20_000
    scale_runs: int = 9


QUICK = Sizes(runs=1, bulk_jobs=10_000, lane_jobs=6_000, sustain_s=3.0, stamps=100, waiting_jobs=10_000, scale_waiting=100_000, scale_jobs=5_000, scale_runs=1)


@dataclass
class Readings:
    """The figures of one measurement, and who used the processors meanwhile."""

    figures: dict[str, float] = field(default_factory=dict)
    cpu_us_per_job: dict[str, dict[str, float]] = field(default_factory=dict)
    others_cores: dict[str, float] = field(default_factory=dict)
    samples_ms: list[float] = field(default_factory=list)

    @property
    def disturbance(self) -> float:
        """The most cores that other programs took in any phase."""
        return max(self.others_cores.values(), default=0.0)

    def add_cpu(self, phase: str, use: CpuUse, jobs: float) -> None:
        """Keep the CPU of a phase as microseconds per job."""
        self.cpu_us_per_job[phase] = {name: seconds / jobs * 1e6 for name, seconds in use.processes_s.items()}
        self.others_cores[phase] = use.others_cores


@asynccontextmanager
async def measured_cpu(rig: Rig, readings: Readings, phase: str, jobs: list[float]) -> AsyncIterator[None]:
    """Count CPU while the block runs. `jobs` may be filled inside the block."""
    before = read_cpu(rig.pids)
    yield
    readings.add_cpu(phase, cpu_between(before, read_cpu(rig.pids)), sum(jobs))


async def bulk_and_drain(contender: Contender[Any], sizes: Sizes) -> Readings:
    """Enqueue in batches of 1,000 with no worker; then start the worker and let it take everything. Both together give the store's time per life."""
    readings, jobs = Readings(), sizes.bulk_jobs
    async with contender.rig(contender.settings) as rig:
        await warm_up(rig)
        started = rig.store.time_spent()
        async with measured_cpu(rig, readings, "bulk", [jobs]):
            answer = await rig.producer.ask("bulk", count=jobs, batch=BATCH, calls=contender.settings.bulk_calls)
        enqueued = rig.store.time_spent()
        readings.figures["bulk_per_s"] = jobs / answer["seconds"]
        async with measured_cpu(rig, readings, "drain", [jobs]):
            readings.figures["drain_per_s"] = jobs / await drain(rig, jobs)
        drained = rig.store.time_spent()
        readings.figures["store_enqueue_us"] = enqueued.since(started).top_level_us / jobs
        readings.figures["store_drain_us"] = drained.since(enqueued).top_level_us / jobs
        readings.figures["store_life_us"] = drained.since(started).top_level_us / jobs
        readings.figures["store_life_cpu_us"] = drained.since(started).cpu_us / jobs
        readings.figures["store_calls_per_life"] = drained.since(started).calls / jobs
    return readings


async def warm_up(rig: Rig) -> None:
    """Take a few jobs through their whole life, so that scripts are loaded and code is compiled. The worker is stopped afterwards."""
    rig.worker.send("expect", count=WARM_JOBS)
    rig.producer.send("bulk", count=WARM_JOBS, batch=WARM_JOBS, calls=1)
    await rig.producer.answer()
    rig.worker.send("run")
    await rig.worker.answer()
    await until_empty(rig)
    await rig.worker.ask("pause")


async def drain(rig: Rig, jobs: int) -> float:
    """Let the worker take `jobs` jobs; return the seconds from its first job to the moment when none waits and none runs."""
    rig.worker.send("expect", count=jobs)
    rig.worker.send("run")
    answer = await rig.worker.answer()
    await until_empty(rig)
    first_ns: int = answer["first_ns"]
    return (time.monotonic_ns() - first_ns) / 1e9


async def until_empty(rig: Rig) -> None:
    """Return when no job waits and none runs."""
    async with asyncio.timeout(DRAINED_TIMEOUT_S):
        while True:
            counts = await rig.counts()
            if counts.waiting == 0 and counts.active == 0:
                return
            await asyncio.sleep(POLL_S)


async def lanes(contender: Contender[Any], sizes: Sizes) -> Readings:
    """64 tasks of the producer, each of which awaits one enqueue before the next; no worker."""
    readings, jobs = Readings(), sizes.lane_jobs
    async with contender.rig(contender.settings) as rig:
        await rig.producer.ask("lanes", count=WARM_JOBS, lanes=LANES)
        started = rig.store.time_spent()
        async with measured_cpu(rig, readings, "lanes", [jobs]):
            answer = await rig.producer.ask("lanes", count=jobs, lanes=LANES)
        readings.figures["lanes_per_s"] = jobs / answer["seconds"]
        readings.figures["store_lanes_us"] = rig.store.time_spent().since(started).top_level_us / jobs
    return readings


async def sustained(contender: Contender[Any], sizes: Sizes) -> Readings:
    """The producer keeps some jobs waiting while the worker takes them; the rate counts jobs handled, without the first moments."""
    readings, jobs, settings = Readings(), [0.0], contender.settings
    async with contender.rig(settings) as rig:
        totals = Totals(rig)
        rig.worker.send("tell", every_ms=10)
        rig.worker.send("run")
        rig.producer.send("feed", seconds=SUSTAIN_WARM_S + sizes.sustain_s, batch=settings.feed_batch, calls=settings.feed_calls, backlog=SUSTAIN_BACKLOG)
        await asyncio.sleep(SUSTAIN_WARM_S)
        store_before, begin = rig.store.time_spent(), totals.latest
        async with measured_cpu(rig, readings, "sustained", jobs):
            await asyncio.sleep(sizes.sustain_s - 0.2)
            end = totals.latest
            jobs[0] = end[1] - begin[1]
            if not jobs[0]:
                raise DriverError(f"{contender.name} handled no job in {sizes.sustain_s:.0f} s; {await rig.counts()}")
        readings.figures["sustained_per_s"] = jobs[0] / (end[0] - begin[0])
        spent = rig.store.time_spent().since(store_before)
        readings.figures["store_sustained_us"] = spent.top_level_us / jobs[0]
        readings.figures["store_sustained_calls"] = spent.calls / jobs[0]
        await rig.producer.answer()
    return readings


class Totals:
    """Passes the worker's count on to the producer, which keeps the backlog by it, and remembers the latest with its time."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.latest = (time.monotonic(), 0)
        rig.worker.on_total = self._on_total

    def _on_total(self, total: int) -> None:
        self.latest = (time.monotonic(), total)
        self._rig.producer.send("handled", total=total)


async def latency(contender: Contender[Any], sizes: Sizes) -> Readings:
    """One job at a time in an idle system: from just before enqueue is called to the first line of the handler, by the machine's monotonic clock."""
    readings = Readings()
    async with contender.rig(contender.settings) as rig:
        rig.worker.send("run")
        await rig.producer.ask("stamps", count=20, gap_ms=STAMP_GAP_MS)
        await asyncio.sleep(SETTLE_S)
        await rig.worker.ask("latencies")
        async with measured_cpu(rig, readings, "latency", [sizes.stamps]):
            await rig.producer.ask("stamps", count=sizes.stamps, gap_ms=STAMP_GAP_MS)
        await asyncio.sleep(SETTLE_S)
        readings.samples_ms = sorted(ns / 1e6 for ns in (await rig.worker.ask("latencies"))["latencies_ns"])
    readings.figures["latency_p50_ms"] = percentile(readings.samples_ms, 0.50)
    readings.figures["latency_p99_ms"] = percentile(readings.samples_ms, 0.99)
    return readings


def percentile(samples: list[float], share: float) -> float:
    """Return the sample below which this share of them lies. The samples are sorted."""
    return samples[min(len(samples) - 1, round(share * len(samples)))]


async def memory(contender: Contender[Any], sizes: Sizes) -> Readings:
    """Bytes that the store needs for one more job, waiting and completed. Ids have 32 characters on both sides, queue names have the same length."""
    readings, settings = Readings(), contender.for_memory()
    async with contender.rig(settings) as rig:
        await rig.producer.ask("bulk", count=WARM_JOBS, batch=WARM_JOBS, calls=1)
        bulk = rig.producer.ask("bulk", count=sizes.waiting_jobs, batch=BATCH, calls=1)
        readings.figures |= await growth(rig, "bytes_waiting", sizes.waiting_jobs, bulk)
    async with contender.rig(settings) as rig:
        await warm_up(rig)
        readings.figures |= await growth(rig, "bytes_completed", sizes.kept_jobs, complete(rig, sizes.kept_jobs))
    return readings


async def complete(rig: Rig, jobs: int) -> None:
    """Make jobs, and let the worker take them all."""
    await rig.producer.ask("bulk", count=jobs, batch=jobs, calls=1)
    await drain(rig, jobs)
    await rig.worker.ask("pause")


async def growth(rig: Rig, name: str, jobs: int, work: Awaitable[object]) -> dict[str, float]:
    """Return by how many bytes per job the store's memory grows while `work` is awaited: jobs alone, and with the contender's event stream."""
    rig.forget_events()
    await asyncio.sleep(SETTLE_S)
    before = rig.store.data_memory()
    await work
    await asyncio.sleep(SETTLE_S)
    with_events = rig.store.data_memory()
    rig.forget_events()
    return {name: (rig.store.data_memory() - before) / jobs, f"{name}_with_events": (with_events - before) / jobs}
