"""Following the log of a job: `GET /v1/queues/{queue}/jobs/{id}/logs/stream`.

    connected  (log | gap | degraded)*  final

The id of a `log` is the cursor of its last line, and `Last-Event-ID` goes on behind it: no line that is kept is left out, none comes twice, and of those that
are kept no more it is said how many there were. A cursor that is of no line, as of a job that was made anew or after a store lost its last lines, is said by a
`gap`, and all lines follow. The lines come live on the feed; whatever the feed did not bring, as a hole in the cursors tells, is read, and read again until
it can be. Served by sse-starlette, with the frames of `frames.py`, as all streams have them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from jobwire.v1.job_pb2 import Job, LogLine
from jobwire.v1.job_service_pb2 import ListLogsRequest, ListLogsResponse
from starlette.responses import Response

from jobwire_gateway import frames
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.callers import allow_watch
from jobwire_gateway.cursors import cursor_of
from jobwire_gateway.frames import HEARTBEAT, Frame, Kind
from jobwire_gateway.mailbox import GATEWAY, Mailbox
from jobwire_gateway.operations import NO_STORE, Asked
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import wants_events
from jobwire_gateway.rules import cursor_number
from jobwire_gateway.sse import no_room
from jobwire_gateway.stats import event_source
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import JobWatch

_PAGE = 500
_RETRY_S = 1.0


class LogStream:
    """One open stream."""

    def __init__(self, brokers: Brokers, topics: Topics, streams: Streams, name: str, after: int) -> None:
        self.last_write = asyncio.get_running_loop().time()
        self._brokers = brokers
        self._topics = topics
        self._streams = streams
        self._name = name
        self._after = after
        self._begun = False
        self._ready = asyncio.Event()
        self._beat = False
        # What is said at an end that is not the job's.
        self._farewell: bytes | None = None
        self._mailbox = Mailbox(topics.bounds, self._ready.set)
        self._watch = JobWatch(name, None, self._mailbox, topics.heartbeat_ms)

    def heartbeat(self) -> None:
        self._beat = True
        self._ready.set()

    def drain(self, reconnect_ms: int) -> None:
        self._end(frames.drain(reconnect_ms).data)

    def say(self, frame: Frame) -> None:
        self._mailbox.put(GATEWAY, frame)

    def expire(self, frame: Frame) -> None:
        self._end(frame.data)

    def close(self) -> None:
        self._end(b"")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes to write, until the job has ended or the reader goes away."""
        # Nothing begins before this does: of a reader that has gone by then, nobody would hear.
        self._streams.add(self)
        try:
            self._topics.join(self._watch)
            yield self._streams.retry_line()
            async for data in self._followed():
                yield data
                self.last_write = asyncio.get_running_loop().time()
            if self._farewell:
                yield self._farewell
        finally:
            self._topics.leave(self._watch)
            self._streams.remove(self)

    def _end(self, farewell: bytes) -> None:
        # What is not shown then is not lost: the reader comes back with the cursor of what was.
        self._farewell = farewell
        self._ready.set()

    async def _followed(self) -> AsyncIterator[bytes]:
        while self._farewell is None:
            ended = self._mailbox.ended
            taken = self._mailbox.take()
            for frame in taken:
                async for data in self._shown(frame):
                    yield data
                if self._farewell is not None:
                    return
            if ended:
                return
            if self._beat:
                self._beat = False
                yield HEARTBEAT
            if not taken:
                await self._ready.wait()
                self._ready.clear()

    async def _shown(self, frame: Frame) -> AsyncIterator[bytes]:
        match frame.kind:
            case Kind.LOG if self._follows(lines := json.loads(frame.json)["lines"]):
                self._after = lines[-1]["cursor"]
                yield frame.with_id(str(self._after))
            case Kind.LOG:
                async for data in self._kept():
                    yield data
            case Kind.FINAL:
                async for data in self._kept():
                    yield data
                if self._farewell is None:
                    yield frame.with_id(f"{self._after}.end")
            case Kind.UPDATE:
                # The first one, after which nothing is missed; or what follows a gap.
                if self._begins():
                    async for data in self._kept():
                        yield data
            case Kind.GAP:
                self._begun = False
                yield frame.data
            case Kind.DEGRADED:
                yield frame.data
                if not json.loads(frame.json)["degraded"]:
                    async for data in self._kept():
                        yield data
            case _:
                yield frame.data

    def _begins(self) -> bool:
        begins, self._begun = not self._begun, True
        return begins

    def _follows(self, lines: list[dict[str, Any]]) -> bool:
        """Whether these lines are the next ones."""
        return bool(lines) and lines[0].get("cursor") == self._after + 1

    async def _kept(self) -> AsyncIterator[bytes]:
        """The lines that are kept and have not been shown, and heartbeats as long as they cannot be read."""
        more = True
        while more and self._farewell is None:
            reading = asyncio.ensure_future(self._page())
            try:
                while not reading.done() and self._farewell is None:
                    await self._woken(reading)
                    if self._beat:
                        self._beat = False
                        yield HEARTBEAT
                page = reading.result() if reading.done() else None
            finally:
                reading.cancel()
            more = page is not None and len(page.lines) == _PAGE
            if page is not None and page.next_after < self._after:
                # The log does not reach so far: it is another one, or the store has lost its last lines.
                self._after = 0
                more = True
                yield frames.gap(self._name, "resumed").data
            for data in self._lines(page.lines if page is not None else ()):
                yield data

    async def _woken(self, reading: "asyncio.Future[ListLogsResponse | None]") -> None:
        """Wait until it is done, or until there is something else to do."""
        woken = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait((reading, woken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when the reader goes away meanwhile.
            woken.cancel()
        # Frames are looked for after the reading in any case.
        self._ready.clear()

    async def _page(self) -> ListLogsResponse | None:
        """The next page, however long that takes. None: there is no such job, or no longer."""
        request = ListLogsRequest(name=self._name, after=self._after, page_size=_PAGE)
        while True:
            try:
                return await self._brokers.call(lambda broker: broker.jobs.ListLogs, request, as_itself=True)
            except Problem as problem:
                if problem.status == 404:
                    return None
                await asyncio.sleep(_RETRY_S)

    def _lines(self, lines: Iterable[LogLine]) -> Iterator[bytes]:
        _, queue, _, job_id = self._name.split("/")
        new = [line for line in lines if line.cursor > self._after]
        if new and (missing := new[0].cursor - self._after - 1):
            yield frames.logs_dropped(self._name, missing).with_id(str(new[0].cursor - 1))
        for frame, cursor in frames.logs(Job(name=self._name, queue=queue, id=job_id), new):
            self._after = cursor
            yield frame.with_id(str(cursor))


class Logs:
    """The endpoint."""

    def __init__(self, brokers: Brokers, topics: Topics, streams: Streams) -> None:
        self._brokers = brokers
        self._topics = topics
        self._streams = streams

    async def stream(self, asked: Asked) -> Response:
        """Follow one log."""
        name, headers = asked.job, asked.request.headers
        allow_watch([name])
        cursor = cursor_of(headers.get("last-event-id") or asked.query.get("last_event_id") or asked.query.get("lastEventId") or "")
        if cursor is not None and cursor.end:
            return Response(status_code=204, headers=NO_STORE)
        after = cursor_number(asked.query.get("after", "")) if cursor is None else max(0, cursor.revision)
        if asked.request.method == "HEAD":
            return event_source(_once(b""))
        if refusal := self._streams.refusal(self._topics.refusal([name])):
            if not wants_events(headers):
                raise no_room(refusal)
            return event_source(_once(self._streams.come_back_line()))
        if not wants_events(headers):
            # To anyone but an EventSource a status can be told.
            await self._brokers.call(lambda broker: broker.jobs.ListLogs, ListLogsRequest(name=name, page_size=1), as_itself=True)
        return event_source(LogStream(self._brokers, self._topics, self._streams, name, after).chunks())


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
