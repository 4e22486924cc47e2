"""Retries, timeouts and cancels as a handler and a client see them, on a real clock."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from jobwire_client import Backoff, Client
from jobwire_worker import CancelReason, Job, Permanent, Worker

from tests.support import Broker

NO_WAIT = Backoff(base=0, jitter=0)
#: How late a busy machine may be. What a wait is exactly, the tests of the store say.
BUSY_S = 1.0


def worker_for(broker: Broker, queue: str, **options: Any) -> Worker:
    return Worker(broker.address, queues=[queue], **{"concurrency": 10, "drain_grace": 2, **options})


async def runs_of(each_broker: Broker, client: Client, queue: str, **options: Any) -> tuple[list[float], str]:
    """When a handler that always fails was run, and how the job ended."""
    starts: list[float] = []
    worker = worker_for(each_broker, queue)

    @worker.handler("fails")
    async def fails() -> None:
        starts.append(time.monotonic())
        raise Permanent("never") if options.get("id") == "permanent" else ValueError("always")

    async with worker:
        done = await client.wait(await client.enqueue(queue, "fails", **options), timeout=30)
    attempts = (await client.get(done)).attempts
    assert [(attempt.number, attempt.end) for attempt in attempts] == [(i + 1, "failed") for i in range(len(starts))]
    return starts, done.state


def gaps(starts: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(starts)]


async def test_the_default_waits_are_two_and_four_seconds(each_broker: Broker, client: Client, queue: str) -> None:
    starts, state = await runs_of(each_broker, client, queue)
    assert state == "failed"
    assert [2 <= gaps(starts)[0] <= 2.2 + BUSY_S, 4 <= gaps(starts)[1] <= 4.4 + BUSY_S, len(starts)] == [True, True, 3]


async def test_waits_double_and_attempts_are_what_was_asked_for(each_broker: Broker, client: Client, queue: str) -> None:
    starts, state = await runs_of(each_broker, client, queue, attempts=5, backoff=Backoff(base=0.2))
    assert state == "failed"
    for gap, wait in zip(gaps(starts), (0.2, 0.4, 0.8, 1.6), strict=True):
        assert wait <= gap <= wait * 1.1 + BUSY_S
    assert len((await runs_of(each_broker, client, queue, attempts=1))[0]) == 1
    assert len((await runs_of(each_broker, client, queue, id="permanent"))[0]) == 1
    assert len((await runs_of(each_broker, client, queue, permanent_errors=["ValueError"]))[0]) == 1
    starts, _ = await runs_of(each_broker, client, queue, backoff=Backoff(delays=[0.3, 0.1], jitter=0))
    assert [0.3 <= gaps(starts)[0] < 0.3 + BUSY_S, 0.1 <= gaps(starts)[1] < 0.1 + BUSY_S] == [True, True]


async def test_a_stuck_handler_is_ended_by_the_broker_and_told(each_broker: Broker, client: Client, queue: str) -> None:
    told: list[tuple[CancelReason | None, float]] = []
    release = threading.Event()
    worker = worker_for(each_broker, queue, concurrency=2)

    @worker.handler("stuck")
    def stuck(job: Job) -> None:
        if job.attempt > 1:
            return
        began = time.monotonic()
        assert job.timeout == timedelta(seconds=0.5)
        told.append((job.cancelled.wait_in_thread(10), time.monotonic() - began))
        release.wait(10)

    async with worker:
        job = await client.enqueue(queue, "stuck", timeout=0.5, backoff=NO_WAIT)
        done = await client.wait(job, timeout=10)
        release.set()
    assert (done.state, done.attempt) == ("completed", 2)
    ((reason, after),) = told
    assert reason is CancelReason.TIMEOUT
    assert 0.4 <= after < 2.5 + BUSY_S
    first, second = (await client.get(job)).attempts
    assert (first.end, second.end, first.worker == second.worker != "") == ("timeout", "completed", True)
    assert first.start_time is not None
    assert first.end_time is not None
    assert 0.4 <= (first.end_time - first.start_time).total_seconds() < 0.5 + 2 * BUSY_S
    assert first.failure is not None
    assert first.failure.reason == "TIMEOUT"


async def test_a_coroutine_that_gives_way_at_its_timeout_is_charged_once(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("slow")
    async def slow() -> None:
        await asyncio.sleep(30)

    async with worker:
        job = await client.enqueue(queue, "slow", timeout=0.3, attempts=2, backoff=NO_WAIT)
        done = await client.wait(job, timeout=10)
    assert (done.state, done.attempt) == ("failed", 2)
    assert len((await client.get(job)).attempts) == 2


async def test_a_job_ends_at_its_total_timeout_while_it_waits_for_another_attempt(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("fails")
    async def fails() -> None:
        raise ValueError("always")

    async with worker:
        job = await client.enqueue(queue, "fails", total_timeout=0.8, backoff=Backoff(base=60))
        began = time.monotonic()
        done = await client.wait(job, timeout=10)
    assert time.monotonic() - began < 4
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.failure is not None
    assert done.failure.reason == "TOTAL_TIMEOUT"


async def test_a_job_that_nobody_starts_expires(each_broker: Broker, client: Client, queue: str) -> None:
    first = await client.enqueue(queue, "late", expires_in=0.3)
    second = await client.enqueue(queue, "late", expires_at=datetime.now(UTC) + timedelta(seconds=0.6), delay=60)
    assert (await client.get(first)).expire_time is not None
    began = time.monotonic()
    done = [await client.wait(job, timeout=10) for job in (first, second)]
    assert time.monotonic() - began < 0.6 + 2
    assert [job.state for job in done] == ["expired", "expired"]
    assert done[0].attempt == 0
    assert (await client.queue(queue)).counts.expired == 2
    assert [job.id async for job in client.list_jobs(queue, "expired")] == [second.id, first.id]


async def test_a_cancel_reaches_the_handler_at_once_and_shows_its_stages(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)
    started: asyncio.Queue[None] = asyncio.Queue()
    heard: asyncio.Queue[None] = asyncio.Queue()

    @worker.handler("waits")
    async def waits(job: Job) -> None:
        started.put_nowait(None)
        try:
            await asyncio.sleep(60)
        finally:
            heard.put_nowait(None)

    async with worker:
        job = await client.enqueue(queue, "waits")
        await started.get()
        await client.cancel(job)
        await heard.get()
        done = await client.wait(job, timeout=5)
    assert (done.state, done.cancel_stage, done.attempts) == ("cancelled", "done", ())
    assert done.cancel_time is not None


@pytest.mark.parametrize("state", ["waiting", "delayed"])
async def test_what_does_not_run_is_cancelled_with_the_call(client: Client, queue: str, state: str) -> None:
    job = await client.enqueue(queue, "later", delay=60 if state == "delayed" else None)
    done = await client.cancel(job)
    assert (done.state, done.cancel_stage, done.cancel_time) == ("cancelled", "done", done.finish_time)


async def test_a_handler_that_ignores_its_cancel_is_ended_by_force(each_broker: Broker, client: Client, queue: str) -> None:
    release = threading.Event()
    started = threading.Event()
    worker = worker_for(each_broker, queue)

    @worker.handler("deaf")
    def deaf() -> None:
        started.set()
        release.wait(20)

    async with worker:
        job = await client.enqueue(queue, "deaf")
        await asyncio.to_thread(started.wait)
        await client.cancel(job, grace=0.3)
        done = await client.wait(job, timeout=10)
        release.set()
    assert (done.state, done.cancel_stage) == ("cancelled", "forced")
    assert [attempt.end for attempt in (await client.get(job)).attempts] == ["cancelled"]
