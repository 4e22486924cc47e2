"""ExplainJob: each reason for which a job does not run, and what GetQueue says a queue is short of."""

from typing import Any

import grpc
import pytest
from jobwire.v1 import job_pb2, queue_service_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue, failed, finish, lease, span
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker


async def explain(api: Api, name: str) -> pb.ExplainJobResponse:
    return await api.jobs.ExplainJob(pb.ExplainJobRequest(name=name))


async def reasons(api: Api, name: str) -> list[str]:
    return [pb.HoldReason.Name(hold.reason).removeprefix("HOLD_REASON_") for hold in (await explain(api, name)).holds]


async def read(api: Api, queue: str) -> Any:
    return (await api.queues.GetQueue(queue_service_pb2.GetQueueRequest(name=f"queues/{queue}"))).queue


async def test_a_waiting_job_names_the_pause_the_missing_worker_and_what_goes_first(api: Api, queue: str) -> None:
    await enqueue(api, queue, "a")
    await enqueue(api, queue, "urgent", priority=0)
    name = await enqueue(api, queue, "b")
    await api.queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name=f"queues/{queue}"))
    found = await explain(api, name)
    assert await reasons(api, name) == ["QUEUE_PAUSED", "NO_WORKER", "JOBS_BEFORE"]
    assert (found.holds[2].jobs_before, found.holds[2].jobs_before_by_priority, found.state) == (2, 1, job_pb2.JOB_STATE_WAITING)
    assert found.summary == (
        f"The queue {queue} is paused; no worker is connected that takes jobs from {queue}; 2 jobs go before it (1 by priority, 1 by age)."
    )


async def test_a_delayed_job_names_its_date_and_what_it_waits_after(api: Api, queue: str) -> None:
    await enqueue(api, queue, "a")
    (job,) = await lease(api, queue)
    await finish(api, failed(job))
    later = await enqueue(api, queue, "later", delay=span(60))
    assert "after attempt 1 of 3 failed" in (await explain(api, f"queues/{queue}/jobs/a")).summary
    hold = (await explain(api, later)).holds[0]
    due = (await api.jobs.GetJob(pb.GetJobRequest(name=later))).job.due_time
    assert (hold.reason, hold.until) == (pb.HOLD_REASON_NOT_DUE, due)


async def test_a_job_of_no_group_whose_handler_is_limited_says_so(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a")
    (job,) = await lease(api, queue)
    await finish(api, work.Finish(queue=queue, id=job.id, token=job.token, limit_group=work.LimitGroup(delay=span(60))))
    assert (await explain(api, name)).holds[0].message.endswith(", after its handler said that it is limited")


async def test_a_broker_knows_the_slots_that_a_worker_of_another_one_keeps(api: Api, shared_broker: Broker, second_broker: Broker, queue: str) -> None:
    resets = f"{queue}.resets"
    async with RawWorker(shared_broker.address, queue, resets) as worker, connected(second_broker) as other:
        await worker.hello(credit=3, concurrency=3, reserved=[work.Reserve(queue=resets, slots=2)])
        await enqueue(api, queue, "a")
        (job,) = await worker.jobs(1)
        exports, reset = await enqueue(api, queue, "b"), await enqueue(api, resets, "r", delay=span(60))
        for broker in (api, other):
            assert await reasons(broker, exports) == ["NO_CREDIT"]
            assert (await read(broker, queue)).more_workers_help
        assert await reasons(other, reset) == ["NOT_DUE"]
        await api.jobs.PromoteJob(pb.PromoteJobRequest(name=reset))
        await enqueue(api, resets, "s")
        await worker.jobs(2)
        last = await enqueue(api, resets, "t")
        assert [await reasons(broker, last) for broker in (api, other)] == [["NO_CREDIT"]] * 2
        await worker.finish(completed(job))


async def test_workers_without_credit_are_named_with_what_they_hold_and_one_that_has_some_is_none(api: Api, shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        await enqueue(api, queue, "a")
        (job,) = await worker.jobs(1)
        name = await enqueue(api, queue, "b")
        (hold,) = (await explain(api, name)).holds
        assert (hold.reason, hold.holder_count) == (pb.HOLD_REASON_NO_CREDIT, 1)
        assert [(h.session, h.worker, h.active) for h in hold.holders] == [(worker.session.hex(), "raw", 1)]
        found = await read(api, queue)
        assert found.more_workers_help
        assert 0 <= found.oldest_waiting_age.ToTimedelta().total_seconds() < 30
        assert 0 <= found.oldest_active_age.ToTimedelta().total_seconds() < 30
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=3)))
        await worker.jobs(1)
        assert await reasons(api, name) == ["ACTIVE"]
        await worker.send(work.WorkRequest(goodbye=work.Goodbye()))
    assert job.id == "a"


async def test_a_lease_of_a_single_call_is_no_worker(api: Api, queue: str) -> None:
    await enqueue(api, queue, "a")
    await lease(api, queue)
    assert await reasons(api, await enqueue(api, queue, "b")) == ["NO_WORKER"]


async def test_a_running_job_names_its_worker_and_each_stage_of_its_cancel(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        (hold,) = (await explain(api, name)).holds
        assert (hold.reason, [h.worker for h in hold.holders], hold.cancel_stage) == (pb.HOLD_REASON_ACTIVE, ["raw"], 0)
        assert hold.since.ToMicroseconds() == job.token
        assert 0 < hold.lease_left.ToTimedelta().total_seconds() <= 10
        await api.jobs.CancelJob(pb.CancelJobRequest(name=name, grace=span(20)))
        (hold,) = (await explain(api, name)).holds
        assert hold.cancel_stage == job_pb2.CANCEL_STAGE_REQUESTED
        assert 15 < hold.cancel_left.ToTimedelta().total_seconds() <= 20
        await worker.send(work.WorkRequest(cancel_receipts=[work.CancelReceipt(queue=queue, id=job.id, token=job.token)]))
        watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]))
        while not (await anext(aiter(watch))).changes[0].job.cancel_delivered:
            pass
        watch.cancel()
        (hold,) = (await explain(api, name)).holds
        assert hold.cancel_stage == job_pb2.CANCEL_STAGE_DELIVERED
        await worker.finish(completed(job))
    (hold,) = (await explain(api, name)).holds
    assert (hold.reason, hold.HasField("since")) == (pb.HOLD_REASON_FINAL, True)


async def test_more_workers_do_not_help_a_queue_where_nothing_waits_or_that_is_paused(api: Api, queue: str) -> None:
    await enqueue(api, queue, "later", delay=span(60))
    found = await read(api, queue)
    assert (found.HasField("oldest_waiting_age"), found.HasField("oldest_active_age"), found.more_workers_help) == (False, False, False)
    await enqueue(api, queue, "now")
    assert (await read(api, queue)).more_workers_help
    await api.queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name=f"queues/{queue}"))
    assert not (await read(api, queue)).more_workers_help


@pytest.mark.parametrize(("name", "code"), [("none", grpc.StatusCode.INVALID_ARGUMENT), ("queues/q/jobs/none", grpc.StatusCode.NOT_FOUND)])
async def test_no_job_is_not_explained(api: Api, name: str, code: grpc.StatusCode) -> None:
    assert (await refusal(explain(api, name))).code == code
