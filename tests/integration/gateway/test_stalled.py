"""One that takes nothing at all is cut off after half a minute, whatever it speaks; and one that says nothing any more, within a minute."""

import asyncio
import socket
import time
from contextlib import suppress

import httpx
import pytest

from tests.support import Broker, Gateway

from .reading import enqueue

_STREAM = "GET /v1/queues/{queue}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
_SOCKET = (
    "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.slow
async def test_b04_w07_w08_who_takes_nothing_for_half_a_minute_or_says_nothing_for_a_whole_one_is_cut_off(
    shared_broker: Broker, shared_gateway: Gateway, queue: str
) -> None:
    # Both at once, since both take their time.
    silent = asyncio.create_task(_silent_peers_are_cut_off(shared_gateway))
    async with Gateway(shared_broker) as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as http:
        host, port = gateway.address.split(":")
        with socket.socket() as stream, socket.socket() as web:
            for each in (stream, web):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                each.connect((host, int(port)))
            stream.sendall(_STREAM.format(queue=queue).encode())
            web.sendall(_SOCKET.encode())
            assert web.recv(1)
            web.sendall(_masked(f'{{"type":"subscribe","topics":["queues/{queue}"]}}'.encode()))
            began = time.monotonic()
            async with asyncio.timeout(90):
                while (await http.get("/health")).json()["streams"] < 2:
                    await asyncio.sleep(0.05)
                # More than the kernel holds for each of them.
                while time.monotonic() - began < 60 and (await http.get("/health")).json()["streams"]:
                    await asyncio.gather(*(enqueue(http, queue, jobName="j" * 128) for _ in range(50)))
                    await asyncio.sleep(0.5)
            assert (await http.get("/health")).json()["streams"] == 0
            assert time.monotonic() - began > 25
    await silent


async def _silent_peers_are_cut_off(gateway: Gateway) -> None:
    """One that answers no ping, and one that answers no close."""
    host, port = gateway.address.split(":")
    with socket.socket() as mute, socket.socket() as rude:
        for each in (mute, rude):
            each.connect((host, int(port)))
            each.sendall(_SOCKET.encode())
            assert b" 101 " in await asyncio.to_thread(each.recv, 1_000)
        # A binary message is answered with a close.
        rude.sendall(bytes((0x82, 0x81)) + bytes(4) + b"x")
        await asyncio.gather(*(asyncio.to_thread(_to_the_end, each, 60) for each in (mute, rude)))


def _to_the_end(connection: socket.socket, within_s: float) -> None:
    """Read, and answer nothing, until the other side has ended the connection."""
    deadline = time.monotonic() + within_s
    with suppress(ConnectionError):
        while True:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            if not connection.recv(1 << 16):
                return


def _masked(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload
