"""Bulk runs where everybody is asked who they are: they say who began them and who stopped them, and only those see and stop them who may."""

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.support import Broker, Store
from tests.support.api import api, refusal
from tests.support.credentials import Keys, bearer
from tests.support.queue_lab import open_lab

QUEUE = "mail-runs"


async def test_a_run_says_who_began_it_and_who_stopped_it(strict_broker: Broker, shared_store: Store, keys: Keys) -> None:
    async with api(strict_broker) as connected, open_lab(shared_store, QUEUE) as lab:
        begins, stops, reads = (bearer(keys.of[name]) for name in ("only_control", "mail", "only_read"))
        spec = job_pb2.JobSpec(queue=QUEUE, job_name="work")
        await connected.jobs.Enqueue(pb.EnqueueRequest(job=spec), metadata=bearer(keys.of["mail"]))
        asked = pb.BulkJobsRequest(parent=f"queues/{QUEUE}", verb=pb.BULK_VERB_DELETE)
        (dry,) = [answer async for answer in connected.jobs.BulkJobs(asked, metadata=begins)]
        asked.token = dry.token
        assert [answer.done async for answer in connected.jobs.BulkJobs(asked, metadata=begins)][-1] == 1
        found = await connected.jobs.GetBulkRun(pb.GetBulkRunRequest(name=dry.run), metadata=reads)
        assert (found.run.started_by, found.run.stopped_by) == ("only-control", "")

        # As it is when its caller leaves before its end.
        await lab.redis.hset((lab.base + "B").encode() + bytes.fromhex(dry.run.rpartition("/")[2]), "end", "ABANDONED")
        stopped = await connected.jobs.StopBulkRun(pb.StopBulkRunRequest(name=dry.run), metadata=stops)
        assert (stopped.run.started_by, stopped.run.stopped_by) == ("only-control", "mail")
        told = await refusal(connected.jobs.BulkJobs(asked, metadata=begins).read())
        assert (told.reason, told.metadata) == ("BULK_RUN_STOPPED", {"name": dry.run, "by": "mail", "done": "1"})
        assert "was stopped by mail; 1 of 1 jobs were done" in told.message


@pytest.mark.parametrize(("who", "may_read", "may_stop"), [("only_control", False, True), ("only_read", True, False), ("acme", False, False)])
async def test_to_read_runs_and_to_stop_them_ask_for_different_scopes(strict_broker: Broker, keys: Keys, who: str, may_read: bool, may_stop: bool) -> None:
    name, metadata = f"queues/{QUEUE}/bulkRuns/{'0' * 16}", bearer(keys.of[who])
    async with api(strict_broker) as connected:
        read = await refusal(connected.jobs.GetBulkRun(pb.GetBulkRunRequest(name=name), metadata=metadata))
        stopped = await refusal(connected.jobs.StopBulkRun(pb.StopBulkRunRequest(name=name), metadata=metadata))
    assert (read.reason, stopped.reason) == tuple("BULK_RUN_NOT_FOUND" if may else "NOT_PERMITTED" for may in (may_read, may_stop))
