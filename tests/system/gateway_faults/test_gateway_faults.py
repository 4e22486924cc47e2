"""A thousand watchers of a hundred running jobs, while a gateway, the broker or the store is killed, or both gateways are deployed: each sees the end."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from jobwire.v1.worker_service_pb2 import Delivery, LeaseJobsRequest

from tests.integration.gateway.reading import complete, enqueue, fail, report
from tests.support import Broker, Gateway, Store, outcomes
from tests.support.api import Api, api
from tests.support.credentials import Keys

from .watchers import Watcher, busiest_second

JOBS, WATCHERS = 100, 1_000
DRAIN_S = 5.0
RETRY_S = 2.0


class Crowd:
    """The jobs, the worker that runs them, and all who watch."""

    def __init__(self, worker: Api, jobs: list[Delivery], watchers: list[Watcher], opened: list[float]) -> None:
        self.watchers = watchers
        self.opened = opened
        self._worker = worker
        self._jobs = jobs
        self._percent = 0.0
        self._ended = 0
        self._watching = [asyncio.create_task(watcher.run()) for watcher in watchers]

    async def there(self) -> None:
        """Wait until all see their job."""
        async with asyncio.timeout(60):
            await asyncio.gather(*(watcher.live.wait() for watcher in self.watchers))
        self.opened.clear()

    async def work(self) -> None:
        """Report some progress of each job."""
        self._percent += 1.0
        for job in self._jobs[self._ended :]:
            await report(self._worker, job, self._percent)

    async def end(self, part: slice) -> None:
        """Let some jobs end, every tenth with a failure."""
        self._ended = part.stop
        for job in self._jobs[part]:
            await (fail(self._worker, job, "no picture") if job.token % 10 == 0 else complete(self._worker, job))

    async def judge(self, fault: str, window_s: float) -> None:
        """Wait for the end of all, and compare what each saw with what is."""
        async with asyncio.timeout(90):
            await asyncio.gather(*self._watching)
        assert not [watcher.trouble for watcher in self.watchers if watcher.trouble]
        assert [watcher.finals for watcher in self.watchers] == [1] * len(self.watchers)
        ends = {watcher.final["name"]: watcher.final["state"] for watcher in self.watchers if watcher.final}
        states = {f"queues/{job.queue}/jobs/{job.id}": "failed" if job.token % 10 == 0 else "completed" for job in self._jobs}
        assert ends == states
        rate, allowed = busiest_second(self.opened), 1.5 * WATCHERS / window_s
        outcomes.tell(fault, f"{WATCHERS} watchers all saw the end; {len(self.opened)} connections anew, at most {rate} in a second ({allowed:.0f} allowed)")
        assert rate <= allowed

    async def leave(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)


@asynccontextmanager
async def crowd(broker: Broker, gateways: Sequence[Gateway], queue: str, key: str = "") -> AsyncIterator[Crowd]:
    """`key`: where callers must say who they are, a key that may do everything. The pages have a token by it; `broker` asks its callers nothing."""
    said = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=gateways[0].url, timeout=20, trust_env=False, headers=said) as http, api(broker) as worker:
        made = await asyncio.gather(*(enqueue(http, queue) for _ in range(JOBS)))
        request = LeaseJobsRequest(queue=queue, max_jobs=JOBS, worker="single calls")
        request.lease_duration.FromSeconds(120)
        jobs = list((await worker.workers.LeaseJobs(request)).jobs)
        assert len(jobs) == JOBS
        opened: list[float] = []
        query = f"?token={await _token(http, queue)}" if key else ""
        watchers = [Watcher(gateways, made[number % JOBS]["eventsUrl"] + query, opened) for number in range(WATCHERS)]
        all_of_them = Crowd(worker, jobs, watchers, opened)
        try:
            await all_of_them.there()
            yield all_of_them
        finally:
            await all_of_them.leave()


@pytest.mark.slow
async def test_d02_a_gateway_that_is_killed_and_replaced_costs_nobody_the_end(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, crowd(broker, [gateway], queue) as it:
        await it.work()
        await gateway.kill()
        await it.end(slice(0, 30))
        await gateway.restart()
        await it.end(slice(30, JOBS))
        await it.judge("gateway killed", RETRY_S)


async def _token(http: httpx.AsyncClient, queue: str) -> str:
    return str((await http.post("/v1/tokens:watch", json={"topics": [f"queues/{queue}"]})).json()["token"])


@pytest.mark.slow
async def test_s10_a_gateway_that_is_replaced_while_its_broker_restarts_costs_nobody_the_end(store: Store, queue: str) -> None:
    """Nobody can be asked then who the watchers are, and the new gateway knows none of them."""
    keys = Keys(gateway="watch:* read:*", all="*:*")
    guarded = Broker(store, env={"JOBWIRE_KEYS": keys.text})
    async with (
        Broker(store) as broker,
        guarded,
        Gateway(guarded, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway,
        crowd(broker, [gateway], queue, keys.of["all"]) as it,
    ):
        await it.work()
        await gateway.kill()
        await guarded.kill()
        await gateway.restart()
        await it.end(slice(0, 30))
        await gateway.line("gateway.refused reason=BROKER_UNAVAILABLE", past=True)
        await guarded.restart()
        await it.end(slice(30, JOBS))
        await it.judge("gateway replaced while the broker restarts", RETRY_S)


@pytest.mark.slow
async def test_b09_a_broker_that_is_killed_and_restarted_costs_nobody_the_end(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, crowd(broker, [gateway], queue) as it:
        await it.work()
        await broker.kill()
        await broker.restart()
        await it.end(slice(0, JOBS))
        await it.judge("broker killed", RETRY_S)


@pytest.mark.slow
async def test_s07_a_store_that_is_killed_and_restarted_costs_nobody_the_end(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, crowd(broker, [gateway], queue) as it:
        await it.work()
        await asyncio.sleep(2.5)  # what is not on disk after two seconds may be lost
        await store.kill()
        await store.restart()
        await it.end(slice(0, JOBS))
        await it.judge("store killed", RETRY_S)


@pytest.mark.slow
async def test_d02_a_rolling_restart_of_two_gateways_costs_nobody_the_end_and_makes_no_storm(store: Store, queue: str) -> None:
    drain = ["--drain", f"{DRAIN_S:.0f}s"]
    async with Broker(store) as broker, Gateway(broker, extra=drain) as one, Gateway(broker, extra=drain) as two, crowd(broker, [one, two], queue) as it:
        for gateway, part in ((one, slice(0, 30)), (two, slice(30, 60))):
            began = time.monotonic()
            gateway.send(signal.SIGTERM)
            await it.work()
            await it.end(part)
            assert await gateway.ended(DRAIN_S + 5) == 0
            assert time.monotonic() - began < DRAIN_S + 5
            assert not any(word in gateway.tail() for word in ("Traceback", "ERROR"))
            await gateway.restart()
        await it.end(slice(60, JOBS))
        await it.judge("rolling restart", DRAIN_S)
