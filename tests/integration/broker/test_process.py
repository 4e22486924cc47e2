"""The process of a broker: its address, and how several on one store work as one."""

import asyncio
import time

import pytest
from jobwire.v1 import admin_service_pb2, job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import completed, enqueue, finish, lease
from tests.support import Broker, Store
from tests.support.api import Api
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker

# The process -----------------------------------------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_a_clear_error(shared_broker: Broker, shared_store: Store) -> None:
    second = Broker(shared_store)
    second.address = shared_broker.address
    second.spawn()
    assert await second.ended() == 1
    (line,) = [line for line in second.lines() if "can't be listened on" in line]
    assert shared_broker.address in line
    assert not [line for line in second.lines() if "Traceback" in line]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
async def test_an_address_that_others_can_reach_is_refused_without_insecure(shared_store: Store, address: str) -> None:
    open_to_all = Broker(shared_store)
    open_to_all.address = address
    open_to_all.spawn()
    assert await open_to_all.ended() != 0
    assert "--insecure" in open_to_all.tail()
    assert "Traceback" not in open_to_all.tail()


async def test_an_address_that_others_can_reach_is_served_with_insecure(shared_store: Store) -> None:
    broker = Broker(shared_store, extra=["--insecure"])
    broker.address = "0.0.0.0:0"
    async with broker, connected(f"127.0.0.1:{broker.address.rpartition(':')[2]}") as api:
        await api.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())


# Two brokers on one store ----------------------------------------------------------------------------------------------------------------------------


async def test_work_that_is_enqueued_at_one_broker_starts_at_once_at_a_worker_of_another(
    api: Api, shared_broker: Broker, second_broker: Broker, queue: str
) -> None:
    async with RawWorker(second_broker.address, queue) as worker:
        await worker.hello(credit=100)
        waits = []
        for i in range(20):
            began = time.monotonic()
            await enqueue(api, queue, f"j{i}")
            async with asyncio.timeout(2):
                (job,) = await worker.jobs(1)
            waits.append(time.monotonic() - began)
            await worker.finish(completed(job))
        assert sorted(waits)[10] < 0.1


async def test_a_watch_at_one_broker_sees_what_happens_through_another(api: Api, second_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]))
    assert (await anext(aiter(watch))).changes[0].type == pb.CHANGE_TYPE_SNAPSHOT
    async with connected(second_broker) as other, asyncio.timeout(3):
        waiting = asyncio.create_task(_wait(api, name))
        (job,) = await lease(other, queue)
        assert (await anext(aiter(watch))).changes[0].job.state == job_pb2.JOB_STATE_ACTIVE
        await enqueue(other, queue, "next")
        await finish(other, completed(job))
        final = [change async for response in watch for change in response.changes][-1]
        assert (final.type, final.job.state) == (pb.CHANGE_TYPE_FINAL, job_pb2.JOB_STATE_COMPLETED)
        assert (await waiting).state == job_pb2.JOB_STATE_COMPLETED


async def _wait(api: Api, name: str) -> job_pb2.Job:
    return (await api.jobs.WaitJob(pb.WaitJobRequest(name=name))).job


async def test_a_verb_at_one_broker_reaches_the_worker_of_another_at_once(api: Api, second_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(second_broker.address, queue) as worker:
        await worker.hello(credit=1)
        await worker.jobs(1)
        await api.jobs.CancelJob(pb.CancelJobRequest(name=name))
        async with asyncio.timeout(2):
            await worker.receive(lambda frame: bool(frame.cancels))
