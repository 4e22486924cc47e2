"""Sessions over streams that come and go: who holds which job, and who is told."""

import asyncio
import signal
from typing import Any

import grpc
import grpc.aio
import pytest
from jobwire.v1 import event_service_pb2, job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, failed, get, held, job_name_of, listed, span, spec, wait_for
from tests.support import Broker, Store
from tests.support.api import Api, Refusal, refusal
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState


@pytest.fixture(params=["the same broker", "another broker"])
def next_broker(request: pytest.FixtureRequest, shared_broker: Broker, second_broker: Broker) -> Broker:
    """Where the worker comes back to."""
    return shared_broker if request.param == "the same broker" else second_broker


async def moved(worker: RawWorker) -> Refusal:
    """The end of a stream; within 5 s."""
    async with asyncio.timeout(5):
        return Refusal.of(await worker.ended())


# Resume ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_comes_back_keeps_its_jobs(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a"), spec(queue, "b")])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=2)
        jobs = await worker.jobs(2)
    async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as resumed:
        assert not (await resumed.hello(*(held(job) for job in jobs), credit=10)).held
        acks = await resumed.finish(*(completed(job) for job in jobs))
        assert [ack.verdict for ack in acks] == [work.VERDICT_OK] * 2
    assert (await get(api, job_name_of(queue, "a"))).attempt == 1
    assert (await counts(api, queue)).completed == 2


async def test_a_job_that_the_worker_never_got_goes_back_uncharged_when_it_comes_back(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "got"), spec(queue, "lost"), spec(queue, "later")])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=2)
        got, lost = await worker.jobs(2)
    async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as resumed:
        await resumed.hello(held(got), credit=1)
        (again,) = await resumed.jobs(1)
        assert (again.id, again.attempt) == ("lost", 1)
        assert again.token > lost.token
        assert (await get(api, job_name_of(queue, "lost"))).losses == 0
        assert await listed(api, queue, State.JOB_STATE_WAITING) == ["later"]


async def test_welcome_tells_what_became_of_each_job_that_is_no_longer_held(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    ids = ["held", "done", "failed", "cancelled", "stale", "deleted"]
    await enqueue_all(api, [spec(queue, job, attempts=1) for job in ids])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=6)
        jobs = {job.id: job for job in await worker.jobs(6)}
        await worker.finish(completed(jobs["done"]), failed(jobs["failed"]), completed(jobs["deleted"]))
        await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, "cancelled"), grace=span(0)))
        await api.jobs.DeleteJob(pb.DeleteJobRequest(name=job_name_of(queue, "deleted")))
    unknown = work.Held(queue=queue, id="unknown", token=5)
    listed_as_held = [held(job) for job in jobs.values() if job.id != "stale"]
    stale = work.Held(queue=queue, id="stale", token=jobs["stale"].token - 1)
    async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as resumed:
        welcome = await resumed.hello(*listed_as_held, stale, unknown)
    verdicts = {ack.id: (ack.verdict, ack.state) for ack in welcome.held}
    assert verdicts["done"] == verdicts["deleted"] == (work.VERDICT_OK, State.JOB_STATE_COMPLETED)
    assert verdicts["failed"] == (work.VERDICT_OK, State.JOB_STATE_FAILED)
    assert verdicts["cancelled"][0] == work.VERDICT_CANCELLED
    assert verdicts["stale"][0] == work.VERDICT_STALE_LEASE
    assert verdicts["unknown"][0] == work.VERDICT_NOT_FOUND
    assert "held" not in verdicts
    assert all(ack.token == (jobs[ack.id].token if ack.id in jobs and ack.id != "stale" else ack.token) for ack in welcome.held)


async def test_a_finish_sent_again_after_a_reconnect_gets_the_same_verdict(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one", backoff=job_pb2.Backoff(base=span(60)))
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        (first,) = await worker.finish(failed(job))
    async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as resumed:
        await resumed.hello(held(job))
        assert (await resumed.finish(failed(job)))[0].verdict == first.verdict == work.VERDICT_OK
    waits = await get(api, job_name_of(queue, "one"))
    assert (waits.state, waits.attempt) == (State.JOB_STATE_DELAYED, 1)


async def test_a_cancel_without_a_receipt_is_told_again_after_a_reconnect(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
    await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, "one")))
    async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as resumed, asyncio.timeout(5):
        await resumed.hello(held(job))
        (told,) = (await resumed.receive(lambda frame: bool(frame.cancels))).cancels
        assert (told.id, told.token, told.reason) == ("one", job.token, work.CANCEL_REASON_REQUESTED)


# Superseded ------------------------------------------------------------------------------------------------------------------------------------------


async def test_an_older_epoch_is_refused(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue, epoch=5) as worker:
        await worker.hello(credit=1)
        await worker.jobs(1)
        async with RawWorker(next_broker.address, queue, session=worker.session, epoch=4) as late:
            await late.send(work.WorkRequest(hello=work.Hello(session=worker.session, epoch=4, queues=[queue])))
            refused = await moved(late)
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "SESSION_MOVED")
        assert (await get(api, job_name_of(queue, "one"))).state == State.JOB_STATE_ACTIVE


async def test_a_superseded_stream_is_closed_and_its_successor_keeps_the_jobs(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    await enqueue(api, queue, "one")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        async with RawWorker(next_broker.address, queue, session=worker.session, epoch=2) as successor:
            await successor.hello(held(job), credit=5)
            refused = await moved(worker)
            assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "SESSION_MOVED")
            await enqueue(api, queue, "two")
            (two,) = await successor.jobs(1)
            acks = await successor.finish(completed(job), completed(two))
            assert [ack.verdict for ack in acks] == [work.VERDICT_OK] * 2


# Ends ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_goodbye_gives_everything_back_at_once_in_order_and_uncharged(api: Api, shared_broker: Broker, next_broker: Broker, queue: str) -> None:
    ids = [f"j{i}" for i in range(5)]
    await enqueue_all(api, [spec(queue, job) for job in ids])
    async with RawWorker(next_broker.address, queue) as other, RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=5)
        await worker.jobs(5)
        await other.hello(credit=5)
        await worker.send(work.WorkRequest(goodbye=work.Goodbye()))
        async with asyncio.timeout(2):
            jobs = await other.jobs(5)
        assert [(job.id, job.attempt) for job in jobs] == [(job, 1) for job in ids]
        assert (await get(api, job_name_of(queue, "j0"))).losses == 0


async def test_what_was_finished_in_the_frame_of_the_goodbye_counts(api: Api, shared_broker: Broker, queue: str) -> None:
    ids = [f"j{i}" for i in range(20)]
    await enqueue_all(api, [spec(queue, job) for job in ids])
    async with RawWorker(shared_broker.address, queue) as other, RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=20)
        jobs = await worker.jobs(20)
        await other.hello(credit=20)
        await worker.send(work.WorkRequest(finishes=[completed(job) for job in jobs], goodbye=work.Goodbye()))
        for job in ids:
            assert (await wait_for(api, job_name_of(queue, job))).attempt == 1
        assert not any(frame.jobs for frame in other.heard)


async def test_a_lost_worker_s_jobs_go_to_others_in_order_and_uncharged(api: Api, quick_broker: Broker, queue: str) -> None:
    ids = [f"j{i}" for i in range(3)]
    await enqueue_all(api, [spec(queue, job) for job in ids])
    async with RawWorker(quick_broker.address, queue) as worker:
        await worker.hello(credit=3)
        old = await worker.jobs(3)
    async with RawWorker(quick_broker.address, queue) as other, asyncio.timeout(6):
        await other.hello(credit=3)
        jobs = await other.jobs(3)
        assert [(job.id, job.attempt) for job in jobs] == [(job, 1) for job in ids]
        assert all(1.9 <= (new.token - job.token) / 1e6 <= 4 for job, new in zip(old, jobs, strict=True))
        assert {(await get(api, job_name_of(queue, job))).losses for job in ids} == {1}
        assert (await other.finish(completed(old[0])))[0].verdict == work.VERDICT_STALE_LEASE
        assert (await other.finish(completed(jobs[0])))[0].verdict == work.VERDICT_OK
    assert (await get(api, job_name_of(queue, "j0"))).losses == 0


async def test_a_job_that_was_taken_back_and_still_waits_is_its_worker_s_again_when_it_returns(api: Api, quick_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "finished"), spec(queue, "adopted")])
    async with RawWorker(quick_broker.address, queue) as worker:
        await worker.hello(credit=2)
        finished, adopted = await worker.jobs(2)
    watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[job_name_of(queue, "adopted")]))
    async with asyncio.timeout(6):
        async for response in watch:
            if response.changes[-1].job.state == State.JOB_STATE_WAITING:
                break
    watch.cancel()
    async with RawWorker(quick_broker.address, queue, session=worker.session, epoch=2) as back:
        assert not (await back.hello(held(finished), held(adopted))).held
        acks = await back.finish(completed(finished), completed(adopted))
        assert [ack.verdict for ack in acks] == [work.VERDICT_OK] * 2


# GoAway and signals ----------------------------------------------------------------------------------------------------------------------------------


async def test_a_broker_that_ends_sends_its_workers_elsewhere_and_they_keep_their_jobs(
    api: Api, shared_store: Store, shared_broker: Broker, queue: str
) -> None:
    await enqueue_all(api, [spec(queue, "running"), spec(queue, "next")])
    async with Broker(shared_store) as ending, RawWorker(ending.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        ending.send(signal.SIGTERM)
        away = await worker.receive(lambda frame: frame.HasField("go_away"))
        assert away.go_away.retry_after.ToTimedelta().total_seconds() > 0
        async with RawWorker(shared_broker.address, queue, session=worker.session, epoch=2) as resumed:
            assert not (await resumed.hello(held(job), credit=1)).held
            await worker.__aexit__(None, None, None)
            # With its streams closed it need not wait for the grace of 5 s.
            assert await ending.ended(4) == 0
            (following,) = await resumed.jobs(1)
            assert following.id == "next"
            assert (await resumed.finish(completed(job)))[0].verdict == work.VERDICT_OK
    assert (await get(api, job_name_of(queue, "running"))).attempt == 1


async def test_an_ending_broker_refuses_new_streams_and_a_second_signal_ends_it_at_once(shared_store: Store, queue: str) -> None:
    async with Broker(shared_store) as ending, RawWorker(ending.address, queue) as stubborn, RawWorker(ending.address, queue) as late:
        await stubborn.hello()
        ending.send(signal.SIGTERM)
        await stubborn.receive(lambda frame: frame.HasField("go_away"))
        refused = await moved(late)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert refused.retry_after_s is not None
        ending.send(signal.SIGTERM)
        assert await ending.ended(2) == 130


async def test_an_ending_broker_ends_the_calls_that_wait_with_unavailable(shared_store: Store, queue: str) -> None:
    async with Broker(shared_store) as ending, connected(ending) as api:
        name = await enqueue(api, queue)
        waiting = asyncio.create_task(refusal(wait_for(api, name, 60)))
        await asyncio.wait([waiting], timeout=0.3)
        ending.send(signal.SIGTERM)
        refused = await waiting
        assert (refused.code, refused.reason, refused.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 0.5)
        assert await ending.ended(4) == 0


async def test_an_ending_broker_tells_those_who_watch_that_it_ends(shared_store: Store, queue: str) -> None:
    async with Broker(shared_store) as ending, connected(ending) as api:
        name = await enqueue(api, queue)
        watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]), timeout=20)
        await watch.read()
        subscription = api.events.Subscribe(timeout=20)
        await subscription.write(event_service_pb2.SubscribeRequest(add=[name]))
        await subscription.read()
        ending.send(signal.SIGTERM)
        for stream in (watch, subscription):
            refused = await refusal(_to_the_end(stream))
            assert (refused.code, refused.reason, refused.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 0.5)
        assert await ending.ended(4) == 0


async def _to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass
