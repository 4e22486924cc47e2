"""Slots: how many jobs of a queue one worker gets at once, and what is kept free for others."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue_all, held, lease, spec
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker


async def set_policy(api: Api, queue: str, **fields: Any) -> None:
    changed = pb.Queue(name=f"queues/{queue}", policy=policy_pb2.QueuePolicy(**fields))
    await api.queues.UpdateQueue(pb.UpdateQueueRequest(queue=changed, update_mask=FieldMask(paths=["policy"])))


async def make(api: Api, queue: str, jobs: int) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(jobs)])


async def got(worker: RawWorker, count: int) -> list[work.Delivery]:
    """All jobs that came to the worker so far, which are so many: wait for them, and see that no other comes."""
    async with asyncio.timeout(10):
        while sum(len(frame.jobs) for frame in worker.heard) < count:
            await worker.receive(lambda frame: bool(frame.jobs))
        # What could be leased is leased by the call that settles this, at the latest by the one after it.
        for _ in range(2):
            await worker.finish(work.Finish(queue=worker.queues[0], id="fence", token=1, release=work.Release()))
    found = [job for frame in worker.heard for job in frame.jobs]
    assert len(found) == count
    return found


async def test_a_worker_gets_as_many_jobs_as_the_queue_gives_it_slots(api: Api, shared_broker: Broker, queue: str) -> None:
    await set_policy(api, queue, worker_slots=2)
    await make(api, queue, 5)
    async with RawWorker(shared_broker.address, queue) as worker, RawWorker(shared_broker.address, queue) as other:
        await worker.hello(credit=10)
        first = await got(worker, 2)
        await worker.finish(completed(first[0]))
        assert [job.id for job in await got(worker, 3)] == ["j0", "j1", "j2"]
        await other.hello(credit=10)
        assert [job.id for job in await got(other, 2)] == ["j3", "j4"]


@pytest.mark.parametrize("keeps", [0, 1, 2])
async def test_a_worker_that_comes_back_has_no_more_slots_than_before(api: Api, shared_broker: Broker, second_broker: Broker, queue: str, keeps: int) -> None:
    await set_policy(api, queue, worker_slots=2)
    await make(api, queue, 6)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=10)
        before = await got(worker, 2)
    async with RawWorker(second_broker.address, queue, session=worker.session, epoch=2) as again:
        await again.hello(*(held(job) for job in before[:keeps]), credit=10)
        more = await got(again, 2 - keeps)
        await again.finish(*map(completed, [*before[:keeps], *more]))
        await got(again, 4 - keeps)


async def test_a_policy_made_wider_or_narrower_holds_for_workers_that_are_connected(api: Api, shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=10)
        await set_policy(api, queue, worker_slots=1)
        await make(api, queue, 5)
        await got(worker, 1)
        await set_policy(api, queue, worker_slots=3)
        jobs = await got(worker, 3)
        await set_policy(api, queue, worker_slots=1)
        await worker.finish(completed(jobs[0]), completed(jobs[1]))
        await got(worker, 3)
        await worker.finish(completed(jobs[2]))
        await got(worker, 4)


async def test_a_call_for_jobs_gets_no_more_than_the_slots_of_one_worker(api: Api, queue: str) -> None:
    await set_policy(api, queue, queue_class=policy_pb2.QUEUE_CLASS_LOW)
    await make(api, queue, 5)
    assert [len(await lease(api, queue, 10)) for _ in range(3)] == [2, 2, 1]


async def test_slots_that_are_kept_for_a_class_stay_free_for_it(api: Api, shared_broker: Broker, queue: str) -> None:
    exports, resets = f"{queue}.exports", f"{queue}.resets"
    await set_policy(api, resets, queue_class=policy_pb2.QUEUE_CLASS_CRITICAL)
    await make(api, exports, 9)
    async with RawWorker(shared_broker.address, exports, resets) as worker:
        await worker.hello(credit=6, concurrency=6, reserved=[work.Reserve(queue_class=policy_pb2.QUEUE_CLASS_CRITICAL, slots=2)])
        assert {job.queue for job in await got(worker, 4)} == {exports}
        await make(api, resets, 3)
        jobs = await got(worker, 6)
        assert [job.queue for job in jobs[4:]] == [resets] * 2
        # The credit for the next job comes before the end of the last one: it is no credit for exports.
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=7)))
        await worker.finish(completed(jobs[5]))
        assert [job.queue for job in (await got(worker, 7))[6:]] == [resets]


async def test_a_worker_that_keeps_what_it_does_not_have_is_refused(shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        refused = await refusal(worker.hello(concurrency=1, reserved=[work.Reserve(queue=queue, slots=2)]))
    assert refused.fields == ("hello.reserved",)
