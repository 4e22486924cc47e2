"""CleanQueue: what is deleted, what is kept, and what is refused."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import queue_service_pb2 as pb

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, failed, finish, lease, listed, span, spec, wait_for
from tests.support.api import Api, refusal

State = job_pb2.JobState


async def clean(api: Api, queue: str, state: "State.ValueType" = State.JOB_STATE_UNSPECIFIED, grace: Duration | None = None) -> int:
    return (await api.queues.CleanQueue(pb.CleanQueueRequest(name=f"queues/{queue}", state=state, grace=grace))).deleted


async def test_without_state_and_grace_all_completed_jobs_are_deleted(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(5)])
    a, b, c = await lease(api, queue, 3)
    await finish(api, completed(a), failed(b, permanent=True), completed(c))
    assert await clean(api, queue) == 2
    assert await counts(api, queue) == job_pb2.JobCounts(waiting=2, failed=1, total=3, completed_total=2, failed_total=1)
    # Its end is still known to a late watcher.
    assert (await wait_for(api, f"queues/{queue}/jobs/{a.id}")).state == State.JOB_STATE_COMPLETED
    assert (await refusal(api.jobs.GetJob(jobs.GetJobRequest(name=f"queues/{queue}/jobs/{a.id}")))).reason == "JOB_NOT_FOUND"
    assert await clean(api, queue) == 0


async def test_a_clean_of_many_steps_deletes_all_and_counts_them(api: Api, queue: str) -> None:
    for first in range(0, 700, 350):
        await enqueue_all(api, [spec(queue, f"j{i}") for i in range(first, first + 350)])
    for _ in range(7):
        await finish(api, *(failed(job, permanent=True) for job in await lease(api, queue, 100)))
    assert (await counts(api, queue)).failed == 700
    assert await clean(api, queue, State.JOB_STATE_FAILED) == 700
    assert await listed(api, queue, State.JOB_STATE_FAILED) == []


async def test_what_ended_within_the_grace_is_kept(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    await api.jobs.CancelJob(jobs.CancelJobRequest(name=f"queues/{queue}/jobs/a"))
    assert await clean(api, queue, State.JOB_STATE_CANCELLED, span(3_650 * 86_400)) == 0
    assert await clean(api, queue, State.JOB_STATE_CANCELLED, span(60)) == 0
    assert await clean(api, queue, State.JOB_STATE_CANCELLED, span(0)) == 1


@pytest.mark.parametrize("state", [State.JOB_STATE_WAITING, State.JOB_STATE_DELAYED, State.JOB_STATE_ACTIVE, State.JOB_STATE_BLOCKED, 9, 77, -1])
async def test_only_states_in_which_jobs_have_ended_are_cleaned(api: Api, queue: str, state: "State.ValueType") -> None:
    await enqueue(api, queue)
    refused = await refusal(clean(api, queue, state))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("state",))
    known = state in State.values()
    assert f"it is {State.Name(state).removeprefix('JOB_STATE_') if known else state}" in refused.message
    assert (await counts(api, queue)).waiting == 1


@pytest.mark.parametrize("grace", [Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=3_650 * 86_400 + 1), Duration(seconds=1, nanos=-1)])
async def test_a_grace_out_of_its_bounds_is_refused(api: Api, queue: str, grace: Duration) -> None:
    await enqueue(api, queue)
    refused = await refusal(clean(api, queue, grace=grace))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("grace",))


async def test_a_queue_that_nobody_ever_used_is_not_found(api: Api, queue: str) -> None:
    refused = await refusal(clean(api, queue))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "queues/", "queues/a/b", "a", "queues/a b", "queues/" + "q" * 101])
async def test_cleaning_what_is_no_queue_is_refused(api: Api, name: str) -> None:
    refused = await refusal(api.queues.CleanQueue(pb.CleanQueueRequest(name=name)))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("name",))
