"""`POST /v1/queues/{queue}/jobs:bulk`: the dry run is answered with JSON, the run with a line of NDJSON for each of its steps.

Whoever closes the connection stops the run after the step that is under way, and the same token goes on from there. A run that is cut off, by the end of this
process, of the broker or of the store, or that somebody stops, has the problem in its last line.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from jobwire.v1.job_service_pb2 import BulkJobsResponse
from starlette.responses import Response, StreamingResponse

from jobwire_gateway.brokers import Answers, Brokers
from jobwire_gateway.frames import Frame
from jobwire_gateway.json_text import JsonAnswer, encoded
from jobwire_gateway.operations import NO_STORE, Asked
from jobwire_gateway.problems import Problem, from_rpc
from jobwire_gateway.requests import NDJSON
from jobwire_gateway.rules import bulk_request
from jobwire_gateway.streams import Streams


class Run:
    """One run, as the registry of open streams sees it."""

    def __init__(self, call: Answers) -> None:
        self.last_write = time.monotonic()
        self.ended_here = False
        self._call = call

    def heartbeat(self) -> None:
        """Its steps are its heartbeats."""

    def drain(self, reconnect_ms: int) -> None:
        self.close()

    def say(self, frame: Frame) -> None:
        """Nothing of the gateway's own has a place in this answer."""

    def expire(self, frame: Frame) -> None:
        self.close()

    def close(self) -> None:
        self.ended_here = True
        self._call.cancel()


class Bulk:
    """The endpoint."""

    def __init__(self, brokers: Brokers, streams: Streams, first_s: float) -> None:
        self._brokers = brokers
        self._streams = streams
        self._first_s = first_s

    async def bulk(self, asked: Asked) -> Response:
        """Count, or act."""
        request = bulk_request(asked)
        if request.token and (refusal := self._streams.refusal()):
            raise Problem(503, "No more runs can be begun here now.", reason=refusal, retry_after_ms=5_000)
        # The same token goes on where an earlier call with it stopped, so another broker may be asked.
        call, first = await self._brokers.begin(lambda broker: broker.jobs.BulkJobs, request, self._first_s)
        if request.token:
            return StreamingResponse(self._lines(call, first, asked.request.url.path), 200, NO_STORE, NDJSON)
        call.cancel()
        return JsonAnswer(bulk_json(first), headers=NO_STORE)

    async def _lines(self, call: Answers, first: BulkJobsResponse, path: str) -> AsyncIterator[bytes]:
        run = Run(call)
        self._streams.add(run)
        try:
            yield _line(bulk_json(first))
            while isinstance(step := await call.read(), BulkJobsResponse):
                run.last_write = time.monotonic()
                yield _line(bulk_json(step))
        except grpc.aio.AioRpcError as error:
            yield _line({"problem": from_rpc(error).body(path)})
        except asyncio.CancelledError:
            if not run.ended_here:
                raise
            yield _line({"problem": Problem(503, "This gateway ends.", reason="SHUTTING_DOWN", retry_after_ms=1_000).body(path)})
        finally:
            self._streams.remove(run)
            call.cancel()


def bulk_json(answer: BulkJobsResponse) -> dict[str, object]:
    """How far it is."""
    members: dict[str, object] = {"matched": answer.matched, "done": answer.done, "skipped": answer.skipped, "finished": answer.finished, "run": answer.run}
    return members | ({"token": answer.token} if answer.token else {})


def _line(members: dict[str, object]) -> bytes:
    return encoded(members) + b"\n"
