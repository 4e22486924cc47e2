"""A job that takes its worker down ends as POISON, and the five hundred that ran beside it do not (RULES 4)."""

import asyncio
import json

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import queue_service_pb2 as queue_pb

from tests.support import outcomes
from tests.support.meanwhile import meanwhile
from tests.support.system import System, system

INNOCENTS, CONCURRENCY = 500, 50


@meanwhile
async def test_one_killer_among_five_hundred_innocents_is_the_only_one_that_is_poison() -> None:
    async with system("one killer among 500", brokers=1) as it:
        first = await it.enqueue(INNOCENTS // 2, ms=(200, 600))
        killer = job_pb2.JobSpec(queue=it.queue, id="killer", job_name="work", payload=job_pb2.Payload(json=json.dumps({"kill": 1})))
        await it.apis[0].jobs.Enqueue(pb.EnqueueRequest(job=killer))
        innocents = first + await it.enqueue(INNOCENTS // 2, ms=(200, 600))
        await it.start_workers(2, concurrency=CONCURRENCY)
        keeper = asyncio.create_task(_replace_the_killed(it))
        await it.log.until(lambda: it.history.completed.issuperset(innocents), 90, "all innocents done")
        ended = (await it.apis[0].jobs.WaitJob(pb.WaitJobRequest(name=f"queues/{it.queue}/jobs/killer"))).job
        keeper.cancel()
        counts = (await it.apis[0].queues.GetQueue(queue_pb.GetQueueRequest(name=f"queues/{it.queue}"))).queue.counts
        outcomes.tell(it.test, f"{it.history.verdict()}; {len(it.workers) - 2} workers lost")
        assert (ended.state, ended.failure.reason) == (job_pb2.JOB_STATE_FAILED, "POISON")
        assert (counts.completed, counts.failed) == (INNOCENTS, 1)
        assert it.history.verdict().valid


async def _replace_the_killed(it: System) -> None:
    """As a supervisor does: for each worker that dies, another."""
    watched = set(it.workers)
    while True:
        for worker in [worker for worker in watched if not worker.running]:
            watched.discard(worker)
            outcomes.count_kill()
            it.history.killed(worker.pid)
            watched |= set(await it.start_workers(1, concurrency=CONCURRENCY))
        await asyncio.sleep(0.05)
