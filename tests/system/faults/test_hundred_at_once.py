"""A hundred requests at the same moment: all are accepted in under a second, never more than twenty run, and all are done within ten."""

import asyncio
import time

from jobwire.v1 import job_service_pb2 as pb

from tests.support import outcomes
from tests.support.history import Event
from tests.support.producer import spec
from tests.support.raw_worker import job_ids
from tests.support.system import system


async def test_a_hundred_requests_at_once_are_accepted_at_once_and_run_twenty_at_a_time() -> None:
    async with system("a hundred at once", brokers=1) as it:
        await it.start_workers(1, concurrency=20)
        jobs = job_ids(100)
        it.history.attempt(jobs)
        began_s = time.monotonic()
        await asyncio.gather(*(it.apis[0].jobs.Enqueue(pb.EnqueueRequest(job=spec(it.queue, job, {"ms": 500}))) for job in jobs))
        accepted_s = time.monotonic() - began_s
        it.history.acknowledge(jobs)
        await it.all_done(15)
        done_s = max(event.at_s for event in it.history.dones) - began_s
        most = most_at_once(it.history.starts, it.history.dones)
        verdict = it.history.verdict()
        outcomes.tell(it.test, f"{verdict}; accepted in {accepted_s:.2f} s, at most {most} at once, done in {done_s:.2f} s")
        assert verdict.valid, verdict
        assert not verdict.duplicated
        assert accepted_s < 1
        assert most <= 20
        assert done_s <= 10


def most_at_once(starts: list[Event], dones: list[Event]) -> int:
    """The greatest number of handlers that ran at the same moment."""
    running = most = 0
    for _, change in sorted([(event.at_s, 1) for event in starts] + [(event.at_s, -1) for event in dones]):
        running += change
        most = max(most, running)
    return most
