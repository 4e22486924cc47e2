"""ListJobs with a filter: every field of it in every state, pages, totals, and what is refused."""

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue_all, failed, finish, get, job_name_of, lease, listed, span, spec
from tests.support.api import Api, refusal

WAITING, DELAYED, ACTIVE = job_pb2.JOB_STATE_WAITING, job_pb2.JOB_STATE_DELAYED, job_pb2.JOB_STATE_ACTIVE
COMPLETED, FAILED, CANCELLED = job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED
STATES = (WAITING, DELAYED, ACTIVE, COMPLETED, FAILED, CANCELLED)


async def found(api: Api, queue: str, state: "job_pb2.JobState.ValueType", size: int = 1000, **fields: Any) -> list[str]:
    """The ids of all jobs that a filter finds, page by page."""
    ids: list[str] = []
    token = ""
    while True:
        page = await api.jobs.ListJobs(
            pb.ListJobsRequest(parent=f"queues/{queue}", state=state, page_size=size, page_token=token, filter=pb.JobFilter(**fields))
        )
        assert len(page.jobs) <= size
        ids += [job.id for job in page.jobs]
        token = page.next_page_token
        if not token:
            return ids


async def leased(api: Api, queue: str, count: int) -> list[work.Delivery]:
    """Lease jobs. Groups take turns, so they come in another order than that of their ids, in which this gives them."""
    return sorted(await lease(api, queue, count), key=lambda job: job.id)


async def bring_to(api: Api, queue: str, state: "job_pb2.JobState.ValueType", specs: list[job_pb2.JobSpec]) -> None:
    """Make jobs, and bring them all into one state, in this order."""
    if state == DELAYED:
        for made in specs:
            made.delay.CopyFrom(span(60))
    await enqueue_all(api, specs)
    if state == CANCELLED:
        for made in specs:
            await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, made.id)))
    elif state in (ACTIVE, COMPLETED, FAILED):
        jobs = await leased(api, queue, len(specs))
        if state != ACTIVE:
            await finish(api, *(completed(job) if state == COMPLETED else failed(job, permanent=True) for job in jobs))


@pytest.mark.parametrize("state", STATES, ids=lambda state: job_pb2.JobState.Name(state))
async def test_a_state_is_filtered_by_name_group_and_labels(api: Api, queue: str, state: "job_pb2.JobState.ValueType") -> None:
    specs = [
        spec(queue, f"j{i}", job_name=f"name{i % 2}", group="acme" if i % 3 == 0 else "", labels={"plan": "free", "n": str(i % 2)} if i < 8 else {})
        for i in range(12)
    ]
    await bring_to(api, queue, state, specs)
    order = await listed(api, queue, state)
    assert sorted(order) == sorted(made.id for made in specs)

    def those(*numbers: int) -> list[str]:
        return [job for job in order if int(job[1:]) in numbers]

    assert await found(api, queue, state) == order
    assert await found(api, queue, state, job_name="name1") == those(1, 3, 5, 7, 9, 11)
    assert await found(api, queue, state, group="acme") == those(0, 3, 6, 9)
    assert await found(api, queue, state, labels={"plan": "free"}) == those(*range(8))
    assert await found(api, queue, state, labels={"n": "1", "plan": "free"}) == those(1, 3, 5, 7)
    assert await found(api, queue, state, labels={"plan": ""}) == []
    assert await found(api, queue, state, job_name="name0", group="acme", labels={"plan": "free"}) == those(0, 6)
    assert await found(api, queue, state, job_name="other") == []
    for size in (1, 2, 3):
        assert await found(api, queue, state, size, group="acme") == those(0, 3, 6, 9)


async def test_jobs_are_filtered_by_when_they_were_made(api: Api, queue: str) -> None:
    for name in ("a", "b", "c"):
        await enqueue_all(api, [spec(queue, name)])
    middle = (await get(api, job_name_of(queue, "b"))).create_time
    assert await found(api, queue, WAITING, created_after=middle) == ["b", "c"]
    assert await found(api, queue, WAITING, created_before=middle) == ["a"]
    assert await found(api, queue, WAITING, created_after=middle, created_before=middle) == []
    just_after = Timestamp(seconds=middle.seconds, nanos=middle.nanos + 1)
    assert await found(api, queue, WAITING, created_after=middle, created_before=just_after) == ["b"]


@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED], ids=lambda state: job_pb2.JobState.Name(state))
async def test_jobs_are_filtered_by_when_they_ended(api: Api, queue: str, state: "job_pb2.JobState.ValueType") -> None:
    await bring_to(api, queue, state, [spec(queue, name) for name in ("a", "b", "c")])
    middle = (await get(api, job_name_of(queue, "b"))).finish_time
    if state == FAILED:
        # A note changes the job, and not its end.
        await api.jobs.ResolveJob(pb.ResolveJobRequest(name=job_name_of(queue, "b"), note="x"))
    assert await found(api, queue, state, finished_after=middle) == ["c", "b"]
    assert await found(api, queue, state, finished_before=middle) == ["a"]


async def test_what_has_not_ended_has_no_end_to_be_filtered_by(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    assert await found(api, queue, WAITING, finished_before=Timestamp(seconds=253_402_300_799)) == []


@pytest.mark.parametrize("size", [1, 2, 1000])
async def test_failed_jobs_are_filtered_by_fingerprint_and_note(api: Api, queue: str, size: int) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}", group="acme" if i < 4 else "") for i in range(8)])
    jobs = await leased(api, queue, 8)
    await finish(api, *(failed(job, f"{'one' if i % 2 else 'two'} {i}", permanent=True) for i, job in enumerate(jobs)))
    fingerprint = (await get(api, job_name_of(queue, "j1"))).fingerprint
    assert len(fingerprint) == 16
    for job in ("j1", "j2", "j7"):
        await api.jobs.ResolveJob(pb.ResolveJobRequest(name=job_name_of(queue, job), note="seen"))
    assert await found(api, queue, FAILED, size, fingerprint=fingerprint) == ["j7", "j5", "j3", "j1"]
    assert await found(api, queue, FAILED, size, fingerprint=fingerprint, resolved=True) == ["j7", "j1"]
    assert await found(api, queue, FAILED, size, fingerprint=fingerprint, resolved=False) == ["j5", "j3"]
    assert await found(api, queue, FAILED, size, resolved=True) == ["j7", "j2", "j1"]
    assert await found(api, queue, FAILED, size, resolved=False, group="acme") == ["j3", "j0"]
    assert await found(api, queue, FAILED, size, fingerprint=fingerprint, group="acme") == ["j3", "j1"]
    assert await found(api, queue, FAILED, size, fingerprint="0" * 16) == []
    # Who asks for a fingerprint or a note asks for what has failed.
    assert await found(api, queue, WAITING, resolved=False) == []


async def test_a_page_may_be_short_and_not_the_last(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i:04}", labels={"rare": "1"} if i in (0, 999) else {}) for i in range(1000)])
    for start in range(1000, 3000, 1000):
        await enqueue_all(api, [spec(queue, f"j{i:04}", labels={"rare": "1"} if i == 2999 else {}) for i in range(start, start + 1000)])
    request = pb.ListJobsRequest(parent=f"queues/{queue}", state=WAITING, filter=pb.JobFilter(labels={"rare": "1"}))
    first = await api.jobs.ListJobs(request)
    assert ([job.id for job in first.jobs], first.total, bool(first.next_page_token)) == (["j0000", "j0999"], 3000, True)
    request.page_token = first.next_page_token
    second = await api.jobs.ListJobs(request)
    assert ([job.id for job in second.jobs], second.total, second.next_page_token) == (["j2999"], 3000, "")


@pytest.mark.parametrize("state", STATES, ids=lambda state: job_pb2.JobState.Name(state))
async def test_a_list_tells_how_many_jobs_the_state_has(api: Api, queue: str, state: "job_pb2.JobState.ValueType") -> None:
    await bring_to(api, queue, state, [spec(queue, f"j{i}") for i in range(5)])
    for wanted in STATES:
        page = await api.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=wanted, page_size=2))
        assert page.total == (5 if wanted == state else 0)


async def test_a_page_token_belongs_to_its_filter(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}", group="acme") for i in range(5)])
    request = pb.ListJobsRequest(parent=f"queues/{queue}", state=WAITING, page_size=2, filter=pb.JobFilter(group="acme"))
    request.page_token = (await api.jobs.ListJobs(request)).next_page_token
    assert len((await api.jobs.ListJobs(request)).jobs) == 2
    request.filter.group = "other"
    refused = await refusal(api.jobs.ListJobs(request))
    assert (refused.reason, refused.fields) == ("PAGE_TOKEN_INVALID", ("page_token",))


LONG_AFTER = Timestamp(seconds=253_402_300_800)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"states": [WAITING]}, "filter.states"),
        ({"job_name": "a b"}, "filter.job_name"),
        ({"group": "a/b"}, "filter.group"),
        ({"labels": {"a b": "x"}}, "filter.labels"),
        ({"labels": {str(i): "" for i in range(17)}}, "filter.labels"),
        ({"labels": {"a": "x" * 129}}, "filter.labels[a]"),
        ({"fingerprint": "xyz"}, "filter.fingerprint"),
        ({"fingerprint": "0" * 15}, "filter.fingerprint"),
        ({"fingerprint": "A" * 16}, "filter.fingerprint"),
        *(({name: LONG_AFTER}, f"filter.{name}") for name in ("created_after", "created_before", "finished_after", "finished_before")),
    ],
)
async def test_a_filter_out_of_its_bounds_is_refused_by_name(api: Api, queue: str, fields: dict[str, Any], field: str) -> None:
    request = pb.ListJobsRequest(parent=f"queues/{queue}", state=WAITING, filter=pb.JobFilter(**fields))
    refused = await refusal(api.jobs.ListJobs(request))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert refused.message.startswith(field)
