"""A replica takes over without the last writes of the store before it: what watchers were shown is then not so any more, and they learn what is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work
from jobwire_client import Client

from tests.integration.broker.asking import enqueue, failed, finish, lease
from tests.support import Broker, failover
from tests.support.api import Api, api
from tests.support.failover import Pair
from tests.support.raw_worker import RawWorker


@asynccontextmanager
async def a_retry_that_only_the_primary_knows(queue: str) -> AsyncIterator[tuple[Pair, Broker, Api, str]]:
    """A job that has failed, and was retried since; but the replica has not heard of that."""
    async with failover.pair() as stores, Broker(stores.url) as broker, api(broker) as services:
        name = await enqueue(services, queue)
        (delivery,) = await lease(services, queue)
        await finish(services, failed(delivery, permanent=True))
        await stores.caught_up()
        stores.cut_replication()
        await services.jobs.RetryJob(pb.RetryJobRequest(name=name))
        yield stores, broker, services, name


async def test_the_end_that_holds_again_is_told_although_its_revision_is_lower(queue: str) -> None:
    async with a_retry_that_only_the_primary_knows(queue) as (stores, _, services, name):
        watch = aiter(services.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]), timeout=15))
        (begin,) = (await anext(watch)).changes
        assert begin.job.state == job_pb2.JOB_STATE_WAITING
        await stores.fail_over()
        (end,) = [change async for response in watch for change in response.changes]
        assert (end.type, end.job.state) == (pb.CHANGE_TYPE_FINAL, job_pb2.JOB_STATE_FAILED)
        assert end.job.revision < begin.job.revision


async def test_a_client_s_watch_ends_with_what_the_store_still_knows_also_over_another_broker(queue: str) -> None:
    async with a_retry_that_only_the_primary_knows(queue) as (stores, broker, _, name), Client(broker.address) as client:
        states: asyncio.Queue[str] = asyncio.Queue()

        async def follow() -> None:
            async for job in client.watch(name):
                states.put_nowait(job.state)

        async with asyncio.timeout(15), asyncio.TaskGroup() as group:
            group.create_task(follow())
            assert await states.get() == "waiting"
            await broker.kill()
            await stores.fail_over()
            await broker.start()
        assert states.get_nowait() == "failed"
        assert states.empty()


async def test_lines_in_the_place_of_lost_ones_reach_who_follows_a_log(queue: str) -> None:
    async with failover.pair() as stores, Broker(stores.url) as broker, api(broker) as services, Client(broker.address) as client:
        name = await enqueue(services, queue)
        async with RawWorker(broker.address, queue) as worker, asyncio.timeout(30):
            await worker.hello(credit=1)
            (job,) = await worker.jobs(1)

            async def say(sequence: int, message: str) -> None:
                line = job_pb2.LogLine(sequence=sequence, level="info", message=message)
                await worker.send(work.WorkRequest(logs=[work.LogReport(queue=job.queue, id=job.id, token=job.token, lines=[line])]))

            log = aiter(client.logs(name, follow=True))
            await say(1, "kept")
            assert (await anext(log)).message == "kept"
            await stores.caught_up()
            stores.cut_replication()
            for number in range(2, 5):
                await say(number, "lost")
                assert (await anext(log)).cursor == number
            await stores.fail_over()
            await say(5, "later")
            found = [(await anext(log)).message]
            if found == ["kept"]:
                found.append((await anext(log)).message)
            assert found[-1] == "later"
