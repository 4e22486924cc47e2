"""The store away for a minute with two brokers and 100 jobs running: no job starts twice, all finish, and clients are told at once."""

import asyncio
import time
from collections import Counter

import grpc
import grpc.aio
import pytest
from jobwire.v1 import job_service_pb2 as pb

from tests.support import outcomes
from tests.support.api import Api, Refusal
from tests.support.meanwhile import meanwhile
from tests.support.producer import spec
from tests.support.raw_worker import job_ids
from tests.support.system import System, system

AWAY_S = 60.0
RUNNING = 100


@pytest.mark.slow
@meanwhile
async def test_no_job_starts_twice_and_all_finish_when_the_store_hangs_for_a_minute() -> None:
    async with system("store hangs for a minute", session_time=None) as it:
        await _a_hundred_jobs_running(it)
        it.store.freeze()
        refusals = await _clients_are_told_at_once(it)
        it.store.thaw()
        await _all_goes_on(it, refusals)


@pytest.mark.slow
@meanwhile
async def test_no_job_starts_twice_and_all_finish_when_the_store_is_down_for_a_minute() -> None:
    async with system("store down for a minute", session_time=None) as it:
        await _a_hundred_jobs_running(it)
        await it.store.stop()
        refusals = await _clients_are_told_at_once(it)
        await it.store.restart()
        await _all_goes_on(it, refusals)


async def _a_hundred_jobs_running(it: System) -> None:
    """A third of them ends while the store is away, the others after; a thousand more wait."""
    await it.start_workers(2, concurrency=RUNNING // 2)
    await it.enqueue(RUNNING, ms=(40_000, 75_000))
    await it.running(RUNNING)
    await it.enqueue(1_000, ms=(0, 20))


async def _clients_are_told_at_once(it: System) -> list[float]:
    """Enqueue now and then until the minute is over. Returns how long each refusal took."""
    back_s = time.monotonic() + AWAY_S
    took: list[float] = []
    while time.monotonic() < back_s:
        took += await asyncio.gather(*(_refused(it, api) for api in it.apis))
        await asyncio.sleep(min(5.0, max(0.0, back_s - time.monotonic())))
    return took


async def _refused(it: System, api: Api) -> float:
    (job,) = job_ids(1, "away")
    it.history.attempt([job])
    began_s = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(it.queue, job)), timeout=10)
    refusal = Refusal.of(raised.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"), refusal
    assert refusal.retry_after_s
    if refusal.metadata["accepted"] == "no":
        it.history.refuse([job])
    else:
        assert refusal.metadata["accepted"] == "unknown"
    return time.monotonic() - began_s


async def _all_goes_on(it: System, refusals: list[float]) -> None:
    back_s = time.monotonic()
    await it.enqueue(1, ms=(0, 0))
    enqueued_s = time.monotonic() - back_s
    await it.all_done(45)
    verdict = it.history.verdict()
    outcomes.tell(
        it.test, f"{verdict}; {len(refusals)} enqueues refused within {max(refusals):.2f} s; one answered {enqueued_s:.2f} s after the store's return"
    )
    assert verdict.valid, verdict
    starts = Counter(event.job for event in it.history.starts)
    assert not [job for job, count in starts.items() if count > 1], "a job was run again because the store was away"
    assert not it.history.stops, "a handler was told to give up because the store was away"
    assert max(refusals) <= 2.0
    assert enqueued_s <= 5.0
