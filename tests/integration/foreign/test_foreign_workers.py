"""The protocol can be spoken in little code, without an SDK: each fact holds for a worker in plain grpcio and for one in Node."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from jobwire_client import Client, Enqueued, JobSpec

from tests.integration.foreign.foreign_workers import ForeignWorker, Language, install
from tests.support import Broker, Store

END_TIMEOUT_S = 20.0


@pytest.fixture(params=list(Language))
async def language(request: pytest.FixtureRequest) -> Language:
    language: Language = request.param
    await install(language)
    return language


@pytest.fixture
async def client(shared_broker: Broker) -> AsyncIterator[Client]:
    async with Client(shared_broker.address) as client:
        yield client


async def states(client: Client, jobs: list[Enqueued]) -> list[str]:
    """Wait until all have ended; return how."""
    return [job.state for job in await asyncio.gather(*(client.wait(job, timeout=END_TIMEOUT_S) for job in jobs))]


async def test_many_jobs_come_back_with_their_results(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    jobs = await client.enqueue_many([JobSpec(queue, "echo", {"n": n}) for n in range(300)])

    async with ForeignWorker(language, [shared_broker], queue, concurrency=50) as worker:
        ended = await asyncio.gather(*(client.wait(job, timeout=END_TIMEOUT_S) for job in jobs))

    assert [job.result for job in ended] == [{"n": n} for n in range(300)]
    assert set(worker.starts_by_job().values()) == {1}


async def test_never_more_jobs_run_than_credit_was_granted(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    await client.enqueue_many([JobSpec(queue, "wait", {"seconds": 30}) for _ in range(20)])

    async with ForeignWorker(language, [shared_broker], queue, concurrency=3) as worker:
        await worker.line(r"job\.started", past=True, times=3)
        await asyncio.sleep(0.5)  # for a fourth, if there were one
        counts = (await client.queue(queue)).counts
        await worker.kill()

    assert (counts.active, counts.waiting) == (3, 17)


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_restart_of_the_broker_makes_no_job_run_twice(language: Language, end: str, store: Store, queue: str) -> None:
    async with Broker(store) as broker, Client(broker.address) as client:
        jobs = await client.enqueue_many([JobSpec(queue, "wait", {"seconds": 1 + n / 10}) for n in range(20)])
        async with ForeignWorker(language, [broker], queue, concurrency=20) as worker:
            await worker.line(r"job\.started", past=True)
            await (broker.kill() if end == "kill" else broker.stop())
            await broker.restart()

            assert await states(client, jobs) == ["completed"] * 20

            assert worker.starts_by_job() == {job.id: 1 for job in jobs}


async def test_the_other_broker_takes_over(language: Language, store: Store, queue: str) -> None:
    async with Broker(store) as first, Broker(store) as second, Client([second.address]) as client:
        jobs = await client.enqueue_many([JobSpec(queue, "wait", {"seconds": 2}) for _ in range(5)])
        async with ForeignWorker(language, [first, second], queue, concurrency=10) as worker:
            await worker.line(r"job\.started", past=True)
            await first.kill()

            assert await states(client, jobs) == ["completed"] * 5

            assert worker.starts_by_job() == {job.id: 1 for job in jobs}


async def test_sigterm_ends_what_runs_and_takes_nothing_more(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    await client.enqueue_many([JobSpec(queue, "wait", {"seconds": 1}) for _ in range(6)])

    async with ForeignWorker(language, [shared_broker], queue, concurrency=2) as worker:
        await worker.line(r"job\.started", past=True, times=2)
        code = await worker.stop()

    counts = (await client.queue(queue)).counts
    assert (code, counts.completed, counts.active, counts.waiting) == (0, 2, 0, 4)


async def test_a_killed_workers_jobs_run_elsewhere_uncharged(language: Language, broker: Broker, queue: str) -> None:
    async with Client(broker.address) as client:
        job = await client.enqueue(queue, "wait", {"seconds": 2})
        async with ForeignWorker(language, [broker], queue) as first:
            await first.line(r"job\.started", past=True)
            await first.kill()

        async with ForeignWorker(language, [broker], queue):
            ended = await client.wait(job, timeout=END_TIMEOUT_S)

        assert (ended.state, ended.attempt) == ("completed", 1)


async def test_a_cancel_reaches_the_handler(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    job = await client.enqueue(queue, "wait", {"seconds": 60})
    async with ForeignWorker(language, [shared_broker], queue) as worker:
        await worker.line(r"job\.started", past=True)
        await client.cancel(job, grace=30)

        assert (await client.wait(job, timeout=5)).state == "cancelled"


async def test_progress_is_seen_while_the_job_runs(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    job = await client.enqueue(queue, "wait", {"seconds": 2})
    async with ForeignWorker(language, [shared_broker], queue):
        seen = [state.progress.percent async for state in client.watch(job) if state.progress is not None]

    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert seen[-1] == 100


async def test_a_job_that_nobody_knows_ends_as_no_handler(language: Language, shared_broker: Broker, client: Client, queue: str) -> None:
    job = await client.enqueue(queue, "unheard-of")
    async with ForeignWorker(language, [shared_broker], queue):
        ended = await client.wait(job, timeout=END_TIMEOUT_S)

    assert ended.state == "failed"
    assert ended.failure is not None
    assert ended.failure.reason == "NO_HANDLER"


async def test_a_worker_that_slept_past_its_session_goes_on_with_new_jobs(language: Language, broker: Broker, queue: str) -> None:
    async with Client(broker.address) as client:
        job = await client.enqueue(queue, "wait", {"seconds": 3})
        async with ForeignWorker(language, [broker], queue) as sleeper:
            await sleeper.line(r"job\.started", past=True)
            sleeper.freeze()
            async with ForeignWorker(language, [broker], queue) as other:
                await other.line(r"job\.started", past=True)
                sleeper.thaw()
                assert (await client.wait(job, timeout=END_TIMEOUT_S)).state == "completed"
            again = await client.enqueue(queue, "echo", "still here")
            assert (await client.wait(again, timeout=END_TIMEOUT_S)).result == "still here"
