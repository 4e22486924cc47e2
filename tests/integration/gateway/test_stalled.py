"""One that takes nothing at all is cut off after half a minute, whatever it speaks."""

import asyncio
import socket
import time

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
async def test_b04_w07_w08_who_takes_nothing_for_half_a_minute_is_cut_off(shared_broker: Broker, queue: str) -> None:
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


def _masked(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload
