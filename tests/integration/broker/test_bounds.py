"""What a queue keeps and takes by its policy, and what a store takes near its limit."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
import redis.asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import queue_service_pb2 as queues

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, finish, get, job_name_of, lease, listed, spec, wait_for
from tests.integration.broker.test_enqueue_stream import asking
from tests.support import Broker, Store, StoreKind
from tests.support.api import Api, refusal
from tests.support.api import api as connected

State = job_pb2.JobState
MADE, REFUSED = pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_REFUSED


async def set_policy(api: Api, queue: str, **fields: object) -> None:
    policy = policy_pb2.QueuePolicy(**fields)  # type: ignore[arg-type]  # protobuf checks them
    mask = FieldMask(paths=[f"policy.{name}" for name in fields])
    await api.queues.UpdateQueue(queues.UpdateQueueRequest(queue=queues.Queue(name=f"queues/{queue}", policy=policy), update_mask=mask))


async def test_a_policy_says_how_many_completed_jobs_are_kept(api: Api, queue: str) -> None:
    await set_policy(api, queue, retention=policy_pb2.RetentionPolicy(completed=policy_pb2.Retention(count=2)))
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(5)])
    await finish(api, *(completed(job) for job in await lease(api, queue, 5)))
    assert await listed(api, queue, State.JOB_STATE_COMPLETED) == ["j4", "j3"]
    await set_policy(api, queue, retention=policy_pb2.RetentionPolicy(completed=policy_pb2.Retention(age=Duration())))
    async with asyncio.timeout(10):
        while await listed(api, queue, State.JOB_STATE_COMPLETED):
            await asyncio.sleep(0.05)
    assert (await wait_for(api, job_name_of(queue, "j4"))).state == State.JOB_STATE_COMPLETED


async def test_a_job_of_no_retention_is_gone_at_its_end_and_who_waits_hears_of_it(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a", retention=Duration())
    waiting = asyncio.create_task(wait_for(api, name))
    await asyncio.sleep(0.1)
    (job,) = await lease(api, queue)
    await finish(api, completed(job, "7"))
    done = await waiting
    assert (done.state, done.result.json) == (State.JOB_STATE_COMPLETED, "7")
    found = await refusal(api.jobs.GetJob(pb.GetJobRequest(name=name)))
    assert (found.reason, found.metadata["state"]) == ("JOB_NOT_FOUND", "completed")
    assert (await wait_for(api, name)).state == State.JOB_STATE_COMPLETED
    assert await counts(api, queue) == job_pb2.JobCounts(completed_total=1)


async def test_a_queue_at_its_depth_refuses_each_job_for_itself(api: Api, second_broker: Broker, queue: str) -> None:
    await set_policy(api, queue, max_depth=3)
    items = await enqueue_all(api, [spec(queue, f"j{i}") for i in range(5)])
    assert [(item.verdict, item.error.reason) for item in items] == [(MADE, "")] * 3 + [(REFUSED, "QUEUE_FULL")] * 2
    assert dict(items[3].error.metadata) == {"quota": f"queues/{queue}"}
    assert items[3].error.retry_after.ToTimedelta().total_seconds() == 1
    assert "max_depth" in items[3].error.message
    assert [item.name for item in items] == [f"queues/{queue}/jobs/{item.id}" for item in items[:3]] + [""] * 2
    found = await refusal(api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue, "new"))))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert (found.quota, found.retry_after_s) == ((f"queues/{queue}",), 1.0)
    assert found.retry_after_s is not None
    assert (await enqueue_all(api, [spec(queue, "j0")]))[0].verdict == MADE
    async with asking(api) as stream:
        answer = await stream.ask(spec(queue, "j1"), spec(queue, "k"))
        assert [(item.at, item.error.reason, item.error.retry_after.seconds) for item in answer.items] == [(1, "QUEUE_FULL", 1)]
    (job,) = await lease(api, queue)
    await finish(api, completed(job))
    async with connected(second_broker) as other:
        both = await asyncio.gather(*((api, other)[i % 2].jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[spec(queue)])) for i in range(20)))
    assert [answer.items[0].verdict for answer in both].count(MADE) == 1


# A store with little room ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=list(StoreKind), ids=str)
async def small(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Api, redis.asyncio.Redis]]:
    """A broker of a store whose memory this test may fill."""
    async with Store(request.param) as store:
        raw = redis.asyncio.Redis.from_url(store.url)
        with Broker(store).started() as broker:
            async with connected(broker) as api:
                yield api, raw
        await raw.aclose()


async def test_jobs_are_refused_before_the_store_is_full_and_all_else_goes_on(small: tuple[Api, redis.asyncio.Redis]) -> None:
    api, raw = small
    await enqueue_all(api, [spec("q", f"j{i}", payload=job_pb2.Payload(data=bytes(1000))) for i in range(10)])
    await enqueue(api, "q", "u", unique=job_pb2.Unique(key="k"))

    async def full() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:
                # What the store uses changes by itself: it gives buffers of connections back.
                used = (await raw.info("memory"))["used_memory"]
                await raw.config_set("maxmemory", str(int(used / 0.93)))
                await enqueue(api, "q")
                await asyncio.sleep(0.05)

    await asyncio.wait_for(full(), 20)
    found = await refusal(api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q", "new"))))
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    assert found.retry_after_s is not None
    # What is there already is found, by its id and by its key.
    items = await enqueue_all(api, [spec("q", "j0", payload=job_pb2.Payload(data=bytes(1000))), spec("q", unique=job_pb2.Unique(key="k")), spec("q")])
    assert [item.verdict for item in items] == [MADE, pb.ENQUEUE_VERDICT_FOUND, REFUSED]
    for limit in (None, "1mb"):
        if limit:
            await raw.config_set("maxmemory", limit)
        (job,) = await lease(api, "q")
        await finish(api, completed(job))
        assert (await get(api, job_name_of("q", job.id))).state == State.JOB_STATE_COMPLETED
        assert (await enqueue_all(api, [spec("q", unique=job_pb2.Unique(key="k")), spec("q")]))[1].error.reason == "STORE_FULL"
    await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of("q", "j5")))
    await api.queues.CleanQueue(queues.CleanQueueRequest(name="queues/q"))
    assert (await api.queues.PurgeQueue(queues.PurgeQueueRequest(name="queues/q"))).deleted > 0
    await raw.config_set("maxmemory", "0")

    await asyncio.wait_for(room(api), 10)


async def room(api: Api) -> None:
    """Return when the store takes jobs again."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await enqueue(api, "q", "late")
            return
        await asyncio.sleep(0.05)
