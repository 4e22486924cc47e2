"""Short ways to say what most tests of the broker say."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2, queue_service_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.support.api import Api

Answer = TypeVar("Answer")

EXACT = job_pb2.Backoff(base=Duration(nanos=200_000_000), jitter=0)


def job_name_of(queue: str, job: str) -> str:
    """The address of a job."""
    return f"queues/{queue}/jobs/{job}"


def spec(queue: str, job: str = "", **fields: object) -> job_pb2.JobSpec:
    """A job with little in it."""
    given = {"queue": queue, "id": job, "job_name": "work", **fields}
    return job_pb2.JobSpec(**given)  # type: ignore[arg-type]  # the fields are checked by protobuf


def span(seconds: float) -> Duration:
    """A duration."""
    made = Duration()
    made.FromTimedelta(timedelta(seconds=seconds))
    return made


def micros(date: Timestamp) -> int:
    """A date as tokens and revisions are: in microseconds."""
    return date.ToMicroseconds()


async def enqueue(api: Api, queue: str, job: str = "", **fields: object) -> str:
    """Make one job. Returns its address."""
    return (await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue, job, **fields)))).name


async def enqueue_all(api: Api, specs: Iterable[job_pb2.JobSpec]) -> list[pb.EnqueueBatchResponse.Item]:
    """Make jobs in one call. Returns the verdicts."""
    return list((await api.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=specs))).items)


async def get(api: Api, name: str) -> job_pb2.Job:
    """Read a job."""
    return (await api.jobs.GetJob(pb.GetJobRequest(name=name))).job


async def listed(api: Api, queue: str, state: "job_pb2.JobState.ValueType", size: int = 1000) -> list[str]:
    """The ids of all jobs of a state, page by page."""
    return [job.id for job in await listed_jobs(api, queue, state, size)]


async def listed_jobs(api: Api, queue: str, state: "job_pb2.JobState.ValueType", size: int = 1000) -> list[job_pb2.Job]:
    """All jobs of a state, page by page."""
    found: list[job_pb2.Job] = []
    token = ""
    while True:
        page = await api.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=state, page_size=size, page_token=token))
        found += page.jobs
        token = page.next_page_token
        if not token:
            return found


async def counts(api: Api, queue: str) -> job_pb2.JobCounts:
    """The counts of a queue."""
    return (await api.queues.GetQueue(queue_service_pb2.GetQueueRequest(name=f"queues/{queue}"))).queue.counts


async def wait_for(api: Api, name: str, timeout_s: float = 10) -> job_pb2.Job:
    """Wait until a job has ended."""
    return (await api.jobs.WaitJob(pb.WaitJobRequest(name=name, timeout=span(timeout_s)))).job


async def lease(api: Api, queue: str, jobs: int = 1, *, lasting_s: float = 30, wait_s: float = 0) -> list[work.Delivery]:
    """Lease jobs without a stream."""
    request = work.LeaseJobsRequest(queue=queue, max_jobs=jobs, lease_duration=span(lasting_s), wait=span(wait_s), worker="asking")
    return list((await api.workers.LeaseJobs(request)).jobs)


async def finish(api: Api, *finishes: work.Finish) -> list[work.Ack]:
    """End attempts without a stream."""
    return list((await api.workers.FinishJobs(work.FinishJobsRequest(finishes=finishes))).acks)


def completed(job: work.Delivery, result: str = "") -> work.Finish:
    """The handler returned."""
    complete = work.Complete(result=job_pb2.Payload(json=result)) if result else work.Complete()
    return work.Finish(queue=job.queue, id=job.id, token=job.token, complete=complete)


def failed(job: work.Delivery, message: str = "it broke", *, permanent: bool = False, retry_after_s: float | None = None) -> work.Finish:
    """The handler failed."""
    fail = work.Fail(failure=job_pb2.Failure(type="Broken", message=message), permanent=permanent)
    if retry_after_s is not None:
        fail.retry_after.CopyFrom(span(retry_after_s))
    return work.Finish(queue=job.queue, id=job.id, token=job.token, fail=fail)


def snoozed(job: work.Delivery, seconds: float) -> work.Finish:
    """The handler asks to be run later."""
    return work.Finish(queue=job.queue, id=job.id, token=job.token, snooze=work.Snooze(delay=span(seconds)))


def released(job: work.Delivery, reason: "work.ReleaseReason.ValueType" = work.RELEASE_REASON_UNSPECIFIED) -> work.Finish:
    """The job was not run."""
    return work.Finish(queue=job.queue, id=job.id, token=job.token, release=work.Release(reason=reason))


def held(job: work.Delivery) -> work.Held:
    """A delivery as Hello and ExtendLeases name it."""
    return work.Held(queue=job.queue, id=job.id, token=job.token)


async def patiently(call: Callable[[], Awaitable[Answer]], seconds: float = 5) -> Answer:
    """Repeat a call while it is answered with UNAVAILABLE. Raises TimeoutError after so many seconds: the broker must recover in that time."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
