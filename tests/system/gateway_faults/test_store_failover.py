"""A replica becomes the primary under people who watch: with all that the old one had, and without its last writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import httpx
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1.worker_service_pb2 import Delivery, LeaseJobsRequest

from tests.integration.gateway.reading import complete, enqueue, lease, reading, report
from tests.integration.gateway.sockets import opened
from tests.support import Broker, Gateway, failover, outcomes
from tests.support.api import Api, api
from tests.support.failover import Pair

RECOVERY_S = 5.0


@dataclass
class Stack:
    """All parts before a pair of stores."""

    stores: Pair
    gateway: Gateway
    http: httpx.AsyncClient
    worker: Api

    async def after(self, change: Awaitable[None], queue: str) -> float:
        """Change the store, and give the seconds until the same broker answers again."""
        began = time.monotonic()
        await change
        async with asyncio.timeout(RECOVERY_S * 2):
            while not await self._answers(f"{queue}-other"):
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def _answers(self, queue: str) -> bool:
        try:
            await self.worker.jobs.Enqueue(pb.EnqueueRequest(job=job_pb2.JobSpec(queue=queue, job_name="probe")))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


@asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    async with (
        failover.pair() as stores,
        Broker(stores.url, session_time="2s") as broker,
        Gateway(broker) as gateway,
        api(broker) as worker,
        httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as http,
    ):
        yield Stack(stores, gateway, http, worker)


@pytest.mark.parametrize("change", [Pair.fail_over, Pair.hand_over])
async def test_s07_b09_a_failover_to_a_store_with_everything_costs_nobody_the_end(queue: str, change: Callable[[Pair], Awaitable[None]]) -> None:
    async with stack() as it:
        page, many, socket_of, back = [await enqueue(it.http, queue) for _ in range(4)]
        running = [await _lease(it.worker, queue, 60) for _ in range(4)]
        async with (
            reading(it.http, page["eventsUrl"]) as one,
            reading(it.http, f"/v1/events?topic={many['name']}&topic={page['name']}") as several,
            opened(it.gateway) as socket,
        ):
            await socket.subscribe(socket_of["name"])
            async with reading(it.http, back["eventsUrl"]) as away:
                for job in running:
                    await report(it.worker, job, 10)
                for reader in (one, several, socket, away):
                    await reader.until("update", state="active")
                await away.until("update")
            await it.stores.caught_up()
            took = await it.after(change(it.stores), queue)
            for job in running:
                await complete(it.worker, job)
            assert (await one.rest())[-1]["state"] == "completed"
            assert sorted(frame["name"] for frame in await several.rest() if frame["type"] == "final") == sorted([many["name"], page["name"]])
            assert (await socket.until("final"))["state"] == "completed"
        async with reading(it.http, back["eventsUrl"], last_event_id=away.last_id) as again:
            assert [(frame["type"], frame.get("state")) for frame in await again.rest()][-1] == ("final", "completed")
        outcomes.tell(f"store fails over, nothing lost ({change.__name__})", f"calls answered {took:.2f} s after the primary's death")
        assert took < RECOVERY_S


async def test_s07_what_a_failover_has_lost_is_said_and_no_job_is_stuck(queue: str) -> None:
    async with stack() as it:
        known, done, taken = [await enqueue(it.http, queue) for _ in range(3)]
        leases = [await _lease(it.worker, queue, 60), await _lease(it.worker, queue, 1)]
        await report(it.worker, leases[0], 10)
        await it.stores.caught_up()
        it.stores.cut_replication()
        await report(it.worker, leases[0], 50)
        await complete(it.worker, leases[1])
        leases.append(await _lease(it.worker, queue, 60))
        lost = await enqueue(it.http, queue)
        async with (
            reading(it.http, known["eventsUrl"]) as page,
            opened(it.gateway) as socket,
            reading(it.http, lost["eventsUrl"]) as of_lost,
            reading(it.http, f"/v1/queues/{queue}/events") as of_all,
        ):
            assert (await page.until("update"))["progress"]["percent"] == 50
            await socket.subscribe(taken["name"])
            await socket.until("update", state="active")
            await of_lost.until("update")
            await of_all.until("connected")
            async with reading(it.http, done["eventsUrl"]) as of_done:
                await of_done.until("final", state="completed")
            took = await it.after(it.stores.fail_over(), queue)

            assert (await page.until("gap"))["reason"] == "store_lost"
            assert (await page.until("update"))["progress"]["percent"] == 10
            assert (await socket.until("gap"))["reason"] == "store_lost"
            assert (await socket.until("update"))["state"] == "waiting"
            assert (await of_all.until("gap"))["reason"] == "store_lost"
            assert (await of_lost.rest())[-1]["state"] == "removed"

            # One is known to run, one was given back by the store's memory and one by its lease's end.
            await complete(it.worker, leases[0])
            for _ in range(2):
                await complete(it.worker, await lease(it.worker, queue))
            assert (await page.until("final"))["state"] == "completed"
            assert (await socket.until("final"))["state"] == "completed"
        outcomes.tell("store fails over, last writes lost", f"calls answered {took:.2f} s after the primary's death")
        assert took < RECOVERY_S


async def _lease(worker: Api, queue: str, seconds: int) -> Delivery:
    request = LeaseJobsRequest(queue=queue, max_jobs=1, worker="single calls")
    request.lease_duration.FromSeconds(seconds)
    (delivery,) = (await worker.workers.LeaseJobs(request)).jobs
    return delivery
