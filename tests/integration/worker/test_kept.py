"""What handlers log and leave for their next attempt, as clients and handlers read it."""

import asyncio
from typing import Any

import pytest
from jobwire_client import Backoff, Client, JobNotFound, LogLine, SyncClient
from jobwire_worker import Job, Worker

from tests.support import Broker

NO_WAIT = Backoff(base=0, jitter=0)


def seen(lines: list[LogLine]) -> list[tuple[int, int, str, str]]:
    return [(line.cursor, line.attempt, line.level, line.message) for line in lines]


async def test_a_log_is_read_and_followed_to_the_jobs_end(each_broker: Broker, client: Client, queue: str) -> None:
    worker = Worker(each_broker.address, queues=[queue], concurrency=2)
    first, go_on = asyncio.Event(), asyncio.Event()

    @worker.handler("talks")
    async def talks(job: Job) -> None:
        job.log(f"attempt {job.attempt}")
        if job.attempt == 1:
            raise ValueError("not yet")
        first.set()
        await go_on.wait()
        for number in range(250):
            job.log(f"line {number}", level="debug")

    job = await client.enqueue(queue, "talks", backoff=NO_WAIT)
    async with worker:
        await asyncio.wait_for(first.wait(), 10)
        followed: list[LogLine] = []
        async with asyncio.timeout(20):
            async for line in client.logs(job, follow=True):
                followed.append(line)
                if line.cursor == 2:
                    go_on.set()
    expected = [(1, 1, "info", "attempt 1"), (2, 2, "info", "attempt 2"), *((3 + i, 2, "debug", f"line {i}") for i in range(250))]
    assert seen(followed) == expected
    assert seen([line async for line in client.logs(job)]) == expected
    assert seen([line async for line in client.logs(job, after=250)]) == expected[250:]
    assert [line async for line in client.logs(job, after=252, follow=True)] == []
    # A cursor of another log: better twice than never.
    for follow in (False, True):
        assert seen([line async for line in client.logs(job, after=253, follow=follow)]) == expected
    assert (await client.get(job)).log_lines == 252
    with SyncClient(each_broker.address) as threads:
        assert seen(list(threads.logs(job.name))) == expected


async def test_the_log_of_no_job_is_not_found(each_broker: Broker, client: Client, queue: str) -> None:
    for follow in (False, True):
        with pytest.raises(JobNotFound):
            async for _ in client.logs(f"queues/{queue}/jobs/nope", follow=follow):
                pass


async def test_an_attempt_goes_on_where_the_one_before_stopped(each_broker: Broker, client: Client, queue: str) -> None:
    worker = Worker(each_broker.address, queues=[queue], concurrency=1)
    began: list[Any] = []

    @worker.handler("pages")
    def pages(job: Job, count: int) -> int:
        done = job.checkpoint["page"] if job.checkpoint else 0
        began.append(done)
        for page in range(done, count):
            if page == done + 2:
                raise ValueError("enough for now")
            job.save_checkpoint({"page": page + 1})
        return count

    async with worker:
        job = await client.enqueue(queue, "pages", 5, backoff=NO_WAIT)
        done = await client.wait(job, timeout=10)
    assert (done.state, done.result, began) == ("completed", 5, [0, 2, 4])
    assert (await client.get(job)).checkpoint is None


async def test_the_checkpoint_of_a_failed_job_is_shown_and_serves_its_retry(each_broker: Broker, client: Client, queue: str) -> None:
    worker = Worker(each_broker.address, queues=[queue], concurrency=1)
    began: list[Any] = []

    @worker.handler("once")
    async def once(job: Job) -> None:
        began.append(job.checkpoint)
        job.save_checkpoint(b"\xff")
        if len(began) == 1:
            raise ValueError("never")

    async with worker:
        job = await client.enqueue(queue, "once", attempts=1)
        assert (await client.wait(job, timeout=10)).state == "failed"
        assert (await client.get(job)).checkpoint == b"\xff"
        await client.retry(job)
        assert (await client.wait(job, timeout=10)).state == "completed"
    assert began == [None, b"\xff"]
