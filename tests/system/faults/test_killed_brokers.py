"""`kill -9` of one of two brokers: workers go on through the other and keep their jobs, and nothing runs twice."""

import asyncio
from collections import Counter

from tests.support import outcomes
from tests.support.load import load
from tests.support.system import System, kill, system

KILLS = 12


async def test_workers_keep_their_jobs_when_their_broker_is_killed_and_nothing_runs_twice() -> None:
    async with system("killed brokers", brokers=2) as it:
        await it.start_workers(4, concurrency=400)
        async with load(it, 1_200, ms=(1_000, 4_000)):
            for _ in range(KILLS):
                await it.running(1_000)
                await _kill_one(it)
        await it.all_done(30)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; {it.producer.repeats} enqueues repeated")
        assert verdict.valid, verdict
        assert not verdict.duplicated, verdict
        starts = Counter(event.job for event in it.history.starts)
        assert not [job for job, count in starts.items() if count > 1], "a job was run again though its worker was there all the time"


async def _kill_one(it: System) -> None:
    """One of them, at some moment; then the next only when it is back and something has run since."""
    broker = it.random.choice(it.brokers)
    await it.moment(0.7)
    await kill(broker)
    await it.moment(0.7)
    await broker.restart()
    completed = len(it.history.completed)
    await asyncio.wait_for(it.log.until(lambda: len(it.history.completed) > completed, 10, "work going on after a broker was killed"), 15)
