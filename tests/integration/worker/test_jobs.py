"""Handlers against a real broker: what they return, raise and report is what a client reads."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
from jobwire_client import Backoff, Client
from jobwire_worker import CancelReason, Job, Permanent, Retry, Snooze, Worker

from tests.support import Broker

NO_WAIT = Backoff(base=0, jitter=0)


@dataclass
class Size:
    width: int
    height: int = 1


def worker_for(broker: Broker, queue: str, **options: Any) -> Worker:
    given: dict[str, Any] = {"concurrency": 10, "drain_grace": 2, **options}
    return Worker(broker.address, queues=[queue], **given)


async def test_a_typed_payload_goes_in_and_a_result_comes_out(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("coroutine")
    async def coroutine(size: Size) -> Size:
        return Size(size.width * 2, size.height)

    @worker.handler("function")
    def function(job: Job, data: bytes) -> bytes:
        job.progress(50, "half", data={"read": len(data)})
        return data[::-1]

    async with worker:
        first = await client.enqueue(queue, "coroutine", Size(3))
        second = await client.enqueue(queue, "function", b"\x00\xff")
        done = [await client.wait(job, timeout=10) for job in (first, second)]
    assert [job.result for job in done] == [{"width": 6, "height": 1}, b"\xff\x00"]
    assert done[1].progress is not None
    assert (done[1].progress.percent, done[1].progress.message, done[1].progress.data) == (100, "half", {"read": 2})


async def test_a_handler_reads_the_group_and_the_labels_of_its_job(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("whose")
    async def whose(job: Job) -> list[object]:
        return [job.group, job.labels, job.payload]

    async with worker:
        # The second has its payload kept apart from its record.
        made = [await client.enqueue(queue, "whose", payload, group="acme", labels={"plan": "ü"}) for payload in ("x", "x" * 2000)]
        made.append(await client.enqueue(queue, "whose"))
        done = [(await client.wait(job, timeout=10)).result for job in made]
    assert done == [["acme", {"plan": "ü"}, "x"], ["acme", {"plan": "ü"}, "x" * 2000], ["", {}, None]]


async def test_a_payload_that_does_not_fit_fails_for_good_and_says_where(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("n")
    async def n(size: Size) -> None: ...

    async with worker:
        done = await client.wait(await client.enqueue(queue, "n", {"width": "wide"}), timeout=10)
    assert (done.state, done.attempt) == ("failed", 1)
    assert done.failure is not None
    assert (done.failure.type, done.failure.message) == ("PayloadError", 'payload.width: expected a whole number, got "wide"')


async def test_a_failed_attempt_is_run_again_and_a_permanent_one_is_not(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)
    heard: list[tuple[str, int, bool]] = []

    @worker.handler("third")
    async def third(job: Job) -> int:
        if job.attempt < 2:
            raise ValueError("not yet")
        if job.attempt < 3:
            raise Retry("nor now", after=0)
        return job.attempt

    @worker.handler("always")
    def always(job: Job) -> None:
        raise ValueError("never")

    @worker.handler("permanent")
    def permanent(job: Job) -> None:
        raise Permanent("no use")

    @worker.on_failed
    def failed(job: Job, error: Exception, *, final: bool) -> None:
        heard.append((job.job_name, job.attempt, final))

    async with worker:
        jobs = [await client.enqueue(queue, name, backoff=NO_WAIT) for name in ("third", "always", "permanent")]
        done = [await client.wait(job, timeout=10) for job in jobs]
    assert [(job.state, job.attempt) for job in done] == [("completed", 3), ("failed", 3), ("failed", 1)]
    assert done[0].result == 3
    assert sorted(heard) == [
        ("always", 1, False),
        ("always", 2, False),
        ("always", 3, True),
        ("permanent", 1, True),
        ("third", 1, False),
        ("third", 2, False),
    ]


async def test_a_snooze_is_not_counted(each_broker: Broker, client: Client, queue: str) -> None:
    worker, tokens = worker_for(each_broker, queue), []

    @worker.handler("n")
    async def n(job: Job) -> int:
        tokens.append(job.token)
        if len(tokens) == 1:
            raise Snooze(0.05)
        return job.attempt

    async with worker:
        done = await client.wait(await client.enqueue(queue, "n"), timeout=10)
    assert done.result == 1
    assert tokens[0] < tokens[1]


async def test_a_job_without_a_handler_fails_after_five_returns(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("n")
    async def n() -> None: ...

    async with worker:
        done = await client.wait(await client.enqueue(queue, "other"), timeout=20)
    assert done.state == "failed"
    assert done.failure is not None
    assert done.failure.reason == "NO_HANDLER"


async def test_the_star_takes_what_no_other_handler_does(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("*")
    async def rest(job: Job) -> str:
        return job.job_name

    async with worker:
        done = await client.wait(await client.enqueue(queue, "anything/at:all"), timeout=10)
    assert done.result == "anything/at:all"


async def test_a_cancel_reaches_the_handler_and_ends_the_job(each_broker: Broker, client: Client, queue: str) -> None:
    worker, began, go_on, seen = worker_for(each_broker, queue), asyncio.Event(), asyncio.Event(), []

    @worker.handler("n")
    async def n(job: Job) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(job.cancelled.reason)
            await go_on.wait()

    async with worker:
        job = await client.enqueue(queue, "n")
        await began.wait()
        await client.cancel(job, grace=10)
        while not (await client.get(job)).cancel_delivered:
            await asyncio.sleep(0.01)
        go_on.set()
        done = await client.wait(job, timeout=10)
    assert (done.state, seen) == ("cancelled", [CancelReason.REQUESTED])


async def test_a_timeout_fails_the_attempt_and_the_next_one_runs(each_broker: Broker, client: Client, queue: str) -> None:
    worker = worker_for(each_broker, queue)

    @worker.handler("n", timeout=0.2)
    async def n(job: Job) -> str:
        if job.attempt == 1:
            await asyncio.sleep(60)
        return "second"

    async with worker:
        done = await client.wait(await client.enqueue(queue, "n", backoff=NO_WAIT), timeout=10)
    assert (done.result, done.attempt) == ("second", 2)


async def test_never_more_run_at_once_than_the_concurrency_of_the_worker_and_of_each_queue(each_broker: Broker, client: Client, queue: str) -> None:
    few, many = f"{queue}-few", f"{queue}-many"
    worker = Worker(each_broker.address, queues={few: 2, many: 10}, concurrency=8)
    running, most = {few: 0, many: 0}, {few: 0, many: 0, "all": 0}

    @worker.handler("n")
    async def n(job: Job) -> None:
        running[job.queue] += 1
        most[job.queue] = max(most[job.queue], running[job.queue])
        most["all"] = max(most["all"], sum(running.values()))
        await asyncio.sleep(0.02)
        running[job.queue] -= 1

    async with worker:
        jobs = await asyncio.gather(*(client.enqueue(name, "n", number) for name in (few, many) for number in range(20)))
        await asyncio.gather(*(client.wait(job, timeout=20) for job in jobs))
    assert most == {few: 2, many: most[many], "all": 8}
    assert most[many] <= 8


async def test_what_did_not_end_within_the_grace_goes_back_uncharged(each_broker: Broker, client: Client, queue: str) -> None:
    worker, began = worker_for(each_broker, queue, drain_grace=0.1), asyncio.Event()

    @worker.handler("n")
    async def n(job: Job) -> int:
        began.set()
        await asyncio.sleep(60)
        return 0

    async with worker:
        job = await client.enqueue(queue, "n")
        await began.wait()
    again = worker_for(each_broker, queue)

    @again.handler("n")
    async def attempt(job: Job) -> int:
        return job.attempt

    async with again:
        assert (await client.wait(job, timeout=10)).result == 1


async def test_the_fencing_token_and_the_worker_are_seen_by_all(each_broker: Broker, client: Client, queue: str) -> None:
    worker, began, go_on = worker_for(each_broker, queue, instance_id="host-1"), asyncio.Event(), asyncio.Event()

    @worker.handler("n")
    async def n(job: Job) -> int:
        began.set()
        await go_on.wait()
        return job.token

    async with worker:
        job = await client.enqueue(queue, "n")
        await began.wait()
        active = await client.get(job)
        go_on.set()
        done = await client.wait(job, timeout=10)
    assert (active.state, active.worker) == ("active", "host-1")
    assert active.token == done.result == done.token


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_five_thousand_small_jobs_are_all_done_once(each_broker: Broker, client: Client, queue: str, kind: str) -> None:
    worker, starts = worker_for(each_broker, queue, concurrency=200), []

    if kind == "coroutine":

        @worker.handler("n")
        async def coroutine(number: int) -> None:
            starts.append(number)

    else:

        @worker.handler("n")
        def function(number: int) -> None:
            starts.append(number)

    async with worker:
        await asyncio.gather(*(client.enqueue(queue, "n", number) for number in range(5000)))
        deadline = time.monotonic() + 30
        while (await client.queue(queue)).counts.completed_total < 5000 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    assert sorted(starts) == list(range(5000))


async def test_a_worker_full_of_exports_starts_a_password_reset_at_once(each_broker: Broker, client: Client, queue: str) -> None:
    exports, resets = f"{queue}.exports", f"{queue}.resets"
    worker = Worker(each_broker.address, queues=[exports, resets], concurrency=6, drain_grace=0, reserved={resets: 2})
    exporting, most, started = 0, 0, asyncio.Event()

    @worker.handler("export")
    async def export() -> None:
        nonlocal exporting, most
        exporting += 1
        most = max(most, exporting)
        if exporting == 4:
            started.set()
        await asyncio.sleep(60)

    @worker.handler("reset")
    async def reset() -> str:
        return "sent"

    async with worker:
        for _ in range(20):
            await client.enqueue(exports, "export")
        async with asyncio.timeout(10):
            await started.wait()
        began = time.monotonic()
        done = [await client.wait(await client.enqueue(resets, "reset"), timeout=10) for _ in range(5)]
        assert time.monotonic() - began < 2
    assert [job.result for job in done] == ["sent"] * 5
    assert most == 4
