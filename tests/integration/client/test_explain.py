"""`explain` of both clients, and what `queue` says of its oldest jobs."""

from datetime import timedelta

import pytest
from jobwire_client import Client, JobNotFound, SyncClient

from tests.support import Broker
from tests.support.process import PATIENT_S


async def test_a_job_that_does_not_run_is_explained(shared_broker: Broker, queue: str) -> None:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        await client.enqueue(queue, "double", 1)
        job = await client.enqueue(queue, "double", 2)
        found = await client.explain(job)
        assert (found.name, found.state, [hold.reason for hold in found.holds]) == (job.name, "waiting", ["no_worker", "jobs_before"])
        assert (found.holds[1].jobs_before, found.holds[1].jobs_before_by_priority, found.holds[1].holders) == (1, 0, ())
        later = await client.explain(await client.enqueue(queue, "double", 3, delay=60))
        assert later.holds[0].reason == "not_due"
        assert later.holds[0].until is not None
        read = await client.queue(queue)
        assert read.oldest_waiting_age is not None
        assert timedelta() <= read.oldest_waiting_age < timedelta(seconds=30)
        assert (read.oldest_active_age, read.more_workers_help) == (None, True)
        with pytest.raises(JobNotFound):
            await client.explain(f"queues/{queue}/jobs/none")


def test_the_client_for_threads_explains_the_same(shared_broker: Broker, queue: str) -> None:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        job = client.enqueue(queue, "double", 1)
        assert [hold.reason for hold in client.explain(job).holds] == ["no_worker"]
