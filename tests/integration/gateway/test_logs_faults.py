"""Following a log while its lines cannot be read, or are not all there: a real gateway before a broker that a test plays."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
from jobwire.v1 import event_service_pb2 as feed
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from jobwire.v1.job_pb2 import Job, JobState, LogLine

from tests.support import Gateway

from .reading import reading
from .wire import Wire

Context = grpc.aio.ServicerContext[Any, Any]

NAME = "queues/q/jobs/j"
PATH = "/v1/queues/q/jobs/j/logs/stream"


class Played(EventServiceServicer):
    """A broker with one job and its log."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.state = JobState.JOB_STATE_COMPLETED
        self.failures: list[grpc.StatusCode] = []
        self.hangs = False
        self.asked = asyncio.Event()

    async def Subscribe(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        await context.write(feed.SubscribeResponse(store_available=True))
        while isinstance(request := await context.read(), feed.SubscribeRequest):
            kind = pb.ChangeType.CHANGE_TYPE_FINAL if self.state == JobState.JOB_STATE_COMPLETED else pb.ChangeType.CHANGE_TYPE_SNAPSHOT
            job = Job(name=NAME, queue="q", id="j", state=self.state, revision=7)
            await context.write(feed.SubscribeResponse(added=request.add, changes=[pb.JobChange(type=kind, job=job)] if NAME in request.add else []))

    async def list_logs(self, request: pb.ListLogsRequest, context: Context) -> pb.ListLogsResponse:
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.failures:
            await context.abort(self.failures.pop(0), "not now")
        lines = [line for line in self.lines if line.cursor > request.after][: request.page_size]
        end = self.lines[-1].cursor if self.lines else 0
        return pb.ListLogsResponse(lines=lines, next_after=lines[-1].cursor if lines else min(request.after, end))


@asynccontextmanager
async def playing(played: Played, **options: str) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    server = grpc.aio.server()
    add_EventServiceServicer_to_server(played, server)
    list_logs = grpc.unary_unary_rpc_method_handler(
        played.list_logs, request_deserializer=pb.ListLogsRequest.FromString, response_serializer=pb.ListLogsResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobwire.v1.JobService", {"ListLogs": list_logs}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    extra = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        async with Gateway(f"127.0.0.1:{port}", extra=extra) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
            yield gateway, http
    finally:
        await server.stop(None)


def numbered(first: int, last: int, text: str = "line") -> list[LogLine]:
    return [LogLine(sequence=number, cursor=number, attempt=1, level="info", message=text) for number in range(first, last + 1)]


def told(events: list[dict[str, Any]]) -> list[object]:
    """Cursors, how many lines are missing, and what else there was."""
    found: list[object] = []
    for event in events:
        if event["type"] != "log":
            found.append(event["type"])
        elif event["lines"]:
            found += [line["cursor"] for line in event["lines"]]
        else:
            found.append(("dropped", event["dropped"]))
    return found


async def whole(http: httpx.AsyncClient, **headers: str) -> list[object]:
    async with reading(http, PATH, **headers) as reader:
        return told(await reader.rest())


async def test_no_line_is_left_out_in_silence() -> None:
    played = Played()
    async with playing(played, heartbeat="1s") as (gateway, http):
        # Whatever keeps lines away passes, and they come before the end; there is no silence meanwhile.
        played.lines = numbered(1, 3)
        played.failures = [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE]
        async with await Wire.ask(gateway.address, PATH) as wire:
            await wire.rest()
        assert told(wire.events()) == ["connected", 1, 2, 3, "final"]
        assert wire.ids()[-1] == "3.end"
        assert b"\n:\n\n" in wire.body

        # Those that are kept no more are counted, whether the reader is new or comes back.
        played.lines = numbered(5, 7)
        assert await whole(http) == ["connected", ("dropped", 4), 5, 6, 7, "final"]
        assert await whole(http, last_event_id="2") == ["connected", ("dropped", 2), 5, 6, 7, "final"]
        assert await whole(http, last_event_id="4") == ["connected", 5, 6, 7, "final"]
        assert await whole(http, last_event_id="7") == ["connected", "final"]

        # A cursor of no line is of another log.
        assert await whole(http, last_event_id="8") == ["connected", "gap", ("dropped", 4), 5, 6, 7, "final"]
        played.lines = numbered(1, 2)
        assert await whole(http, last_event_id="999") == ["connected", "gap", 1, 2, "final"]
        played.lines = []
        assert await whole(http, last_event_id="1") == ["connected", "gap", "final"]

        # However many lines there are, a frame is no larger than any other.
        played.lines = numbered(1, 1_000, "\0" * 2_048)
        async with await Wire.ask(gateway.address, PATH) as wire:
            await wire.rest()
        assert told(wire.events()) == ["connected", *range(1, 1_001), "final"]
        assert max(map(len, wire.body.split(b"\n\n"))) <= 64 * 1024


async def test_d01_a_reader_of_lines_that_cannot_be_read_is_drained_like_any_other() -> None:
    played = Played()
    played.hangs = True
    async with playing(played, drain="1s") as (gateway, http), reading(http, PATH) as reader:
        await reader.until("connected")
        await asyncio.wait_for(played.asked.wait(), 10)
        began = asyncio.get_running_loop().time()
        gateway.send(signal.SIGTERM)
        assert told(await reader.rest()) == ["drain"]
        assert await gateway.ended() == 0
        assert asyncio.get_running_loop().time() - began < 4
