"""Frames over a WebSocket, against a real broker and a real store. What the checklist asks for is named by its line."""

import asyncio
import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.support import Broker, Gateway
from tests.support.api import Api

from .reading import complete, enqueue, lease, report
from .sockets import Socket, opened


async def test_a_job_is_followed_to_its_end(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue, payload={"photo": "a.jpg"})
    async with opened(shared_gateway) as socket:
        await socket.subscribe(job["name"])
        assert await socket.next() == {"type": "connected", "name": job["name"], "resumed": False, "heartbeatMs": 15_000}
        assert (await socket.next())["state"] == "waiting"
        delivery = await lease(worker, queue)
        await report(worker, delivery, 40, "resizing")
        assert (await socket.until("update", state="active"))["name"] == job["name"]
        await complete(worker, delivery, '{"sizes":[128]}')
        assert (await socket.until("final"))["result"] == {"sizes": [128]}
        await socket.subscribe(job["name"])
        assert [(await socket.next())["type"] for _ in range(3)] == ["connected", "update", "final"]


async def test_w05_topics_come_and_go_and_each_goes_on_from_its_own_cursor(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    first, second = await enqueue(http, queue), await enqueue(http, queue)
    async with opened(shared_gateway) as socket:
        await socket.subscribe(first["name"], second["name"], f"queues/{queue}")
        seen = [await socket.next() for _ in range(5)]
        revision = {frame["name"]: frame["revision"] for frame in seen if frame["type"] == "update"}
        await socket.say(type="unsubscribe", topics=[first["name"], f"queues/{queue}"])
        assert {(await socket.until("unsubscribed"))["name"] for _ in range(2)} == {first["name"], f"queues/{queue}"}
        await complete(worker, await lease(worker, queue))
        await socket.say(type="subscribe", topics=[second["name"], first["name"]], after={first["name"]: str(revision[first["name"]])})
        frames = [await socket.next() for _ in range(4)]
        assert [(frame["type"], frame["name"]) for frame in frames] == [(kind, first["name"]) for kind in ("connected", "gap", "update", "final")]
    async with opened(shared_gateway) as socket:
        await socket.say(type="subscribe", topics=[second["name"]], after={second["name"]: str(revision[second["name"]])})
        assert (await socket.next())["resumed"] is True


async def test_an_end_that_the_reader_has_is_answered_as_well(http: httpx.AsyncClient, worker: Api, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    await complete(worker, await lease(worker, queue))
    async with opened(shared_gateway) as socket:
        await socket.say(type="subscribe", topics=[job["name"]], after={job["name"]: "17.end"})
        assert await socket.next() == {"type": "unsubscribed", "name": job["name"]}


async def test_each_topic_that_is_to_be_followed_no_more_is_answered_once(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    async with opened(shared_gateway) as socket:
        await socket.subscribe(job["name"])
        await socket.until("update")
        await socket.say(type="unsubscribe", topics=[job["name"], job["name"], f"queues/{queue}", "labels/user=7", 7])
        frames = [await socket.next() for _ in range(5)]
        assert [(frame["type"], frame["name"]) for frame in frames] == [
            *[("unsubscribed", job["name"])] * 2,
            ("unsubscribed", f"queues/{queue}"),
            ("error", "labels/user=7"),
            ("error", "7"),
        ]
        assert {frame["reason"] for frame in frames[3:]} == {"INVALID_TOPIC"}


async def test_a_topic_that_cannot_be_had_is_said_and_the_others_go_on(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue)
    async with opened(shared_gateway) as socket:
        await socket.subscribe("labels/user=7", f"queues/{queue}/jobs/nope", job["name"])
        frames = [await socket.next() for _ in range(4)]
        errors = {frame["name"]: frame["reason"] for frame in frames if frame["type"] == "error"}
        assert errors == {"labels/user=7": "INVALID_TOPIC", f"queues/{queue}/jobs/nope": "JOB_NOT_FOUND"}
        await socket.subscribe(*(f"queues/{queue}-{number}" for number in range(100)))
        assert "at most 100" in (await socket.until("error"))["detail"]


async def test_a_topic_with_half_of_a_surrogate_pair_costs_nobody_the_feed(http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    async with opened(shared_gateway) as socket, opened(shared_gateway) as other:
        await other.subscribe(f"queues/{queue}")
        await other.until("connected")
        name = f"queues/{queue}/labels/a=\ud800"
        await socket.say(type="subscribe", topics=[name, [[]]])
        assert [(frame["reason"], frame["name"]) for frame in [await socket.next(), await socket.next()]] == [
            ("INVALID_TOPIC", name),
            ("INVALID_TOPIC", "[[]]"),
        ]
        await enqueue(http, queue)
        assert (await other.next())["type"] == "update"


async def test_w01_pages_of_other_origins_are_refused_by_a_real_answer(shared_gateway: Gateway) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        with pytest.raises(InvalidStatus) as caught:
            async with opened(shared_gateway, origin=origin):
                pass
        assert caught.value.response.status_code == 403
        assert json.loads(caught.value.response.body)["reason"] == "CROSS_ORIGIN"
    async with opened(shared_gateway, origin=shared_gateway.url) as socket:
        await socket.subscribe("queues/q")
        await socket.until("connected")


async def test_w01_a_gateway_on_loopback_goes_by_no_other_name(shared_gateway: Gateway) -> None:
    host, port = shared_gateway.address.split(":")
    with pytest.raises(InvalidStatus) as caught:
        async with connect(f"ws://evil.example:{port}/v1/ws", host=host, port=int(port), proxy=None):
            pass
    assert caught.value.response.status_code == 421


async def test_w04_the_subprotocol_has_a_version_and_no_other_is_spoken(shared_gateway: Gateway) -> None:
    async with opened(shared_gateway, subprotocols=[Subprotocol("other"), Subprotocol("jobwire.v1")]) as socket:
        assert socket.connection.subprotocol == "jobwire.v1"
    with pytest.raises(InvalidStatus) as caught:
        async with opened(shared_gateway, subprotocols=[Subprotocol("other")]):
            pass
    assert caught.value.response.status_code == 400


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\x00", 1003),
        ("{", 1007),
        ("[" * 100_000, 1009),
        ("[" * 60_000, 1007),
        ('{"type":"subscribe","topics":[],"topics":["queues/q"]}', 1007),
        ('{"type":"subscribe","topics":[],"after":{"queues/q":NaN}}', 1007),
        ('{"type":"subscribe","topics":[' + "[" * 600 + "]" * 600 + "]}", 1007),
        ("[]", 1008),
        ('{"type":"subscribe"}', 1008),
        ('{"type":"subscribe","topics":[],"cursors":{}}', 1008),
        ('{"type":"publish","topics":["queues/q"]}', 1008),
    ],
)
async def test_w03_w06_a_message_that_breaks_a_rule_ends_the_connection_with_a_code_that_says_which(
    shared_gateway: Gateway, message: str | bytes, code: int
) -> None:
    async with opened(shared_gateway) as socket:
        await socket.connection.send(message)
        assert await socket.closed() == code


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
async def test_w07_answers_are_not_piled_up_for_one_who_asks_and_asks(shared_gateway: Gateway, kind: str) -> None:
    async with opened(shared_gateway) as socket:
        for _ in range(4):
            await socket.say(type=kind, topics=("x" * 10,) * 100)
        for _ in range(400):
            assert (await socket.next())["reason"] == "INVALID_TOPIC"
        for _ in range(90):
            await socket.say(type=kind, topics=("x" * 200,) * 100)
        assert await socket.closed() == 1008


async def test_w03_too_many_messages_end_the_connection_and_nothing_is_compressed(shared_gateway: Gateway) -> None:
    async with connect(f"ws://{shared_gateway.address}/v1/ws", proxy=None) as connection:
        assert "Sec-WebSocket-Extensions" not in connection.response.headers  # type: ignore[union-attr]
        socket = Socket(connection)
        try:
            for _ in range(500):
                await socket.say(type="unsubscribe", topics=[])
        except ConnectionClosed:
            pass
        assert await socket.closed() == 1008


async def test_w08_pings_without_end_and_messages_without_end_are_cut_off(shared_gateway: Gateway) -> None:
    async with opened(shared_gateway) as flooding, opened(shared_gateway) as endless:
        protocol = endless.connection.protocol
        protocol.send_text(b'{"type"', fin=False)
        endless.connection.transport.write(b"".join(protocol.data_to_send()))
        for _ in range(200):
            flooding.connection.protocol.send_ping(b"x")
        flooding.connection.transport.write(b"".join(flooding.connection.protocol.data_to_send()))
        assert await flooding.closed() == 1008
        assert await endless.closed() == 1008


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 2\r\n\r\n{}",
        f"X-Long: {'a' * 9_000}\r\n",
        "X-Many: a\r\n" * 200,
    ],
    ids=["a body", "a long line", "many headers"],
)
async def test_w08_x06_a_handshake_that_can_not_be_read_is_answered_and_holds_no_connection(shared_gateway: Gateway, headers: str) -> None:
    host, _, port = shared_gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    writer.write(f"GET /v1/ws HTTP/1.1\r\nHost: {shared_gateway.address}\r\n{handshake}{headers}\r\n".encode())
    try:
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"x-content-type-options: nosniff" in answer


async def test_w08_a_flood_of_what_is_no_text_ends_with_its_first_message(shared_gateway: Gateway) -> None:
    async with opened(shared_gateway) as socket:
        for _ in range(1_000):
            socket.connection.protocol.send_binary(b"x" * 1_000)
        socket.connection.transport.write(b"".join(socket.connection.protocol.data_to_send()))
        assert await socket.closed() == 1003


async def test_w06_a_gateway_that_ends_says_when_to_come_back_and_closes_with_1012(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, opened(gateway) as socket, opened(gateway) as silent:
        await socket.subscribe(f"queues/{queue}")
        await socket.until("connected")
        stopping = asyncio.create_task(gateway.stop())
        assert (await socket.until("drain"))["reconnectMs"] > 0
        assert await socket.closed() == 1012
        assert await silent.closed() == 1012
        assert await stopping == 0
        assert "Traceback" not in gateway.tail()
