"""How attempts end and when the next one comes. All times are the store's own: tokens, revisions and dates of jobs are its microseconds."""

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import EXACT, completed, counts, enqueue, failed, finish, get, lease, micros, released, snoozed, span, wait_for
from tests.support import Broker
from tests.support.api import Api
from tests.support.raw_worker import RawWorker

#: How late a job may start after its time, on a machine under load.
LATE_US = 500_000


async def test_a_completed_job_has_its_result_its_dates_and_100_percent(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    (ack,) = await finish(api, completed(job, result='"done"'))
    assert (ack.verdict, ack.state) == (work.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
    ended = await get(api, name)
    assert (ended.state, ended.result.json, ended.progress.percent, ended.attempt) == (job_pb2.JOB_STATE_COMPLETED, '"done"', 100, 1)
    assert micros(ended.create_time) <= micros(ended.start_time) == job.token < micros(ended.finish_time) == ended.revision


async def test_without_jitter_the_waits_between_attempts_are_exact(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, attempts=4, backoff=EXACT)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=4)
        for run, wait_us in ((1, 200_000), (2, 400_000), (3, 800_000)):
            (job,) = await worker.jobs(1)
            assert (job.attempt, job.max_attempts) == (run, 4)
            (ack,) = await worker.finish(failed(job, f"run {run}"))
            assert (ack.verdict, ack.state) == (work.VERDICT_OK, job_pb2.JOB_STATE_DELAYED)
            waits = await get(api, name)
            assert waits.state == job_pb2.JOB_STATE_DELAYED
            assert waits.failure.message == f"run {run}"
            assert micros(waits.due_time) - waits.revision == pytest.approx(wait_us, abs=1_500)
        (last,) = await worker.jobs(1)
        assert micros(waits.due_time) <= last.token <= micros(waits.due_time) + LATE_US
        (ack,) = await worker.finish(failed(last, "the last"))
    assert ack.state == job_pb2.JOB_STATE_FAILED
    ended = await get(api, name)
    assert (ended.attempt, ended.failure.type, ended.failure.message, ended.failure.reason) == (4, "Broken", "the last", "")


@pytest.mark.parametrize(("attempts", "waits_s"), [(0, (2, 4)), (1, ()), (5, (2, 4, 8, 16))])
async def test_the_default_waits_double_from_2_seconds_and_jitter_only_adds_a_tenth(api: Api, queue: str, attempts: int, waits_s: tuple[int, ...]) -> None:
    name = await enqueue(api, queue, attempts=attempts)
    for run, wait_s in enumerate(waits_s, 1):
        (job,) = await lease(api, queue)
        (ack,) = await finish(api, failed(job))
        assert (job.attempt, ack.state) == (run, job_pb2.JOB_STATE_DELAYED)
        waits = await get(api, name)
        assert wait_s * 1_000_000 - 1_000 <= micros(waits.due_time) - waits.revision <= wait_s * 1_100_000
        await api.jobs.PromoteJob(pb.PromoteJobRequest(name=name))
    (job,) = await lease(api, queue)
    (ack,) = await finish(api, failed(job))
    assert (job.attempt, ack.state) == (len(waits_s) + 1, job_pb2.JOB_STATE_FAILED)


async def test_no_wait_is_longer_than_the_cap(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, attempts=9, backoff=job_pb2.Backoff(base=span(5), factor=10, max_delay=span(0.05), jitter=0))
    (job,) = await lease(api, queue)
    await finish(api, failed(job))
    waits = await get(api, name)
    assert micros(waits.due_time) - waits.revision == pytest.approx(50_000, abs=1_500)


async def test_a_base_of_0_retries_at_once(api: Api, queue: str) -> None:
    await enqueue(api, queue, backoff=job_pb2.Backoff(base=span(0), jitter=0))
    (job,) = await lease(api, queue)
    await finish(api, failed(job))
    (again,) = await lease(api, queue, wait_s=3)
    assert again.attempt == 2
    assert again.token > job.token


async def test_a_permanent_failure_ends_the_job_with_attempts_left(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, attempts=5)
    (job,) = await lease(api, queue)
    (ack,) = await finish(api, failed(job, "no picture", permanent=True))
    assert ack.state == job_pb2.JOB_STATE_FAILED
    ended = await get(api, name)
    assert (ended.attempt, ended.max_attempts, ended.failure.message) == (1, 5, "no picture")


async def test_retry_after_wins_over_the_backoff_and_is_charged(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, backoff=job_pb2.Backoff(base=span(60), jitter=1))
    (job,) = await lease(api, queue)
    await finish(api, failed(job, retry_after_s=0.3))
    waits = await get(api, name)
    assert micros(waits.due_time) - waits.revision == pytest.approx(300_000, abs=1_500)
    (again,) = await lease(api, queue, wait_s=3)
    assert again.attempt == 2


async def test_retry_after_gives_no_attempt_beyond_the_last(api: Api, queue: str) -> None:
    await enqueue(api, queue, attempts=1)
    (job,) = await lease(api, queue)
    (ack,) = await finish(api, failed(job, retry_after_s=0.1))
    assert ack.state == job_pb2.JOB_STATE_FAILED


async def test_a_snooze_waits_and_is_not_charged(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, attempts=1)
    for _ in range(3):
        (job,) = await lease(api, queue, wait_s=3)
        assert job.attempt == 1
        (ack,) = await finish(api, snoozed(job, 0.1))
        assert (ack.verdict, ack.state) == (work.VERDICT_OK, job_pb2.JOB_STATE_DELAYED)
    waits = await get(api, name)
    assert waits.attempt == 0
    assert micros(waits.due_time) - waits.revision == pytest.approx(100_000, abs=1_500)


async def test_a_job_without_a_handler_fails_after_five_returns(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, attempts=1)
    states = []
    for returns in range(1, 6):
        if returns > 1:
            # The pauses between the returns are the broker's business here.
            await api.jobs.PromoteJob(pb.PromoteJobRequest(name=name))
        (job,) = await lease(api, queue)
        (ack,) = await finish(api, released(job, work.RELEASE_REASON_NO_HANDLER))
        states.append(ack.state)
    assert states == [job_pb2.JOB_STATE_DELAYED] * 4 + [job_pb2.JOB_STATE_FAILED]
    ended = await get(api, name)
    assert (ended.failure.reason, ended.failure.type) == ("NO_HANDLER", "NO_HANDLER")


async def test_the_same_finish_sent_twice_gets_the_same_verdict_and_another_one_is_told(api: Api, queue: str) -> None:
    await enqueue(api, queue)
    (job,) = await lease(api, queue)
    first, again, other = await finish(api, completed(job), completed(job), failed(job))
    assert first == again
    assert (first.verdict, first.state) == (work.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
    assert other.verdict == work.VERDICT_ALREADY_FINISHED
    assert (await counts(api, queue)).completed_total == 1


async def test_a_finish_repeated_while_the_next_attempt_waits_or_runs_changes_nothing(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, backoff=job_pb2.Backoff(base=span(0), jitter=0))
    (job,) = await lease(api, queue)
    first = (await finish(api, failed(job)))[0]
    assert (await finish(api, failed(job)))[0].verdict == first.verdict == work.VERDICT_OK
    (second,) = await lease(api, queue, wait_s=3)
    (late,) = await finish(api, failed(job))
    assert late.verdict in (work.VERDICT_OK, work.VERDICT_STALE_LEASE)
    assert (await get(api, name)).state == job_pb2.JOB_STATE_ACTIVE
    assert (await finish(api, completed(second)))[0].verdict == work.VERDICT_OK


async def test_a_finish_with_a_token_that_was_never_given_is_stale_and_one_for_no_job_is_not_found(api: Api, queue: str) -> None:
    await enqueue(api, queue, "one")
    (job,) = await lease(api, queue)
    wrong = work.Finish(queue=queue, id="one", token=job.token - 1, complete=work.Complete())
    none = work.Finish(queue=queue, id="none", token=job.token, complete=work.Complete())
    assert [ack.verdict for ack in await finish(api, wrong, none)] == [work.VERDICT_STALE_LEASE, work.VERDICT_NOT_FOUND]
    assert (await finish(api, completed(job)))[0].verdict == work.VERDICT_OK


async def test_what_a_failure_says_is_kept_up_to_its_bounds(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, attempts=1)
    (job,) = await lease(api, queue)
    failure = job_pb2.Failure(type="T" * 500, message="ä" * 3000, stack="s" * 20_000, reason="MINE")
    await finish(api, work.Finish(queue=queue, id=job.id, token=job.token, fail=work.Fail(failure=failure)))
    kept = (await wait_for(api, name)).failure
    assert (len(kept.type), len(kept.message.encode()), len(kept.stack), kept.reason) == (128, 2048, 8192, "")
