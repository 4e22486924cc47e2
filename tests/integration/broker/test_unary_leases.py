"""LeaseJobs, FinishJobs, ExtendLeases, ReportProgress: work without a stream."""

import asyncio
import time

import grpc
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, finish, get, held, job_name_of, lease, listed, patiently, span, spec
from tests.support import Broker, Store
from tests.support.api import Api, refusal
from tests.support.api import api as connected
from tests.support.lossy_store import Loss, LossyStore

State = job_pb2.JobState


async def extend(api: Api, *leases: work.Held, lasting_s: float = 30) -> list[work.Ack]:
    return list((await api.workers.ExtendLeases(work.ExtendLeasesRequest(leases=leases, lease_duration=span(lasting_s)))).acks)


async def test_a_lease_gives_everything_that_a_handler_needs(api: Api, queue: str) -> None:
    await enqueue(api, queue, "one", payload=job_pb2.Payload(data=b"\0", content_type="x/y"), priority=7, attempts=9)
    (job,) = await lease(api, queue)
    payload = job_pb2.Payload(data=b"\0", content_type="x/y")
    expected = work.Delivery(queue=queue, id="one", job_name="work", payload=payload, token=job.token, attempt=1, max_attempts=9, priority=7)
    assert job == expected
    seen = await get(api, job_name_of(queue, "one"))
    assert (seen.state, seen.worker, seen.token) == (State.JOB_STATE_ACTIVE, "asking", job.token)


async def test_a_lease_brings_as_many_as_were_asked_for_and_one_by_default(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(8)])
    assert len((await api.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue))).jobs) == 1
    assert len(await lease(api, queue, 3)) == 3
    assert len(await lease(api, queue, 100)) == 4
    assert await lease(api, queue, 100) == []


async def test_an_answer_of_large_jobs_stays_under_the_4_mib_that_any_client_takes(api: Api, queue: str) -> None:
    for i in range(6):
        await enqueue(api, queue, f"j{i}", payload=job_pb2.Payload(data=bytes(1 << 20)))
    answers = []
    while jobs := await lease(api, queue, 100):
        answers.append(jobs)
    assert [job.id for jobs in answers for job in jobs] == [f"j{i}" for i in range(6)]
    assert max(work.LeaseJobsResponse(jobs=jobs).ByteSize() for jobs in answers) < 4 << 20


async def test_a_lease_waits_for_a_job_and_for_no_longer_than_it_may(api: Api, queue: str) -> None:
    waiting = asyncio.create_task(lease(api, queue, wait_s=10))
    assert not (await asyncio.wait([waiting], timeout=0.2))[0]
    began = time.monotonic()
    await enqueue(api, queue, "one")
    assert [job.id for job in await waiting] == ["one"]
    assert time.monotonic() - began < 2
    began = time.monotonic()
    assert await lease(api, queue, wait_s=0.3) == []
    assert 0.3 <= time.monotonic() - began < 1.5


async def test_two_leases_never_get_the_same_job(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(60)])
    got = await asyncio.gather(*(lease(api, queue, 5) for _ in range(12)))
    ids = [job.id for jobs in got for job in jobs]
    assert len(ids) == len(set(ids))
    while jobs := await lease(api, queue, 5):
        ids += [job.id for job in jobs]
    assert len(ids) == 60


async def test_a_lease_that_runs_out_gives_the_job_back_uncharged_and_its_finish_counts_until_the_next_delivery(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    await enqueue(api, queue, "two")
    one, two = await lease(api, queue, 2, lasting_s=1)
    # Its session ends after a second on the pulse clock.
    (again,) = await lease(api, queue, wait_s=6)
    assert (again.id, again.attempt) == ("one", 1)
    assert again.token > one.token
    assert [ack.verdict for ack in await finish(api, completed(one), completed(two))] == [work.VERDICT_STALE_LEASE, work.VERDICT_OK]
    assert (await finish(api, completed(again)))[0].verdict == work.VERDICT_OK
    assert (await get(api, name)).losses == 0
    assert await listed(api, queue, State.JOB_STATE_COMPLETED) == ["one", "two"]


@pytest.mark.parametrize("loss", Loss)
async def test_a_lease_that_its_caller_never_hears_of_is_given_back_at_once_and_is_no_loss(shared_store: Store, queue: str, loss: Loss) -> None:
    async with LossyStore(shared_store, seed=1, loss=loss) as lossy, Broker(lossy.url) as broker, connected(broker) as api:
        name = await enqueue(api, queue, "one")
        lossy.lose_next("turn")
        with pytest.raises(grpc.aio.AioRpcError):
            # One caller is told that the answer is lost, the other gives up before.
            await api.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue, lease_duration=span(60)), timeout=0.2 if loss is Loss.STALL else 5)
        (job,) = await patiently(lambda: lease(api, queue, wait_s=3))
        assert (job.id, job.attempt) == ("one", 1)
        assert (await get(api, name)).losses == 0
        assert lossy.replies_lost == 1


async def test_an_extended_lease_outlives_its_first_term(api: Api, queue: str) -> None:
    await enqueue(api, queue, "kept")
    await enqueue(api, f"{queue}.b", "lost")
    (kept,) = await lease(api, queue, lasting_s=1)
    await lease(api, f"{queue}.b", lasting_s=1)
    (ack,) = await extend(api, held(kept), lasting_s=20)
    assert ack.verdict == work.VERDICT_OK
    # When the other lease of the same length has run out, this one has not.
    assert len(await lease(api, f"{queue}.b", wait_s=6)) == 1
    assert (await get(api, job_name_of(queue, "kept"))).state == State.JOB_STATE_ACTIVE
    assert (await finish(api, completed(kept)))[0].verdict == work.VERDICT_OK


async def test_extend_and_progress_answer_each_item(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a"), spec(queue, "b")])
    a, b = await lease(api, queue, 2)
    await finish(api, completed(b))
    stale = work.Held(queue=queue, id="a", token=a.token - 1)
    none = work.Held(queue=queue, id="none", token=1)
    acks = await extend(api, held(a), stale, none, held(b))
    assert [ack.verdict for ack in acks[:3]] == [work.VERDICT_OK, work.VERDICT_STALE_LEASE, work.VERDICT_NOT_FOUND]
    assert acks[3].verdict not in (work.VERDICT_OK, work.VERDICT_UNSPECIFIED)
    assert [(ack.queue, ack.id, ack.token) for ack in acks] == [(h.queue, h.id, h.token) for h in (held(a), stale, none, held(b))]
    reports = [work.ProgressReport(queue=queue, id=h.id, token=h.token, progress=job_pb2.Progress(percent=5)) for h in (held(a), stale, none)]
    answers = (await api.workers.ReportProgress(work.ReportProgressRequest(reports=reports))).acks
    assert [ack.verdict for ack in answers] == [work.VERDICT_OK, work.VERDICT_STALE_LEASE, work.VERDICT_NOT_FOUND]
    assert (await get(api, job_name_of(queue, "a"))).progress.percent == 5


async def test_finishes_of_several_queues_in_one_call_each_get_their_verdict(api: Api, queue: str) -> None:
    queues = [f"{queue}.{i}" for i in range(5)]
    await enqueue_all(api, [spec(q) for q in queues])
    jobs = [(await lease(api, q))[0] for q in queues]
    acks = await finish(api, *(completed(job) for job in jobs))
    assert [(ack.queue, ack.verdict) for ack in acks] == [(q, work.VERDICT_OK) for q in queues]


async def test_a_thousand_finishes_go_in_one_call(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue) for _ in range(1000)])
    jobs = [job for _ in range(10) for job in await lease(api, queue, 100)]
    acks = await finish(api, *(completed(job) for job in jobs))
    assert {ack.verdict for ack in acks} == {work.VERDICT_OK}
    assert (await counts(api, queue)).completed_total == 1000


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (work.LeaseJobsRequest(queue=""), "queue"),
        (work.LeaseJobsRequest(queue="q", max_jobs=-1), "max_jobs"),
        (work.LeaseJobsRequest(queue="q", max_jobs=101), "max_jobs"),
        (work.LeaseJobsRequest(queue="q", worker="x" * 129), "worker"),
        (work.LeaseJobsRequest(queue="q", lease_duration=span(0.5)), "lease_duration"),
        (work.LeaseJobsRequest(queue="q", lease_duration=span(3601)), "lease_duration"),
        (work.LeaseJobsRequest(queue="q", wait=span(61)), "wait"),
        (work.LeaseJobsRequest(queue="q", wait=span(-1)), "wait"),
    ],
)
async def test_a_lease_out_of_its_bounds_is_refused(api: Api, request_: work.LeaseJobsRequest, field: str) -> None:
    refused = await refusal(api.workers.LeaseJobs(request_))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"queue": "?"}, "finishes[1].queue"),
        ({"id": "?"}, "finishes[1].id"),
        ({"token": 0}, "finishes[1].token"),
        ({"snooze": work.Snooze(delay=span(-1))}, "finishes[1].snooze.delay"),
        ({"snooze": work.Snooze(delay=span(366 * 86400))}, "finishes[1].snooze.delay"),
        ({"snooze": work.Snooze()}, "finishes[1].snooze.delay"),
        ({"fail": work.Fail(retry_after=span(31 * 86400))}, "finishes[1].fail.retry_after"),
        ({"complete": work.Complete(result=job_pb2.Payload(data=bytes((1 << 20) + 2000)))}, "finishes[1].complete.result"),
    ],
)
async def test_one_finish_out_of_its_bounds_refuses_the_call_and_nothing_is_done(api: Api, queue: str, change: dict[str, object], field: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    bad = work.Finish(queue=queue, id="other", token=5, release=work.Release())
    bad.MergeFrom(work.Finish(**change))  # type: ignore[arg-type]  # the fields are checked by protobuf
    if change == {"token": 0}:
        bad.ClearField("token")
    refused = await refusal(finish(api, completed(job), bad))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert (await get(api, name)).state == State.JOB_STATE_ACTIVE


async def test_a_finish_without_an_outcome_is_refused(api: Api, queue: str) -> None:
    refused = await refusal(finish(api, work.Finish(queue=queue, id="a", token=1)))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("finishes[0].outcome",))


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan"), float("inf")])
async def test_progress_out_of_its_bounds_is_refused(api: Api, queue: str, percent: float) -> None:
    report = work.ProgressReport(queue=queue, id="a", token=1, progress=job_pb2.Progress(percent=percent))
    refused = await refusal(api.workers.ReportProgress(work.ReportProgressRequest(reports=[report])))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("reports[0].progress.percent",))


@pytest.mark.parametrize("count", [0, 1001])
async def test_calls_of_no_items_or_too_many_are_refused(api: Api, queue: str, count: int) -> None:
    end = work.Finish(queue=queue, id="a", token=1, complete=work.Complete())
    hold = work.Held(queue=queue, id="a", token=1)
    report = work.ProgressReport(queue=queue, id="a", token=1)
    for call in (
        api.workers.FinishJobs(work.FinishJobsRequest(finishes=[end] * count)),
        api.workers.ExtendLeases(work.ExtendLeasesRequest(leases=[hold] * count)),
        api.workers.ReportProgress(work.ReportProgressRequest(reports=[report] * count)),
    ):
        assert (await refusal(call)).code == grpc.StatusCode.INVALID_ARGUMENT
