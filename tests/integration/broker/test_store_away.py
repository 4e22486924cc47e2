"""The store goes away and comes back: nobody hangs, and everything recovers without a restart."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import redis.asyncio as redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jobwire.v1 import admin_service_pb2, event_service_pb2, job_pb2, queue_service_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, get, job_name_of, lease, patiently, spec, wait_for
from tests.support import Broker, Store
from tests.support.api import Api, Refusal
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState

#: What a machine that runs other tests, too, may add to a time.
LOAD_S = 0.3
#: Every unary call of the contract that needs the store. The queue is known to the broker; the second Enqueue's is not.
CALLS: dict[str, Callable[[Api], Awaitable[object]]] = {
    "Enqueue": lambda api: api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q"))),
    "Enqueue on disk": lambda api: api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q"), durability=job_pb2.DURABILITY_DISK)),
    "Enqueue to a new queue": lambda api: api.jobs.Enqueue(pb.EnqueueRequest(job=spec("another"))),
    "EnqueueBatch": lambda api: api.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[spec("q") for _ in range(1000)])),
    "GetJob": lambda api: api.jobs.GetJob(pb.GetJobRequest(name="queues/q/jobs/one")),
    "ExplainJob": lambda api: api.jobs.ExplainJob(pb.ExplainJobRequest(name="queues/q/jobs/one")),
    "ListJobs": lambda api: api.jobs.ListJobs(pb.ListJobsRequest(parent="queues/q", state=State.JOB_STATE_WAITING)),
    "CancelJob": lambda api: api.jobs.CancelJob(pb.CancelJobRequest(name="queues/q/jobs/none")),
    "RetryJob": lambda api: api.jobs.RetryJob(pb.RetryJobRequest(name="queues/q/jobs/none")),
    "PromoteJob": lambda api: api.jobs.PromoteJob(pb.PromoteJobRequest(name="queues/q/jobs/none")),
    "DeleteJob": lambda api: api.jobs.DeleteJob(pb.DeleteJobRequest(name="queues/q/jobs/none")),
    "WaitJob": lambda api: api.jobs.WaitJob(pb.WaitJobRequest(name="queues/q/jobs/one")),
    "LeaseJobs": lambda api: api.workers.LeaseJobs(work.LeaseJobsRequest(queue="empty")),
    "FinishJobs": lambda api: api.workers.FinishJobs(work.FinishJobsRequest(finishes=[work.Finish(queue="q", id="none", token=1, release=work.Release())])),
    "ExtendLeases": lambda api: api.workers.ExtendLeases(work.ExtendLeasesRequest(leases=[work.Held(queue="q", id="none", token=1)])),
    "ReportProgress": lambda api: api.workers.ReportProgress(work.ReportProgressRequest(reports=[work.ProgressReport(queue="q", id="none", token=1)])),
    "ListQueues": lambda api: api.queues.ListQueues(queue_service_pb2.ListQueuesRequest()),
    "GetQueue": lambda api: api.queues.GetQueue(queue_service_pb2.GetQueueRequest(name="queues/q")),
    "PauseQueue": lambda api: api.queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name="queues/paused")),
    "ResumeQueue": lambda api: api.queues.ResumeQueue(queue_service_pb2.ResumeQueueRequest(name="queues/paused")),
    "CleanQueue": lambda api: api.queues.CleanQueue(queue_service_pb2.CleanQueueRequest(name="queues/q")),
    "ListWorkers": lambda api: api.admin.ListWorkers(admin_service_pb2.ListWorkersRequest()),
}
ENQUEUES = ("Enqueue", "Enqueue on disk", "Enqueue to a new queue", "EnqueueBatch")


class Outage:
    """A broker that has lost its store, and the means to bring it back."""

    def __init__(self, store: Store, api: Api, frozen: bool) -> None:
        self._store = store
        self._api = api
        self._frozen = frozen

    async def begin(self) -> None:
        if self._frozen:
            self._store.freeze()
        else:
            await self._store.kill()

    async def end(self) -> None:
        if self._frozen:
            self._store.thaw()
        else:
            await self._store.restart()

    async def refused(self, name: str) -> tuple[Refusal, float]:
        """The error of one of the calls, and how long it took."""
        began = time.monotonic()
        try:
            answer = await CALLS[name](self._api)
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error), time.monotonic() - began
        raise AssertionError(f"{name} was answered: {answer}")


@pytest.fixture(params=["killed", "frozen"])
async def outage(request: pytest.FixtureRequest, store: Store, broker: Broker) -> AsyncIterator[Outage]:
    """A store of this test's own that will be killed or stopped."""
    async with connected(broker) as api:
        await api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q", "one"), durability=job_pb2.DURABILITY_DISK))
        made = Outage(store, api, request.param == "frozen")
        yield made
        if store._frozen:
            store.thaw()


async def health_of(broker: Broker) -> str:
    """What the standard health service says."""
    async with broker.channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_every_call_is_refused_within_2_s_with_a_hint_and_served_again_5_s_after_the_store_is_back(outage: Outage, broker: Broker, store: Store) -> None:
    await outage.begin()
    # All at once, as the first to find out; then each again, when it is known.
    for _ in range(2):
        answers = await asyncio.gather(*(outage.refused(name) for name in CALLS))
        for name, (refused, seconds) in zip(CALLS, answers, strict=True):
            assert (name, refused.code, refused.reason, refused.domain) == (name, grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "jobwire")
            assert refused.retry_after_s, name
            assert seconds < 2 + LOAD_S, name
            if name in ENQUEUES:
                assert refused.metadata["accepted"] in ("no", "unknown"), name
    # What is known to be away has not accepted anything.
    assert all(refused.metadata["accepted"] == "no" for name, (refused, _) in zip(CALLS, answers, strict=True) if name in ENQUEUES)
    assert await health_of(broker) == "NOT_SERVING"
    async with connected(broker) as api:
        info = await api.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
        assert (info.store_available, info.broker_id != "", info.store_version != "") == (False, True, True)
        await outage.end()
        await patiently(lambda: get(api, "queues/q/jobs/one"), 5)
        made = await patiently(lambda: enqueue(api, "q", "after"), 5)
        assert (await get(api, made)).state == State.JOB_STATE_WAITING
    assert await health_of(broker) == "SERVING"


async def test_a_work_stream_stays_open_over_an_outage_and_what_was_finished_meanwhile_is_acked_afterwards(outage: Outage, broker: Broker) -> None:
    async with RawWorker(broker.address, "q") as worker, connected(broker) as api:
        await enqueue(api, "q", "two")
        await worker.hello(credit=3)
        one, two = await worker.jobs(2)
        assert (await worker.finish(completed(one)))[0].verdict == work.VERDICT_OK
        await outage.begin()
        await worker.send(work.WorkRequest(finishes=[completed(two)]))
        # Longer than the session time of 2 s: the clock of the leases stands still while no broker reaches the store.
        lefts = [(await worker.receive(lambda frame: frame.HasField("ping"))).ping.lease_left.ToTimedelta().total_seconds() for _ in range(6)]
        assert lefts[-1] == 0
        await outage.end()
        async with asyncio.timeout(5):
            (ack,) = (await worker.receive(lambda frame: bool(frame.acks))).acks
        assert (ack.id, ack.verdict) == ("two", work.VERDICT_OK)
        await patiently(lambda: enqueue(api, "q", "three"))
        async with asyncio.timeout(5):
            (three,) = await worker.jobs(1)
        assert (await worker.finish(completed(three)))[0].verdict == work.VERDICT_OK
        for job in ("two", "three"):
            ended = await get(api, job_name_of("q", job))
            assert (ended.state, ended.attempt, ended.losses) == (State.JOB_STATE_COMPLETED, 1, 0)


async def test_watchers_of_an_outage_learn_what_they_missed(outage: Outage, broker: Broker) -> None:
    async with connected(broker) as api:
        watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=["queues/q/jobs/one"]))
        assert (await anext(aiter(watch))).changes[0].type == pb.CHANGE_TYPE_SNAPSHOT
        subscription = api.events.Subscribe()
        await subscription.write(event_service_pb2.SubscribeRequest(add=["queues/q/jobs/one"]))
        await _until(subscription, lambda frame: bool(frame.changes))
        await outage.begin()
        await outage.refused("Enqueue")
        assert (await _until(subscription, lambda frame: frame.HasField("store_available"))).store_available is False
        await outage.end()
        assert (await _until(subscription, lambda frame: frame.HasField("store_available"))).store_available is True
        await patiently(lambda: api.jobs.CancelJob(pb.CancelJobRequest(name="queues/q/jobs/one")))
        async with asyncio.timeout(3):
            finals = [change async for response in watch for change in response.changes if change.type == pb.CHANGE_TYPE_FINAL]
        assert [change.job.state for change in finals] == [State.JOB_STATE_CANCELLED]
        frame = await _until(subscription, lambda frame: any(change.type == pb.CHANGE_TYPE_FINAL for change in frame.changes))
        assert frame.changes[-1].job.id == "one"
        subscription.cancel()


async def _until(
    call: "grpc.aio.StreamStreamCall[event_service_pb2.SubscribeRequest, event_service_pb2.SubscribeResponse]",
    wanted: Callable[[event_service_pb2.SubscribeResponse], bool],
) -> event_service_pb2.SubscribeResponse:
    async with asyncio.timeout(5):
        while not wanted(frame := await call.read()):  # type: ignore[arg-type]  # an end of the stream fails the test
            pass
        return frame  # type: ignore[return-value]


async def test_a_broker_that_starts_before_its_store_serves_when_it_comes(store: Store) -> None:
    await store.kill()
    async with Broker(store) as broker, connected(broker) as api:
        assert await health_of(broker) == "NOT_SERVING"
        async with RawWorker(broker.address, "q") as worker:
            await worker.send(work.WorkRequest(hello=work.Hello(session=worker.session, epoch=1, queues=["q"])))
            await store.restart()
            name = await patiently(lambda: enqueue(api, "q"), 5)
            async with asyncio.timeout(5):
                await worker.receive(lambda frame: frame.HasField("welcome"))
            await worker.send(work.WorkRequest(credit=work.Credit(jobs=1)))
            (job,) = await worker.jobs(1)
            await worker.finish(completed(job))
        assert (await wait_for(api, name)).state == State.JOB_STATE_COMPLETED
        assert await health_of(broker) == "SERVING"


async def test_functions_that_somebody_flushed_are_loaded_again_by_the_call_that_misses_them(store: Store, broker: Broker) -> None:
    client: Any = redis.Redis.from_url(store.url, protocol=2)
    async with connected(broker) as api:
        await enqueue(api, "q", "one")
        await client.execute_command("FUNCTION", "FLUSH")
        await enqueue(api, "q", "two")
        await client.execute_command("FUNCTION", "FLUSH")
        assert [job.id for job in await lease(api, "q", 5)] == ["one", "two"]
        await client.execute_command("FUNCTION", "FLUSH")
        await enqueue_all(api, [spec("q", f"j{i}") for i in range(300)])
        assert (await counts(api, "q")).total == 302
    await client.aclose()
    assert not [line for line in broker.lines() if "Traceback" in line]


async def test_what_chatty_workers_say_meanwhile_is_kept_within_bounds_and_their_finishes_arrive(store: Store, broker: Broker) -> None:
    async with RawWorker(broker.address, "q") as worker, connected(broker) as api:
        await enqueue_all(api, [spec("q", f"j{i}") for i in range(20)])
        await worker.hello(credit=20)
        chatty, *others = await worker.jobs(20)
        # What a slow disk has not taken yet is lost with the store.
        await api.jobs.Enqueue(pb.EnqueueRequest(job=spec("fence"), durability=job_pb2.DURABILITY_DISK))
        await store.kill()
        await broker.line("store.unavailable", past=True)
        for i in range(200):
            lines = [job_pb2.LogLine(sequence=i * 10 + j, message=f"{i * 10 + j} {'x' * 2000}") for j in range(1, 11)]
            report = work.ProgressReport(queue="q", id=chatty.id, token=chatty.token, progress=job_pb2.Progress(percent=i / 10))
            await worker.send(work.WorkRequest(progress=[report], logs=[work.LogReport(queue="q", id=chatty.id, token=chatty.token, lines=lines)]))
        saying = asyncio.create_task(_finish_all(worker, others))
        await store.restart()
        async with asyncio.timeout(10):
            acks = await saying
        assert {ack.verdict for ack in acks} == {work.VERDICT_OK}
        seen = await get(api, job_name_of("q", chatty.id))
        # The first lines are gone, the last are there.
        assert (seen.state, round(seen.progress.percent, 1), seen.losses) == (State.JOB_STATE_ACTIVE, 19.9, 0)
        logs = await api.jobs.ListLogs(pb.ListLogsRequest(name=job_name_of("q", chatty.id), page_size=1000))
        assert logs.lines[-1].message.startswith("2000 ")
        await broker.line("partition.logs_dropped", past=True)


async def _finish_all(worker: RawWorker, jobs: list[work.Delivery]) -> list[work.Ack]:
    """With results of a megabyte each."""
    for job in jobs:
        await worker.send(work.WorkRequest(finishes=[completed(job, '"' + "x" * 1_000_000 + '"')]))
    acks: list[work.Ack] = []
    while len(acks) < len(jobs):
        acks += (await worker.receive(lambda frame: bool(frame.acks))).acks
    return acks
