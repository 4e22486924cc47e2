"""The client against a real broker on real Valkey, and on Redis 7.0."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from jobwire_client import (
    Client,
    DurabilityUnsupported,
    InvalidRequest,
    Job,
    JobExists,
    JobNotFound,
    JobSpec,
    QueueNotFound,
    QueueUnavailable,
    Reserve,
    SyncClient,
    WaitTimeout,
    WrongState,
)
from jobwire_worker import Job as RunningJob
from jobwire_worker import Permanent, QueueClass, Worker

from tests.support import Broker, Store, StoreKind
from tests.support.process import PATIENT_S


@pytest.fixture(params=list(StoreKind))
def any_broker(request: pytest.FixtureRequest) -> Broker:
    """The shared broker of each product."""
    name = "shared_broker" if request.param is StoreKind.VALKEY else "shared_redis_broker"
    found: Broker = request.getfixturevalue(name)
    return found


@pytest.fixture
async def client(any_broker: Broker) -> AsyncIterator[Client]:
    async with Client(any_broker.address, timeout=PATIENT_S) as client:
        yield client


@pytest.fixture
async def valkey_client(shared_broker: Broker) -> AsyncIterator[Client]:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        yield client


@dataclass
class Photo:
    path: str


def worker_for(broker: Broker | str, queue: str) -> Worker:
    worker = Worker(broker if isinstance(broker, str) else broker.address, queues=[queue], concurrency=20)

    @worker.handler("double")
    async def double(job: RunningJob, number: int) -> int:
        return 2 * number

    @worker.handler("steps")
    async def steps(job: RunningJob, count: int) -> str:
        for step in range(count):
            job.progress(100 * step / count, f"step {step}", data={"step": step})
            job.log(f"line {step}")
            await asyncio.sleep(0.05)
        return "done"

    @worker.handler("bad")
    async def bad(job: RunningJob) -> None:
        raise Permanent("this can't work")

    return worker


async def test_an_enqueued_job_can_be_read(client: Client, queue: str) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    made = await client.enqueue(queue, "thumbnail", Photo("sea.jpg"), priority="high", attempts=7)
    job = await client.get(made)
    assert (made.verdict, made.queue, made.name) == ("made", queue, f"queues/{queue}/jobs/{made.id}")
    assert (job.name, job.state, job.job_name, job.payload) == (made.name, "waiting", "thumbnail", {"path": "sea.jpg"})
    assert (job.priority, job.max_attempts, job.attempt, job.final) == (1, 7, 0, False)
    assert job.create_time is not None
    assert before < job.create_time < datetime.now(UTC) + timedelta(seconds=5)


async def test_a_job_says_its_group_and_its_labels_wherever_it_is_shown(client: Client, queue: str) -> None:
    labels, required = {"plan": "free", "region": "eu"}, {"gpu": ""}
    made = await client.enqueue(queue, "h", b"x" * 2000, group="acme", labels=labels, required_labels=required, units=3)
    shown = [await client.get(made), *[job async for job in client.list_jobs(queue, "waiting")], *[await anext(client.watch(made))], await client.cancel(made)]
    for job in shown:
        assert (job.group, job.labels, job.required_labels, job.units) == ("acme", labels, required, 3)
    plain = await client.get(await client.enqueue(queue, "h"))
    assert (plain.group, plain.labels, plain.required_labels, plain.units) == ("", {}, {}, 1)


async def test_bytes_come_back_as_bytes(client: Client, queue: str) -> None:
    made = await client.enqueue(queue, "h", b"\x00\xff")
    assert (await client.get(made.name)).payload == b"\x00\xff"


async def test_the_same_id_with_the_same_content_makes_one_job(client: Client, queue: str) -> None:
    first = await client.enqueue(queue, "h", 1, id="a")
    second = await client.enqueue(queue, "h", 1, id="a")
    assert (first.name, first.verdict) == (second.name, "made")
    assert second.verdict in ("made", "found")
    assert (await client.queue(queue)).counts.waiting == 1


async def test_the_same_id_with_other_content_is_refused(client: Client, queue: str) -> None:
    await client.enqueue(queue, "h", 1, id="a")
    with pytest.raises(JobExists):
        await client.enqueue(queue, "h", 2, id="a")


async def test_a_wrong_field_is_named(client: Client, queue: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.enqueue(queue, "h", id="not an id!")
    assert "id" in caught.value.violations[0].field


async def test_a_thousand_callers_at_once_get_a_job_each(client: Client, queue: str) -> None:
    made = await asyncio.gather(*(client.enqueue(queue, "h", number) for number in range(1_000)))
    assert len({job.id for job in made}) == 1_000
    assert (await client.queue(queue)).counts.waiting == 1_000


async def test_one_bad_caller_does_not_hinder_the_others(client: Client, queue: str) -> None:
    calls = [client.enqueue(queue, "h", number, id="bad id!" if number == 13 else None) for number in range(50)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, BaseException)] == [13]
    assert (await client.queue(queue)).counts.waiting == 49


async def test_many_jobs_get_a_verdict_each_in_their_order(client: Client, queue: str) -> None:
    specs = [JobSpec(queue, "h", number, id=f"job-{number}") for number in range(2_500)]
    specs[7] = JobSpec(queue, "no good name!", 7)
    specs[8] = JobSpec(queue, "h", object())
    results = await client.enqueue_many(specs)
    assert [number for number, result in enumerate(results) if result.verdict == "refused"] == [7, 8]
    assert all(isinstance(results[number].error, InvalidRequest) for number in (7, 8))
    assert [result.id for result in results[9:]] == [f"job-{number}" for number in range(9, 2_500)]
    assert (await client.queue(queue)).counts.waiting == 2_498


async def test_no_jobs_are_no_call(client: Client) -> None:
    assert await client.enqueue_many([]) == []


async def test_disk_is_on_disk_or_refused(client: Client, any_broker: Broker, queue: str) -> None:
    if (await client.server_info()).disk_durability:
        assert (await client.enqueue(queue, "h", durability="disk")).verdict == "made"
    else:
        with pytest.raises(DurabilityUnsupported):
            await client.enqueue(queue, "h", durability="disk")


async def test_waiting_for_a_job_gives_its_result(client: Client, any_broker: Broker, queue: str) -> None:
    made = await client.enqueue(queue, "double", 21)
    async with worker_for(any_broker, queue):
        job = await client.wait(made, timeout=10)
    assert (job.state, job.result, job.attempt) == ("completed", 42, 1)


async def test_a_job_that_failed_says_how(client: Client, any_broker: Broker, queue: str) -> None:
    made = await client.enqueue(queue, "bad")
    async with worker_for(any_broker, queue):
        job = await client.wait(made, timeout=10)
    assert job.state == "failed"
    assert job.failure is not None
    assert (job.failure.type, job.failure.message) == ("Permanent", "this can't work")


async def test_a_wait_that_is_over_leaves_the_job_alone(valkey_client: Client, queue: str) -> None:
    made = await valkey_client.enqueue(queue, "h")
    for timeout in (0, 0.2, timedelta(seconds=1.2)):
        with pytest.raises(WaitTimeout):
            await valkey_client.wait(made, timeout=timeout)
    assert (await valkey_client.get(made)).state == "waiting"


async def test_a_watcher_sees_the_job_from_now_to_its_end(client: Client, any_broker: Broker, queue: str) -> None:
    made = await client.enqueue(queue, "steps", 12)
    seen: list[Job] = []
    async with worker_for(any_broker, queue), aclosing(client.watch(made)) as states, asyncio.timeout(20):
        async for job in states:
            seen.append(job)
    assert seen[-1].state == "completed"
    assert all(job.job_name == "steps" for job in seen)
    assert [job.revision for job in seen] == sorted({job.revision for job in seen})
    percents = [job.progress.percent for job in seen if job.progress is not None]
    assert percents == sorted(percents)
    assert len(set(percents)) > 2


async def test_changes_bring_what_the_handler_logged(valkey_client: Client, shared_broker: Broker, queue: str) -> None:
    made = await valkey_client.enqueue_many([JobSpec(queue, "steps", 3), JobSpec(queue, "double", 4)])
    lines: list[str] = []
    ends: dict[str, str] = {}
    changes = valkey_client.watch_changes(made)
    started = False
    async with aclosing(changes), asyncio.timeout(20):
        worker = worker_for(shared_broker, queue)
        try:
            async for change in changes:
                if not started:
                    started = True
                    await worker.__aenter__()
                lines += [line.message for line in change.lines]
                if change.type == "final":
                    ends[change.job.name] = change.job.state
        finally:
            await worker.__aexit__(None, None, None)
    assert lines == ["line 0", "line 1", "line 2"]
    assert ends == {job.name: "completed" for job in made}


async def test_watching_a_job_that_has_ended_gives_its_end(client: Client, queue: str) -> None:
    made = await client.enqueue(queue, "h")
    await client.cancel(made)
    assert [job.state async for job in client.watch(made)] == ["cancelled"]


async def test_watching_a_job_that_is_deleted_ends_as_removed(client: Client, queue: str) -> None:
    made = await client.enqueue(queue, "h")
    states: list[str] = []
    async with asyncio.timeout(10):
        async for job in client.watch(made):
            if not states:
                await client.delete(made)
            states.append(job.state)
    assert states == ["waiting", "removed"]


async def test_what_is_not_there_is_not_found(client: Client, queue: str) -> None:
    name = f"queues/{queue}/jobs/nope"
    for call in (client.get, client.cancel, client.retry, client.promote, client.delete, client.wait):
        with pytest.raises(JobNotFound):
            await call(name)
    with pytest.raises(JobNotFound):
        async for _ in client.watch(name):
            pass
    with pytest.raises(QueueNotFound):
        await client.queue(queue)


async def test_cancel_retry_promote_and_delete_answer_with_the_job(client: Client, queue: str) -> None:
    made = await client.enqueue(queue, "h", delay=timedelta(hours=1))
    assert (await client.get(made)).state == "delayed"
    assert (await client.promote(made)).state == "waiting"
    assert (await client.cancel(made, grace=1)).state == "cancelled"
    assert (await client.retry(made)).state == "waiting"
    await client.delete(made)
    with pytest.raises(JobNotFound):
        await client.get(made)


async def test_a_verb_that_does_not_fit_says_the_state(client: Client, any_broker: Broker, queue: str) -> None:
    made = await client.enqueue(queue, "double", 1)
    async with worker_for(any_broker, queue):
        await client.wait(made, timeout=10)
    with pytest.raises(WrongState) as caught:
        await client.retry(made)
    assert caught.value.state == "completed"


async def test_lists_come_in_pages_and_in_order(valkey_client: Client, queue: str) -> None:
    await valkey_client.enqueue_many([JobSpec(queue, "h", number, id=f"job-{number:04}") for number in range(1_200)])
    everything = [job.id async for job in valkey_client.list_jobs(queue, "waiting")]
    assert everything == [f"job-{number:04}" for number in range(1_200)]
    assert [job.id async for job in valkey_client.list_jobs(queue, "waiting", limit=3)] == everything[:3]
    assert [job async for job in valkey_client.list_jobs(queue, "failed")] == []


async def test_queues_are_listed_paused_and_resumed(client: Client, queue: str) -> None:
    await client.enqueue(queue, "h")
    assert (await client.pause_queue(queue)).paused
    assert {found.name: found.paused for found in await client.queues()}[queue]
    assert not (await client.resume_queue(queue)).paused
    assert (await client.queue(queue)).counts.total == 1


async def test_a_queue_is_cleaned_of_what_has_ended(client: Client, queue: str) -> None:
    with pytest.raises(QueueNotFound):
        await client.clean_queue(queue)
    name = (await client.enqueue(queue, "h")).name
    await client.cancel(name)
    assert await client.clean_queue(queue) == 0
    assert await client.clean_queue(queue, state="cancelled", grace=timedelta(minutes=1)) == 0
    assert await client.clean_queue(queue, state="cancelled") == 1
    assert (await client.wait(name)).state == "cancelled"
    for state, grace in (("waiting", 0), ("gone", 0), ("failed", -1), ("failed", timedelta(days=3_651))):
        with pytest.raises(InvalidRequest):
            await client.clean_queue(queue, state=state, grace=grace)


async def test_connected_workers_are_listed(valkey_client: Client, shared_broker: Broker, queue: str) -> None:
    async with worker_for(shared_broker, queue), asyncio.timeout(10):
        while not (found := [worker for worker in await valkey_client.workers() if queue in worker.queues]):
            await asyncio.sleep(0.05)
    assert found[0].concurrency == 20
    assert found[0].sdk
    assert found[0].reserved == ()


async def test_a_worker_is_listed_with_the_slots_that_it_keeps(valkey_client: Client, shared_broker: Broker, queue: str) -> None:
    kept: dict[str | QueueClass, int] = {queue: 2, QueueClass.CRITICAL: 1}
    worker = Worker(shared_broker.address, queues=[queue, f"{queue}.exports"], concurrency=5, reserved=kept)
    worker.handler("h")(lambda: None)
    async with worker, asyncio.timeout(10):
        while not (found := [worker for worker in await valkey_client.workers() if queue in worker.queues]):
            await asyncio.sleep(0.05)
    assert set(found[0].reserved) == {Reserve(queue=queue, queue_class=None, slots=2), Reserve(queue=None, queue_class="critical", slots=1)}


# ---------------------------------------------------------------------- faults


async def test_a_broker_that_is_back_within_the_timeout_is_not_missed(broker: Broker, queue: str) -> None:
    async with Client(broker.address, timeout=10) as client:
        await client.enqueue(queue, "h")
        await broker.kill()
        callers = [asyncio.create_task(client.enqueue(queue, "h")) for _ in range(30)]
        await broker.restart()
        assert {made.verdict for made in await asyncio.gather(*callers)} == {"made"}
        assert (await client.queue(queue)).counts.waiting == 31


async def test_with_the_store_away_an_enqueue_says_so_within_two_seconds_and_recovers(store: Store, broker: Broker, queue: str) -> None:
    async with Client(broker.address) as client:
        await client.enqueue(queue, "h")
        await store.kill()
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(client.enqueue(queue, "h", id=f"job-{number}") for number in range(100)), return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 2.5
        assert all(isinstance(result, QueueUnavailable) for result in results)
        await store.restart()
        async with asyncio.timeout(5):
            while not await _enqueues(client, queue):
                await asyncio.sleep(0.05)
        # What was not accepted is not there; repeating all with their ids makes each once.
        there = {job.id async for job in client.list_jobs(queue, "waiting")}
        refused = {result.id for result in results if isinstance(result, QueueUnavailable) and result.accepted == "no"}
        assert not there & refused
        await asyncio.gather(*(client.enqueue(queue, "h", id=f"job-{number}") for number in range(100)))
        there = {job.id async for job in client.list_jobs(queue, "waiting")}
        assert {f"job-{number}" for number in range(100)} <= there


async def _enqueues(client: Client, queue: str) -> bool:
    try:
        await client.enqueue(queue, "h")
    except QueueUnavailable:
        return False
    return True


async def test_waits_and_watches_outlive_a_broker(store: Store, queue: str) -> None:
    async with Broker(store, session_time="5s") as first, Broker(store, session_time="5s") as second, Client([first.address, second.address]) as client:
        client._connections._current = 0
        made = await client.enqueue(queue, "steps", 30)
        seen: list[Job] = []
        watching = asyncio.create_task(_collect(client, made.name, seen))
        waiting = asyncio.create_task(client.wait(made, timeout=30))
        async with worker_for(second.address, queue):
            while len(seen) < 3:
                await asyncio.sleep(0.02)
            await first.kill()
            async with asyncio.timeout(20):
                assert (await waiting).result == "done"
                await watching
    assert seen[-1].state == "completed"
    revisions = [job.revision for job in seen]
    assert revisions == sorted(set(revisions))


async def _collect(client: Client, name: str, seen: list[Job]) -> None:
    async for job in client.watch(name):
        seen.append(job)


async def test_under_kills_of_brokers_every_acknowledged_job_is_there_once(store: Store, queue: str) -> None:
    async with Broker(store) as first, Broker(store) as second, Client([first.address, second.address], timeout=5) as client:
        acknowledged: set[str] = set()
        enough = asyncio.Event()

        async def caller(number: int) -> None:
            step = 0
            while not enough.is_set():
                acknowledged.add((await client.enqueue(queue, "h", step, id=f"{number}-{step}")).id)
                step += 1
                await asyncio.sleep(0.01)

        callers = [asyncio.create_task(caller(number)) for number in range(30)]
        for victim in (first, second):
            before = len(acknowledged)
            while len(acknowledged) < before + 300:
                await asyncio.sleep(0.001)
            await victim.kill()
            await victim.restart()
        enough.set()
        await asyncio.gather(*callers)
        there = [job.id async for job in client.list_jobs(queue, "waiting")]
    assert len(there) == len(set(there))
    assert set(there) == acknowledged


# ---------------------------------------------------------------------- threads


@pytest.fixture
def sync_client(shared_broker: Broker) -> Iterator[SyncClient]:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        yield client


async def test_threads_share_one_client(sync_client: SyncClient, queue: str) -> None:
    def calls(thread: int) -> list[str]:
        return [sync_client.enqueue(queue, "h", number, id=f"{thread}-{number}").id for number in range(50)]

    made = await asyncio.gather(*(asyncio.to_thread(calls, thread) for thread in range(16)))
    assert len({job_id for ids in made for job_id in ids}) == 800
    assert sync_client.queue(queue).counts.waiting == 800


def test_the_sync_client_does_what_the_other_does(sync_client: SyncClient, queue: str) -> None:
    made = sync_client.enqueue(queue, "h", Photo("x"), delay=60)
    assert sync_client.get(made).payload == {"path": "x"}
    assert sync_client.promote(made).state == "waiting"
    assert sync_client.cancel(made).state == "cancelled"
    assert sync_client.wait(made).state == "cancelled"
    assert [job.state for job in sync_client.watch(made)] == ["cancelled"]
    assert [change.type for change in sync_client.watch_changes([made])] == ["final"]
    assert sync_client.retry(made).state == "waiting"
    assert [job.id for job in sync_client.list_jobs(queue, "waiting")] == [made.id]
    sync_client.delete(made)
    assert [result.verdict for result in sync_client.enqueue_many([JobSpec(queue, "h")] * 3)] == ["made"] * 3
    assert sync_client.pause_queue(queue).paused
    assert not sync_client.resume_queue(queue).paused
    assert sync_client.clean_queue(queue) == 0
    assert queue in {found.name for found in sync_client.queues()}
    assert sync_client.server_info().store_available
    assert isinstance(sync_client.workers(), list)
    with pytest.raises(InvalidRequest):
        sync_client.enqueue(queue, "no good name!")


def test_a_watch_that_is_left_early_ends(sync_client: SyncClient, queue: str) -> None:
    made = sync_client.enqueue(queue, "h")
    for job in sync_client.watch(made):
        assert job.state == "waiting"
        break
