"""Messages on the store's channels that no broker of ours sends: each costs nothing but a look at what is watched."""

import asyncio
import struct
from typing import Any

import pytest
import redis.asyncio as redis
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import enqueue
from tests.support import Broker, Store
from tests.support.api import Api


def _event(*entries: tuple[bytes, bytes]) -> bytes:
    packed = b"".join(struct.pack(">H", len(raw_id)) + raw_id + struct.pack(">I", len(record)) + record for raw_id, record in entries)
    return struct.pack(">QQ", 1 << 52, 1 << 52) + packed


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"garbage",
        _event()[:-1],
        _event((b"one", b"")),
        _event((b"one", b"\x01")),
        _event((b"one", b"\x01" + bytes(200))),
        _event((b"one", b"\x09new")),
    ],
    ids=["nothing", "no event", "half an event", "an empty record", "half a record", "a senseless record", "a record of a form to come"],
)
async def test_a_watcher_hears_the_end_after_a_message_that_nobody_understands(
    shared_store: Store, shared_broker: Broker, api: Api, queue: str, message: bytes
) -> None:
    name = await enqueue(api, queue, "one")
    watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]), timeout=30)
    await watch.read()
    async with redis.Redis.from_url(shared_store.url, protocol=2) as client:
        assert [await client.publish(f"jw:{{{queue}}}:E", message) for _ in range(2)] == [1, 1]
    async with asyncio.timeout(1.5):
        await api.jobs.CancelJob(pb.CancelJobRequest(name=name))
        answer: Any = await watch.read()
        while answer.changes[-1].type != pb.CHANGE_TYPE_FINAL:
            answer = await watch.read()
    assert len([line for line in shared_broker.lines() if "listener.bad_message" in line and f"{{{queue}}}" in line]) <= 1
