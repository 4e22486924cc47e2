"""A queue whose only broker has died, and for which nobody else has workers or watchers: some other broker finds it (RULES 2)."""

import asyncio
import time

from jobwire.v1 import job_pb2

from tests.integration.broker.asking import enqueue, get, lease, span
from tests.support import Broker, Store
from tests.support.api import api as connected

State = job_pb2.JobState

#: The lease lasts 1 s and the sweep comes by every 4 s; a machine that runs other tests, too, may add to that.
FOUND_WITHIN_S = 8.0


async def test_what_a_killed_broker_had_to_do_is_done_by_another_without_any_worker(store: Store) -> None:
    async with Broker(store) as first, Broker(store) as other, connected(other) as api:
        async with connected(first) as its:
            delayed = await enqueue(its, "delayed", "one", delay=span(0.5))
            leased = await enqueue(its, "leased", "two")
            assert len(await lease(its, "leased", lasting_s=1)) == 1
        await first.kill()
        began = time.monotonic()
        for name in (delayed, leased):
            while (await get(api, name)).state != State.JOB_STATE_WAITING:
                assert time.monotonic() - began < FOUND_WITHIN_S, name
                await asyncio.sleep(0.05)
        assert (await get(api, leased)).attempt == 0
