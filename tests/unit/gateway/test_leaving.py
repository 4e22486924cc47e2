"""A reader that goes away before anything was written leaves nothing behind."""

import contextlib
from typing import Any

import pytest
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
