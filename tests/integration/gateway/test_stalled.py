"""One that takes nothing at all is cut off after half a minute, whatever it speaks; and one that says nothing any more, within a minute."""

import asyncio
import socket
import time
from contextlib import ExitStack, suppress

import httpx
import pytest
from jobwire.v1.job_pb2 import JobSpec
from jobwire.v1.job_service_pb2 import EnqueueBatchRequest, EnqueueVerdict

from tests.support import Broker, Gateway
from tests.support.api import api

from .reading import LARGE
from .talking import talking
from .wire import stalled, stalled_stream

_SOCKET = "GET /v1/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.slow
async def test_b04_w07_w08_who_takes_nothing_for_half_a_minute_or_says_nothing_for_a_whole_one_is_cut_off(
    broker: Broker, shared_gateway: Gateway, queue: str
) -> None:
    # All at once, since each takes its time.
    silent = asyncio.create_task(_silent_peers_are_cut_off(shared_gateway))
    async with Gateway(broker) as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as http:
        await _make_many_queues(broker)
        await _make_long_log(http, broker, queue)
        paths = (f"/v1/queues/{queue}/events", "/v1/stats/stream", f"/v1/queues/{queue}/jobs/a/logs/stream")
        with ExitStack() as stack:
            began = time.monotonic()
            for path in paths:
                stack.enter_context(stalled_stream(gateway.address, path))
            web = stack.enter_context(stalled(gateway.address, _SOCKET))
            assert web.recv(1)
            web.sendall(_masked(f'{{"type":"subscribe","topics":["queues/{queue}"]}}'.encode()))
            async with asyncio.timeout(90):
                while await _open_streams(http) < len(paths) + 1:
                    await asyncio.sleep(0.05)
                # The overview and the log are more than the kernel holds as they begin. Of the others that much is to come first.
                while (left := await _open_streams(http)) and time.monotonic() - began < 60:
                    assert left == len(paths) + 1 or time.monotonic() - began > 25
                    await _make(broker, [JobSpec(queue=queue, job_name="t", labels=LARGE)] * 50)
                    await asyncio.sleep(0.5)
            assert await _open_streams(http) == 0
    await silent


async def _make_many_queues(broker: Broker) -> None:
    """An overview of nearly half a megabyte."""
    await _make(broker, [JobSpec(queue=f"{number:q>100}", job_name="j") for number in range(1_000)])


async def _make(broker: Broker, jobs: list[JobSpec]) -> None:
    async with api(broker) as services:
        answer = await services.jobs.EnqueueBatch(EnqueueBatchRequest(jobs=jobs))
    assert {item.verdict for item in answer.items} == {EnqueueVerdict.ENQUEUE_VERDICT_MADE}


async def _make_long_log(http: httpx.AsyncClient, broker: Broker, queue: str) -> None:
    """A log of 256 KiB, which is six times that in JSON."""
    async with talking(http, broker, queue) as talker:
        for _ in range(8):
            await talker.say(*["\x1b" * 1_000] * 32)
        async with asyncio.timeout(20):
            while (await http.get(f"/v1/queues/{queue}/jobs/a")).json().get("logLines") != 256:
                await asyncio.sleep(0.05)


async def _open_streams(http: httpx.AsyncClient) -> int:
    streams: int = (await http.get("/health")).json()["streams"]
    return streams


async def _silent_peers_are_cut_off(gateway: Gateway) -> None:
    """One that answers no ping, and one that answers no close."""
    with stalled(gateway.address, _SOCKET) as mute, stalled(gateway.address, _SOCKET) as rude:
        for each in (mute, rude):
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
