"""Logs and checkpoints of jobs, from the worker's frame to the calls that read them."""

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue, failed, lease, released
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker


def line(sequence: int, message: str) -> job_pb2.LogLine:
    return job_pb2.LogLine(sequence=sequence, level="info", message=message, time_ms=5)


def logs(job: work.Delivery, *lines: job_pb2.LogLine) -> work.WorkRequest:
    return work.WorkRequest(logs=[work.LogReport(queue=job.queue, id=job.id, token=job.token, lines=lines)])


def checkpoint(job: work.Delivery, text: str | None) -> work.WorkRequest:
    payload = job_pb2.Payload() if text is None else job_pb2.Payload(json=text)
    return work.WorkRequest(checkpoints=[work.CheckpointReport(queue=job.queue, id=job.id, token=job.token, checkpoint=payload)])


async def fence(worker: RawWorker, queue: str) -> None:
    """Return when all that was sent before is settled."""
    await worker.finish(work.Finish(queue=queue, id="fence", token=1, release=work.Release()))


async def test_a_log_is_listed_page_by_page_over_all_attempts(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=2)
        (job,) = await worker.jobs(1)
        await worker.send(logs(job, line(1, "one"), line(2, "two")))
        await worker.send(logs(job, line(2, "two"), line(3, "three")))
        await worker.finish(failed(job, retry_after_s=0))
        (job,) = await worker.jobs(1)
        await worker.send(logs(job, line(1, "again")))
        await worker.finish(completed(job))
    page = await api.jobs.ListLogs(pb.ListLogsRequest(name=name, page_size=3))
    assert [(x.cursor, x.attempt, x.sequence, x.level, x.message, x.time_ms) for x in page.lines] == [
        (1, 1, 1, "info", "one", 5),
        (2, 1, 2, "info", "two", 5),
        (3, 1, 3, "info", "three", 5),
    ]
    assert (page.next_after, page.dropped) == (3, 0)
    rest = await api.jobs.ListLogs(pb.ListLogsRequest(name=name, after=3))
    assert ([(x.cursor, x.attempt, x.message) for x in rest.lines], rest.next_after) == ([(4, 2, "again")], 4)
    assert (await api.jobs.ListLogs(pb.ListLogsRequest(name=name, after=4))) == pb.ListLogsResponse(next_after=4)
    # A cursor that it never had is not one to go on from.
    assert (await api.jobs.ListLogs(pb.ListLogsRequest(name=name, after=9))) == pb.ListLogsResponse(next_after=4)
    assert (await api.jobs.GetJob(pb.GetJobRequest(name=name))).job.log_lines == 4


async def test_a_log_without_lines_is_empty_and_one_of_no_job_is_not_found(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    assert await api.jobs.ListLogs(pb.ListLogsRequest(name=name)) == pb.ListLogsResponse()
    assert await api.jobs.ListLogs(pb.ListLogsRequest(name=name, after=5)) == pb.ListLogsResponse()
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    gone = await refusal(api.jobs.ListLogs(pb.ListLogsRequest(name=name)))
    assert (gone.reason, gone.metadata["state"]) == ("JOB_NOT_FOUND", "cancelled")


@pytest.mark.parametrize(("fields", "field"), [({"after": -1}, "after"), ({"page_size": 1001}, "page_size"), ({"page_size": -1}, "page_size")])
async def test_a_page_of_a_log_out_of_its_bounds_is_refused(api: Api, queue: str, fields: dict[str, int], field: str) -> None:
    name = await enqueue(api, queue)
    assert (await refusal(api.jobs.ListLogs(pb.ListLogsRequest(name=name, **fields)))).fields == (field,)


@pytest.mark.parametrize("payload", ['{"big": 1}', '"' + "x" * 70_000 + '"'], ids=["short", "apart"])
async def test_a_checkpoint_is_handed_to_the_next_attempt_and_gone_with_the_completion(api: Api, shared_broker: Broker, queue: str, payload: str) -> None:
    name = await enqueue(api, queue, payload=job_pb2.Payload(json=payload))
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=3)
        (first,) = await worker.jobs(1)
        assert not first.HasField("checkpoint")
        await worker.send(checkpoint(first, '{"page":2}'))
        await worker.send(checkpoint(first, '{"page":3}'))
        await worker.finish(failed(first, retry_after_s=0))
        assert (await api.jobs.GetJob(pb.GetJobRequest(name=name))).job.checkpoint.json == '{"page":3}'
        (second,) = await worker.jobs(1)
        assert (second.checkpoint.json, second.payload.json) == ('{"page":3}', payload)
        await worker.finish(released(second))
        (third,) = await worker.jobs(1)
        assert third.checkpoint.json == '{"page":3}'
        await worker.finish(completed(third))
    assert not (await api.jobs.GetJob(pb.GetJobRequest(name=name))).job.HasField("checkpoint")


async def test_a_checkpoint_goes_to_workers_without_a_stream_and_an_empty_one_takes_it_away(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, labels={"a": "b"})
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.send(checkpoint(job, "7"))
        await worker.finish(released(job))
    (delivery,) = await lease(api, queue)
    assert (delivery.checkpoint.json, dict(delivery.labels)) == ("7", {"a": "b"})
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello()
        await worker.send(checkpoint(delivery, None))
        await fence(worker, queue)
    assert not (await api.jobs.GetJob(pb.GetJobRequest(name=name))).job.HasField("checkpoint")


async def test_a_stale_checkpoint_is_answered_by_a_cancel(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "a")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.finish(failed(job, permanent=True))
        await worker.send(checkpoint(job, "7"))
        (cancel,) = (await worker.receive(lambda frame: bool(frame.cancels))).cancels
        assert (cancel.id, cancel.token, cancel.reason) == ("a", job.token, work.CANCEL_REASON_STALE_LEASE)


async def test_a_checkpoint_over_64_kib_ends_the_stream_and_names_the_field(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.send(checkpoint(job, '"' + "x" * 65_536 + '"'))
        assert "checkpoints[0].checkpoint may have 65536 bytes" in str((await worker.ended()).details())
