"""CancelJob, RetryJob, PromoteJob, DeleteJob: in each state, and where they may not."""

import grpc
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue, failed, finish, get, job_name_of, lease, listed, released, snoozed, span, wait_for
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState


async def cancel(api: Api, name: str, grace_s: float | None = None) -> job_pb2.Job:
    request = pb.CancelJobRequest(name=name)
    if grace_s is not None:
        request.grace.CopyFrom(span(grace_s))
    return (await api.jobs.CancelJob(request)).job


async def retry(api: Api, name: str) -> job_pb2.Job:
    return (await api.jobs.RetryJob(pb.RetryJobRequest(name=name))).job


async def promote(api: Api, name: str) -> job_pb2.Job:
    return (await api.jobs.PromoteJob(pb.PromoteJobRequest(name=name))).job


async def delete(api: Api, name: str) -> None:
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))


async def make(api: Api, queue: str, word: str) -> str:
    """A job in the state of that word."""
    name = await enqueue(api, queue, word, **({"delay": span(60)} if word == "delayed" else {}))
    if word in ("active", "completed", "failed"):
        (job,) = await lease(api, queue)
        if word != "active":
            await finish(api, completed(job) if word == "completed" else failed(job, permanent=True))
    elif word == "cancelled":
        await cancel(api, name)
    return name


VERBS = {"cancel": cancel, "retry": retry, "promote": promote, "delete": delete}


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        ("cancel", "completed"),
        ("cancel", "failed"),
        ("retry", "active"),
        ("retry", "completed"),
        ("promote", "active"),
        ("promote", "completed"),
        ("promote", "failed"),
        ("promote", "cancelled"),
        ("delete", "active"),
    ],
)
async def test_a_verb_that_does_not_fit_the_state_is_refused_with_the_state_and_changes_nothing(api: Api, queue: str, verb: str, word: str) -> None:
    name = await make(api, queue, word)
    before = await get(api, name)
    refused = await refusal(VERBS[verb](api, name))
    assert (refused.code, refused.reason, refused.domain) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "jobwire")
    assert refused.metadata["state"] == word
    assert await get(api, name) == before


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_on_an_unknown_job_is_not_found_and_one_on_no_name_is_refused(api: Api, queue: str, verb: str) -> None:
    refused = await refusal(VERBS[verb](api, job_name_of(queue, "none")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert (await refusal(VERBS[verb](api, "none"))).fields == ("name",)


# Cancel ----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["waiting", "delayed", "cancelled"])
async def test_a_job_that_has_not_started_is_cancelled_at_once_and_never_delivered(api: Api, queue: str, word: str) -> None:
    name = await make(api, queue, word)
    job = await cancel(api, name)
    assert (job.state, job.HasField("finish_time")) == (State.JOB_STATE_CANCELLED, True)
    assert await lease(api, queue) == []
    assert await listed(api, queue, State.JOB_STATE_CANCELLED) == [word]


async def test_a_cancel_reaches_the_worker_and_each_stage_can_be_seen(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        requested = await cancel(api, name, grace_s=20)
        assert (requested.state, requested.cancel_requested, requested.cancel_delivered) == (State.JOB_STATE_ACTIVE, True, False)
        (told,) = (await worker.receive(lambda frame: bool(frame.cancels))).cancels
        assert (told.queue, told.id, told.token, told.reason) == (queue, job.id, job.token, work.CANCEL_REASON_REQUESTED)
        assert 15 < told.grace.ToTimedelta().total_seconds() <= 20
        watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]))
        assert not (await anext(aiter(watch))).changes[0].job.cancel_delivered
        await worker.send(work.WorkRequest(cancel_receipts=[work.CancelReceipt(queue=queue, id=job.id, token=job.token)]))
        change = (await anext(aiter(watch))).changes[0]
        assert (change.job.state, change.job.cancel_requested, change.job.cancel_delivered) == (State.JOB_STATE_ACTIVE, True, True)
        (ack,) = await worker.finish(failed(job, "gave way"))
        assert ack.verdict in (work.VERDICT_OK, work.VERDICT_CANCELLED)
        watch.cancel()
    ended = await get(api, name)
    assert (ended.state, ended.failure.message) == (State.JOB_STATE_CANCELLED, "gave way")


@pytest.mark.parametrize("end", [lambda job: failed(job), lambda job: snoozed(job, 1), lambda job: released(job)], ids=["fail", "snooze", "release"])
async def test_a_cancelled_job_that_comes_back_in_any_way_but_completed_ends_as_cancelled(api: Api, queue: str, end: object) -> None:
    name = await make(api, queue, "active")
    job = await get(api, name)
    await cancel(api, name)
    delivery = work.Delivery(queue=queue, id=job.id, token=job.token)
    (ack,) = await finish(api, end(delivery))  # type: ignore[operator]  # one of the three above
    assert (await get(api, name)).state == State.JOB_STATE_CANCELLED
    assert ack.verdict in (work.VERDICT_OK, work.VERDICT_CANCELLED)


async def test_a_job_that_completes_within_the_grace_is_completed(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    await cancel(api, name)
    (ack,) = await finish(api, completed(job))
    assert (ack.verdict, ack.state) == (work.VERDICT_OK, State.JOB_STATE_COMPLETED)


async def test_at_the_end_of_the_grace_the_job_ends_without_its_worker_whose_finish_no_longer_counts(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await cancel(api, name, grace_s=0.4)
        ended = await wait_for(api, name, 5)
        assert ended.state == State.JOB_STATE_CANCELLED
        (ack,) = await worker.finish(completed(job))
        assert ack.verdict == work.VERDICT_CANCELLED


async def test_a_grace_of_0_ends_what_runs_at_once(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        assert (await cancel(api, name, grace_s=0)).state == State.JOB_STATE_CANCELLED
        (ack,) = await worker.finish(completed(job))
        assert ack.verdict == work.VERDICT_CANCELLED


async def test_a_worker_whose_job_was_ended_without_it_is_told_that_it_holds_it_no_more(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await cancel(api, name, grace_s=0)
        (told,) = (await worker.receive(lambda frame: bool(frame.cancels))).cancels
        assert (told.id, told.token, told.reason) == (job.id, job.token, work.CANCEL_REASON_STALE_LEASE)


async def test_a_second_cancel_with_no_grace_cuts_the_grace_of_the_first(api: Api, queue: str) -> None:
    name = await make(api, queue, "active")
    await cancel(api, name, grace_s=60)
    assert (await cancel(api, name, grace_s=0)).state == State.JOB_STATE_CANCELLED


@pytest.mark.parametrize("seconds", [-1, 3601])
async def test_a_grace_out_of_its_bounds_is_refused(api: Api, queue: str, seconds: float) -> None:
    name = await make(api, queue, "waiting")
    assert (await refusal(cancel(api, name, grace_s=seconds))).fields == ("grace",)


# Retry, promote, delete ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["failed", "cancelled"])
async def test_retry_puts_an_ended_job_back_behind_its_equals_with_all_its_attempts(api: Api, queue: str, word: str) -> None:
    name = await make(api, queue, word)
    await enqueue(api, queue, "before")
    job = await retry(api, name)
    assert (job.state, job.attempt, job.HasField("progress")) == (State.JOB_STATE_WAITING, 0, False)
    assert await listed(api, queue, State.JOB_STATE_WAITING) == ["before", word]
    assert (await counts(api, queue)).total == 2
    _, again = await lease(api, queue, 2)
    assert (again.attempt, again.max_attempts) == (1, 3)
    assert (await finish(api, completed(again)))[0].state == State.JOB_STATE_COMPLETED


@pytest.mark.parametrize(("verb", "word"), [("retry", "waiting"), ("retry", "delayed"), ("promote", "waiting")])
async def test_to_put_back_what_waits_is_no_error(api: Api, queue: str, verb: str, word: str) -> None:
    name = await make(api, queue, word)
    await VERBS[verb](api, name)
    assert State.Name((await get(api, name)).state) == f"JOB_STATE_{word.upper()}"


async def test_a_finish_of_before_a_retry_counts_no_more(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    await finish(api, failed(job, permanent=True))
    await retry(api, name)
    (ack,) = await finish(api, completed(job))
    assert ack.verdict != work.VERDICT_OK
    assert (await get(api, name)).state == State.JOB_STATE_WAITING


async def test_promote_lets_a_delayed_job_run_now(api: Api, queue: str) -> None:
    name = await make(api, queue, "delayed")
    job = await promote(api, name)
    assert (job.state, job.HasField("due_time")) == (State.JOB_STATE_WAITING, False)
    assert [job.id for job in await lease(api, queue)] == ["delayed"]


@pytest.mark.parametrize("word", ["waiting", "delayed", "completed", "failed", "cancelled"])
async def test_delete_takes_a_job_that_does_not_run_out_of_every_count(api: Api, queue: str, word: str) -> None:
    name = await make(api, queue, word)
    await delete(api, name)
    assert (await counts(api, queue)).total == 0
    assert (await refusal(get(api, name))).code == grpc.StatusCode.NOT_FOUND
    assert (await refusal(delete(api, name))).code == grpc.StatusCode.NOT_FOUND
    assert await lease(api, queue) == []
