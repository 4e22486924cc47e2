"""Event streams of jobs and queues, which there may be many thousands of: a lean ASGI endpoint that hands bytes straight to `send`.

An idle stream is one task that waits for the reader to go away. Writing is done by a second task that lives from the first waiting frame to the
last, so all that waits goes out in one write, and a reader that does not read holds up that task alone.

To an EventSource (`Accept: text/event-stream`) any status but 200 and 204 is the end for ever, so trouble is told in its own language: 200, a
`retry:`, and a close. Anyone else gets a problem with its status: so the answer begins only when the job is known to exist.
"""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from jobwire_gateway import frames
from jobwire_gateway.frames import HEARTBEAT, Cursor, cursor_of
from jobwire_gateway.names import job_name, queue_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import query_of, wants_events
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import AnyWatch, Topics

_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]

_SETTLE_S = 2.0
"""How long one who is no EventSource waits at most for the job's first word before the answer begins."""

_CURSOR_PARAMETERS = ("last_event_id", "lastEventId")


Begin = Callable[[Topics, dict[str, str], Cursor | None, Callable[[], None]], AnyWatch]
"""How a kind of stream begins: what its path names is watched."""


class EventStream:
    """One open stream."""

    __slots__ = ("_beat", "_finished", "_pump", "_send", "last_write", "watch")

    def __init__(self, send: Send) -> None:
        self.watch: AnyWatch | None = None
        self.last_write = asyncio.get_running_loop().time()
        self._send = send
        self._pump: asyncio.Task[None] | None = None
        self._beat = False
        self._finished = False

    def wake(self) -> None:
        """Write what waits."""
        if self._pump is None and self.watch is not None and not self._finished:
            self._pump = asyncio.get_running_loop().create_task(self._write())

    def heartbeat(self) -> None:
        self._beat = True
        self.wake()

    def drain(self, reconnect_ms: int) -> None:
        if self.watch is not None:
            self.watch.put(frames.drain(reconnect_ms))
            self.watch.end()

    def close(self) -> None:
        if self.watch is not None:
            self.watch.end()

    async def settled(self) -> None:
        """Wait until nothing is being written."""
        if self._pump is not None:
            await asyncio.wait((self._pump,))

    async def _write(self) -> None:
        assert self.watch is not None
        try:
            while data := self._take(self.watch):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
                self.last_write = asyncio.get_running_loop().time()
            if self.watch.ended:
                self._finished = True
                await _finish(self._send)
        finally:
            # Between the last take and this line nobody else ran, so no frame waits unseen.
            self._pump = None

    def _take(self, watch: AnyWatch) -> bytes:
        beat, self._beat = self._beat, False
        return watch.take() or (HEARTBEAT if beat and not watch.ended else b"")


class EventsEndpoint:
    """The ASGI endpoint. `begin` says what is watched; `ends` whether a cursor may say that there is nothing more to come."""

    def __init__(self, topics: Topics, streams: Streams, begin: Begin, *, ends: bool) -> None:
        self._topics = topics
        self._streams = streams
        self._begin = begin
        self._ends = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            Problem: before the answer began.
        """
        headers = Headers(scope=scope)
        is_event_source = wants_events(headers)
        cursor = _cursor(scope, headers)
        if self._ends and cursor is not None and cursor.end:
            await _answer_no_content(send)
        elif scope["method"] == "HEAD":
            await _start(send)
            await _finish(send)
        elif self._streams.full:
            await self._turn_away(send, is_event_source)
        else:
            await self._serve(scope, receive, send, cursor, is_event_source)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, cursor: Cursor | None, is_event_source: bool) -> None:
        stream = EventStream(send)
        spoken = asyncio.Event()
        watch = self._begin(self._topics, scope["path_params"], cursor, stream.wake if is_event_source else spoken.set)
        self._streams.add(stream)
        try:
            if not is_event_source:
                await self._first_word(watch, spoken)
                watch.on_ready = stream.wake
            await _start(send)
            await send({"type": "http.response.body", "body": self._streams.retry_line(), "more_body": True})
            stream.watch = watch
            stream.wake()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._topics.leave(watch)
            self._streams.remove(stream)
        await stream.settled()

    async def _first_word(self, watch: AnyWatch, spoken: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(spoken.wait(), _SETTLE_S)
        except TimeoutError:
            raise Problem(503, "The broker does not answer.", reason="BROKER_UNAVAILABLE", retry_after_ms=1_000) from None
        if getattr(watch, "missing", False):
            raise Problem(404, "There is no such job, or it is gone.", reason="JOB_NOT_FOUND", code="not_found")
        if not watch.started:
            raise Problem(503, "The gateway is cut off.", reason=(self._topics.trouble or "broker_unavailable").upper(), retry_after_ms=1_000)

    async def _turn_away(self, send: Send, is_event_source: bool) -> None:
        if not is_event_source:
            raise Problem(
                503, "No more streams can be opened here now.", reason="SHUTTING_DOWN" if self._streams.draining else "TOO_MANY_STREAMS", retry_after_ms=5_000
            )
        await _start(send)
        await send({"type": "http.response.body", "body": self._streams.come_back_line(), "more_body": True})
        await _finish(send)


def watch_job(topics: Topics, params: dict[str, str], cursor: Cursor | None, on_ready: Callable[[], None]) -> AnyWatch:
    """Watch the job that the path names."""
    return topics.watch_job(job_name(params["queue"], params["id"]), cursor, on_ready)


def watch_queue(topics: Topics, params: dict[str, str], cursor: Cursor | None, on_ready: Callable[[], None]) -> AnyWatch:
    """Watch the queue that the path names."""
    return topics.watch_queue(queue_name(params["queue"]), cursor, on_ready)


def _cursor(scope: Scope, headers: Headers) -> Cursor | None:
    query = query_of(scope, _CURSOR_PARAMETERS)
    text = headers.get("last-event-id") or next(iter(query.values()), "")
    return cursor_of(text)


async def _start(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})


async def _finish(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answer_no_content(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [(b"cache-control", b"no-store")]})
    await _finish(send)
