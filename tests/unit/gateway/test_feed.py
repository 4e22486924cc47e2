"""The one feed lives for ever, whatever brokers do, and says that it is there when a broker has said so."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from jobwire.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from jobwire.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway import feed as module
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.feed import Feed
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.readers import OneReader
from jobwire_gateway.topics import Topics

from .reading import events, job, types

NAME = "queues/q/jobs/j"

Context = grpc.aio.ServicerContext[Any, Any]


class Stage(EventServiceServicer):
    """A broker that plays what a test wants of it, session by session."""

    def __init__(self, play: Callable[[Context], Awaitable[None]]) -> None:
        self.sessions = 0
        self._play = play

    async def Subscribe(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        self.sessions += 1
        await self._play(context)


@asynccontextmanager
async def fed(play: Callable[[Context], Awaitable[None]]) -> AsyncIterator[tuple[Feed, Topics, Stage]]:
    stage = Stage(play)
    server = grpc.aio.server()
    add_EventServiceServicer_to_server(stage, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    brokers = Brokers([f"127.0.0.1:{port}"], 1.0)
    topics = Topics(Bounds(100, 1_000_000), 15_000)
    feed = Feed(brokers, topics)
    feed.start()
    try:
        yield feed, topics, stage
    finally:
        await feed.stop()
        await brokers.close()
        await server.stop(None)


async def answer(context: Context) -> None:
    """Be there, and answer each topic with its job."""
    await context.write(SubscribeResponse(store_available=True))
    while isinstance(request := await context.read(), SubscribeRequest):
        changes = [JobChange(type=ChangeType.CHANGE_TYPE_SNAPSHOT, job=job(1)) for name in request.add if name == NAME]
        await context.write(SubscribeResponse(added=request.add, changes=changes))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("turns", range(24))
async def test_it_can_be_stopped_at_any_moment_of_its_beginning(turns: int) -> None:
    welcomed = asyncio.Event()

    async def welcome(context: Context) -> None:
        await context.write(SubscribeResponse(store_available=True))
        welcomed.set()
        await answer(context)

    async with fed(welcome) as (feed, _, _):
        await welcomed.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await feed.stop()


async def test_a_broker_that_refuses_the_key_was_never_there() -> None:
    async def refuse(context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such key")

    async with fed(refuse) as (feed, topics, stage):
        await until(lambda: topics.trouble is not None)
        reader = OneReader.of_job(topics, NAME, None, lambda: None)
        was_open = []
        async with asyncio.timeout(10):
            while stage.sessions < 4:
                was_open.append(feed.open)
                await asyncio.sleep(0)
        assert not any(was_open)
        assert types(reader.take()) == ["degraded"]


async def test_a_feed_that_always_ends_alike_is_said_once_and_again_once_it_lives(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    sessions = iter(("no right", "no right", "no right", "no right at all", "no right at all"))

    async def answer_and_end(context: Context) -> None:
        refusal = next(sessions, "")
        if not refusal:
            monkeypatch.setattr(module, "_STEADY_S", 0.0)
            await answer(context)
        await context.write(SubscribeResponse(store_available=True))
        await context.read()
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

    def said() -> list[str]:
        return [line.split()[0] + line.partition("DENIED:")[2] for line in caplog.messages if line.startswith("feed.")]

    async with fed(answer_and_end) as (_, topics, stage):
        OneReader.of_job(topics, NAME, None, lambda: None)
        await until(lambda: stage.sessions == 6 and len(said()) == 6)
        assert said() == ["feed.open", "feed.lost no right", "feed.open", "feed.lost no right at all", "feed.open", "feed.open"]


async def test_a_broker_that_ends_every_feed_is_not_asked_without_a_pause() -> None:
    async def answer_and_end(context: Context) -> None:
        await context.write(SubscribeResponse(store_available=True))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such topic")

    async with fed(answer_and_end) as (_, _, stage):
        await until(lambda: stage.sessions > 0)
        await asyncio.sleep(0.5)
        # 25 to 50 ms at first, doubled each time.
        assert stage.sessions <= 6


async def test_a_store_that_comes_back_is_asked_for_everything_anew() -> None:
    session = iter(range(10))

    async def lose_the_store(context: Context) -> None:
        if next(session):
            await answer(context)
            return
        await context.write(SubscribeResponse(store_available=True))
        request = await context.read()
        await context.write(SubscribeResponse(added=request.add, changes=[JobChange(type=ChangeType.CHANGE_TYPE_SNAPSHOT, job=job(9))]))
        await context.write(SubscribeResponse(store_available=False))
        await context.write(SubscribeResponse(store_available=True))
        await asyncio.Event().wait()

    async with fed(lose_the_store) as (_, topics, _):
        woken = asyncio.Event()
        reader = OneReader.of_job(topics, NAME, None, woken.set)
        stream = b""
        async with asyncio.timeout(10):
            while b'"revision":1,' not in stream:
                await woken.wait()
                woken.clear()
                stream += reader.take()
        assert [event.type for event in events(stream) if event.type != "degraded"] == ["connected", "update", "gap", "update"]
        assert "broker_unavailable" not in stream.decode()


async def test_a_bug_in_the_handling_of_what_came_ends_the_session_and_not_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    rightly, left = {name: getattr(Topics, name) for name in ("apply", "unplug")}, {"apply": 2, "unplug": 1}

    def stumbling(name: str) -> Callable[..., Iterator[None]]:
        def stumble(topics: Topics, what: object) -> Iterator[None]:
            left[name] -= 1
            if left[name] == 0:
                raise RecursionError("a bug")
            yield from rightly[name](topics, what)

        return stumble

    for name in rightly:
        monkeypatch.setattr(Topics, name, stumbling(name))
    async with fed(answer) as (feed, topics, stage):
        reader = OneReader.of_job(topics, NAME, None, lambda: None)
        await until(lambda: stage.sessions == 2 and feed.open and len(reader.mailbox) >= 2)
        assert [event.type for event in events(reader.take()) if event.type != "degraded"] == ["connected", "update"]
