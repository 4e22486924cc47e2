"""The overview: all queues with their counts, once (`GET /v1/stats`) and as a stream (`GET /v1/stats/stream`).

The stream is served by sse-starlette, since there are few of it; its frames come encoded from `frames.py`, as those of all streams do.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from jobwire.v1.queue_service_pb2 import ClassStats, ListClassesRequest, ListQueuesRequest, Queue
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from jobwire_gateway import frames
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.callers import allow_watch
from jobwire_gateway.frames import HEARTBEAT, Frame
from jobwire_gateway.jobs import class_json, counts_json
from jobwire_gateway.json_text import JsonAnswer
from jobwire_gateway.mailbox import GATEWAY
from jobwire_gateway.names import QUEUES
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import query_of, wants_events
from jobwire_gateway.sse import no_room
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import OverviewWatch

_SNAPSHOT_S = 0.5
"""How long after `connected` an overview without a queue is taken for one that has none."""

_PAGE = 1_000
_MAX_PAGES = 10


class OverviewStream:
    """One open stream of the overview."""

    def __init__(self, topics: Topics, streams: Streams) -> None:
        self.last_write = asyncio.get_running_loop().time()
        self._topics = topics
        self._streams = streams
        self._ready = asyncio.Event()
        self._beat = False
        self._watch = OverviewWatch(QUEUES, self._ready.set, topics.heartbeat_ms)

    def heartbeat(self) -> None:
        self._beat = True
        self._ready.set()

    def drain(self, reconnect_ms: int) -> None:
        self._watch.put(GATEWAY, frames.drain(reconnect_ms))
        self._watch.end()

    def say(self, frame: Frame) -> None:
        self._watch.put(GATEWAY, frame)

    def expire(self, frame: Frame) -> None:
        self.say(frame)
        self._watch.end()

    def close(self) -> None:
        self._watch.end()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes to write, until the watch ends or the reader goes away."""
        # Nothing begins before this does: of a reader that has gone by then, nobody would hear.
        self._streams.add(self)
        try:
            self._topics.join(self._watch)
            yield self._streams.retry_line()
            while not self._watch.ended:
                await self._wait()
                if data := self._take():
                    yield data
                    self.last_write = asyncio.get_running_loop().time()
        finally:
            self._topics.leave(self._watch)
            self._streams.remove(self)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_SNAPSHOT_S if self._watch.expecting else None):
                await self._ready.wait()
        except TimeoutError:
            self._watch.settle()
        self._ready.clear()

    def _take(self) -> bytes:
        beat, self._beat = self._beat, False
        return self._watch.take() or (HEARTBEAT if beat else b"")


class Stats:
    """The two endpoints."""

    def __init__(self, brokers: Brokers, topics: Topics, streams: Streams) -> None:
        self._brokers = brokers
        self._topics = topics
        self._streams = streams

    async def once(self, request: Request) -> Response:
        """`GET /v1/stats`."""
        query_of(request.scope, ())
        queues = await all_queues(self._brokers)
        classes = {str(shown["queueClass"]): shown for shown in map(class_json, await self._classes())}
        return JsonAnswer({"queues": {queue.queue: counts_json(queue.counts) for queue in queues}, "classes": classes})

    async def _classes(self) -> Sequence[ClassStats]:
        """None where the broker is older than its classes."""
        try:
            return (await self._brokers.call(lambda broker: broker.queues.ListClasses, ListClassesRequest())).classes
        except Problem as problem:
            if problem.status != 501:
                raise
            return ()

    async def stream(self, request: Request) -> Response:
        """`GET /v1/stats/stream`. A cursor is of no use here, as the first update is always all there is."""
        query_of(request.scope, ("last_event_id", "lastEventId"))
        allow_watch([QUEUES])
        if request.method == "HEAD":
            return event_source(_once(b""))
        if refusal := self._streams.refusal(self._topics.refusal([QUEUES])):
            if not wants_events(request.headers):
                raise no_room(refusal)
            return event_source(_once(self._streams.come_back_line()))
        return event_source(OverviewStream(self._topics, self._streams).chunks())


async def all_queues(brokers: Brokers, *, timeout_s: float | None = None) -> list[Queue]:
    """Read all queues, at most ten thousand."""
    queues: list[Queue] = []
    page_token = ""
    for _ in range(_MAX_PAGES):
        request = ListQueuesRequest(page_size=_PAGE, page_token=page_token)
        page = await brokers.call(lambda broker: broker.queues.ListQueues, request, timeout_s=timeout_s)
        queues += page.queues
        page_token = page.next_page_token
        if not page_token:
            break
    return queues


def event_source(chunks: AsyncIterator[bytes]) -> Response:
    """The answer of a stream that is written in chunks."""
    # Its own pings are off: the heartbeats come from the wheel, as for all streams.
    response = EventSourceResponse(chunks, ping=0, headers={"Cache-Control": "no-store, no-transform"})
    # It is the server's to say, and HTTP/2 has none.
    del response.headers["Connection"]
    return response


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
