"""A broker that does as it is told. The server is real."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from jobwire.v1 import error_pb2, job_pb2, job_service_pb2

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Answer: TypeAlias = Callable[[Context], Awaitable[error_pb2.ErrorStatus | None]]
"""What to do before a call is answered: with success, or, a message of a stream, with this error."""

PATIENT_S = 30.0
"""A timeout of calls that succeed at once: only a busy machine needs any of it."""

TIMEOUTS_S = (0.5, 2.0, 8.0, PATIENT_S)
"""Of calls that go on for as long as they may: the longer ones are for a machine that was too busy for what was to happen before."""


class Scripted:
    """A broker that does what `answer` says before it answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.streams = 0
        self.calls: list[job_service_pb2.EnqueueStreamRequest] = []
        self.ended: list[Context] = []

    async def enqueue_stream(
        self, requests: AsyncIterator[job_service_pb2.EnqueueStreamRequest], context: Context
    ) -> AsyncIterator[job_service_pb2.EnqueueStreamResponse]:
        self.streams += 1
        try:
            async for request in requests:
                self.calls.append(request)
                yield job_service_pb2.EnqueueStreamResponse(number=request.number, error=await self.answer(context))
        finally:
            self.ended.append(context)

    async def get_job(self, request: job_service_pb2.GetJobRequest, context: Context) -> job_service_pb2.GetJobResponse:
        await self.answer(context)
        return job_service_pb2.GetJobResponse(job=job_pb2.Job(name=request.name))

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        enqueue = grpc.stream_stream_rpc_method_handler(
            self.enqueue_stream, job_service_pb2.EnqueueStreamRequest.FromString, job_service_pb2.EnqueueStreamResponse.SerializeToString
        )
        get = grpc.unary_unary_rpc_method_handler(self.get_job, job_service_pb2.GetJobRequest.FromString, job_service_pb2.GetJobResponse.SerializeToString)
        return grpc.method_handlers_generic_handler("jobwire.v1.JobService", {"EnqueueStream": enqueue, "GetJob": get})


@asynccontextmanager
async def serving(answer: Answer, kind: type[Scripted] = Scripted) -> AsyncIterator[tuple[str, Scripted]]:
    """A scripted broker and its address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    scripted = kind(answer)
    server.add_generic_rpc_handlers((scripted.handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", scripted
    finally:
        await server.stop(0)


async def well(context: Context) -> None:
    """Answer with success."""


async def never(context: Context) -> None:
    """Do not answer."""
    await asyncio.Event().wait()


def status_of(code: grpc.StatusCode, reason: str, **metadata: str) -> error_pb2.ErrorStatus:
    """An error as the broker puts it."""
    info = error_pb2.ErrorInfo(reason=reason, domain="jobwire", metadata=metadata)
    status = error_pb2.ErrorStatus(code=code.value[0], message=reason)
    status.details.append(AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString()))
    return status


def refusing(code: grpc.StatusCode, reason: str, **metadata: str) -> Answer:
    """End the call, or the stream, with an error."""

    async def answer(context: Context) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", status_of(code, reason, **metadata).SerializeToString()),))
        await context.abort(code, reason)

    return answer


def saying(code: grpc.StatusCode, reason: str, **metadata: str) -> Answer:
    """Answer a message of a stream with an error."""

    async def answer(context: Context) -> error_pb2.ErrorStatus:
        return status_of(code, reason, **metadata)

    return answer


def nobody() -> str:
    """An address where connections are refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
