"""Event streams of jobs and queues, which there may be many thousands of: lean ASGI endpoints that hand bytes straight to `send`.

An idle stream is one task that waits for the reader to go away. What waits goes out in one write, at the end of the turn of the event loop in which it
came. That costs no task (at_once.py), unless the reader does not read: then one waits for it, and nobody else does.

To an EventSource (`Accept: text/event-stream`) any status but 200 and 204 is the end for ever, so trouble is told in its own language: 200, a
`retry:`, and a close. Anyone else gets a problem with its status: so the answer begins only when something is known to be there.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from jobwire_gateway import frames
from jobwire_gateway.at_once import run_at_once
from jobwire_gateway.callers import allow_watch
from jobwire_gateway.cursors import Cursor, cursor_of, place_of
from jobwire_gateway.frames import HEARTBEAT, Frame
from jobwire_gateway.many import ManyReader
from jobwire_gateway.names import job_name, queue_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.readers import OneReader, Reader
from jobwire_gateway.refusals import Refusals
from jobwire_gateway.requests import json_body, query_of, refuse_unknown, wants_events
from jobwire_gateway.streams import Streams
from jobwire_gateway.topic_names import CURSOR_PARAMETERS, topic_names, topics_of_query
from jobwire_gateway.topics import Topics

_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]

_SETTLE_S = 2.0
"""How long one who is no EventSource waits at most for the first word before the answer begins."""

_HOLD_S = 1.5
"""How long one who comes back to many topics waits at most for the last of them."""

_CURSOR_EVERY = 4
"""Of so many heartbeats one moves the browser's `Last-Event-ID`."""

_MAX_BODY = 64 * 1024

OnReady = Callable[[], None]

Begin = Callable[[Topics, dict[str, str], Cursor | None, OnReady], Reader]
"""How a stream of one topic begins: what its path names is watched."""


class EventStream:
    """One open stream."""

    __slots__ = ("_beating", "_beats", "_finished", "_loop", "_more", "_rest", "_send", "_unsaid", "_writing", "last_write", "reader")

    def __init__(self, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self.reader: Reader | None = None
        self.last_write = self._loop.time()
        self._send = send
        self._writing = False
        self._more = False
        self._rest: asyncio.Task[None] | None = None
        self._beating = False
        self._beats = 0
        self._finished = False
        # What is to be said before the answer has begun.
        self._unsaid: Frame | None = None

    def begin(self, reader: Reader) -> None:
        """Write what this reader has, from now on."""
        self.reader = reader
        if self._unsaid is not None:
            reader.put(self._unsaid)
            self._unsaid = None
        self.wake()

    def wake(self) -> None:
        """Write what waits, once all that happens now has been put there."""
        if self._writing:
            self._more = True
        elif self.reader is not None and not self._finished:
            self._writing = True
            self._loop.call_soon(self._begin)

    def heartbeat(self) -> None:
        self._beating = True
        self.wake()

    def drain(self, reconnect_ms: int) -> None:
        if self.reader is not None:
            self.reader.put(frames.drain(reconnect_ms))
            self.reader.end()

    def say(self, frame: Frame) -> None:
        if self.reader is not None:
            self.reader.put(frame)
        else:
            self._unsaid = frame

    def expire(self, frame: Frame) -> None:
        self.say(frame)
        self.close()

    def close(self) -> None:
        if self.reader is not None:
            self.reader.end()

    async def settled(self) -> None:
        """Wait until nothing is being written."""
        while self._writing:
            await (asyncio.sleep(0) if self._rest is None else asyncio.wait((self._rest,)))

    def _begin(self) -> None:
        assert self.reader is not None
        self._rest = run_at_once(self._write(self.reader), self._loop)

    async def _write(self, reader: Reader) -> None:
        try:
            self._more = True
            while self._more:
                # What comes while this is being sent, which seldom takes any time, is sent after it.
                self._more = False
                if data := self._take(reader):
                    await self._send({"type": "http.response.body", "body": data, "more_body": True})
                    self.last_write = self._loop.time()
            if reader.ended:
                self._finished = True
                await _finish(self._send)
        finally:
            # Between the last look at `_more` and this line nobody else ran, so no frame waits unseen.
            self._writing = False

    def _take(self, reader: Reader) -> bytes:
        data = reader.take()
        if not self._beating:
            return data
        self._beating = False
        if data or reader.ended:
            return data
        self._beats += 1
        return (reader.cursor() if self._beats % _CURSOR_EVERY == 0 else b"") or HEARTBEAT


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    topics: Sequence[str]
    begin: Callable[[OnReady], Reader]
    over: bool
    """Whether its cursor says that there is nothing more to come."""


class StreamEndpoint:
    """The ASGI endpoint, whatever is asked for."""

    def __init__(self, topics: Topics, streams: Streams) -> None:
        self._topics = topics
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            Problem: before the answer began.
        """
        headers = Headers(scope=scope)
        is_event_source = wants_events(headers)
        asked = await self._read(scope, receive, headers)
        if asked.over:
            await _answer_no_content(send)
        elif scope["method"] == "HEAD":
            await _start(send)
            await _finish(send)
        elif refusal := self._streams.refusal(self._topics.refusal(asked.topics)):
            await self._turn_away(send, is_event_source, refusal)
        else:
            await self._serve(receive, send, asked, is_event_source)

    async def _read(self, scope: Scope, receive: Receive, headers: Headers) -> Asked:
        raise TypeError(f"{type(self).__name__} asks for nothing")

    async def _serve(self, receive: Receive, send: Send, asked: Asked, is_event_source: bool) -> None:
        stream = EventStream(send)
        spoken = asyncio.Event()
        reader = asked.begin(stream.wake if is_event_source else spoken.set)
        self._streams.add(stream)
        settling = asyncio.get_running_loop().call_later(_HOLD_S, reader.settle) if reader.holding else None
        try:
            if not is_event_source:
                await self._first_word(reader, spoken)
                reader.on_ready = stream.wake
            await _start(send)
            await send({"type": "http.response.body", "body": self._streams.retry_line(), "more_body": True})
            stream.begin(reader)
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            if settling is not None:
                settling.cancel()
            reader.leave()
            self._streams.remove(stream)
        await stream.settled()

    async def _first_word(self, reader: Reader, spoken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_SETTLE_S):
                await spoken.wait()
        except TimeoutError:
            raise Problem(503, "The broker does not answer.", reason="BROKER_UNAVAILABLE", retry_after_ms=1_000) from None
        if (problem := reader.problem()) is not None:
            raise problem

    async def _turn_away(self, send: Send, is_event_source: bool, refusal: str) -> None:
        if not is_event_source:
            raise no_room(refusal)
        await _start(send)
        await send({"type": "http.response.body", "body": self._streams.come_back_line(), "more_body": True})
        await _finish(send)


class EventsEndpoint(StreamEndpoint):
    """What the path names, alone. `begin` says what is watched; `ends` whether a cursor may say that there is nothing more to come."""

    def __init__(self, topics: Topics, streams: Streams, begin: Begin, *, ends: bool) -> None:
        super().__init__(topics, streams)
        self._begin = begin
        self._ends = ends

    async def _read(self, scope: Scope, receive: Receive, headers: Headers) -> Asked:
        query = query_of(scope, CURSOR_PARAMETERS)
        cursor = cursor_of(headers.get("last-event-id") or next(iter(query.values()), ""))
        params = scope["path_params"]
        topics = ["/".join(("queues", params["queue"], *(("jobs", params["id"]) if "id" in params else ())))]
        allow_watch(topics)
        return Asked(topics, lambda on_ready: self._begin(self._topics, params, cursor, on_ready), self._ends and cursor is not None and cursor.end)


class ManyEventsEndpoint(StreamEndpoint):
    """`GET /v1/events?topic=…&topic=…`, and `POST /v1/events` with `{"topics": […]}` for lists that no address can hold."""

    def __init__(self, topics: Topics, streams: Streams, max_topics: int) -> None:
        super().__init__(topics, streams)
        self._max_topics = max_topics

    async def _read(self, scope: Scope, receive: Receive, headers: Headers) -> Asked:
        if scope["method"] == "POST":
            names, said = await self._read_body(scope, receive)
        else:
            names, said = topics_of_query(scope, self._max_topics)
        allow_watch(names)
        place = place_of(headers.get("last-event-id") or said)
        return Asked(names, lambda on_ready: ManyReader(self._topics, names, place, on_ready), place is not None and place.ends(names))

    async def _read_body(self, scope: Scope, receive: Receive) -> tuple[list[str], str]:
        query = query_of(scope, CURSOR_PARAMETERS)
        body = await json_body(Request(scope, receive), _MAX_BODY)
        refuse_unknown(body, ("topics",))
        texts = body.get("topics")
        return topic_names(texts if isinstance(texts, list) else [], self._max_topics), next(iter(query.values()), "")


class Shortcut:
    """Serves the routes that are event streams before the framework does, whose layers would each cost time with every frame, and memory as long as a
    stream is open. Everything else goes to `app`."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        self._routes = [(route, route.endpoint) for route in routes if isinstance(route, Route) and isinstance(route.endpoint, StreamEndpoint)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        for route, endpoint in self._routes if scope["type"] == "http" else ():
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                try:
                    await endpoint(scope, receive, send)
                except Problem as problem:
                    self._refusals.note_problem(problem, scope)
                    await problem.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def no_room(refusal: str) -> Problem:
    """One more stream is not to be had now."""
    return Problem(503, "No more streams can be opened here now.", reason=refusal, retry_after_ms=5_000)


def watch_job(topics: Topics, params: dict[str, str], cursor: Cursor | None, on_ready: OnReady) -> Reader:
    """Watch the job that the path names."""
    return OneReader.of_job(topics, job_name(params["queue"], params["id"]), cursor, on_ready)


def watch_queue(topics: Topics, params: dict[str, str], cursor: Cursor | None, on_ready: OnReady) -> Reader:
    """Watch the queue that the path names."""
    return OneReader.of_queue(topics, queue_name(params["queue"]), cursor, on_ready)


async def _start(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})


async def _finish(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answer_no_content(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
    await _finish(send)
