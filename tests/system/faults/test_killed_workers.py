"""`kill -9` of workers: their jobs start elsewhere within the session time and a second, and the attempt is not charged."""

import asyncio

from tests.support import outcomes
from tests.support.history import Event, History
from tests.support.meanwhile import meanwhile
from tests.support.system import System, system
from tests.support.worker import WorkerProcess

WAVES = 6
KILLED_PER_WAVE = 5


async def test_jobs_of_killed_workers_start_elsewhere_in_time_and_uncharged() -> None:
    """Waves, so that no job loses its worker twice: from the second loss on it would be delayed by design."""
    async with system("killed workers", brokers=2) as it:
        await it.start_workers(12, concurrency=200)
        delays: list[float] = []
        for _ in range(WAVES):
            delays += await _wave(it)
        await it.all_done(20)
        verdict = it.history.verdict()
        outcomes.tell("killed workers", f"{verdict}; {len(delays)} jobs started elsewhere after at most {max(delays):.2f} s")
        assert verdict.valid, verdict
        assert not verdict.unexcused, verdict
        assert {event.attempt for event in it.history.starts} == {1}, "a lost worker was charged to the job"
        assert max(delays) <= 2 + 1


async def _wave(it: System) -> list[float]:
    """1,200 jobs at once, some workers killed, others in their place. Returns how long the lost jobs waited for their next start."""
    jobs = await it.enqueue(1_200, ms=(2_000, 3_000))
    await it.running(1_000)
    doomed = it.random.sample(it.workers, KILLED_PER_WAVE)
    killed = await asyncio.gather(*(_kill_some_time(it, worker) for worker in doomed))
    it.workers = [worker for worker in it.workers if worker not in doomed]
    await it.start_workers(KILLED_PER_WAVE, concurrency=200)
    await it.log.until(lambda: it.history.completed.issuperset(jobs), 30, "all jobs of the wave done")
    return [delay for worker, at_s in killed for delay in delays_after(it.history, worker.pid, at_s)]


async def _kill_some_time(it: System, worker: WorkerProcess) -> tuple[WorkerProcess, float]:
    await it.moment(0.5)
    return worker, await it.kill_worker(worker)


def delays_after(history: History, pid: int, at_s: float) -> list[float]:
    """How long after the kill each job that the process held was started elsewhere."""
    again: list[Event | None] = [history.next_start(job, token) for job, token in history.unfinished_of(pid, at_s)]
    return [event.at_s - at_s for event in again if event is not None]


@meanwhile
async def test_with_the_default_session_time_of_ten_seconds_jobs_start_elsewhere_within_eleven() -> None:
    async with system("killed worker, session time 10 s", brokers=1, session_time=None) as it:
        first, _ = await it.start_workers(2, concurrency=600)
        await it.enqueue(1_000, ms=(8_000, 9_000))
        await it.running(1_000)
        killed_s = await it.kill_worker(first)
        await it.all_done(40)
        delays = delays_after(it.history, first.pid, killed_s)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; {len(delays)} jobs started elsewhere after {min(delays):.2f} to {max(delays):.2f} s")
        assert verdict.valid, verdict
        assert {event.attempt for event in it.history.starts} == {1}
        assert max(delays) <= 10 + 1
