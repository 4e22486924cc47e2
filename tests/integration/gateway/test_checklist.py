"""What an event stream is on the wire. Each test begins with the lines of the checklist that it proves (docs/watching.md, "The checklist")."""

import asyncio
import re
import signal
import socket
import time

import httpx
import pytest
from jobwire_gateway.config import GatewayConfig
from jobwire_gateway.server import _listen

from tests.support import Broker, Gateway, Store
from tests.support.api import Api, api

from .reading import EVENT_SOURCE, LARGE, complete, enqueue, fail, lease, reading, report
from .wire import Wire, stalled_stream

QUICK_S = 10.0
"""How late a quick reader may be on a busy machine; one that waited for a stalled one would be late by half a minute."""


async def test_s01_s15_the_head_lets_no_proxy_keep_change_or_compress_anything(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    for path in (job["eventsUrl"], f"/v1/queues/{queue}/events", f"/v1/events?topic={job['name']}", "/v1/stats/stream"):
        async with await Wire.ask(shared_gateway.address, path, Accept_Encoding="gzip, deflate, br") as wire:
            assert wire.status == 200
            assert wire.headers["content-type"].partition(";")[0] == "text/event-stream"
            assert wire.headers["cache-control"] == "no-store, no-transform"
            assert wire.headers["x-accel-buffering"] == "no"
            assert not wire.headers.keys() & {"content-length", "content-encoding", "connection"}


async def test_s02_s05_the_first_bytes_come_before_anything_is_known_and_say_when_to_come_back(shared_gateway: Gateway, shared_broker: Broker) -> None:
    shared_broker.freeze()
    try:
        wires = [await Wire.ask(shared_gateway.address, f"/v1/queues/frozen{number}/events") for number in range(5)]
        first = [await wire.first_chunk() for wire in wires]
        for wire in wires:
            await wire.close()
    finally:
        shared_broker.thaw()
    assert all(re.fullmatch(rb"retry: [2-4]\d{3}\n\n", chunk) for chunk in first)
    assert len(set(first)) > 1


async def test_s03_ids_are_short_safe_and_grow(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    paths = (job["eventsUrl"], f"/v1/events?topic={job['name']}&topic=queues/{queue}")
    one, many = [await Wire.ask(shared_gateway.address, path) for path in paths]
    for wire in (one, many):
        await wire.until(b'"state":"waiting"')
    delivery = await lease(worker, queue)
    for percent in range(10, 50, 10):
        await report(worker, delivery, percent)
        await one.until(b'"percent":%d.0' % percent)
    await complete(worker, delivery)
    await one.rest()
    await many.until(b'"final"')
    for wire in (one, many):
        await wire.close()
    for wire in (one, many):
        ids = wire.ids()
        assert len(ids) >= 6
        assert all(re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", event_id) for event_id in ids)
        numbers = [int(re.match(r"\d+", event_id)[0]) for event_id in ids]  # type: ignore[index]
        assert numbers == sorted(set(numbers))


async def test_s04_text_of_a_worker_breaks_no_frame(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    attack = "a\nb\rc\r\nd\u2028e\u0085f\x0bg\ndata: {}\n\nid: 7\nevent: message\n\n"
    job = await enqueue(http, queue)
    delivery = await lease(worker, queue)
    async with await Wire.ask(shared_gateway.address, job["eventsUrl"]) as wire:
        await wire.until(b'"active"')
        await report(worker, delivery, 10, attack)
        await wire.until(b'"percent":10.0')
        await fail(worker, delivery, attack)
        body = await wire.rest()
    fields = {line.partition(b":")[0] for line in body.split(b"\n")}
    assert fields <= {b"", b"id", b"data", b"retry"}
    assert b"\r" not in body
    final = wire.events()[-1]
    assert (final["type"], final["failure"]["message"]) == ("final", attack)
    assert attack in [event["progress"]["message"] for event in wire.events() if "progress" in event]


async def test_s04_no_text_of_anybody_becomes_a_header(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    attack = "a\r\nX-Evil: 1\r\n\r\n<script>"
    job = await enqueue(http, queue, payload=attack, labels={"note": attack})
    await fail(worker, await lease(worker, queue), attack)
    for path in (f"/v1/{job['name']}", f"/v1/queues/{queue}/jobs?state=failed", f"/v1/queues/{queue}/failures", job["eventsUrl"]):
        async with await Wire.ask(shared_gateway.address, path) as wire:
            assert wire.status == 200
            assert "x-evil" not in wire.headers
            await wire.rest()
            assert b"\r\nX-Evil" not in wire.body
            assert rb"\r\nX-Evil" in wire.body


async def test_s05_a_silent_stream_has_heartbeats_and_now_and_then_its_cursor(shared_broker: Broker, http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue)
    async with Gateway(shared_broker, extra=["--heartbeat", "1s"]) as gateway:
        one = await Wire.ask(gateway.address, job["eventsUrl"])
        many = await Wire.ask(gateway.address, f"/v1/events?topic={job['name']}&topic=queues/{queue}")
        await many.until(b'"update"')
        shown = many.ids()[-1]
        began = time.monotonic()
        await one.until(b"\n:\n\n", 3)
        await many.until(b"\n:\n\n:\n\n:\n\nid: " + shown.encode() + b"\n\n", 10)
        assert time.monotonic() - began < 10
        assert one.events()[0]["heartbeatMs"] == 1_000
        await one.close()
        await many.close()


async def test_s06_a_cursor_may_come_by_header_or_by_query_under_two_names(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.until("update")
    path, last = job["eventsUrl"], reader.last_id
    for query in (f"last_event_id={last}", f"lastEventId={last}"):
        async with reading(http, f"{path}?{query}") as back:
            assert (await back.next())["resumed"] is True
    async with reading(http, f"{path}?last_event_id=1", last_event_id=last) as back:
        assert (await back.next())["resumed"] is True


@pytest.mark.parametrize("last_event_id", ["garbage", "a:b", "earliest", "latest", "1", "9999999999999999", "5-0123456789abcdef"])
async def test_s07_an_id_that_cannot_be_gone_on_from_is_said_and_healed(http: httpx.AsyncClient, queue: str, last_event_id: str) -> None:
    job = await enqueue(http, queue)
    for path in (job["eventsUrl"], f"/v1/events?topic={job['name']}"):
        async with reading(http, path, last_event_id=last_event_id) as reader:
            seen = [await reader.next() for _ in range(3)]
        assert [event["type"] for event in seen] == ["connected", "gap", "update"]
        assert (seen[0]["resumed"], seen[1]["reason"]) == (False, "resumed")
    async with reading(http, f"/v1/queues/{queue}/events", last_event_id=last_event_id) as reader:
        assert [(await reader.next())["type"] for _ in range(2)] == ["connected", "gap"]


async def test_s07_a_reader_goes_on_at_another_gateway_and_another_broker(store: Store, queue: str) -> None:
    async with Broker(store) as one, Broker(store) as two, Gateway(one) as first, Gateway(two) as second, api(two) as worker:
        async with httpx.AsyncClient(base_url=first.url, trust_env=False) as http:
            jobs = [await enqueue(http, queue) for _ in range(3)]
        path = "/v1/events?" + "&".join(f"topic={job['name']}" for job in jobs)
        wire = await Wire.ask(first.address, path)
        while len(wire.events()) < 6:
            await wire.first_chunk()
        await wire.close()
        await first.kill()
        await one.kill()
        async with await Wire.ask(second.address, path, Last_Event_ID=wire.ids()[-1]) as same:
            while len(same.events()) < 3:
                await same.first_chunk()
            assert [(event["type"], event["resumed"]) for event in same.events()] == [("connected", True)] * 3
        for _ in jobs:
            await complete(worker, await lease(worker, queue))
        async with await Wire.ask(second.address, path, Last_Event_ID=wire.ids()[-1]) as late:
            await late.rest()
        finals = [event["name"] for event in late.events() if event["type"] == "final"]
        assert sorted(finals) == sorted(job["name"] for job in jobs)
        assert [event["type"] for event in late.events()].count("gap") == 3
        async with await Wire.ask(second.address, path, Last_Event_ID=late.ids()[-1]) as over:
            assert over.status == 204


async def test_s08_a_reader_of_a_job_that_comes_while_it_changes_misses_no_end_and_sees_nothing_twice(
    http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str
) -> None:
    job = await enqueue(http, queue)
    delivery = await lease(worker, queue)

    async def change() -> None:
        for percent in range(1, 50):
            await report(worker, delivery, percent)
        await complete(worker, delivery)

    changing = asyncio.create_task(change())
    wires: list[Wire] = []
    while not changing.done() and len(wires) < 200:
        wires.append(await Wire.ask(shared_gateway.address, job["eventsUrl"]))
    await changing
    for wire in wires:
        await wire.rest()
        events = wire.events()
        assert [event["type"] for event in events if event["type"] != "update"] == ["connected", "final"]
        assert events[1]["type"] == "update"
        revisions = [event["revision"] for event in events if event["type"] == "update"]
        assert revisions == sorted(set(revisions))
        await wire.close()


async def test_s08_a_reader_of_a_queue_that_comes_while_jobs_are_made_sees_each_later_one_once(
    http: httpx.AsyncClient, shared_gateway: Gateway, queue: str
) -> None:
    made: list[str] = []

    async def make() -> None:
        for _ in range(60):
            made.append((await enqueue(http, queue))["name"])

    making = asyncio.create_task(make())
    readers: list[tuple[Wire, int]] = []
    while not making.done() and len(readers) < 50:
        wire = await Wire.ask(shared_gateway.address, f"/v1/queues/{queue}/events")
        await wire.until(b"connected")
        # The next one may have been made already, and its answer be on its way.
        readers.append((wire, len(made) + 1))
    await making
    for wire, first in readers:
        await wire.until(made[-1].encode())
        seen = [event["name"] for event in wire.events() if event["type"] == "update"]
        assert len(seen) == len(set(seen))
        assert seen[len(seen) - len(made[first:]) :] == made[first:]
        await wire.close()


async def test_s08_a_reader_of_a_queue_misses_no_change_of_a_job_whose_stream_others_open_meanwhile(
    http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str
) -> None:
    jobs = 10
    async with await Wire.ask(shared_gateway.address, f"/v1/queues/{queue}/events") as everything:
        await everything.until(b"connected")
        wires: list[Wire] = []
        for number in range(jobs):
            job = await enqueue(http, queue, id=f"j{number}")
            one, delivery = await asyncio.gather(Wire.ask(shared_gateway.address, job["eventsUrl"]), lease(worker, queue))
            other, _ = await asyncio.gather(Wire.ask(shared_gateway.address, job["eventsUrl"]), complete(worker, delivery))
            wires += (one, other)
        for wire in wires:
            await wire.rest()
            await wire.close()
        while [event["type"] for event in everything.events()].count("final") < jobs:
            await everything.first_chunk()
        seen = [(event["id"], event["state"]) for event in everything.events() if "state" in event]
        assert sorted(seen) == sorted((f"j{number}", state) for number in range(jobs) for state in ("waiting", "active", "completed"))


async def test_s09_after_the_end_comes_204_and_an_unknown_job_is_404_to_programs_alone(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    await complete(worker, await lease(worker, queue))
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.rest()
    for path, last in ((job["eventsUrl"], reader.last_id), (f"/v1/queues/{queue}/jobs/nope/events", "0.end")):
        again = await http.get(path, headers={**EVENT_SOURCE, "Last-Event-ID": last})
        assert (again.status_code, again.content) == (204, b"")
    assert (await http.get(f"/v1/queues/{queue}/jobs/nope/events")).status_code == 404


async def test_s10_b06_b07_one_too_many_is_sent_back_softly_and_health_answers_all_the_same(shared_broker: Broker, queue: str) -> None:
    async with (
        Gateway(shared_broker, extra=["--max-streams", "2", "--metrics", "127.0.0.1:0"]) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http,
    ):
        path = f"/v1/queues/{queue}/events"
        held = [await Wire.ask(gateway.address, path) for _ in range(2)]
        async with await Wire.ask(gateway.address, path) as turned_away:
            assert turned_away.status == 200
            assert re.fullmatch(rb"retry: \d{4,5}\n\n", await turned_away.rest())
        plain = await http.get(path)
        assert (plain.status_code, plain.headers["content-type"], plain.json()["reason"]) == (503, "application/problem+json", "TOO_MANY_STREAMS")
        assert int(plain.headers["retry-after"]) >= 1
        metrics = (await gateway.line(r"gateway\.metrics http=(\S+)", past=True))[1]
        for probe in ("/livez", "/readyz", "/health", f"http://{metrics}/metrics"):
            assert (await http.get(probe)).status_code == 200
        await held.pop().close()
        async with await Wire.ask(gateway.address, path) as again:
            await again.until(b"connected")
        await held.pop().close()


async def test_s11_head_gives_the_head_and_other_methods_are_told_which_there_are(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    for path in (f"/v1/queues/{queue}/events", f"/v1/events?topic=queues/{queue}", "/v1/stats/stream"):
        head = await http.head(path, headers=EVENT_SOURCE)
        assert (head.status_code, head.headers["content-type"].partition(";")[0], head.content) == (200, "text/event-stream", b"")
        wrong = await http.put(path)
        assert wrong.status_code == 405
        assert "GET" in wrong.headers["allow"]
    large = await http.post("/v1/events", json={"topics": [f"queues/{queue}/jobs/{'j' * 120}{number}" for number in range(500)]}, headers=EVENT_SOURCE)
    assert (large.status_code, large.headers["content-type"]) == (413, "application/problem+json")


async def test_s11_a_page_of_an_allowed_origin_may_send_what_resuming_needs(shared_broker: Broker, queue: str) -> None:
    env = {"JOBWIRE_ALLOWED_ORIGINS": "https://app.example"}
    async with Gateway(shared_broker, env=env) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,last-event-id", "Sec-Fetch-Site": "cross-site"}
        for origin, status in (("https://app.example", 204), ("https://evil.example", 403)):
            answer = await http.request("OPTIONS", f"/v1/queues/{queue}/events", headers={"Origin": origin, **asked})
            assert answer.status_code == status
            allowed = {name.strip().lower() for name in answer.headers.get("access-control-allow-headers", "").split(",")}
            assert (allowed >= {"authorization", "last-event-id"}) == (status == 204)


async def test_s13_a_job_too_large_for_a_frame_is_replaced_by_its_address(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    await complete(worker, await lease(worker, queue), '"' + "x" * 200_000 + '"')
    async with reading(http, job["eventsUrl"]) as reader:
        final = (await reader.rest())[-1]
    assert (final["truncated"], final["url"], "result" in final) == (True, f"/v1/{job['name']}", False)
    assert len((await http.get(final["url"])).json()["result"]) == 200_000


def test_b05_what_is_accepted_shows_a_peer_that_is_gone_or_does_not_read() -> None:
    listener = _listen(GatewayConfig(http="127.0.0.1:0"))
    with listener, socket.socket() as client:
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            # Linux says twice what was asked for.
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * 128 * 1024
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16 * 1024


async def test_b01_b03_b08_a_reader_that_does_not_read_delays_none_of_a_hundred_and_gets_a_gap_and_the_end(
    http: httpx.AsyncClient, shared_gateway: Gateway, queue: str
) -> None:
    path = f"/v1/queues/{queue}/events"
    with stalled_stream(shared_gateway.address, path) as stalled:
        assert stalled.recv(1)
        quick = await asyncio.gather(*(Wire.ask(shared_gateway.address, path) for _ in range(100)))
        await asyncio.gather(*(wire.until(b"connected") for wire in quick))
        answering = asyncio.create_task(_always_answering(http))
        # Three times what the kernel and the gateway hold for one reader.
        for _ in range(12):
            made = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobs": [{"jobName": "j", "labels": LARGE}] * 25})).json()["jobs"]
            last = made[-1]["id"].encode()
            await asyncio.gather(*(wire.until(last, QUICK_S) for wire in quick))
            for wire in quick:
                assert wire.body.count(b'"type":"update"') == len(made)
                wire.body = b""
        assert not answering.done()
        answering.cancel()
        await asyncio.gather(*(wire.close() for wire in quick))
        stalled.settimeout(5)
        body = b""
        while last not in body or b'"slow_reader"' not in body:
            body += stalled.recv(1 << 16)
        assert body.count(b"data: ") < 12 * 25


async def _always_answering(http: httpx.AsyncClient) -> None:
    """Ask whether the process lives, again and again. Raises TimeoutError when an answer is late."""
    while True:
        async with asyncio.timeout(QUICK_S):
            assert (await http.get("/livez")).status_code == 200
        await asyncio.sleep(0.05)


async def test_b02_what_happens_at_once_is_written_once_and_is_the_same_for_all(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    wires = [await Wire.ask(shared_gateway.address, f"/v1/queues/{queue}/events") for _ in range(3)]
    for wire in wires:
        await wire.until(b"connected")
        wire.chunks, wire.body = 0, b""
    made = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobs": [{"jobName": "j"}] * 50})).json()["jobs"]
    for wire in wires:
        await wire.until(made[-1]["id"].encode())
        assert wire.chunks <= 5
        assert wire.body == wires[0].body
        await wire.close()


async def test_b09_a_lost_broker_is_said_and_its_return_brings_what_was_missed_once(store: Store, queue: str) -> None:
    async with Broker(store) as one, Broker(store) as two, Gateway(one) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        jobs = [await enqueue(http, queue) for _ in range(2)]
        path = "/v1/events?" + "&".join(f"topic={job['name']}" for job in jobs)
        async with reading(http, path) as reader, api(two) as worker:
            for _ in jobs:
                await reader.until("update")
            await one.kill()
            assert (await reader.until("degraded"))["reason"] == "broker_unavailable"
            await complete(worker, await lease(worker, queue))
            await one.restart()
            seen: list[dict[str, object]] = []
            while not any(event["type"] == "final" for event in seen):
                seen.append(await reader.next())
            assert [event["type"] for event in seen] == ["degraded", "gap", "update", "final"]


async def test_d01_the_first_signal_drains_over_the_window_and_the_process_ends_in_time(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker, extra=["--drain", "2s"]) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        wires = [await Wire.ask(gateway.address, f"/v1/queues/{queue}/events") for _ in range(20)]
        for wire in wires:
            await wire.until(b"connected")
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        ended: list[float] = []

        async def read(wire: Wire) -> None:
            await wire.rest()
            ended.append(time.monotonic() - began)
            await wire.close()

        reads = [asyncio.create_task(read(wire)) for wire in wires]
        await gateway.line("draining", past=True)
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/livez")).status_code == 200
        await asyncio.gather(*reads)
        assert await gateway.ended() == 0
        assert time.monotonic() - began < 2 + 5
        assert all(wire.events()[-1]["type"] == "drain" for wire in wires)
        assert len({wire.events()[-1]["reconnectMs"] for wire in wires}) > 10
        # One in each tenth of a second; a busy machine may be late by a few.
        assert max(sum(start <= moment < start + 0.5 for moment in ended) for start in ended) <= 12
        assert not any(word in gateway.tail() for word in ("Traceback", "ERROR", "CancelledError"))


async def test_d03_the_library_does_not_close_its_streams_by_itself(shared_broker: Broker) -> None:
    async with Gateway(shared_broker, extra=["--drain", "1s"]) as gateway:
        async with await Wire.ask(gateway.address, "/v1/stats/stream") as wire:
            await wire.until(b"connected")
            gateway.send(signal.SIGTERM)
            await wire.rest()
        assert wire.events()[-1]["type"] == "drain"
        assert await gateway.ended() == 0


@pytest.mark.parametrize("name", ["a*" * 10_000, "(a+)+$" * 3_000, "a" * 60_000, "*" * 20_000, "/" * 20_000])
async def test_x13_no_name_takes_long_to_judge(http: httpx.AsyncClient, name: str) -> None:
    began = time.monotonic()
    for topic in (f"queues/{name}", f"queues/q/jobs/{name}", f"queues/q/labels/{name}=a"):
        assert (await http.post("/v1/events", json={"topics": [topic]}, headers=EVENT_SOURCE)).status_code == 400
    assert time.monotonic() - began < QUICK_S


async def test_x05_only_a_trusted_proxy_names_the_address_that_is_counted(shared_broker: Broker, queue: str) -> None:
    path, one_each = f"/v1/queues/{queue}/events", ["--max-streams-per-address", "1"]
    for trusted, counts_apart in (([], False), (["--trusted-proxies", "127.0.0.1/32"], True)):
        async with Gateway(shared_broker, extra=[*one_each, *trusted]) as gateway:
            first, second = [await Wire.ask(gateway.address, path, X_Forwarded_For=f"198.51.100.{number}") for number in (1, 2)]
            await first.until(b"connected")
            await (second.until(b"connected") if counts_apart else second.rest())
            assert (b"connected" in second.body) is counts_apart
            await first.close()
            await second.close()
