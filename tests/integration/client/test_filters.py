"""Filters, failures, notes and bulk verbs through the client, on real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from jobwire.v1.job_service_pb2 import BulkRun as BulkRunMessage
from jobwire.v1.job_service_pb2 import BulkVerb
from jobwire_client import (
    BulkPlan,
    BulkProgress,
    BulkRunNotFound,
    BulkRunStopped,
    BulkTokenInvalid,
    Client,
    InvalidRequest,
    JobFilter,
    JobNotFound,
    JobSpec,
    QueueNotFound,
    SyncClient,
    WrongState,
)
from jobwire_worker import Job as RunningJob
from jobwire_worker import Permanent, Worker

from tests.support import Broker, Store
from tests.support.process import PATIENT_S
from tests.support.queue_lab import open_lab


@pytest.fixture
async def client(shared_broker: Broker) -> AsyncIterator[Client]:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        yield client


async def let_fail(broker: Broker, client: Client, queue: str, messages: list[str]) -> list[str]:
    """A job for each message, failed with it. The names of the jobs."""
    worker = Worker(broker.address, queues=[queue], concurrency=1)

    @worker.handler("bad")
    async def bad(job: RunningJob, message: str) -> None:
        raise Permanent(message)

    made = await client.enqueue_many(JobSpec(queue, "bad", message, group="acme", labels={"n": str(i)}) for i, message in enumerate(messages))
    async with worker:
        for job in made:
            assert (await client.wait(job, timeout=10)).state == "failed"
    return [job.name for job in made]


async def names(client: Client, queue: str, state: str, wanted: JobFilter) -> list[str]:
    return [job.name async for job in client.list_jobs(queue, state, filter=wanted)]


async def test_jobs_are_listed_by_what_they_are(client: Client, queue: str) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    made = await client.enqueue_many(JobSpec(queue, f"h{i % 2}", group="acme" if i < 3 else "zeta", labels={"n": str(i)}) for i in range(6))
    every = [job.name for job in made]
    assert await names(client, queue, "waiting", JobFilter()) == every
    assert await names(client, queue, "waiting", JobFilter(job_name="h1")) == every[1::2]
    assert await names(client, queue, "waiting", JobFilter(group="zeta", job_name="h0")) == [every[4]]
    assert await names(client, queue, "waiting", JobFilter(labels={"n": "2"})) == [every[2]]
    assert await names(client, queue, "waiting", JobFilter(created_after=began)) == every
    assert await names(client, queue, "waiting", JobFilter(created_before=began)) == []
    assert await names(client, queue, "waiting", JobFilter(finished_after=began)) == []
    some = [job.name async for job in client.list_jobs(queue, "waiting", filter=JobFilter(group="zeta"), limit=2)]
    assert some == every[3:5]


async def test_a_filter_that_can_not_be_sent_is_refused(client: Client, queue: str) -> None:
    for wanted in (JobFilter(created_after=datetime(2026, 1, 1)), JobFilter(states=["sleeping"])):  # the first has no time zone
        with pytest.raises(InvalidRequest):
            await names(client, queue, "waiting", wanted)
    with pytest.raises(InvalidRequest, match=r"filter\.states"):
        await names(client, queue, "waiting", JobFilter(states=["waiting"]))


async def test_failures_are_grouped_resolved_and_redriven(shared_broker: Broker, client: Client, queue: str) -> None:
    jobs = await let_fail(shared_broker, client, queue, ["no user 1", "disk full", "no user 2"])
    users, disk = [group async for group in client.failures(queue)]
    assert (users.count, users.resolved, users.type, users.message, users.job_name, users.latest) == (2, 0, "Permanent", "no user 2", "bad", jobs[2])
    assert (disk.count, disk.latest) == (1, jobs[1])
    assert users.first_seen < disk.last_seen < users.last_seen
    job = await client.resolve(jobs[0], "known: ticket 7")
    assert job.resolution is not None
    assert (job.state, job.resolution.note, job.fingerprint) == ("failed", "known: ticket 7", users.fingerprint)
    assert await names(client, queue, "failed", JobFilter(fingerprint=users.fingerprint)) == [jobs[2], jobs[0]]
    assert await names(client, queue, "failed", JobFilter(fingerprint=users.fingerprint, resolved=False)) == [jobs[2]]
    plan = await client.plan_bulk(queue, "retry", JobFilter(fingerprint=users.fingerprint, resolved=False))
    assert (plan.queue, plan.verb, plan.matched) == (queue, "retry", 1)
    assert [step async for step in client.run_bulk(plan)][-1] == BulkProgress(1, 1, 0, True)
    assert (await client.get(jobs[2])).state == "waiting"
    edited = await client.retry(jobs[0], payload={"user": 3})
    assert (edited.state, edited.resolution, edited.fingerprint) == ("waiting", None, "")
    assert [(await client.get(job)).payload for job in (jobs[0], jobs[2])] == [{"user": 3}, "no user 2"]
    assert [group.count async for group in client.failures(queue, limit=1)] == [1]


async def test_only_what_has_failed_is_resolved(client: Client, queue: str) -> None:
    made = await client.enqueue(queue, "h")
    with pytest.raises(WrongState):
        await client.resolve(made, "x")
    with pytest.raises(JobNotFound):
        await client.resolve(f"queues/{queue}/jobs/none")


async def test_a_run_that_is_left_stops_and_goes_on_with_the_same_plan(client: Client, queue: str) -> None:
    await client.enqueue_many(JobSpec(queue, "h") for _ in range(600))
    plan = await client.plan_bulk(queue, "delete")
    assert plan.matched == 600
    async with aclosing(client.run_bulk(plan)) as steps:
        first = await anext(steps)
    assert 0 < first.done <= 128
    later = [step async for step in client.run_bulk(plan)]
    assert later[0].done > first.done
    assert later[-1] == BulkProgress(600, 600, 0, True)
    assert (await client.queue(queue)).counts.total == 0


async def test_a_run_goes_on_at_another_broker(shared_store: Store, shared_broker: Broker, queue: str) -> None:
    async with Broker(shared_store) as other, Client([other.address, shared_broker.address], timeout=PATIENT_S) as client:
        # Whichever it asks now; the run must be at the one that is killed.
        while not (await client.server_info()).broker_id.startswith(f"{other.pid}-"):
            client._connections.move_on(client._connections._current)
        await client.enqueue_many(JobSpec(queue, "h") for _ in range(3_000))
        plan = await client.plan_bulk(queue, "delete")
        steps = []
        async for step in client.run_bulk(plan):
            steps.append(step)
            if len(steps) == 2:
                await other.kill()
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1] == BulkProgress(3_000, 3_000, 0, True)


async def begin_elsewhere(store: Store, plan: BulkPlan) -> None:
    """Begin the run of a plan as a broker does, and take no step."""
    async with open_lab(store, plan.queue) as lab:
        head = BulkRunMessage(verb=BulkVerb.BULK_VERB_DELETE, filter=JobFilter(group="acme").message(), matched=plan.matched).SerializeToString()
        await lab.store.begin_run(bytes.fromhex(plan.run.rpartition("/")[2]), await lab.store.moment(), head)


async def test_a_bulk_run_is_seen_and_stopped_by_whoever_did_not_begin_it(client: Client, shared_store: Store, queue: str) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    await client.enqueue_many(JobSpec(queue, "h", group="acme", labels={"n": "1"}) for _ in range(3))
    wanted = JobFilter(states=("active", "waiting"), job_name="h", group="acme", labels={"n": "1"}, created_after=began, finished_before=began)
    every = [await client.plan_bulk(queue, "cancel", wanted, grace=1.5), await client.plan_bulk(queue, "resolve", JobFilter(resolved=False), note="known")]
    with pytest.raises(BulkRunNotFound):
        await client.bulk_run(every[0].run)
    for plan in every:
        assert [step.finished async for step in client.run_bulk(plan)] == [True]
    known = [await client.bulk_run(plan.run) for plan in every]
    assert [(run.verb, run.filter, run.note, run.grace) for run in known] == [
        ("cancel", wanted, "", timedelta(seconds=1.5)),
        ("resolve", JobFilter(resolved=False), "known", None),
    ]
    assert {(run.state, run.matched, run.started_by) for run in known} == {("finished", 0, "")}
    with pytest.raises(WrongState):
        await client.stop_bulk_run(known[0])

    plan = await client.plan_bulk(queue, "delete")
    await begin_elsewhere(shared_store, plan)
    run = await client.bulk_run(plan.run)
    assert (run.state, run.finish_time, run.matched) == ("running", None, 3)
    stopped = await client.stop_bulk_run(run)
    assert (stopped.state, stopped.name, stopped.done) == ("stopped", plan.run, 0)
    with pytest.raises(BulkRunStopped, match=plan.run) as told:
        await anext(client.run_bulk(plan))
    assert (told.value.by, told.value.done) == ("", 0)
    runs = [run async for run in client.bulk_runs(queue)]
    assert (runs[0], {run.name for run in runs[1:]}) == (stopped, {plan.run for plan in every})
    assert [run async for run in client.bulk_runs(queue, limit=1)] == [stopped]


async def test_a_program_without_asyncio_sees_and_stops_bulk_runs(shared_broker: Broker, shared_store: Store, client: Client, queue: str) -> None:
    await client.enqueue(queue, "h")
    plan = await client.plan_bulk(queue, "delete")
    await begin_elsewhere(shared_store, plan)

    def work() -> None:
        with SyncClient(shared_broker.address, timeout=PATIENT_S) as sync:
            (run,) = sync.bulk_runs(queue)
            assert run == sync.bulk_run(plan.run)
            assert (sync.stop_bulk_run(run).state, sync.bulk_run(run).state) == ("stopped", "stopped")

    await asyncio.to_thread(work)


async def test_what_a_bulk_verb_is_refused_for(client: Client, queue: str) -> None:
    with pytest.raises(QueueNotFound):
        await client.plan_bulk(queue, "delete")
    await client.enqueue(queue, "h")
    with pytest.raises(InvalidRequest, match="no verb"):
        await client.plan_bulk(queue, "destroy")  # type: ignore[arg-type]  # not one of the words
    with pytest.raises(InvalidRequest, match=r"filter\.states"):
        await client.plan_bulk(queue, "retry", JobFilter(states=["waiting"]))
    plan = await client.plan_bulk(queue, "delete")
    other = await client.plan_bulk(queue, "cancel", grace=0)
    with pytest.raises(BulkTokenInvalid):
        await anext(client.run_bulk(type(plan)(queue, "cancel", 1, plan.token, other.request.replace(other.token.encode(), plan.token.encode()))))


def test_the_client_for_threads_has_the_same_calls(shared_broker: Broker, queue: str) -> None:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        client.enqueue_many(JobSpec(queue, "h", group="acme" if i % 2 else None) for i in range(10))
        assert len(list(client.list_jobs(queue, "waiting", filter=JobFilter(group="acme")))) == 5
        plan = client.plan_bulk(queue, "cancel", JobFilter(group="acme"), grace=0)
        assert list(client.run_bulk(plan))[-1].done == 5
        assert list(client.failures(queue)) == []
        with pytest.raises(WrongState):
            client.resolve(next(iter(client.list_jobs(queue, "cancelled"))), "x")
