"""The process: what its readers see when it, a broker or the store goes away, and how it ends."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.support import Broker, Gateway, Store
from tests.support.api import api
from tests.support.process import ProcessEnded

from .reading import EVENT_SOURCE, LARGE, complete, enqueue, lease, reading


@asynccontextmanager
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as http:
        yield http


async def status(http: httpx.AsyncClient, path: str, wanted: int) -> httpx.Response:
    """Ask until the answer has this status."""
    async with asyncio.timeout(10):
        while (answer := await http.get(path)).status_code != wanted:
            await asyncio.sleep(0.05)
    return answer


async def test_a_stream_goes_on_at_another_gateway_and_after_a_restart(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as one, Gateway(shared_broker) as two, client(one) as http, client(two) as other:
        job = await enqueue(http, queue)
        async with reading(http, job["eventsUrl"]) as reader:
            await reader.until("update")
            await one.kill()
        async with reading(other, job["eventsUrl"], last_event_id=reader.last_id) as moved:
            assert (await moved.next())["resumed"] is True
        await one.restart()
        async with reading(http, job["eventsUrl"], last_event_id=reader.last_id) as back, api(shared_broker) as worker:
            assert (await back.next())["resumed"] is True
            await complete(worker, await lease(worker, queue))
            assert (await back.until("final"))["state"] == "completed"


async def test_sigterm_drains_every_stream_and_ends_with_0(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, client(gateway) as http:
        job = await enqueue(http, queue)
        paths = [job["eventsUrl"], f"/v1/queues/{queue}/events", "/v1/stats/stream"]
        async with reading(http, paths[0]) as one, reading(http, paths[1]) as two, reading(http, paths[2]) as three:
            for reader in (one, two, three):
                await reader.until("connected")
            gateway.send(signal.SIGTERM)
            assert (await status(http, "/readyz", 503)).json()["reason"] == "SHUTTING_DOWN"
            assert (await http.get("/livez")).status_code == 200
            late = await http.get(job["eventsUrl"], headers=EVENT_SOURCE)
            assert (late.status_code, late.text.startswith("retry: ")) == (200, True)
            assert (await http.get(job["eventsUrl"])).status_code == 503
            for reader in (one, two, three):
                await reader.until("drain")
                assert await reader.rest() == []
                assert len(reader.retries) == 2
            assert len({reader.retries[1] for reader in (one, two, three)}) > 1
        assert await gateway.ended() == 0
        assert "Traceback" not in gateway.tail()
        assert "ERROR" not in gateway.tail()


async def test_a_second_signal_ends_it_at_once(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, client(gateway) as http, reading(http, f"/v1/queues/{queue}/events") as reader:
        await reader.until("connected")
        began = time.monotonic()
        gateway.send(signal.SIGINT)
        await gateway.line("draining", past=True)
        gateway.send(signal.SIGINT)
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 3
        assert "Traceback" not in gateway.tail()


async def test_one_who_does_not_read_does_not_hold_up_the_end(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker, extra=["--drain", "1s"]) as gateway, client(gateway) as http:
        with socket.socket() as stalled:
            # So small a window that what is written soon waits in the gateway.
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stalled.connect((http.base_url.host, http.base_url.port))
            stalled.sendall(f"GET /v1/queues/{queue}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
            assert stalled.recv(1)
            for _ in range(10):
                await asyncio.gather(*(enqueue(http, queue, labels=LARGE) for _ in range(25)))
            began = time.monotonic()
            assert await gateway.stop() == 0
            assert time.monotonic() - began < 1 + 5


async def test_d01_a_request_that_is_under_way_does_not_hold_up_the_end_for_long(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker, extra=["--drain", "1s"]) as gateway, client(gateway) as http, client(gateway) as later:
        await status(http, "/readyz", 200)
        broker.freeze()
        # Of all calls the one that may take longest. It goes first on a connection that is there already, so what is asked behind it is answered behind it.
        reading = asyncio.create_task(http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "durability": "disk"}))
        await asyncio.sleep(0)
        for _ in range(2):
            await status(later, "/livez", 200)
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        answer = await reading
        assert (answer.status_code, answer.json()["reason"]) == (503, "SHUTTING_DOWN")
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 1 + 5 + 1
        assert "gateway.cut_off requests=1" in gateway.tail()
        assert "Traceback" not in gateway.tail()


async def test_a_broker_that_comes_back_is_found_and_nothing_is_lost(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, client(gateway) as http:
        job = await enqueue(http, queue)
        async with reading(http, job["eventsUrl"]) as reader, reading(http, "/v1/stats/stream") as overview:
            await reader.until("update")
            await overview.until("update")
            await broker.kill()
            assert (await reader.until("degraded"))["degraded"] is True
            assert (await overview.until("degraded"))["reason"] == "broker_unavailable"
            assert (await status(http, "/readyz", 503)).json()["reason"] == "BROKER_UNAVAILABLE"
            down = await http.get("/health")
            assert (down.status_code, down.json()["status"], down.json()["services"]["broker"]) == (503, "down", "down")
            began = time.monotonic()
            refused = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"})
            assert (refused.status_code, refused.json()["reason"]) == (503, "BROKER_UNAVAILABLE")
            assert refused.json()["metadata"] == {"accepted": "unknown"}
            assert "retry-after" in refused.headers
            assert time.monotonic() - began < 2
            await broker.restart()
            assert (await reader.until("degraded"))["degraded"] is False
            await overview.until("update")
            async with api(broker) as worker:
                await complete(worker, await lease(worker, queue))
            assert (await reader.until("final"))["state"] == "completed"
            assert (await http.get("/readyz")).status_code == 200


async def test_the_end_that_came_while_the_feed_was_broken_is_shown_after_a_gap(store: Store, queue: str) -> None:
    async with Broker(store) as one, Broker(store) as two, Gateway(one) as gateway, client(gateway) as http:
        job = await enqueue(http, queue)
        async with reading(http, job["eventsUrl"]) as reader, reading(http, f"/v1/queues/{queue}/events") as everything:
            await reader.until("update")
            await everything.until("connected")
            await one.kill()
            await reader.until("degraded")
            async with api(two) as worker:
                await complete(worker, await lease(worker, queue))
            await one.restart()
            assert [event["type"] for event in await reader.rest()] == ["degraded", "gap", "update", "final"]
            assert (await everything.until("gap"))["reason"] == "broker_lost"


async def test_s07_a_reader_of_a_label_learns_the_end_of_a_job_that_it_had_seen_though_it_came_while_the_feed_was_broken(store: Store, queue: str) -> None:
    async with (
        Broker(store) as one,
        Broker(store) as two,
        Gateway(one) as gateway,
        client(gateway) as http,
        reading(http, f"/v1/events?topic=queues/{queue}/labels/order%3D17") as reader,
    ):
        await reader.until("connected")
        job = await enqueue(http, queue, labels={"order": "17"})
        assert (await reader.until("update"))["name"] == job["name"]
        await one.kill()
        await reader.until("degraded")
        async with api(two) as worker:
            await complete(worker, await lease(worker, queue))
        await one.restart()
        assert (await reader.until("gap"))["reason"] == "broker_lost"
        end = await reader.until("final")
        assert (end["name"], end["state"]) == (job["name"], "completed")


async def test_with_two_brokers_the_other_takes_over_at_once(store: Store, queue: str) -> None:
    async with Broker(store) as one, Broker(store) as two, Gateway([one, two]) as gateway, client(gateway) as http, api(two) as worker:
        job = await enqueue(http, queue)
        async with reading(http, job["eventsUrl"]) as reader:
            await reader.until("update")
            await one.kill()
            began = time.monotonic()
            assert (await http.get(f"/v1/{job['name']}")).status_code == 200
            await reader.until("degraded", degraded=False)
            await complete(worker, await lease(worker, queue))
            assert (await reader.until("final"))["state"] == "completed"
            assert time.monotonic() - began < 3


async def test_a_broker_that_is_frozen_is_passed_over(store: Store, queue: str) -> None:
    async with Broker(store) as one, Broker(store) as two, Gateway([one, two]) as gateway, client(gateway) as http:
        job = await enqueue(http, queue)
        one.freeze()
        assert (await http.get(f"/v1/{job['name']}")).status_code == 200
        began = time.monotonic()
        assert (await http.get(f"/v1/{job['name']}")).status_code == 200
        assert time.monotonic() - began < 1


async def test_a_gateway_whose_only_broker_is_frozen_is_not_ready_but_lives(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, client(gateway) as http:
        broker.freeze()
        began = time.monotonic()
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "BROKER_UNAVAILABLE")
        assert time.monotonic() - began < 3
        assert (await http.get("/livez")).status_code == 200
        broker.thaw()
        async with asyncio.timeout(10):
            while (await http.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)


async def test_a_store_that_is_away_is_said_and_its_return_too(store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, client(gateway) as http:
        job = await enqueue(http, queue)
        async with reading(http, job["eventsUrl"]) as reader:
            await reader.until("update")
            await store.kill()
            assert (await reader.until("degraded"))["reason"] == "store_unavailable"
            began = time.monotonic()
            refused = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"})
            assert (refused.status_code, refused.json()["reason"]) == (503, "STORE_UNAVAILABLE")
            assert refused.json()["metadata"]["accepted"] in ("no", "unknown")
            assert time.monotonic() - began < 3
            body = (await http.get("/health")).json()
            assert (body["status"], body["services"]["broker"], body["services"]["store"]) == ("degraded", "ok", "down")
            await store.restart()
            assert (await reader.until("degraded"))["degraded"] is False
            async with api(broker) as worker:
                await complete(worker, await lease(worker, queue))
            assert (await reader.until("final"))["state"] == "completed"


async def test_it_starts_before_its_broker(store: Store, queue: str) -> None:
    async with Broker(store) as broker:
        address = broker.address
        await broker.stop()
        async with Gateway(address) as gateway, client(gateway) as http:
            assert (await http.get("/readyz")).status_code == 503
            async with reading(http, f"/v1/queues/{queue}/events") as reader:
                assert (await reader.next())["type"] == "degraded"
                await broker.restart()
                await reader.until("connected")
                await enqueue(http, queue)
                await reader.until("update", state="waiting")


async def test_an_address_that_is_taken_is_said(shared_broker: Broker, shared_gateway: Gateway) -> None:
    second = Gateway(shared_broker)
    second.address = shared_gateway.address
    with pytest.raises(ProcessEnded, match=r"ended with 1 .*(\n.*)*gateway\.no_address"):
        await second.start()
    sentence = f"jobwire gateway: --http {second.address} can't be listened on: Address already in use; end what listens there, or give another address"
    assert second.tail().splitlines()[-1] == sentence


async def test_an_address_that_all_can_reach_needs_insecure(shared_broker: Broker) -> None:
    gateway = Gateway(shared_broker)
    gateway.address = "0.0.0.0:0"
    with pytest.raises(ProcessEnded, match="--insecure"):
        await gateway.start()
    async with Gateway(shared_broker, extra=["--insecure"]) as open_to_all:
        assert open_to_all.running


async def test_the_log_is_one_object_a_line_when_it_is_asked_for(shared_broker: Broker) -> None:
    gateway = Gateway(shared_broker, extra=["--log-format", "json"])
    gateway.ready_line = r'"event": ?"gateway\.ready".*?"http": ?"([^"]+)'
    async with gateway, client(gateway) as http:
        assert (await http.get("/v1/stats", headers={"Host": "evil.example"})).status_code == 421
        await gateway.line(r"gateway\.refused", past=True)
    events = [json.loads(line) for line in gateway.lines()]
    assert all({"timestamp", "level", "event"} <= event.keys() for event in events)
    (refused,) = [event for event in events if event["event"] == "gateway.refused"]
    assert (refused["reason"], refused["path"], refused["name"]) == ("HOST_NOT_ALLOWED", "/v1/stats", "")
