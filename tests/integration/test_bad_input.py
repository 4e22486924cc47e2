"""Bad input over gRPC: each is refused with a clear error that names the field and the bound, and nothing is half done."""

import base64
from collections.abc import AsyncIterable, AsyncIterator, Awaitable

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import admin_service_pb2, job_pb2, queue_service_pb2
from jobwire.v1 import event_service_pb2 as events
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.support.api import Api, Refusal, api, refusal
from tests.support.bad_specs import BAD_ASKS, BAD_SPECS
from tests.support.broker import Broker
from tests.support.raw_worker import RawWorker, complete

MIB = 1 << 20
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LISTED = [state for state in job_pb2.JobState.values() if state not in (job_pb2.JOB_STATE_UNSPECIFIED, job_pb2.JOB_STATE_REMOVED)]
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
async def services(shared_broker: Broker) -> AsyncIterator[Api]:
    async with api(shared_broker) as services:
        yield services


def job(queue: str, /, **fields: object) -> job_pb2.JobSpec:
    """A good job, but for the fields given."""
    made = job_pb2.JobSpec(queue=queue, job_name="work")
    for name, value in fields.items():
        if isinstance(value, (str, int)):
            setattr(made, name, value)
        else:
            getattr(made, name).CopyFrom(value)
    return made


def says(found: Refusal, code: grpc.StatusCode, reason: str, field: str | None = None) -> None:
    """Check everything that a program and a person need of an error."""
    assert (found.code, found.reason, found.domain) == (code, reason, "jobwire"), found
    assert len(found.message) > 10, found
    if field is not None:
        assert found.fields == (field,), found


async def nothing_was_made(services: Api, queue: str) -> None:
    everywhere = [services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=state)) for state in LISTED]
    assert not [found for listing in everywhere for found in (await listing).jobs]


# --- a job that can't be made ---

BAD_FIELDS: dict[str, tuple[dict[str, object], str, str]] = {
    "a payload over 1 MiB": ({"payload": job_pb2.Payload(data=b"x" * (MIB + 1))}, "PAYLOAD_TOO_LARGE", "job.payload"),
    "JSON over 1 MiB": ({"payload": job_pb2.Payload(json='"' + "x" * MIB + '"')}, "PAYLOAD_TOO_LARGE", "job.payload"),
    "a content type that goes on for ever": ({"payload": job_pb2.Payload(data=b"x", content_type="a" * 1000)}, "INVALID_FIELD", "job.payload.content_type"),
    "no queue": ({"queue": ""}, "INVALID_FIELD", "job.queue"),
    "an over-long queue": ({"queue": "q" * 101}, "INVALID_FIELD", "job.queue"),
    "a queue with a slash": ({"queue": "a/b"}, "INVALID_FIELD", "job.queue"),
    "a queue with braces": ({"queue": "a{b}"}, "INVALID_FIELD", "job.queue"),
    "a queue with a space": ({"queue": "a b"}, "INVALID_FIELD", "job.queue"),
    "a queue with a line feed at its end": ({"queue": "a\n"}, "INVALID_FIELD", "job.queue"),
    "a queue with a null": ({"queue": "a\0b"}, "INVALID_FIELD", "job.queue"),
    "a queue that begins with a dot": ({"queue": ".a"}, "INVALID_FIELD", "job.queue"),
    "a queue in other letters": ({"queue": "größe"}, "INVALID_FIELD", "job.queue"),
    "digits that are not ASCII": ({"queue": "٣"}, "INVALID_FIELD", "job.queue"),
    "no job name": ({"job_name": ""}, "INVALID_FIELD", "job.job_name"),
    "an over-long job name": ({"job_name": "n" * 129}, "INVALID_FIELD", "job.job_name"),
    "a job name with a star": ({"job_name": "*"}, "INVALID_FIELD", "job.job_name"),
    "a job name with a line feed": ({"job_name": "a\nb"}, "INVALID_FIELD", "job.job_name"),
    "an over-long id": ({"id": "i" * 129}, "INVALID_FIELD", "job.id"),
    "an id with a slash": ({"id": "a/b"}, "INVALID_FIELD", "job.id"),
    "an id of a space": ({"id": " "}, "INVALID_FIELD", "job.id"),
    "a negative delay": ({"delay": Duration(seconds=-1)}, "INVALID_FIELD", "job.delay"),
    "a delay of a negative nanosecond": ({"delay": Duration(nanos=-1)}, "INVALID_FIELD", "job.delay"),
    "a delay of eleven years": ({"delay": Duration(seconds=11 * 366 * 86_400)}, "INVALID_FIELD", "job.delay"),
    "a delay that is no duration": ({"delay": Duration(seconds=1 << 62)}, "INVALID_FIELD", "job.delay"),
    "a delay whose parts have two signs": ({"delay": Duration(seconds=1, nanos=-5)}, "INVALID_FIELD", "job.delay"),
    "a date that is none": ({"delay_until": Timestamp(seconds=1 << 60)}, "INVALID_FIELD", "job.delay_until"),
    "negative attempts": ({"attempts": -1}, "INVALID_FIELD", "job.attempts"),
    "too many attempts": ({"attempts": 1_001}, "INVALID_FIELD", "job.attempts"),
    "a negative backoff": ({"backoff": job_pb2.Backoff(base=Duration(seconds=-2))}, "INVALID_FIELD", "job.backoff.base"),
    "a backoff that shrinks": ({"backoff": job_pb2.Backoff(factor=0.5)}, "INVALID_FIELD", "job.backoff.factor"),
    "a backoff factor that is no number": ({"backoff": job_pb2.Backoff(factor=float("nan"))}, "INVALID_FIELD", "job.backoff.factor"),
    "a backoff without end": ({"backoff": job_pb2.Backoff(max_delay=Duration(seconds=31 * 86_400))}, "INVALID_FIELD", "job.backoff.max_delay"),
    "a negative jitter": ({"backoff": job_pb2.Backoff(jitter=-0.1)}, "INVALID_FIELD", "job.backoff.jitter"),
    "a jitter that is no number": ({"backoff": job_pb2.Backoff(jitter=float("nan"))}, "INVALID_FIELD", "job.backoff.jitter"),
}


@pytest.mark.parametrize("what", BAD_FIELDS)
async def test_a_job_with_a_bad_field_is_refused_and_not_made(services: Api, queue: str, what: str) -> None:
    fields, reason, field = BAD_FIELDS[what]
    found = await refusal(services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, **fields))))
    says(found, INVALID, reason, field)
    await nothing_was_made(services, queue)


async def test_a_job_with_both_a_delay_and_a_date_is_refused(services: Api, queue: str) -> None:
    both = job(queue, delay=Duration(seconds=1), delay_until=Timestamp(seconds=2_000_000_000))
    says(await refusal(services.jobs.Enqueue(pb.EnqueueRequest(job=both))), INVALID, "INVALID_FIELD")
    await nothing_was_made(services, queue)


async def test_an_enqueue_without_a_job_is_refused(services: Api) -> None:
    says(await refusal(services.jobs.Enqueue(pb.EnqueueRequest())), INVALID, "INVALID_FIELD")


async def test_a_payload_of_exactly_one_mebibyte_is_taken_and_comes_back_whole(services: Api, queue: str) -> None:
    payload = bytes(range(256)) * (MIB // 256)
    made = await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, payload=job_pb2.Payload(data=payload))))
    found = await services.jobs.GetJob(pb.GetJobRequest(name=made.name))
    assert found.job.payload.data == payload


async def test_names_at_their_bounds_are_taken(services: Api) -> None:
    good = job_pb2.JobSpec(queue="Q" + "._~-" * 24 + "abc", id="I" + "._~:@+=-" * 15 + "abcdefg", job_name="N" + "._~:/@+=-" * 14 + "a")
    assert (len(good.queue), len(good.id), len(good.job_name)) == (100, 128, 128)
    made = await services.jobs.Enqueue(pb.EnqueueRequest(job=good))
    found = await services.jobs.GetJob(pb.GetJobRequest(name=made.name))
    assert (found.job.queue, found.job.id, found.job.job_name) == (good.queue, good.id, good.job_name)


async def test_an_id_that_is_taken_by_other_content_is_refused_and_the_job_stays_as_it_was(services: Api, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a", payload=job_pb2.Payload(json="1"))))
    again = pb.EnqueueRequest(job=job(queue, id="a", payload=job_pb2.Payload(json="2")))
    says(await refusal(services.jobs.Enqueue(again)), grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS")
    found = await services.jobs.GetJob(pb.GetJobRequest(name=f"queues/{queue}/jobs/a"))
    assert found.job.payload.json == "1"


# --- batches ---


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_batch_of_none_or_too_many_is_refused_whole(services: Api, queue: str, count: int) -> None:
    found = await refusal(services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[job(queue)] * count)))
    says(found, INVALID, "BATCH_TOO_LARGE", "jobs")
    await nothing_was_made(services, queue)


async def test_one_bad_job_in_a_batch_has_a_verdict_of_its_own_and_hinders_no_other(services: Api, queue: str) -> None:
    bad = [job(queue, job_name=""), job(queue, delay=Duration(seconds=-1)), job(queue, payload=job_pb2.Payload(data=b"x" * (MIB + 1)))]
    jobs = [job(queue, id="a"), bad[0], job(queue, id="b"), bad[1], bad[2]]
    response = await services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=jobs))
    verdicts = [(item.id, item.verdict, item.error.reason, item.error.field) for item in response.items]
    assert verdicts == [
        ("a", pb.ENQUEUE_VERDICT_MADE, "", ""),
        ("", pb.ENQUEUE_VERDICT_REFUSED, "INVALID_FIELD", "jobs[1].job_name"),
        ("b", pb.ENQUEUE_VERDICT_MADE, "", ""),
        ("", pb.ENQUEUE_VERDICT_REFUSED, "INVALID_FIELD", "jobs[3].delay"),
        ("", pb.ENQUEUE_VERDICT_REFUSED, "PAYLOAD_TOO_LARGE", "jobs[4].payload"),
    ]
    assert all(item.error.code == INVALID.value[0] and item.error.message for item in response.items if item.verdict == pb.ENQUEUE_VERDICT_REFUSED)
    listed = await services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_WAITING))
    assert [found.id for found in listed.jobs] == ["a", "b"]


async def test_every_field_out_of_its_bounds_is_refused_alone_and_in_a_batch_and_nothing_is_made(services: Api, queue: str) -> None:
    cases = [(job_pb2.JobSpec(**({"queue": queue, "job_name": "work"} | fields)), field) for fields, field in [*BAD_SPECS, *BAD_ASKS]]
    for bad, field in cases:
        says(await refusal(services.jobs.Enqueue(pb.EnqueueRequest(job=bad))), INVALID, "INVALID_FIELD", f"job.{field}")
    response = await services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[job(queue, id="good"), *(bad for bad, _ in cases)]))
    assert [(item.verdict, item.error.field) for item in response.items[1:]] == [
        (pb.ENQUEUE_VERDICT_REFUSED, f"jobs[{i}].{field}") for i, (_, field) in enumerate(cases, 1)
    ]
    listed = [services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=state)) for state in LISTED]
    assert [found.id for listing in listed for found in (await listing).jobs] == ["good"]


async def test_a_batch_over_the_message_limit_is_refused_and_the_connection_lives(services: Api, queue: str) -> None:
    large = [job(queue, payload=job_pb2.Payload(data=b"x" * MIB)) for _ in range(18)]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=large))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await nothing_was_made(services, queue)


async def test_the_same_id_twice_in_a_batch_makes_one_job(services: Api, queue: str) -> None:
    response = await services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[job(queue, id="a"), job(queue, id="a"), job(queue, id="a", priority=1)]))
    assert [item.verdict for item in response.items] == [pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_REFUSED]
    listed = await services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_WAITING))
    assert [found.id for found in listed.jobs] == ["a"]


# --- names, states, pages ---

BAD_NAMES = [
    "",
    "x",
    "queues/",
    "queues/q",
    "queues/q/jobs",
    "queues/q/jobs/",
    "queues/q/jobs/a/b",
    "/queues/q/jobs/a",
    "queues/a b/jobs/a",
    "QUEUES/q/jobs/a",
    "queues/q/jobs/a\n",
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_malformed_name_of_a_job_is_refused_by_every_call_that_takes_one(services: Api, name: str) -> None:
    jobs = services.jobs
    calls = [
        jobs.GetJob(pb.GetJobRequest(name=name)),
        jobs.ExplainJob(pb.ExplainJobRequest(name=name)),
        jobs.CancelJob(pb.CancelJobRequest(name=name)),
        jobs.RetryJob(pb.RetryJobRequest(name=name)),
        jobs.PromoteJob(pb.PromoteJobRequest(name=name)),
        jobs.DeleteJob(pb.DeleteJobRequest(name=name)),
        jobs.WaitJob(pb.WaitJobRequest(name=name)),
    ]
    for call in calls:
        assert isinstance(call, Awaitable)
        says(await refusal(call), INVALID, "INVALID_FIELD", "name")


async def test_an_unknown_job_is_not_found_by_every_call_that_takes_one(services: Api, queue: str) -> None:
    name = f"queues/{queue}/jobs/ghost"
    jobs = services.jobs
    calls = [
        jobs.GetJob(pb.GetJobRequest(name=name)),
        jobs.ExplainJob(pb.ExplainJobRequest(name=name)),
        jobs.CancelJob(pb.CancelJobRequest(name=name)),
        jobs.RetryJob(pb.RetryJobRequest(name=name)),
        jobs.PromoteJob(pb.PromoteJobRequest(name=name)),
        jobs.DeleteJob(pb.DeleteJobRequest(name=name)),
        jobs.WaitJob(pb.WaitJobRequest(name=name)),
    ]
    for call in calls:
        assert isinstance(call, Awaitable)
        says(await refusal(call), grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


@pytest.mark.parametrize("name", ["", "queues/", "queues/a/b", "jobs/a", "queues/a b", "queues/" + "q" * 101])
async def test_a_malformed_name_of_a_queue_is_refused(services: Api, name: str) -> None:
    queues = services.queues
    says(await refusal(queues.GetQueue(queue_service_pb2.GetQueueRequest(name=name))), INVALID, "INVALID_FIELD", "name")
    says(await refusal(queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name=name))), INVALID, "INVALID_FIELD", "name")
    says(await refusal(queues.ResumeQueue(queue_service_pb2.ResumeQueueRequest(name=name))), INVALID, "INVALID_FIELD", "name")
    listing = services.jobs.ListJobs(pb.ListJobsRequest(parent=name, state=job_pb2.JOB_STATE_WAITING))
    says(await refusal(listing), INVALID, "INVALID_FIELD", "parent")


async def test_an_unknown_queue_is_not_found(services: Api) -> None:
    found = await refusal(services.queues.GetQueue(queue_service_pb2.GetQueueRequest(name="queues/never")))
    says(found, grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


@pytest.mark.parametrize("state", [0, 9, 77, -1])
async def test_an_unknown_state_is_refused(services: Api, queue: str, state: int) -> None:
    request = pb.ListJobsRequest(parent=f"queues/{queue}")
    request.state = state  # type: ignore[assignment]  # what a newer or a broken client may send
    found = await refusal(services.jobs.ListJobs(request))
    says(found, INVALID, "INVALID_FIELD", "state")
    assert all(job_pb2.JobState.Name(known) in found.message for known in LISTED), found
    assert found.message.endswith(f"it is {state}")


@pytest.mark.parametrize("size", [-1, 1_001])
async def test_a_page_size_out_of_bounds_is_refused(services: Api, queue: str, size: int) -> None:
    listings = [
        services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_WAITING, page_size=size)),
        services.queues.ListQueues(queue_service_pb2.ListQueuesRequest(page_size=size)),
        services.admin.ListWorkers(admin_service_pb2.ListWorkersRequest(page_size=size)),
    ]
    for listing in listings:
        assert isinstance(listing, Awaitable)
        says(await refusal(listing), INVALID, "INVALID_FIELD", "page_size")


async def test_a_page_token_from_elsewhere_is_refused(services: Api, queue: str) -> None:
    await services.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[job(queue), job(queue), job(f"{queue}-other")]))
    waiting = pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_WAITING, page_size=1)
    token = (await services.jobs.ListJobs(waiting)).next_page_token
    assert token
    elsewhere = [
        services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}-other", state=job_pb2.JOB_STATE_WAITING, page_token=token)),
        services.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_FAILED, page_token=token)),
        services.queues.ListQueues(queue_service_pb2.ListQueuesRequest(page_token=token)),
    ]
    for listing in elsewhere:
        assert isinstance(listing, Awaitable)
        says(await refusal(listing), INVALID, "PAGE_TOKEN_INVALID", "page_token")


@pytest.mark.parametrize("token", ["x", "ü", "AAAA", base64.urlsafe_b64encode(b"\0" * 40).decode(), "a" * 5_000])
async def test_a_made_up_page_token_is_refused(services: Api, queue: str, token: str) -> None:
    request = pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_WAITING, page_token=token)
    says(await refusal(services.jobs.ListJobs(request)), INVALID, "PAGE_TOKEN_INVALID", "page_token")


# --- watches and waits ---


@pytest.mark.parametrize("names", [[], ["x"], ["queues"], ["queues/q/jobs/"], ["queues/a b"], ["queues/q"] * 101])
async def test_a_watch_of_nothing_too_much_or_something_else_is_refused(services: Api, names: list[str]) -> None:
    watch = services.jobs.WatchJobs(pb.WatchJobsRequest(names=names))
    says(await refusal(watch.read()), INVALID, "INVALID_FIELD")


@pytest.mark.parametrize("topic", ["", "x", "queues/", "queues/q/jobs/", "queues/a b"])
async def test_a_topic_that_is_none_ends_the_subscription(services: Api, topic: str) -> None:
    stream = services.events.Subscribe()
    await stream.write(events.SubscribeRequest(add=[topic]))
    says(await refusal(_to_the_end(stream)), INVALID, "INVALID_FIELD")


async def _to_the_end(stream: AsyncIterable[events.SubscribeResponse]) -> None:
    """The first frame may say whether the store is there."""
    async for frame in stream:
        assert not frame.added


async def test_a_negative_wait_and_a_negative_grace_are_refused(services: Api, queue: str) -> None:
    made = await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue)))
    wait = pb.WaitJobRequest(name=made.name, timeout=Duration(seconds=-1))
    says(await refusal(services.jobs.WaitJob(wait)), INVALID, "INVALID_FIELD", "timeout")
    cancel = pb.CancelJobRequest(name=made.name, grace=Duration(seconds=-1))
    says(await refusal(services.jobs.CancelJob(cancel)), INVALID, "INVALID_FIELD", "grace")
    found = await services.jobs.GetJob(pb.GetJobRequest(name=made.name))
    assert found.job.state == job_pb2.JOB_STATE_WAITING


# --- unary leases ---


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (work.LeaseJobsRequest(queue=""), "queue"),
        (work.LeaseJobsRequest(queue="q", max_jobs=-1), "max_jobs"),
        (work.LeaseJobsRequest(queue="q", max_jobs=101), "max_jobs"),
        (work.LeaseJobsRequest(queue="q", lease_duration=Duration(seconds=-5)), "lease_duration"),
        (work.LeaseJobsRequest(queue="q", lease_duration=Duration(seconds=3_601)), "lease_duration"),
        (work.LeaseJobsRequest(queue="q", wait=Duration(seconds=61)), "wait"),
        (work.LeaseJobsRequest(queue="q", worker="w" * 129), "worker"),
    ],
)
async def test_a_lease_out_of_bounds_is_refused(services: Api, request_: work.LeaseJobsRequest, field: str) -> None:
    says(await refusal(services.workers.LeaseJobs(request_)), INVALID, "INVALID_FIELD", field)


async def test_a_finish_with_a_stale_token_changes_nothing(services: Api, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    leased = (await services.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue))).jobs[0]
    stale = work.FinishJobsRequest(finishes=[complete(leased, token=leased.token - 1)])
    assert [ack.verdict for ack in (await services.workers.FinishJobs(stale)).acks] == [work.VERDICT_STALE_LEASE]
    found = await services.jobs.GetJob(pb.GetJobRequest(name=f"queues/{queue}/jobs/a"))
    assert found.job.state == job_pb2.JOB_STATE_ACTIVE
    good = work.FinishJobsRequest(finishes=[complete(leased)])
    assert [ack.verdict for ack in (await services.workers.FinishJobs(good)).acks] == [work.VERDICT_OK]


async def test_a_finish_of_a_job_never_leased_and_of_an_unknown_one_change_nothing(services: Api, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    finishes = [work.Finish(queue=queue, id=name, token=5, complete=work.Complete()) for name in ("a", "ghost")]
    acks = (await services.workers.FinishJobs(work.FinishJobsRequest(finishes=finishes))).acks
    assert [ack.verdict for ack in acks] == [work.VERDICT_STALE_LEASE, work.VERDICT_NOT_FOUND]
    found = await services.jobs.GetJob(pb.GetJobRequest(name=f"queues/{queue}/jobs/a"))
    assert found.job.state == job_pb2.JOB_STATE_WAITING


async def test_a_finish_without_an_outcome_is_refused_and_the_good_ones_beside_it_are_not_done(services: Api, queue: str) -> None:
    """The contract says of the whole call: nothing was done."""
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    leased = (await services.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue))).jobs[0]
    finishes = [complete(leased), work.Finish(queue=queue, id="a", token=leased.token)]
    says(await refusal(services.workers.FinishJobs(work.FinishJobsRequest(finishes=finishes))), INVALID, "INVALID_FIELD")
    found = await services.jobs.GetJob(pb.GetJobRequest(name=f"queues/{queue}/jobs/a"))
    assert found.job.state == job_pb2.JOB_STATE_ACTIVE


async def test_calls_with_too_many_items_are_refused(services: Api, queue: str) -> None:
    workers = services.workers
    held = work.Held(queue=queue, id="a", token=1)
    calls = [
        workers.FinishJobs(work.FinishJobsRequest(finishes=[work.Finish(queue=queue, id="a", token=1, complete=work.Complete())] * 1_001)),
        workers.ExtendLeases(work.ExtendLeasesRequest(leases=[held] * 1_001)),
        workers.ReportProgress(work.ReportProgressRequest(reports=[work.ProgressReport(queue=queue, id="a", token=1)] * 1_001)),
    ]
    for call in calls:
        assert isinstance(call, Awaitable)
        found = await refusal(call)
        assert found.code is INVALID, found
        assert found.reason in ("BATCH_TOO_LARGE", "INVALID_FIELD"), found


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan"), float("inf")])
async def test_progress_out_of_bounds_is_refused(services: Api, queue: str, percent: float) -> None:
    report = work.ProgressReport(queue=queue, id="a", token=1, progress=job_pb2.Progress(percent=percent))
    says(await refusal(services.workers.ReportProgress(work.ReportProgressRequest(reports=[report]))), INVALID, "INVALID_FIELD")


# --- the Work stream ---


@pytest.fixture
async def worker(shared_broker: Broker, queue: str) -> AsyncIterator[RawWorker]:
    async with RawWorker(shared_broker.address, queue) as worker:
        yield worker


async def ends_with(worker: RawWorker, code: grpc.StatusCode, reason: str) -> Refusal:
    found = Refusal.of(await worker.ended())
    says(found, code, reason)
    return found


async def test_a_stream_that_does_not_begin_with_hello_is_ended(worker: RawWorker) -> None:
    await worker.send(work.WorkRequest(credit=work.Credit(jobs=1)))
    await ends_with(worker, PRECONDITION, "PROTOCOL_VIOLATION")


async def test_a_second_hello_ends_the_stream(worker: RawWorker) -> None:
    await worker.hello()
    await worker.send(work.WorkRequest(hello=work.Hello(session=worker.session, epoch=2, queues=worker.queues)))
    await ends_with(worker, PRECONDITION, "PROTOCOL_VIOLATION")


async def test_credit_that_falls_ends_the_stream(worker: RawWorker) -> None:
    await worker.hello(credit=10)
    await worker.send(work.WorkRequest(credit=work.Credit(jobs=9)))
    await ends_with(worker, PRECONDITION, "PROTOCOL_VIOLATION")


async def test_credit_that_overflows_ends_the_stream(worker: RawWorker) -> None:
    await worker.hello(credit=(1 << 40) + 1)
    await ends_with(worker, PRECONDITION, "PROTOCOL_VIOLATION")


async def test_credit_at_its_bound_is_taken(services: Api, worker: RawWorker, queue: str) -> None:
    await worker.hello(credit=1 << 40)
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    (delivered,) = await worker.jobs(1)
    assert (await worker.finish(complete(delivered)))[0].verdict == work.VERDICT_OK


BAD_HELLOS: dict[str, work.Hello] = {
    "no session": work.Hello(epoch=1, queues=["q"]),
    "a session of 15 bytes": work.Hello(session=b"x" * 15, epoch=1, queues=["q"]),
    "no epoch": work.Hello(session=b"x" * 16, queues=["q"]),
    "a negative epoch": work.Hello(session=b"x" * 16, epoch=-1, queues=["q"]),
    "no queue": work.Hello(session=b"x" * 16, epoch=1),
    "too many queues": work.Hello(session=b"x" * 16, epoch=1, queues=[f"q{n}" for n in range(101)]),
    "a queue that is none": work.Hello(session=b"x" * 16, epoch=1, queues=["a b"]),
    "too many labels": work.Hello(session=b"x" * 16, epoch=1, queues=["q"], labels={str(n): "" for n in range(33)}),
    "an over-long label for people": work.Hello(session=b"x" * 16, epoch=1, queues=["q"], instance_id="i" * 129),
    "a held job that is none": work.Hello(session=b"x" * 16, epoch=1, queues=["q"], held=[work.Held(queue="q", id="a b", token=1)]),
}


@pytest.mark.parametrize("what", BAD_HELLOS)
async def test_a_hello_with_a_bad_field_ends_the_stream(worker: RawWorker, what: str) -> None:
    await worker.send(work.WorkRequest(hello=BAD_HELLOS[what]))
    await ends_with(worker, INVALID, "INVALID_FIELD")


async def test_a_held_job_that_was_never_leased_is_answered_in_the_welcome(services: Api, worker: RawWorker, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    welcome = await worker.hello(work.Held(queue=queue, id="a", token=7), work.Held(queue=queue, id="ghost", token=7))
    verdicts = {ack.id: ack.verdict for ack in welcome.held}
    assert verdicts == {"a": work.VERDICT_STALE_LEASE, "ghost": work.VERDICT_NOT_FOUND}


async def test_on_a_stream_a_stale_finish_is_answered_and_harms_nothing(services: Api, worker: RawWorker, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    await worker.hello(credit=1)
    (delivered,) = await worker.jobs(1)
    never = work.Finish(queue=queue, id="never", token=1, complete=work.Complete())
    acks = await worker.finish(complete(delivered, token=delivered.token - 1), never)
    assert [ack.verdict for ack in acks] == [work.VERDICT_STALE_LEASE, work.VERDICT_NOT_FOUND]
    assert [ack.verdict for ack in await worker.finish(complete(delivered))] == [work.VERDICT_OK]
    assert [ack.verdict for ack in await worker.finish(complete(delivered))] == [work.VERDICT_OK], "the same finish has the same answer"


async def test_a_finish_of_another_queue_than_those_of_the_hello_ends_the_stream_or_is_refused(worker: RawWorker, queue: str) -> None:
    await worker.hello(credit=1)
    await worker.send(work.WorkRequest(finishes=[work.Finish(queue=f"{queue}-other", id="a", token=1, complete=work.Complete())]))
    await ends_with(worker, INVALID, "INVALID_FIELD")


async def test_a_result_over_the_limit_on_a_stream_ends_it_and_the_job_is_not_finished(services: Api, worker: RawWorker, queue: str) -> None:
    await services.jobs.Enqueue(pb.EnqueueRequest(job=job(queue, id="a")))
    welcome = await worker.hello(credit=1)
    (delivered,) = await worker.jobs(1)
    large = complete(delivered)
    large.complete.result.data = b"x" * (welcome.max_result_bytes + 2_000)
    await worker.send(work.WorkRequest(finishes=[large]))
    await ends_with(worker, INVALID, "PAYLOAD_TOO_LARGE")
    found = await services.jobs.GetJob(pb.GetJobRequest(name=f"queues/{queue}/jobs/a"))
    assert found.job.state in (job_pb2.JOB_STATE_ACTIVE, job_pb2.JOB_STATE_WAITING)


async def test_bytes_that_are_no_message_are_refused_and_the_connection_lives(shared_broker: Broker, services: Api) -> None:
    async with grpc.aio.insecure_channel(shared_broker.address) as channel:
        raw = channel.unary_unary("/jobwire.v1.JobService/Enqueue", request_serializer=lambda data: data, response_deserializer=lambda data: data)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await raw(b"\xff\xff\xff\xff")
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await services.queues.ListQueues(queue_service_pb2.ListQueuesRequest())


async def test_an_unknown_method_is_unimplemented(shared_broker: Broker) -> None:
    async with grpc.aio.insecure_channel(shared_broker.address) as channel:
        raw = channel.unary_unary("/jobwire.v1.JobService/Nonsense", request_serializer=lambda data: data, response_deserializer=lambda data: data)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await raw(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
