"""A reader that goes away before anything was written leaves nothing behind."""

import asyncio
import contextlib
from typing import Any

import pytest
from jobwire.v1.job_pb2 import Job
from jobwire_gateway import frames
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.logs import LogStream
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.stats import OverviewStream, event_source
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import Topics
from starlette.types import Message


@pytest.mark.parametrize("kind", [LogStream, OverviewStream])
async def test_one_who_has_gone_before_the_answer_begins_is_watched_for_by_nobody(kind: type) -> None:
    topics = Topics(Bounds(100, 1_000_000), 15_000)
    streams = Streams(limit=10, starts_per_s=10, retry_s=1.0, drain_s=1.0, heartbeat_s=15.0)
    brokers = Brokers(["127.0.0.1:1"], 1.0)
    parts: tuple[Any, ...] = (brokers, topics, streams, "queues/q/jobs/j", 0) if kind is LogStream else (topics, streams)

    async def gone(message: Message) -> None:
        raise OSError("the connection is gone")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with contextlib.suppress(ExceptionGroup, OSError):
        await event_source(kind(*parts).chunks())({"type": "http", "method": "GET", "asgi": {}}, receive, gone)
    assert (len(topics), len(streams)) == (0, 0)
    await brokers.close()


def woken() -> list[asyncio.Task[Any]]:
    """What waits for something else than the log that is read."""
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == "Event.wait"]


async def test_one_who_goes_away_while_its_log_is_read_leaves_no_task_behind() -> None:
    topics = Topics(Bounds(100, 1_000_000), 15_000)
    streams = Streams(limit=10, starts_per_s=10, retry_s=1.0, drain_s=1.0, heartbeat_s=15.0)
    brokers = Brokers(["127.0.0.1:1"], 1.0)
    stream = LogStream(brokers, topics, streams, "queues/q/jobs/j", 0)
    stream.say(frames.update(Job(name="queues/q/jobs/j", queue="q", id="j", revision=1)))

    async def read() -> None:
        async for _ in stream.chunks():
            pass

    reading = asyncio.create_task(read())
    waits: list[asyncio.Task[Any]] = []
    async with asyncio.timeout(10):
        # The first one ends at once, since a frame is there.
        while not waits or waits != woken():
            waits = woken()
            for _ in range(10):
                await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait((reading,))
    await asyncio.sleep(0)
    assert woken() == []
    await brokers.close()
