"""Payloads and results of 1 MiB: accepted, delivered and kept, and never more than a few in one frame."""

import asyncio

import grpc
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue, enqueue_all, failed, finish, lease, listed, listed_jobs, spec
from tests.support import Broker
from tests.support.api import Api
from tests.support.raw_worker import RawWorker


async def test_twenty_jobs_of_1_mib_come_in_frames_of_3_mib_at_the_most_and_end_with_results_of_1_mib(api: Api, shared_broker: Broker, queue: str) -> None:
    size = 1 << 20
    payloads = {f"j{i}": bytes([i]) * size for i in range(20)}
    await asyncio.gather(*(enqueue(api, queue, job, payload=job_pb2.Payload(data=data)) for job, data in payloads.items()))
    async with RawWorker(shared_broker.address, queue) as worker, asyncio.timeout(20):
        await worker.hello(credit=20)
        jobs = await worker.jobs(20)
        assert {job.id: job.payload.data for job in jobs} == payloads
        assert max(frame.ByteSize() for frame in worker.heard) <= (3 << 20) + 4096
        for job in jobs:
            end = completed(job)
            end.complete.result.data = payloads[job.id][::-1]
            await worker.send(work.WorkRequest(finishes=[end]))
        acked = 0
        while acked < 20:
            acked += len((await worker.receive(lambda frame: bool(frame.acks))).acks)
    names = [f"queues/{queue}/jobs/j{i}" for i in range(20)]
    ended = (await api.jobs.WaitJob(pb.WaitJobRequest(name=names[3]))).job
    assert (ended.state, ended.result.data) == (job_pb2.JOB_STATE_COMPLETED, payloads["j3"])
    jobs_listed = await listed_jobs(api, queue, job_pb2.JOB_STATE_COMPLETED)
    assert len({job.id for job in jobs_listed}) == 20
    assert not any(job.HasField("result") for job in jobs_listed)


async def test_a_page_of_long_failures_ends_before_4_mib(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(500)])
    for _ in range(5):
        ends = [failed(job, "m" * 2048, permanent=True) for job in await lease(api, queue, 100)]
        for end in ends:
            end.fail.failure.stack = "s" * 8192
        await finish(api, *ends)
    page = await api.jobs.ListJobs(pb.ListJobsRequest(parent=f"queues/{queue}", state=job_pb2.JOB_STATE_FAILED, page_size=1000))
    assert (page.total, bool(page.next_page_token)) == (500, True)
    assert 2 << 20 < page.ByteSize() < 4 << 20
    assert len(await listed(api, queue, job_pb2.JOB_STATE_FAILED)) == 500


async def test_a_result_over_1_mib_ends_the_stream_with_a_clear_error_and_the_job_can_still_be_finished(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        end = completed(job)
        end.complete.result.data = bytes((1 << 20) + 5000)
        await worker.send(work.WorkRequest(finishes=[end]))
        error = await worker.ended()
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "complete.result" in (error.details() or "")
    (ack,) = await finish(api, completed(job))
    assert ack.state == job_pb2.JOB_STATE_COMPLETED
