"""GetJob and ListJobs: every state, in its order, a page at a time."""

import asyncio

import grpc
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import completed, enqueue, enqueue_all, failed, finish, get, job_name_of, lease, listed, listed_jobs, span, spec
from tests.support.api import Api, refusal

State = job_pb2.JobState


async def test_get_reads_a_job_in_each_state(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, word) for word in ("completed", "failed", "active")])
    done, broken, _ = await lease(api, queue, 3)
    await finish(api, completed(done, "1"), failed(broken, permanent=True))
    await enqueue(api, queue, "waiting")
    await enqueue(api, queue, "delayed", delay=span(60))
    await enqueue(api, queue, "cancelled")
    await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, "cancelled")))
    for word in ("waiting", "delayed", "active", "completed", "failed", "cancelled"):
        job = await get(api, job_name_of(queue, word))
        assert State.Name(job.state) == f"JOB_STATE_{word.upper()}"
        assert job.name == job_name_of(queue, word)
        assert job.HasField("due_time") == (word == "delayed")
        assert job.HasField("finish_time") == (word in ("completed", "failed", "cancelled"))
        assert job.HasField("result") == (word == "completed")
        assert job.worker == ("asking" if word == "active" else "")


async def test_get_of_an_unknown_job_is_not_found(api: Api, queue: str) -> None:
    refused = await refusal(get(api, job_name_of(queue, "none")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert "state" not in refused.metadata


async def test_get_of_a_removed_job_tells_its_end_while_that_is_known(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    (job,) = await lease(api, queue)
    await finish(api, completed(job))
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    refused = await refusal(get(api, name))
    assert (refused.code, refused.reason, refused.metadata["state"]) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "completed")


@pytest.mark.parametrize("name", ["", "queues/q", "queues/q/jobs/", "queues/q/jobs/a/b", "jobs/q/queues/a", "queues/ä/jobs/a", "queues/q/jobs/a b"])
async def test_a_name_that_is_no_job_s_is_refused(api: Api, name: str) -> None:
    refused = await refusal(get(api, name))
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ("name",))


# Lists -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_final_states_list_newest_first_without_payloads(api: Api, queue: str) -> None:
    ids = [f"j{i}" for i in range(25)]
    await enqueue_all(api, [spec(queue, job, payload=job_pb2.Payload(json="{}")) for job in ids])
    for job in await lease(api, queue, 25):
        await finish(api, completed(job))
    for size in (1, 7, 25, 26):
        assert await listed(api, queue, State.JOB_STATE_COMPLETED, size) == ids[::-1]
    jobs = await listed_jobs(api, queue, State.JOB_STATE_COMPLETED)
    assert not any(job.HasField("payload") for job in jobs)


async def test_delayed_jobs_list_in_the_order_in_which_they_come_due(api: Api, queue: str) -> None:
    for job, seconds in (("c", 300), ("a", 100), ("b", 200), ("d", 300.001)):
        await enqueue(api, queue, job, delay=span(seconds))
    assert await listed(api, queue, State.JOB_STATE_DELAYED, size=1) == ["a", "b", "c", "d"]


async def test_active_jobs_list_with_their_worker_page_by_page(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(10)])
    await lease(api, queue, 5)
    await lease(api, queue, 5)
    jobs = await listed_jobs(api, queue, State.JOB_STATE_ACTIVE, size=3)
    assert sorted(job.id for job in jobs) == [f"j{i}" for i in range(10)]
    assert {job.worker for job in jobs} == {"asking"}


async def test_what_stays_is_listed_once_while_others_come_and_go(api: Api, queue: str) -> None:
    stay = [f"s{i}" for i in range(200)]
    go = [f"g{i}" for i in range(200)]
    mixed = [spec(queue, job, priority=5) for pair in zip(stay, go, strict=True) for job in pair]
    await enqueue_all(api, mixed)

    async def churn() -> None:
        for i, job in enumerate(go):
            await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, job)))
            await enqueue(api, queue, f"new{i}", priority=i % 10)

    churning = asyncio.create_task(churn())
    found: list[list[str]] = []
    while not churning.done():
        found.append(await listed(api, queue, State.JOB_STATE_WAITING, size=7))
    await churning
    assert len(found) > 1
    for ids in found:
        assert [job for job in ids if job.startswith("s")] == stay
        assert len(set(ids)) == len(ids)


async def test_ended_jobs_are_listed_once_while_others_end(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(100)])
    old = await lease(api, queue, 60)
    await finish(api, *(completed(job) for job in old))
    later = await lease(api, queue, 40)
    page = await api.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_COMPLETED, page_size=20))
    seen = [job.id for job in page.jobs]
    for job in later:
        await finish(api, completed(job))
        if page.next_page_token:
            request = pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_COMPLETED, page_size=5, page_token=page.next_page_token)
            page = await api.jobs.ListJobs(request)
            seen += [job.id for job in page.jobs]
    assert seen == [job.id for job in old][::-1]


async def test_a_page_token_of_another_list_is_refused(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(q, job) for q in (queue, f"{queue}.b") for job in "abc"])
    first = await api.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_WAITING, page_size=1))
    token = first.next_page_token
    assert token
    others = [
        pb.ListJobsRequest(parent=f"queues/{queue}.b", state=State.JOB_STATE_WAITING, page_token=token),
        pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_FAILED, page_token=token),
        pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_WAITING, page_token="nonsense"),
        pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_WAITING, page_token="ä"),
        pb.ListJobsRequest(parent=f"queues/{queue}", state=State.JOB_STATE_WAITING, page_token=token[:9]),
    ]
    for request in others:
        refused = await refusal(api.jobs.ListJobs(request))
        assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", ("page_token",))


@pytest.mark.parametrize("tail", ["AAAA", "____", "d29yZHM", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"])
@pytest.mark.parametrize("state", [State.JOB_STATE_WAITING, State.JOB_STATE_ACTIVE, State.JOB_STATE_COMPLETED])
async def test_a_page_token_that_was_tampered_with_is_refused_and_never_an_inner_error(
    api: Api, queue: str, state: "job_pb2.JobState.ValueType", tail: str
) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(9)])
    await finish(api, *(completed(job) for job in await lease(api, queue, 3)))
    await lease(api, queue, 3)
    request = pb.ListJobsRequest(parent=f"queues/{queue}", state=state, page_size=1)
    token = (await api.jobs.ListJobs(request)).next_page_token
    # The first 8 letters hold the sum over the list and the place in it.
    request.page_token = token[:8] + tail
    refused = await refusal(api.jobs.ListJobs(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListJobsRequest(parent="queues/q"), "state"),
        (pb.ListJobsRequest(parent="queues/q", state=State.JOB_STATE_REMOVED), "state"),
        (pb.ListJobsRequest(parent="queues/q", state=99), "state"),  # type: ignore[arg-type]  # a state of the future
        (pb.ListJobsRequest(parent="queues/q", state=State.JOB_STATE_WAITING, page_size=-1), "page_size"),
        (pb.ListJobsRequest(parent="queues/q", state=State.JOB_STATE_WAITING, page_size=1001), "page_size"),
        (pb.ListJobsRequest(parent="q", state=State.JOB_STATE_WAITING), "parent"),
    ],
)
async def test_a_list_out_of_its_bounds_is_refused(api: Api, request_: pb.ListJobsRequest, field: str) -> None:
    refused = await refusal(api.jobs.ListJobs(request_))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_a_list_of_nothing_is_empty(api: Api, queue: str) -> None:
    for state in (State.JOB_STATE_BLOCKED, State.JOB_STATE_EXPIRED, State.JOB_STATE_WAITING):
        assert await listed(api, queue, state) == []
