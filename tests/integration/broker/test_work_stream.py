"""WorkerService.Work: what may come when, and credit, which is never exceeded."""

import asyncio

import grpc
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue, enqueue_all, get, held, job_name_of, listed, released, spec
from tests.support import Broker
from tests.support.api import Api, Refusal
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState


class SilentWorker(RawWorker):
    """One that can listen without answering pings."""

    async def closed(self) -> None:
        """Listen until the stream has ended."""
        while await self._call.read() is not grpc.aio.EOF:
            pass


async def fence(worker: RawWorker) -> None:
    """Return when the broker has handled all that was sent, and has had two occasions to lease more."""
    for token in (1, 2):
        await worker.finish(work.Finish(queue=worker.queues[0], id="fence", token=token, release=work.Release()))


def delivered(worker: RawWorker) -> list[work.Delivery]:
    """All jobs that ever came on the stream."""
    return [job for frame in worker.heard for job in frame.jobs]


async def refused_after(worker: RawWorker, *frames: work.WorkRequest) -> Refusal:
    """Send frames and give the error that ends the stream; within 5 s."""
    async with asyncio.timeout(5):
        for frame in frames:
            await worker.send(frame)
        return Refusal.of(await worker.ended())


# Hello -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_welcome_is_the_first_frame_and_says_what_holds(shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        welcome = await worker.hello()
        assert worker.heard[0].HasField("welcome")
        assert welcome.broker_id
        assert welcome.session_time.ToTimedelta().total_seconds() == 10
        assert welcome.heartbeat_interval.ToTimedelta().total_seconds() == 2
        assert welcome.max_result_bytes == 1 << 20
        assert not welcome.held


@pytest.mark.parametrize("frame", [work.WorkRequest(), work.WorkRequest(credit=work.Credit(jobs=1)), work.WorkRequest(goodbye=work.Goodbye())])
async def test_a_stream_that_does_not_begin_with_hello_is_refused(shared_broker: Broker, queue: str, frame: work.WorkRequest) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        refused = await refused_after(worker, frame)
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION")


async def test_a_second_hello_ends_the_stream_and_its_jobs_can_be_resumed(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        again = work.WorkRequest(hello=work.Hello(session=worker.session, epoch=2, queues=[queue]))
        refused = await refused_after(worker, again)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION")
    async with RawWorker(shared_broker.address, queue, session=worker.session, epoch=2) as resumed:
        assert not (await resumed.hello(held(job))).held
        assert (await resumed.finish(completed(job)))[0].verdict == work.VERDICT_OK


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"session": b"short"}, "hello.session"),
        ({"session": b""}, "hello.session"),
        ({"epoch": 0}, "hello.epoch"),
        ({"epoch": -1}, "hello.epoch"),
        ({"epoch": 1 << 40}, "hello.epoch"),
        ({"queues": []}, "hello.queues"),
        ({"queues": [f"q{i}" for i in range(101)]}, "hello.queues"),
        ({"queues": ["ok", "not ok"]}, "hello.queues[1]"),
        ({"instance_id": "x" * 129}, "hello.instance_id"),
        ({"sdk": "x" * 129}, "hello.sdk"),
        ({"labels": {f"k{i}": "v" for i in range(33)}}, "hello.labels"),
        ({"held": [work.Held(queue="other", id="a", token=1)]}, "hello.held[0].queue"),
        ({"held": [work.Held(queue="q", id="?", token=1)]}, "hello.held[0].id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_hello_out_of_its_bounds_is_refused_by_field(shared_broker: Broker, change: dict[str, object], field: str) -> None:
    given = {"session": bytes(16), "epoch": 1, "queues": ["q"], **change}
    async with RawWorker(shared_broker.address, "q") as worker:
        refused = await refused_after(worker, work.WorkRequest(hello=work.Hello(**given)))  # type: ignore[arg-type]  # the fields are checked by protobuf
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", (field,))


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (work.WorkRequest(finishes=[work.Finish(queue="other", id="a", token=1, complete=work.Complete())]), "finishes[0].queue"),
        (work.WorkRequest(finishes=[work.Finish(queue="q", id="?", token=1, complete=work.Complete())]), "finishes[0].id"),
        (work.WorkRequest(finishes=[work.Finish(queue="q", id="a", token=1)]), "finishes[0].outcome"),
        (work.WorkRequest(finishes=[work.Finish(queue="q", id="a", token=-5, release=work.Release())]), "finishes[0].token"),
        (work.WorkRequest(progress=[work.ProgressReport(queue="q", id="a", token=1, progress=job_pb2.Progress(percent=101))]), "progress[0].progress.percent"),
        (
            work.WorkRequest(progress=[work.ProgressReport(queue="q", id="a", token=1, progress=job_pb2.Progress(data_json="x" * 4097))]),
            "progress[0].progress.data_json",
        ),
        (work.WorkRequest(logs=[work.LogReport(queue="q", id="a", token=1, lines=[job_pb2.LogLine()] * 101)]), "logs[0].lines"),
        (work.WorkRequest(cancel_receipts=[work.CancelReceipt(queue="q", id="a")]), "cancel_receipts[0].token"),
        (work.WorkRequest(credit=work.Credit(jobs=1, queues=[work.QueueCredit(queue="other", jobs=1)])), "credit.queues[0].queue"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_frame_out_of_its_bounds_ends_the_stream_and_says_which_field(shared_broker: Broker, frame: work.WorkRequest, field: str) -> None:
    async with RawWorker(shared_broker.address, "q") as worker:
        await worker.hello()
        refused = await refused_after(worker, frame)
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


# Credit ----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "totals",
    [
        [work.Credit(jobs=5), work.Credit(jobs=4)],
        [work.Credit(jobs=(1 << 40) + 1)],
        [work.Credit(jobs=-1)],
        [work.Credit(jobs=5, bytes=100), work.Credit(jobs=5, bytes=99)],
        [work.Credit(jobs=5, bytes=-1)],
        [work.Credit(jobs=5, queues=[work.QueueCredit(queue="q", jobs=2)]), work.Credit(jobs=5, queues=[work.QueueCredit(queue="q", jobs=1)])],
        [work.Credit(jobs=5, queues=[work.QueueCredit(queue="q", jobs=(1 << 40) + 1)])],
    ],
    ids=["falls", "overflows", "negative", "bytes fall", "negative bytes", "a queue's falls", "a queue's overflows"],
)
async def test_credit_that_falls_or_overflows_ends_the_stream(shared_broker: Broker, totals: list[work.Credit]) -> None:
    async with RawWorker(shared_broker.address, "q") as worker:
        await worker.hello()
        refused = await refused_after(worker, *(work.WorkRequest(credit=credit) for credit in totals))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION")


async def test_a_worker_without_credit_gets_nothing(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello()
        await fence(worker)
        assert delivered(worker) == []


async def test_deliveries_never_exceed_the_credit_which_can_be_raised_at_any_time(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(30)])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello()
        for total in (2, 3, 3, 20):
            await worker.send(work.WorkRequest(credit=work.Credit(jobs=total)))
            while len(delivered(worker)) < total:
                await worker.receive(lambda frame: bool(frame.jobs))
            await fence(worker)
            assert len(delivered(worker)) == total
        # A finish gives no credit back by itself: it is a running total.
        await worker.finish(*(completed(job) for job in delivered(worker)))
        await fence(worker)
        assert [job.id for job in delivered(worker)] == [f"j{i}" for i in range(20)]


async def test_jobs_that_come_later_are_leased_against_the_credit_that_is_left(api: Api, shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=3)
        for i in range(6):
            await enqueue(api, queue, f"j{i}")
        await worker.jobs(3)
        await fence(worker)
        assert [job.id for job in delivered(worker)] == ["j0", "j1", "j2"]


async def test_a_queue_with_credit_of_its_own_gets_no_more_than_that(api: Api, shared_broker: Broker, queue: str) -> None:
    a, b = f"{queue}.a", f"{queue}.b"
    await enqueue_all(api, [spec(q, f"j{i}") for q in (a, b) for i in range(10)])
    async with RawWorker(shared_broker.address, a, b) as worker:
        await worker.hello()
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=8, queues=[work.QueueCredit(queue=a, jobs=2)])))
        await worker.jobs(8)
        await fence(worker)
        found = [job.queue for job in delivered(worker)]
        assert (found.count(a), found.count(b)) in [(2, 6), (1, 7), (0, 8)]
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=100, queues=[work.QueueCredit(queue=a, jobs=5)])))
        while len(delivered(worker)) < 15:
            await worker.receive(lambda frame: bool(frame.jobs))
        await fence(worker)
        found = [job.queue for job in delivered(worker)]
        assert (found.count(a), found.count(b)) == (5, 10)


async def test_deliveries_never_exceed_the_credit_in_bytes(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}", payload=job_pb2.Payload(data=bytes(40_000))) for i in range(20)])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello()
        for total in (100_000, 250_000):
            await worker.send(work.WorkRequest(credit=work.Credit(jobs=20, bytes=total)))
            while sum(len(job.payload.data) for job in delivered(worker)) + 80_000 < total:
                await worker.receive(lambda frame: bool(frame.jobs))
            await fence(worker)
            assert sum(len(job.payload.data) for job in delivered(worker)) <= total


async def test_a_job_larger_than_what_is_left_of_the_bytes_comes_when_they_are_raised(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "small", payload=job_pb2.Payload(data=bytes(100))), spec(queue, "large", payload=job_pb2.Payload(data=bytes(90_000)))])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello()
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=20, bytes=50_000)))
        assert [job.id for job in await worker.jobs(1)] == ["small"]
        await fence(worker)
        assert await listed(api, queue, State.JOB_STATE_WAITING) == ["large"]
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=20, bytes=200_000)))
        assert [job.id for job in await worker.jobs(1)] == ["large"]


async def test_a_draining_worker_gets_nothing_more_and_may_finish_what_it_has(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=10)
        (job,) = await worker.jobs(1)
        await worker.send(work.WorkRequest(draining=work.Draining()))
        await fence(worker)
        await enqueue(api, queue, "two")
        assert (await worker.finish(completed(job)))[0].verdict == work.VERDICT_OK
        await fence(worker)
        assert len(delivered(worker)) == 1
        assert await listed(api, queue, State.JOB_STATE_WAITING) == ["two"]


async def test_jobs_are_shared_out_among_workers_with_room(api: Api, shared_broker: Broker, second_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as one, RawWorker(second_broker.address, queue) as two:
        await one.hello(credit=10)
        await two.hello(credit=10)
        await enqueue_all(api, [spec(queue, f"j{i}") for i in range(20)])
        got = await asyncio.gather(one.jobs(10), two.jobs(10))
        assert sorted(job.id for jobs in got for job in jobs) == sorted(f"j{i}" for i in range(20))


# Finishes, reports -----------------------------------------------------------------------------------------------------------------------------------


async def test_each_finish_is_acked_and_repeats_get_the_same_verdict(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(4)])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=4)
        jobs = await worker.jobs(4)
        acks = await worker.finish(*(completed(job) for job in jobs))
        assert [(ack.verdict, ack.state) for ack in acks] == [(work.VERDICT_OK, State.JOB_STATE_COMPLETED)] * 4
        assert await worker.finish(*(completed(job) for job in jobs)) == acks
        never = work.Finish(queue=queue, id="never", token=5, complete=work.Complete())
        assert (await worker.finish(never))[0].verdict == work.VERDICT_NOT_FOUND


async def test_a_released_job_goes_to_another_worker_uncharged(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as one, RawWorker(shared_broker.address, queue) as two:
        await one.hello(credit=1)
        (job,) = await one.jobs(1)
        await two.hello(credit=1)
        assert (await one.finish(released(job, work.RELEASE_REASON_DRAINING)))[0].state == State.JOB_STATE_WAITING
        (again,) = await two.jobs(1)
        assert (again.id, again.attempt) == (job.id, 1)
        assert again.token > job.token


async def test_stale_progress_is_answered_with_a_cancel(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.finish(completed(job))
        report = work.ProgressReport(queue=queue, id="one", token=job.token, progress=job_pb2.Progress(percent=5))
        await worker.send(work.WorkRequest(progress=[report]))
        (told,) = (await worker.receive(lambda frame: bool(frame.cancels))).cancels
        assert (told.id, told.token, told.reason) == ("one", job.token, work.CANCEL_REASON_STALE_LEASE)
    assert (await get(api, job_name_of(queue, "one"))).progress.percent == 100


async def test_a_stale_line_of_a_log_is_answered_with_a_cancel(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.finish(completed(job))
        await worker.send(work.WorkRequest(logs=[work.LogReport(queue=queue, id="one", token=job.token, lines=[job_pb2.LogLine(sequence=1, message="late")])]))
        (told,) = (await worker.receive(lambda frame: bool(frame.cancels))).cancels
        assert (told.id, told.token, told.reason) == ("one", job.token, work.CANCEL_REASON_STALE_LEASE)


# Heartbeats ------------------------------------------------------------------------------------------------------------------------------------------


async def test_pings_count_from_1_and_say_how_long_the_leases_last(quick_broker: Broker, queue: str) -> None:
    async with RawWorker(quick_broker.address, queue) as worker:
        await worker.hello()
        pings = [(await worker.receive(lambda frame: frame.HasField("ping"))).ping for _ in range(4)]
        assert [ping.number for ping in pings] == [1, 2, 3, 4]
        # A pulse a second and a session time of two.
        assert all(0 < ping.lease_left.ToTimedelta().total_seconds() <= 2 for ping in pings)


async def test_a_silent_worker_loses_its_jobs_after_the_session_time_and_its_stream_after_that(api: Api, quick_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with SilentWorker(quick_broker.address, queue) as silent, RawWorker(quick_broker.address, queue) as other:
        await silent.hello(credit=1)
        (job,) = await silent.jobs(1)
        await other.hello(credit=1)
        async with asyncio.timeout(5):
            (again,) = await other.jobs(1)
        assert (again.id, again.attempt) == ("one", 1)
        assert 1.9 <= (again.token - job.token) / 1e6 <= 4
        async with asyncio.timeout(5):
            await silent.closed()
        await other.finish(completed(again))
    assert (await get(api, job_name_of(queue, "one"))).state == State.JOB_STATE_COMPLETED
