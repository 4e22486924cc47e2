"""Classes: presets of rules, and queues that are counted and paused together."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from tests.integration.broker.asking import completed, enqueue, enqueue_all, failed, finish, lease, released, spec
from tests.support import Broker, Store
from tests.support.api import Api, refusal
from tests.support.api import api as connect

CRITICAL, HIGH, MEDIUM, LOW, BATCH = (number for number in policy_pb2.QueueClass.values() if number)


@pytest.fixture
async def own(store: Store) -> AsyncIterator[Api]:
    """A broker whose queues are this test's alone."""
    with Broker(store).started() as broker:
        async with connect(broker) as api:
            yield api


async def set_policy(api: Api, queue: str, **fields: Any) -> pb.Queue:
    changed = pb.Queue(name=f"queues/{queue}", policy=policy_pb2.QueuePolicy(**fields))
    return (await api.queues.UpdateQueue(pb.UpdateQueueRequest(queue=changed, update_mask=FieldMask(paths=["policy"])))).queue


@pytest.mark.parametrize(
    ("queue_class", "priority", "attempts", "slots"), [(CRITICAL, 0, 5, 20), (HIGH, 1, 3, 10), (MEDIUM, 5, 2, 5), (LOW, 10, 1, 2), (BATCH, 20, 1, 1)]
)
async def test_a_class_gives_priority_attempts_and_slots(api: Api, queue: str, queue_class: Any, priority: int, attempts: int, slots: int) -> None:
    after = await set_policy(api, queue, queue_class=queue_class)
    # Only what was set is shown as set.
    assert after.policy == policy_pb2.QueuePolicy(queue_class=queue_class)
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(slots + 1)])
    job = (await api.jobs.GetJob(jobs.GetJobRequest(name=f"queues/{queue}/jobs/j0"))).job
    assert (job.priority, job.max_attempts) == (priority, attempts)
    assert len(await lease(api, queue, 100)) == slots


async def test_what_is_set_goes_before_what_the_class_gives(api: Api, queue: str) -> None:
    await set_policy(api, queue, queue_class=CRITICAL, attempts=2, priority=0)
    assert (await set_policy(api, queue, queue_class=BATCH, attempts=2, priority=0)).policy.attempts == 2
    job = (await api.jobs.GetJob(jobs.GetJobRequest(name=await enqueue(api, queue)))).job
    assert (job.priority, job.max_attempts) == (0, 2)
    # And what is set no more is the class's again.
    await set_policy(api, queue, queue_class=BATCH)
    job = (await api.jobs.GetJob(jobs.GetJobRequest(name=await enqueue(api, queue)))).job
    assert (job.priority, job.max_attempts) == (20, 1)


async def test_queues_of_a_class_are_counted_paused_and_resumed_together(own: Api) -> None:
    for queue, queue_class in (("mail", HIGH), ("push", HIGH), ("exports", BATCH), ("plain", 0)):
        await set_policy(own, queue, queue_class=queue_class)
        await enqueue(own, queue)
    found = (await own.queues.ListClasses(pb.ListClassesRequest())).classes
    assert [(c.queue_class, list(c.queues), c.paused, c.counts.waiting, c.counts.total) for c in found] == [
        (HIGH, ["mail", "push"], 0, 2, 2),
        (BATCH, ["exports"], 0, 1, 1),
    ]
    for _ in range(2):
        assert (await own.queues.PauseClass(pb.PauseClassRequest(queue_class=HIGH))).queues == ["mail", "push"]
    assert [await lease(own, queue) for queue in ("mail", "push")] == [[], []]
    assert len(await lease(own, "exports")) == len(await lease(own, "plain")) == 1
    assert [c.paused for c in (await own.queues.ListClasses(pb.ListClassesRequest())).classes] == [2, 0]
    assert (await own.queues.ResumeClass(pb.ResumeClassRequest(queue_class=HIGH))).queues == ["mail", "push"]
    assert len(await lease(own, "mail")) == 1
    assert (await own.queues.PauseClass(pb.PauseClassRequest(queue_class=CRITICAL))).queues == []


@pytest.mark.parametrize("queue_class", [0, 6, -1])
async def test_what_is_no_class_is_refused(api: Api, queue: str, queue_class: Any) -> None:
    for call in (api.queues.PauseClass(pb.PauseClassRequest(queue_class=queue_class)), api.queues.ResumeClass(pb.ResumeClassRequest(queue_class=queue_class))):
        refused = await refusal(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("queue_class",))
    if queue_class:
        assert (await refusal(set_policy(api, queue, queue_class=queue_class))).fields == ("queue.policy.queue_class",)


async def test_each_start_is_measured_against_the_target_of_its_queue(own: Api) -> None:
    async def starts() -> list[tuple[int, int]]:
        return [(c.started, c.started_late) for c in (await own.queues.ListClasses(pb.ListClassesRequest())).classes]

    await set_policy(own, "quick", queue_class=HIGH, backoff={"base": Duration(), "jitter": 0})
    await enqueue(own, "quick")
    (job,) = await lease(own, "quick")
    assert await starts() == [(1, 0)]
    # A job that is handed back goes on from where it was: it has started already. A second attempt is a start of its own.
    await finish(own, released(job))
    (job,) = await lease(own, "quick")
    assert await starts() == [(1, 0)]
    await finish(own, failed(job))
    (job,) = await lease(own, "quick", wait_s=5)
    await finish(own, completed(job))
    assert await starts() == [(2, 0)]
    await set_policy(own, "quick", queue_class=HIGH, start_target=Duration(nanos=1_000_000))
    await enqueue(own, "quick", "a")
    await enqueue(own, "quick", "b")
    await asyncio.sleep(0.01)  # ten times the target
    await lease(own, "quick", 2)
    assert await starts() == [(4, 2)]


async def test_all_brokers_tell_the_same_of_starts_also_after_their_own(store: Store) -> None:
    async with Broker(store) as first, Broker(store) as second:
        async with connect(first) as one, connect(second) as two:
            for queue in ("classed", "targeted"):
                rules: dict[str, Any] = {"start_target": Duration(nanos=1_000_000)} if queue == "targeted" else {}
                await set_policy(one, queue, queue_class=HIGH, **rules)
                for api in (one, two):
                    await enqueue(one, queue)
                    await asyncio.sleep(0.01)  # ten times the target
                    assert len(await lease(api, queue)) == 1
            found = [(await api.queues.ListClasses(pb.ListClassesRequest())).classes for api in (one, two)]
            assert [[(c.started, c.started_late) for c in classes] for classes in found] == [[(4, 2)]] * 2
        await first.kill()
        await first.restart()
        async with connect(first) as one:
            assert [c.started for c in (await one.queues.ListClasses(pb.ListClassesRequest())).classes] == [4]
