"""`Prefer: wait` when the process ends, when who asked goes away, and when a broker does."""

import asyncio
import signal

import httpx

from tests.support import Broker, Gateway, Store
from tests.support.api import api

from .reading import complete, enqueue, lease


async def waiting(http: httpx.AsyncClient, count: int) -> None:
    """Return when so many answers are open."""
    async with asyncio.timeout(10):
        while (await http.get("/health")).json()["streams"] != count:
            await asyncio.sleep(0.02)


async def test_a_wait_ends_early_when_the_process_drains(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker, extra=["--drain", "1s"]) as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as http:
        asked = asyncio.create_task(http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"}, headers={"Prefer": "wait=60"}))
        await waiting(http, 1)
        gateway.send(signal.SIGTERM)
        answer = await asked
        assert (answer.status_code, "job" in answer.json()) == (202, False)
        assert await gateway.ended() == 0
    assert "Traceback" not in gateway.tail()


async def test_a_wait_ends_when_who_asked_goes_away(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False) as http:
        job = await enqueue(http, queue)
        asked = asyncio.create_task(http.get(f"/v1/{job['name']}", headers={"Prefer": "wait=60"}))
        await waiting(http, 1)
        asked.cancel()
        await waiting(http, 0)
        assert (await http.get(f"/v1/{job['name']}")).json()["state"] == "waiting"
    assert "Traceback" not in gateway.tail()


async def test_a_wait_goes_on_at_another_broker(store: Store, queue: str) -> None:
    async with (
        Broker(store) as one,
        Broker(store) as two,
        Gateway([one, two]) as gateway,
        api(two) as worker,
        httpx.AsyncClient(base_url=gateway.url, timeout=40, trust_env=False) as http,
    ):
        job = await enqueue(http, queue)
        asked = asyncio.create_task(http.get(f"/v1/{job['name']}", headers={"Prefer": "wait=30"}))
        await waiting(http, 1)
        await one.kill()
        await complete(worker, await lease(worker, queue), "7")
        ended = (await asked).json()
        assert (ended["state"], ended["result"]) == ("completed", 7)


async def test_an_enqueue_whose_broker_goes_away_while_it_waits_is_still_told_that_the_job_was_made(store: Store, queue: str) -> None:
    async with (
        Broker(store) as broker,
        Gateway(broker) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=40, trust_env=False) as http,
    ):
        asked = asyncio.create_task(http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "id": "j"}, headers={"Prefer": "wait=60"}))
        await waiting(http, 1)
        await broker.kill()
        answer = await asked
        assert (answer.status_code, answer.json()["verdict"], "job" in answer.json()) == (202, "made", False)
        assert "preference-applied" not in answer.headers
