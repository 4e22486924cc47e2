"""SIGSTOP of a worker past its session, then SIGCONT: what it then says of its jobs is refused as stale or adopted, as RULES.md §3 has it."""

import asyncio
import time

from tests.support import outcomes
from tests.support.api import Api
from tests.support.meanwhile import meanwhile
from tests.support.producer import counts
from tests.support.system import system


@meanwhile
async def test_a_frozen_worker_comes_back_to_find_its_jobs_with_others_and_its_word_refused() -> None:
    async with system("frozen worker, jobs taken by another", brokers=1) as it:
        frozen, other = await it.start_workers(2, concurrency=1_100)
        jobs = await it.enqueue(1_100, ms=(2_500, 3_500))
        await it.running(1_100)
        held = it.history.unfinished_of(frozen.pid, time.monotonic())
        assert len(held) > 100, "the jobs did not spread over both workers"
        frozen_s = time.monotonic()
        frozen.freeze()
        await it.log.until(lambda: all(it.history.next_start(*lease) for lease in held), 6, "every job of the frozen worker running elsewhere")
        started_s = max(event.at_s for lease in held if (event := it.history.next_start(*lease)))
        noticed = frozen.line(r"worker\.(dis)?connected", timeout=10)
        frozen.thaw()
        await noticed
        it.history.lease_over(frozen.pid, frozen_s)
        settled = await it.all_done(20)
        verdict = it.history.verdict()
        refused = sum("VERDICT_STALE_LEASE" in line or "VERDICT_ALREADY_FINISHED" in line for line in frozen.lines())
        stopped = sum(event.pid == frozen.pid for event in it.history.stops)
        outcomes.tell(it.test, f"{verdict}; {len(held)} leases lost, {stopped} handlers told, {refused} finishes refused")
        assert verdict.valid, verdict
        assert not verdict.unexcused, verdict
        assert settled.completed_total == len(jobs), "a late finish was counted beside the other one"
        assert started_s - frozen_s <= 2 + 1
        assert {event.pid for event in it.history.starts if (event.job, event.token) not in held} <= {frozen.pid, other.pid}


@meanwhile
async def test_a_frozen_worker_that_was_the_only_one_comes_back_and_keeps_its_jobs() -> None:
    async with system("frozen worker, alone", brokers=1) as it:
        (frozen,) = await it.start_workers(1, concurrency=1_100)
        jobs = await it.enqueue(1_100, ms=(5_000, 6_000))
        await it.running(1_100)
        frozen.freeze()
        await _reaped(it.apis[0], it.queue)
        frozen.thaw()
        settled = await it.all_done(20)
        verdict = it.history.verdict()
        outcomes.tell(it.test, verdict)
        assert verdict.valid, verdict
        assert not verdict.duplicated, verdict
        assert len(it.history.starts) == len(jobs), "a job was started again though its worker came back before another took it"
        assert settled.completed_total == len(jobs)


async def _reaped(api: Api, queue: str) -> None:
    """Wait until the store has taken all jobs back."""
    for _ in range(100):
        if (await counts(api, queue)).active == 0:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the jobs of a frozen worker stayed with it")
