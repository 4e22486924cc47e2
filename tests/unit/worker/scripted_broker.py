"""A broker over real gRPC whose every frame the test writes: for what a real one does only by accident."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import grpc
import grpc.aio
from jobwire.v1 import error_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire.v1 import worker_service_pb2_grpc as pb_grpc

from tests.unit.worker.scripts import seconds

TIMEOUT_S = 10.0

Frames = AsyncIterator[pb.WorkRequest]
Context = grpc.aio.ServicerContext[pb.WorkRequest, pb.WorkResponse]


class WorkStream:
    """One stream, from the broker's side. `said` is all that the worker said on it, merged."""

    def __init__(self, context: Context, numbers: "count[int]") -> None:
        self.said = pb.WorkRequest()
        self._context = context
        self._numbers = numbers
        self._changed = asyncio.Condition()
        self._over = False
        self._end: asyncio.Future[tuple[grpc.StatusCode, str] | None] = asyncio.get_running_loop().create_future()

    async def serve(self, frames: Frames) -> None:
        reader = asyncio.create_task(self._read(frames))
        await asyncio.wait((reader, self._end), return_when=asyncio.FIRST_COMPLETED)
        reader.cancel()
        if self._end.done() and (end := self._end.result()) is not None:
            code, reason = end
            status = error_pb2.ErrorStatus(code=code.value[0], message=reason)
            status.details.add().Pack(error_pb2.ErrorInfo(reason=reason, domain="jobwire"), type_url_prefix="type.googleapis.com/")
            status.details[0].type_url = "type.googleapis.com/google.rpc.ErrorInfo"
            self._context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await self._context.abort(code, reason)

    async def _read(self, frames: Frames) -> None:
        try:
            async for frame in frames:
                async with self._changed:
                    self.said.MergeFrom(frame)
                    self._changed.notify_all()
        finally:
            async with self._changed:
                self._over = True
                self._changed.notify_all()

    async def until(self, fact: Callable[[pb.WorkRequest], Any]) -> pb.WorkRequest:
        """Wait until the fact holds of what was said."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: fact(self.said))
        return self.said

    async def over(self) -> None:
        """Wait until the worker has ended the stream."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: self._over)

    async def send(self, frame: pb.WorkResponse) -> None:
        await self._context.write(frame)

    async def welcome(self, *, session_time_s: float = 10.0, max_result_bytes: int = 1 << 20, held: list[pb.Ack] | None = None) -> None:
        await self.until(lambda said: said.HasField("hello"))
        welcome = pb.Welcome(broker_id="scripted", max_result_bytes=max_result_bytes, held=held or [])
        welcome.session_time.CopyFrom(seconds(session_time_s))
        welcome.heartbeat_interval.CopyFrom(seconds(session_time_s / 5))
        await self.send(pb.WorkResponse(welcome=welcome))

    async def deliver(
        self, *job_names: str, json: str = "null", queue: str = "q", attempt: int = 1, max_attempts: int = 3, timeout_s: float = 0
    ) -> list[pb.Delivery]:
        """Deliver jobs whose ids are `j1`, `j2` and so on over the life of the broker."""
        await self.until(lambda said: said.HasField("credit"))
        jobs = []
        for job_name in job_names:
            number = next(self._numbers)
            job = pb.Delivery(queue=queue, id=f"j{number}", token=1000 + number, job_name=job_name, attempt=attempt, max_attempts=max_attempts)
            job.payload.json = json
            if timeout_s:
                job.timeout.FromMilliseconds(round(timeout_s * 1000))
            jobs.append(job)
        await self.send(pb.WorkResponse(jobs=jobs))
        return jobs

    async def finish_of(self, job: pb.Delivery, *, ack: pb.Verdict.ValueType = pb.VERDICT_OK) -> pb.Finish:
        """Wait for the end of an attempt and ack it."""
        said = await self.until(lambda said: any(finish.token == job.token for finish in said.finishes))
        await self.send(pb.WorkResponse(acks=[pb.Ack(queue=job.queue, id=job.id, token=job.token, verdict=ack)]))
        return next(finish for finish in said.finishes if finish.token == job.token)

    async def run(self, job_name: str, **options: Any) -> pb.Finish:
        """Deliver one job and wait for its end."""
        (job,) = await self.deliver(job_name, **options)
        return await self.finish_of(job)

    def end(self, code: grpc.StatusCode | None = None, reason: str = "") -> None:
        """End the stream, in order or with an error."""
        if not self._end.done():
            self._end.set_result(None if code is None else (code, reason))


class ScriptedBroker(pb_grpc.WorkerServiceServicer):
    """Hands the test each stream that a worker opens. The unary calls are not served."""

    def __init__(self) -> None:
        self.address = ""
        self.opened = 0
        self._streams: asyncio.Queue[WorkStream] = asyncio.Queue()
        self._numbers = count(1)

    async def Work(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # the asyncio form
        stream = WorkStream(context, self._numbers)
        self.opened += 1
        self._streams.put_nowait(stream)
        await stream.serve(request_iterator)

    async def stream(self) -> WorkStream:
        """The next stream that a worker opened."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self._streams.get()

    async def welcomed(self, **options: Any) -> WorkStream:
        """The same, with the welcome said."""
        stream = await self.stream()
        await stream.welcome(**options)
        return stream


@asynccontextmanager
async def scripted_broker() -> AsyncIterator[ScriptedBroker]:
    """A scripted broker on a port of its own."""
    broker = ScriptedBroker()  # type: ignore[abstract]  # the base serves the unary calls as unimplemented
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_WorkerServiceServicer_to_server(broker, server)
    broker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield broker
    finally:
        await server.stop(0)
