"""UpdateJob, RetryJob with a payload, and PurgeQueue."""

import asyncio

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import queue_service_pb2 as queues

from tests.integration.broker.asking import counts, enqueue, enqueue_all, failed, finish, get, job_name_of, lease, span, spec
from tests.support.api import Api, refusal

State = job_pb2.JobState


async def update(api: Api, name: str, *paths: str, **fields: object) -> job_pb2.Job:
    request = pb.UpdateJobRequest(job=job_pb2.Job(name=name, **fields), update_mask=FieldMask(paths=paths))  # type: ignore[arg-type]  # protobuf checks
    return (await api.jobs.UpdateJob(request)).job


async def test_a_job_that_waits_is_changed_in_what_the_mask_names(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a", payload=job_pb2.Payload(json="1"), labels={"a": "b"}, priority=7)
    changed = await update(api, name, "payload", "labels", payload=job_pb2.Payload(json="2"), labels={"c": "d"}, priority=1)
    assert (changed.state, changed.priority, dict(changed.labels)) == (State.JOB_STATE_WAITING, 7, {"c": "d"})
    assert (await update(api, name, "priority", priority=0)).priority == 0
    assert dict((await update(api, name, "labels")).labels) == {}
    assert (await get(api, name)).payload.json == "2"
    (job,) = await lease(api, queue)
    assert job.payload.json == "2"


async def test_a_due_time_delays_a_job_and_its_absence_lets_it_run(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a")
    due = Timestamp()
    due.GetCurrentTime()
    due.seconds += 3600
    due.nanos = 5_000_000
    changed = await update(api, name, "due_time", due_time=due)
    assert (changed.state, changed.due_time) == (State.JOB_STATE_DELAYED, due)
    waiting = asyncio.create_task(lease(api, queue, wait_s=5))
    await asyncio.sleep(0.05)
    assert (await update(api, name, "due_time")).state == State.JOB_STATE_WAITING
    assert [job.id for job in await waiting] == ["a"]
    found = await refusal(update(api, name, "priority"))
    assert (found.code, found.reason, found.metadata) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", {"state": "active"})


async def test_a_watcher_sees_the_change(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a")
    stream = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]))
    await stream.read()
    await update(api, name, "priority", priority=3)
    answer = await stream.read()
    assert isinstance(answer, pb.WatchJobsResponse)
    assert [(change.type, change.job.priority) for change in answer.changes] == [(pb.CHANGE_TYPE_UPDATE, 3)]
    stream.cancel()


@pytest.mark.parametrize(
    ("paths", "fields", "field"),
    [
        ((), {}, "update_mask"),
        (("payload", "attempts"), {}, "update_mask.paths[1]"),
        (("payload.json",), {}, "update_mask.paths[0]"),
        (("payload",), {"payload": job_pb2.Payload(data=bytes((1 << 20) + 1))}, "job.payload"),
        (("labels",), {"labels": {"a b": ""}}, "job.labels"),
        (("due_time",), {"due_time": Timestamp(seconds=-1)}, "job.due_time"),
    ],
)
async def test_what_can_not_be_changed_is_named_and_nothing_is(api: Api, queue: str, paths: tuple[str, ...], fields: dict[str, object], field: str) -> None:
    name = await enqueue(api, queue, "a")
    before = await get(api, name)
    found = await refusal(update(api, name, "priority" if not paths else paths[0], *paths[1:], **fields) if paths else update(api, name))
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert await get(api, name) == before


async def test_a_dead_letter_is_redriven_with_another_payload(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a", payload=job_pb2.Payload(json="1"))
    (job,) = await lease(api, queue)
    await finish(api, failed(job, permanent=True))
    await api.jobs.RetryJob(pb.RetryJobRequest(name=name, payload=job_pb2.Payload(json="2")))
    (job,) = await lease(api, queue)
    assert (job.payload.json, job.attempt) == ("2", 1)
    found = await refusal(api.jobs.RetryJob(pb.RetryJobRequest(name=name, payload=job_pb2.Payload(data=bytes((1 << 20) + 1)))))
    assert (found.reason, found.fields) == ("PAYLOAD_TOO_LARGE", ("payload",))


async def test_a_purge_deletes_what_waits_and_counts_it(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}", **({"delay": span(60)} if i % 2 else {})) for i in range(700)])
    assert len(await lease(api, queue)) == 1
    stream = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[job_name_of(queue, "j699")]))
    await stream.read()
    assert (await api.queues.PurgeQueue(queues.PurgeQueueRequest(name=f"queues/{queue}"))).deleted == 699
    last = await stream.read()
    assert isinstance(last, pb.WatchJobsResponse)
    assert [change.job.state for change in last.changes] == [State.JOB_STATE_REMOVED]
    assert await counts(api, queue) == job_pb2.JobCounts(active=1, total=1)
    assert (await refusal(api.queues.PurgeQueue(queues.PurgeQueueRequest(name="queues/never-was")))).reason == "QUEUE_NOT_FOUND"
