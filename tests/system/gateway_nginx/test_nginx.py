"""Behind nginx, whose buffering is on by default, events arrive at once, and the end too."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.integration.gateway.reading import complete, enqueue, lease, reading, report
from tests.integration.gateway.wire import Wire
from tests.support import Broker, Gateway
from tests.support.api import Api, api
from tests.support.needs import need

from .nginx import Nginx

AT_ONCE_S = 0.5


@pytest.fixture
async def nginx(shared_gateway: Gateway) -> AsyncIterator[Nginx]:
    async with Nginx(shared_gateway) as nginx:
        yield nginx


@pytest.fixture
async def http(nginx: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=nginx.url, timeout=20, trust_env=False) as http:
        yield http


@pytest.fixture
async def worker(shared_broker: Broker) -> AsyncIterator[Api]:
    async with api(shared_broker) as services:
        yield services


async def test_events_arrive_at_once_and_the_end_too(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    delivery = await lease(worker, queue)
    for path in (job["eventsUrl"], f"/v1/events?topic={job['name']}"):
        async with reading(http, path, accept_encoding="gzip") as reader:
            began = time.monotonic()
            await reader.until("update", state="active")
            assert time.monotonic() - began < AT_ONCE_S
            assert "content-encoding" not in reader.headers
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.until("update")
        delays = []
        for percent in range(10, 90, 10):
            began = time.monotonic()
            await report(worker, delivery, percent)
            while (await reader.until("update"))["progress"]["percent"] < percent:
                pass
            delays.append(time.monotonic() - began)
        assert sorted(delays)[len(delays) // 2] < AT_ONCE_S
        began = time.monotonic()
        await complete(worker, delivery)
        await reader.until("final")
        assert await reader.rest() == []
        assert time.monotonic() - began < AT_ONCE_S + 0.5


async def test_the_overview_arrives_at_once(http: httpx.AsyncClient, queue: str) -> None:
    async with reading(http, "/v1/stats/stream") as reader:
        await reader.until("connected")
        await enqueue(http, queue)
        async with asyncio.timeout(3):
            while not any(entry["queue"] == queue for entry in (await reader.until("update"))["queues"]):
                pass


async def test_a_reader_that_leaves_nginx_leaves_the_gateway(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, Nginx(gateway) as nginx, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as direct:
        wires = [await Wire.ask(nginx.address, f"/v1/queues/{queue}/events") for _ in range(3)]
        for wire in wires:
            await wire.until(b"connected")
        assert (await direct.get("/health")).json()["streams"] == 3
        for wire in wires:
            await wire.close()
        await _streams(direct, 0)


async def test_s16_over_http2_a_hundred_streams_share_a_connection_and_end_one_by_one(shared_broker: Broker, queue: str) -> None:
    curl = need("curl")
    async with Gateway(shared_broker) as gateway, Nginx(gateway) as nginx, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as direct:
        each = [
            [
                "--max-time",
                "3" if number >= 60 else "30",
                "--output",
                "/dev/null",
                "--silent",
                f"http://{nginx.http2_address}/v1/queues/{queue}-{number}/events",
            ]
            for number in range(100)
        ]
        arguments = [part for one in each for part in ("--next", *one)][1:]
        command = [str(curl), "--http2-prior-knowledge", "--parallel", "--parallel-max", "100", "--no-buffer"]
        process = await asyncio.create_subprocess_exec(*command, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        try:
            await _streams(direct, 100)
            await _streams(direct, 60)
        finally:
            process.kill()
            await process.wait()
        await _streams(direct, 0)


async def test_a_websocket_passes(http: httpx.AsyncClient, worker: Api, nginx: Nginx, queue: str) -> None:
    job = await enqueue(http, queue)
    async with connect(f"ws://{nginx.address}/v1/ws", proxy=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "topics": [job["name"]]}))
        await complete(worker, await lease(worker, queue))
        async with asyncio.timeout(10):
            while json.loads(await socket.recv())["type"] != "final":
                pass


async def test_a_gateway_behind_nginx_that_is_deployed_costs_a_reader_one_reconnection(shared_broker: Broker, queue: str) -> None:
    extra = ["--drain", "1s"]
    async with Gateway(shared_broker, extra=extra) as one, Gateway(shared_broker, extra=extra) as two, Nginx(one, two) as nginx, api(shared_broker) as worker:
        async with httpx.AsyncClient(base_url=nginx.url, timeout=20, trust_env=False) as http:
            job = await enqueue(http, queue)
            async with reading(http, job["eventsUrl"]) as reader:
                await reader.until("update")
                assert await one.stop() == 0
                await complete(worker, await lease(worker, queue))
                rest = await reader.rest()
            if rest[-1]["type"] == "drain":
                async with reading(http, job["eventsUrl"], last_event_id=reader.last_id) as again:
                    rest = await again.rest()
        assert rest[-1]["type"] == "final"


async def _streams(gateway: httpx.AsyncClient, wanted: int) -> None:
    """Wait until so many are open."""
    count = -1
    try:
        async with asyncio.timeout(15):
            while (count := (await gateway.get("/health")).json()["streams"]) != wanted:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{count} streams are open, not {wanted}") from None
