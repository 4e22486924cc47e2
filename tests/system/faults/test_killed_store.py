"""`kill -9` of the store under load, restarted from its append-only file."""

import time

from jobwire.v1 import job_pb2

from tests.support import outcomes
from tests.support.history import STORE_LOSS_S
from tests.support.load import load
from tests.support.meanwhile import meanwhile
from tests.support.producer import Producer, settled
from tests.support.store import Store, StoreKind
from tests.support.system import System, kill, system

KILLS = 5


async def test_nothing_is_lost_that_was_acknowledged_as_on_disk_when_the_store_is_killed() -> None:
    async with system("killed store, durability disk", session_time=None) as it:
        kills = await _kill_the_store_under_load(it, job_pb2.DURABILITY_DISK)
        await it.all_done(40)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; {len(kills)} kills")
        assert verdict.valid, verdict
        assert not verdict.unexcused, verdict


async def test_at_most_two_seconds_are_lost_of_what_the_store_alone_acknowledged_and_nothing_is_half_there() -> None:
    await _at_most_two_seconds_are_lost("killed store, durability store", StoreKind.VALKEY)


@meanwhile
async def test_at_most_two_seconds_are_lost_on_redis_seven_too() -> None:
    await _at_most_two_seconds_are_lost("killed store, Redis 7.0", StoreKind.REDIS)


async def _at_most_two_seconds_are_lost(test: str, kind: StoreKind) -> None:
    async with system(test, session_time=None, store=Store(kind)) as it:
        kills = await _kill_the_store_under_load(it, job_pb2.DURABILITY_STORE)
        await settled(it.apis[0], it.queue, 0, 40)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; {len(kills)} kills, lost: {len(verdict.lost)} jobs")
        assert not verdict.unexpected, verdict
        assert not verdict.restarted, verdict
        assert not verdict.unexcused, verdict
        for job in verdict.lost:
            acknowledged_s = it.history.acknowledged[job]
            assert any(0 <= killed_s - acknowledged_s <= STORE_LOSS_S for killed_s in kills), f"{job} was lost, and not from the last two seconds"


async def _kill_the_store_under_load(it: System, durability: "job_pb2.Durability.ValueType") -> list[float]:
    """Returns the moments of the kills."""
    producer = Producer(it.apis, it.history, durability=durability)
    await it.start_workers(4, concurrency=400)
    kills = []
    async with load(it, 1_200, (500, 2_500), producer):
        for _ in range(KILLS):
            await it.running(1_000)
            kills.append(await _kill_and_restart(it))
    return kills


async def _kill_and_restart(it: System) -> float:
    await it.moment(1.0)
    killed_s = await kill(it.store)
    await it.moment(0.5)
    await it.store.restart()
    back_s = time.monotonic()
    it.history.store_lost_writes(killed_s, back_s)
    completed, enqueued = len(it.history.completed), len(it.history.acknowledged)
    # Recovery within 5 s of its return: jobs are taken and finished again.
    await it.log.until(lambda: len(it.history.completed) > completed, 5, "jobs finishing after the store came back")
    await it.log.until(lambda: len(it.history.acknowledged) > enqueued, 5, "enqueues answered after the store came back")
    return killed_s
