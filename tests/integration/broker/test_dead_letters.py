"""ListFailures and ResolveJob."""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import completed, enqueue, enqueue_all, failed, finish, get, job_name_of, lease, micros, spec
from tests.support.api import Api, refusal

FAILED = job_pb2.JOB_STATE_FAILED


async def fail(api: Api, queue: str, messages: list[str]) -> list[job_pb2.Job]:
    """A job for each message, failed with it."""
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(len(messages))])
    jobs = await lease(api, queue, len(messages))
    await finish(api, *(failed(job, message, permanent=True) for job, message in zip(jobs, messages, strict=True)))
    return [await get(api, job_name_of(queue, f"j{i}")) for i in range(len(messages))]


async def test_failures_are_grouped_the_latest_first(api: Api, queue: str) -> None:
    jobs = await fail(api, queue, ["no user 1", "disk full", "no user 2"])
    await api.jobs.ResolveJob(pb.ResolveJobRequest(name=jobs[0].name, note="known"))
    answer = await api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}"))
    assert (answer.total, answer.next_page_token) == (3, "")
    users, disk = answer.groups
    assert (users.type, users.message, users.reason, users.job_name) == ("Broken", "no user 2", "", "work")
    assert (users.count, users.resolved, users.latest, users.fingerprint) == (2, 1, jobs[2].name, jobs[0].fingerprint)
    assert (micros(users.first_seen), micros(users.last_seen)) == (micros(jobs[0].finish_time), micros(jobs[2].finish_time))
    assert (disk.count, disk.resolved, disk.latest, disk.message) == (1, 0, jobs[1].name, "disk full")


async def test_groups_come_in_pages(api: Api, queue: str) -> None:
    await fail(api, queue, ["one", "two", "three", "four", "five"])
    found, token = [], ""
    while True:
        page = await api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}", page_size=2, page_token=token))
        found += [group.message for group in page.groups]
        token = page.next_page_token
        if not token:
            break
    assert found == ["five", "four", "three", "two", "one"]


async def groups_of(api: Api, queue: str, **filter: Any) -> list[tuple[str, int, int]]:
    """Message, count and resolved of each group, over all pages."""
    found, token = [], ""
    while True:
        request = pb.ListFailuresRequest(parent=f"queues/{queue}", page_size=1, page_token=token, filter=pb.JobFilter(**filter))
        page = await api.jobs.ListFailures(request)
        found += [(group.message, group.count, group.resolved) for group in page.groups]
        token = page.next_page_token
        if not token:
            return found


async def test_failures_of_a_name_or_a_time_are_counted_alone(api: Api, queue: str) -> None:
    messages = ["no user 1", "no user 2", "disk full", "no user 3", "disk full"]
    await enqueue_all(api, [spec(queue, f"j{i}", job_name="mail" if "disk" in message else "work") for i, message in enumerate(messages)])
    for job, message in zip(await lease(api, queue, len(messages)), messages, strict=True):
        await finish(api, failed(job, message, permanent=True))
    ends = [(await get(api, job_name_of(queue, f"j{i}"))).finish_time for i in range(len(messages))]
    await api.jobs.ResolveJob(pb.ResolveJobRequest(name=job_name_of(queue, "j0")))
    assert await groups_of(api, queue) == [("disk full", 2, 0), ("no user 3", 3, 1)]
    assert await groups_of(api, queue, job_name="work") == [("no user 3", 3, 1)]
    assert await groups_of(api, queue, job_name="wor") == []
    assert await groups_of(api, queue, finished_after=ends[3]) == [("disk full", 1, 0), ("no user 3", 1, 0)]
    assert await groups_of(api, queue, finished_before=ends[2]) == [("no user 2", 2, 1)]
    assert await groups_of(api, queue, finished_after=ends[1], finished_before=ends[4], job_name="mail") == [("disk full", 1, 0)]
    assert await groups_of(api, queue, finished_after=Timestamp(seconds=253_402_300_799)) == []


async def test_failures_are_filtered_by_what_says_something_of_a_whole_group(api: Api, queue: str) -> None:
    for filter, field in (
        (pb.JobFilter(group="acme"), "filter.group"),
        (pb.JobFilter(labels={"a": "b"}), "filter.labels"),
        (pb.JobFilter(resolved=False), "filter.resolved"),
        (pb.JobFilter(finished_after=Timestamp(seconds=-1)), "filter.finished_after"),
    ):
        refused = await refusal(api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}", filter=filter)))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_a_queue_without_failures_has_no_groups(api: Api, queue: str) -> None:
    assert await api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}")) == pb.ListFailuresResponse()


async def test_a_bad_page_is_refused(api: Api, queue: str) -> None:
    refused = await refusal(api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}", page_size=1001)))
    assert refused.fields == ("page_size",)
    refused = await refusal(api.jobs.ListFailures(pb.ListFailuresRequest(parent=f"queues/{queue}", page_token="x")))
    assert (refused.reason, refused.fields) == ("PAGE_TOKEN_INVALID", ("page_token",))


async def test_a_job_is_resolved_with_a_note_and_stays_failed(api: Api, queue: str) -> None:
    (before,) = await fail(api, queue, ["disk full"])
    after = (await api.jobs.ResolveJob(pb.ResolveJobRequest(name=before.name, note="é" * 512))).job
    assert (after.state, after.resolution.note, after.fingerprint) == (FAILED, "é" * 512, before.fingerprint)
    assert after.revision > before.revision
    assert after.finish_time == before.finish_time
    assert micros(after.resolution.resolve_time) > micros(after.finish_time)
    again = (await api.jobs.ResolveJob(pb.ResolveJobRequest(name=before.name))).job
    assert (again.HasField("resolution"), again.resolution.note) == (True, "")
    waits = (await api.jobs.RetryJob(pb.RetryJobRequest(name=before.name))).job
    assert (waits.HasField("resolution"), waits.fingerprint, waits.failure.message) == (False, "", "disk full")


async def test_only_what_has_failed_is_resolved(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    refused = await refusal(api.jobs.ResolveJob(pb.ResolveJobRequest(name=name)))
    assert (refused.code, refused.reason, refused.metadata) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", {"state": "waiting"})
    (job,) = await lease(api, queue)
    await finish(api, completed(job))
    assert (await refusal(api.jobs.ResolveJob(pb.ResolveJobRequest(name=name)))).reason == "WRONG_STATE"
    assert (await refusal(api.jobs.ResolveJob(pb.ResolveJobRequest(name=job_name_of(queue, "none"))))).reason == "JOB_NOT_FOUND"
    refused = await refusal(api.jobs.ResolveJob(pb.ResolveJobRequest(name=name, note="x" * 1025)))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("note",))
