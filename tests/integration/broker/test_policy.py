"""UpdateQueue and what follows from it at every broker."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import queue_service_pb2 as pb

from tests.integration.broker.asking import enqueue, enqueue_all, failed, finish, lease, spec
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.api import api as connect
from tests.support.raw_worker import RawWorker


def Policy(**fields: Any) -> policy_pb2.QueuePolicy:  # it stands for the message, whose stub knows enums by their numbers alone
    """A policy, with words for enums."""
    return policy_pb2.QueuePolicy(**fields)


async def update(api: Api, queue: str, *paths: str, paused: bool = False, **fields: Any) -> pb.Queue:
    """UpdateQueue."""
    changed = pb.Queue(name=f"queues/{queue}", paused=paused, policy=Policy(**fields))
    return (await api.queues.UpdateQueue(pb.UpdateQueueRequest(queue=changed, update_mask=FieldMask(paths=paths)))).queue


async def policy_of(api: Api, queue: str) -> policy_pb2.QueuePolicy:
    return (await api.queues.GetQueue(pb.GetQueueRequest(name=f"queues/{queue}"))).queue.policy


async def test_an_update_makes_the_queue_and_says_what_was_set(api: Api, queue: str) -> None:
    after = await update(api, queue, "policy", attempts=7, queue_class="QUEUE_CLASS_HIGH")
    assert (after.queue, after.counts.total) == (queue, 0)
    assert after.policy == await policy_of(api, queue) == Policy(attempts=7, queue_class="QUEUE_CLASS_HIGH")
    listed = (await api.queues.ListQueues(pb.ListQueuesRequest(page_size=1000))).queues
    assert [q.policy for q in listed if q.queue == queue] == [Policy(queue_class="QUEUE_CLASS_HIGH")]


async def test_a_mask_takes_its_fields_and_leaves_the_others(api: Api, queue: str) -> None:
    day = policy_pb2.Retention(age=Duration(seconds=86400))
    await update(api, queue, "policy", attempts=7, priority=3, retention=policy_pb2.RetentionPolicy(failed=day, completed=day))
    await update(api, queue, "policy.attempts", "policy.retention.failed.count", attempts=9, priority=1, retention={"failed": {"count": 5}})
    expected = Policy(attempts=9, priority=3, retention={"failed": {"count": 5, "age": Duration(seconds=86400)}, "completed": day})
    assert await policy_of(api, queue) == expected
    # What the mask names and the policy lacks goes back to its default.
    after = await update(api, queue, "policy.priority", "policy.retention.failed", "policy.job_limits")
    assert after.policy == Policy(attempts=9, retention={"completed": day})
    assert (await update(api, queue, "policy")).policy == Policy()


async def test_paused_is_a_field_of_the_queue(api: Api, queue: str) -> None:
    await enqueue(api, queue)
    after = await update(api, queue, "paused", "policy.attempts", paused=True, attempts=2)
    assert (after.paused, after.policy) == (True, Policy(attempts=2))
    assert await lease(api, queue) == []
    assert not (await update(api, queue, "paused")).paused
    assert len(await lease(api, queue)) == 1


@pytest.mark.parametrize(
    "path", ["", "policies", "policy.", "policy.oh", "policy.retention.oh", "policy.timeout.seconds", "policy.job_limits.a", "counts", "name"]
)
async def test_a_mask_that_names_nothing_changes_nothing(api: Api, queue: str, path: str) -> None:
    refused = await refusal(update(api, queue, "policy.attempts", path, attempts=2))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("update_mask.paths[1]",))
    assert (await refusal(policy_of(api, queue))).reason == "QUEUE_NOT_FOUND"


async def test_the_limit_of_one_job_name_is_set_and_taken_away_and_the_others_stay(api: Api, queue: str) -> None:
    limits = {name: policy_pb2.Limit(concurrency=number) for number, name in enumerate(("mail", "a.b.rate", "push"), 1)}
    await update(api, queue, "policy.job_limits", job_limits=limits)
    changed = {"a.b.rate": policy_pb2.Limit(concurrency=9), "mail": policy_pb2.Limit(concurrency=9)}
    after = await update(api, queue, "policy.job_limits.a.b.rate", "policy.job_limits.push", job_limits=changed)
    assert {name: limit.concurrency for name, limit in after.policy.job_limits.items()} == {"mail": 1, "a.b.rate": 9}
    refused = await refusal(update(api, queue, "policy.job_limits.mail", job_limits={"mail": policy_pb2.Limit(concurrency=-1)}))
    assert refused.fields == ("queue.policy.job_limits[mail].concurrency",)


async def test_an_update_without_a_mask_is_refused(api: Api, queue: str) -> None:
    assert (await refusal(update(api, queue, attempts=2))).fields == ("update_mask",)
    assert (await refusal(api.queues.UpdateQueue(pb.UpdateQueueRequest()))).fields == ("queue.name",)


async def test_many_who_change_different_fields_at_once_lose_nothing(api: Api, second_broker: Broker, queue: str) -> None:
    async with connect(second_broker) as other:
        changes: dict[str, Any] = {"attempts": 7, "priority": 2, "max_depth": 70, "worker_slots": 3, "max_payload_bytes": 500}
        await asyncio.gather(*(update(who, queue, f"policy.{name}", **{name: value}) for name, value in changes.items() for who in (api, other)))
        assert await policy_of(other, queue) == Policy(**changes)


async def test_every_broker_gives_the_queues_priority_from_the_moment_of_the_change(api: Api, second_broker: Broker, queue: str) -> None:
    async with connect(second_broker) as other:
        for who, priority in ((api, 2), (other, -7), (api, 9)):
            await update(who, queue, "policy.priority", priority=priority)
            for at in (api, other):
                name = await enqueue(at, queue)
                assert (await other.jobs.GetJob(jobs.GetJobRequest(name=name))).job.priority == priority


async def test_the_queues_attempts_hold_and_are_shown_wherever_a_job_names_none(api: Api, shared_broker: Broker, queue: str) -> None:
    await update(api, queue, "policy", attempts=2, backoff=job_pb2.Backoff(base=Duration(), jitter=0))
    name = await enqueue(api, queue)
    assert (await api.jobs.GetJob(jobs.GetJobRequest(name=name))).job.max_attempts == 2
    (first,) = await lease(api, queue)
    assert (first.attempt, first.max_attempts) == (1, 2)
    await finish(api, failed(first))
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (second,) = await worker.jobs(1)
        assert (second.attempt, second.max_attempts) == (2, 2)
        await worker.finish(failed(second))
    job = (await api.jobs.GetJob(jobs.GetJobRequest(name=name))).job
    assert (job.state, job.attempt, job.max_attempts) == (job_pb2.JOB_STATE_FAILED, 2, 2)


async def test_a_connected_worker_hears_of_new_attempts_within_two_seconds(api: Api, shared_broker: Broker, second_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker, connect(second_broker) as other:
        await worker.hello(credit=100)
        await update(other, queue, "policy.attempts", attempts=9)
        async with asyncio.timeout(2):
            while True:
                await enqueue(api, queue)
                if (await worker.jobs(1))[0].max_attempts == 9:
                    break


async def test_a_payload_over_the_queues_bound_is_refused(api: Api, queue: str) -> None:
    await update(api, queue, "policy.max_payload_bytes", max_payload_bytes=10)
    await enqueue(api, queue, payload=job_pb2.Payload(data=bytes(10)))
    refused = await refusal(enqueue(api, queue, payload=job_pb2.Payload(json="x" * 11)))
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", ("job.payload",))
    items = await enqueue_all(api, [spec(queue, payload=job_pb2.Payload(data=bytes(size))) for size in (11, 10)])
    assert [(item.verdict, item.error.reason, item.error.field) for item in items] == [
        (jobs.ENQUEUE_VERDICT_REFUSED, "PAYLOAD_TOO_LARGE", "jobs[0].payload"),
        (jobs.ENQUEUE_VERDICT_MADE, "", ""),
    ]


async def test_no_other_way_in_brings_a_payload_over_the_queues_bound(api: Api, queue: str) -> None:
    await update(api, queue, "policy.max_payload_bytes", max_payload_bytes=10)
    debounce = job_pb2.Debounce(key="k", delay=Duration(seconds=60))
    name = await enqueue(api, queue, "a", debounce=debounce)
    large = job_pb2.Payload(data=bytes(11))
    change = jobs.UpdateJobRequest(job=job_pb2.Job(name=name, payload=large), update_mask=FieldMask(paths=["payload"]))
    found = [
        await refusal(enqueue(api, queue, debounce=debounce, payload=large)),
        await refusal(api.jobs.UpdateJob(change)),
        await refusal(api.jobs.RetryJob(jobs.RetryJobRequest(name=name, payload=large))),
    ]
    assert {(refused.code, refused.reason) for refused in found} == {(grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE")}
    assert [refused.fields for refused in found] == [("job.payload",), ("job.payload",), ("payload",)]
    assert not (await api.jobs.GetJob(jobs.GetJobRequest(name=name))).job.HasField("payload")


DAY_S = 86_400
LONG = Duration(seconds=3651 * DAY_S)


@pytest.mark.parametrize(
    ("fields", "field", "bound"),
    [
        ({"queue_class": 6}, "queue_class", "not known"),
        ({"attempts": -1}, "attempts", "from 1 to 1000"),
        ({"attempts": 1001}, "attempts", "from 1 to 1000"),
        ({"backoff": job_pb2.Backoff(base=Duration(seconds=7 * DAY_S + 1))}, "backoff.base", "7 days"),
        ({"backoff": job_pb2.Backoff(base=Duration(seconds=-1))}, "backoff.base", "from 0"),
        ({"backoff": job_pb2.Backoff(factor=0.5)}, "backoff.factor", "from 1 to 10"),
        ({"backoff": job_pb2.Backoff(factor=float("nan"))}, "backoff.factor", "from 1 to 10"),
        ({"backoff": job_pb2.Backoff(max_delay=Duration(seconds=31 * DAY_S))}, "backoff.max_delay", "30 days"),
        ({"backoff": job_pb2.Backoff(jitter=1.5)}, "backoff.jitter", "from 0 to 1"),
        ({"backoff": job_pb2.Backoff(delays=[Duration()] * 33)}, "backoff.delays", "32"),
        ({"backoff": job_pb2.Backoff(delays=[Duration(), Duration(seconds=31 * DAY_S)])}, "backoff.delays[1]", "30 days"),
        ({"backoff": job_pb2.Backoff(delays=[Duration()], factor=2)}, "backoff.delays", "beside base and factor"),
        ({"permanent_errors": ["x"] * 33}, "permanent_errors", "32"),
        ({"permanent_errors": ["x", ""]}, "permanent_errors[1]", "1 to 128"),
        ({"permanent_errors": ["x" * 129]}, "permanent_errors[0]", "1 to 128"),
        ({"timeout": Duration(nanos=99_000_000)}, "timeout", "from 100 ms"),
        ({"timeout": Duration(seconds=1, nanos=-1)}, "timeout", "nanos"),
        ({"timeout": Duration(seconds=31 * DAY_S)}, "timeout", "30 days"),
        ({"total_timeout": Duration(seconds=366 * DAY_S)}, "total_timeout", "365 days"),
        ({"expires_in": Duration(seconds=-5)}, "expires_in", "from 100 ms"),
        ({"retention": {"completed": {"count": -1}}}, "retention.completed.count", "from 0 to 10000000"),
        ({"retention": {"failed": {"count": 10_000_001}}}, "retention.failed.count", "from 0 to 10000000"),
        ({"retention": {"expired": {"age": LONG}}}, "retention.expired.age", "3650 days"),
        ({"limit": {"concurrency": 1_000_001}}, "limit.concurrency", "from 1 to 1000000"),
        ({"limit": {"rate": {"period": Duration(seconds=1)}}}, "limit.rate.count", "from 1 to 1000000"),
        ({"limit": {"rate": {"count": 5}}}, "limit.rate.period", "from 1 ms"),
        ({"group_limit": {"rate": {"count": 5, "period": Duration(seconds=1), "burst": 6}}}, "group_limit.rate.burst", "from 1 to count (5)"),
        ({"job_limits": {"a b": {"concurrency": 1}}}, "job_limits", "1 to 128"),
        ({"job_limits": {"mail": {"concurrency": -1}}}, "job_limits[mail].concurrency", "from 1 to 1000000"),
        ({"job_limits": {f"n{i}": {"concurrency": 1} for i in range(101)}}, "job_limits", "100"),
        ({"ageing": Duration(seconds=31 * DAY_S)}, "ageing", "30 days"),
        ({"start_target": Duration(seconds=31 * DAY_S)}, "start_target", "30 days"),
        ({"max_payload_bytes": (1 << 20) + 1}, "max_payload_bytes", "from 1 to 1048576"),
        ({"max_depth": -1}, "max_depth", "from 1 to 1000000000"),
        ({"max_depth": 1_000_000_001}, "max_depth", "from 1 to 1000000000"),
        ({"worker_slots": 10_001}, "worker_slots", "from 1 to 10000"),
    ],
)
async def test_what_is_out_of_its_bounds_is_refused_by_name_and_changes_nothing(api: Api, queue: str, fields: dict[str, Any], field: str, bound: str) -> None:
    refused = await refusal(update(api, queue, "policy", "paused", paused=True, **{"priority": 1, **fields}))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (f"queue.policy.{field}",))
    assert bound in refused.message
    assert (await refusal(policy_of(api, queue))).reason == "QUEUE_NOT_FOUND"
