"""The store's machine loses its power: what its append-only file had not brought to disk is gone, cut at some byte.

A killed process leaves its writes to the kernel, so nothing is lost that was written. Here the file is cut, at random bytes of the last two seconds, and never
before what was on disk when the last DISK enqueue was answered. Each cut is opened by a store of its own and looked at; then the system goes on from one.
"""

import asyncio
import shutil
import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio as redis
from jobwire.v1 import job_pb2

from tests.support import outcomes
from tests.support.history import STORE_LOSS_S, Duplicate
from tests.support.load import load
from tests.support.producer import Producer, settled, spec
from tests.support.queue_state import QueueState, read_state
from tests.support.raw_worker import job_ids
from tests.support.store import Store
from tests.support.system import System, kill, system

CUTS = 8
_SAMPLE_S = 0.005


async def test_of_a_store_that_loses_its_power_at_most_two_seconds_are_lost_nothing_is_half_there_and_what_was_on_disk_is_there() -> None:
    async with system("power loss", session_time=None) as it:
        await it.start_workers(3, concurrency=220)
        async with load(it, 1_000, (500, 2_500)), _file_grows(it.store) as sizes, _enqueued_on_disk(it) as on_disk:
            await it.running(600)
            await asyncio.sleep(STORE_LOSS_S + 0.5)
            await it.moment(1.0)
            killed_s = await kill(it.store)
            safe = max(sizes.at(killed_s - STORE_LOSS_S), sizes.at(max(on_disk.values())))
            acknowledged, completed = dict(it.history.acknowledged), set(it.history.completed)
            cuts = sorted(it.random.randint(safe, _file(it.store).stat().st_size) for _ in range(CUTS))
            lost = [await _lost_by_a_cut(it, cut, acknowledged, completed, killed_s) for cut in cuts]
            with _file(it.store).open("r+b") as file:
                file.truncate(cuts[CUTS // 2])
            await it.store.restart()
            it.history.store_lost_writes(killed_s, time.monotonic())
            done = len(it.history.completed)
            await it.log.until(lambda: len(it.history.completed) > done, 5, "jobs finishing after the store came back")
        await settled(it.apis[0], it.queue, 0, 40)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; cut at {CUTS} bytes of the last {_file_bytes(safe, cuts)}: lost {lost} jobs")
        assert len(on_disk) >= 10
        assert not verdict.unexpected, verdict
        assert not verdict.restarted, verdict
        assert not [twice for twice in verdict.unexcused if not _lease_was_lost(twice, killed_s)], verdict
        assert not verdict.lost & on_disk.keys(), "a job was lost that had been answered as on disk"
        assert not _before(verdict.lost, it.history.acknowledged, killed_s)


def _lease_was_lost(twice: Duplicate, killed_s: float) -> bool:
    """Its first lease was given in the last two seconds: the store knows nothing of it, and has given the job away again while its worker ran it."""
    wall_s = time.time() - time.monotonic()
    return all(killed_s - STORE_LOSS_S <= token / 1e6 - wall_s <= killed_s for token in twice.tokens[:-1])


def _file_bytes(safe: int, cuts: list[int]) -> str:
    return f"{(cuts[-1] - safe) / 1024:.0f} KiB"


def _before(jobs: frozenset[str] | set[str], acknowledged: dict[str, float], killed_s: float) -> set[str]:
    """Those that had been answered longer ago than a store may forget."""
    return {job for job in jobs if acknowledged[job] < killed_s - STORE_LOSS_S}


async def _lost_by_a_cut(it: System, cut: int, acknowledged: dict[str, float], completed: set[str], killed_s: float) -> int:
    """Open a copy of the file that ends at this byte, and look at all of it. Returns how many jobs are not there that had been acknowledged."""
    copy = Store()
    shutil.copytree(_file(it.store).parent, copy.directory / "appendonlydir")
    with _file(copy).open("r+b") as file:
        file.truncate(cut)
    async with copy:
        state = await _state_of(copy, it.queue)
    missing = acknowledged.keys() - state.jobs.keys() - completed
    assert not _before(missing, acknowledged, killed_s), f"cut at {cut}: lost what was answered longer than {STORE_LOSS_S} s before"
    return len(missing)


async def _state_of(store: Store, queue: str) -> QueueState:
    """Every key of the queue. Reading it asserts that each job is whole, in exactly one index, and each lease one of a session."""
    async with redis.Redis.from_url(store.url, protocol=2) as client:
        return await read_state(client, f"jw:{{{queue}}}:")


# The file ---------------------------------------------------------------------------------------------------------------------------------------------


def _file(store: Store) -> Path:
    (found,) = (store.directory / "appendonlydir").glob("*.incr.aof")
    return found


class Sizes:
    """How long the file was when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sizes: list[int] = []

    def at(self, at_s: float) -> int:
        """No less than it was then."""
        return self.sizes[min(bisect_left(self.times, at_s), len(self.sizes) - 1)]


@asynccontextmanager
async def _file_grows(store: Store) -> AsyncIterator[Sizes]:
    sizes = Sizes()
    file = _file(store)

    async def look() -> None:
        while True:
            size = file.stat().st_size
            sizes.times.append(time.monotonic())
            sizes.sizes.append(size)
            await asyncio.sleep(_SAMPLE_S)

    task = asyncio.create_task(look())
    try:
        yield sizes
    finally:
        task.cancel()


@asynccontextmanager
async def _enqueued_on_disk(it: System) -> AsyncIterator[dict[str, float]]:
    """Enqueue a few jobs now and then as DISK. Gives those that were answered, and when."""
    producer = Producer(it.apis, it.history, durability=job_pb2.DURABILITY_DISK)
    answered: dict[str, float] = {}

    async def enqueue() -> None:
        while True:
            jobs = job_ids(10, "disk")
            await producer.enqueue([spec(it.queue, job, {"ms": 10_000}) for job in jobs])
            answered.update((job, time.monotonic()) for job in jobs)
            await it.moment(1.5)

    task = asyncio.create_task(enqueue())
    try:
        yield answered
    finally:
        task.cancel()
