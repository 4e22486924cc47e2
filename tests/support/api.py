"""The services as typed stubs, and what a refusal says, for tests that speak gRPC themselves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from jobwire.v1 import error_pb2
from jobwire.v1.admin_service_pb2_grpc import AdminServiceStub
from jobwire.v1.event_service_pb2_grpc import EventServiceStub
from jobwire.v1.job_service_pb2_grpc import JobServiceStub
from jobwire.v1.queue_service_pb2_grpc import QueueServiceStub
from jobwire.v1.worker_service_pb2_grpc import WorkerServiceStub

from tests.support.broker import Broker, connect

if TYPE_CHECKING:
    from jobwire.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from jobwire.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from jobwire.v1.job_service_pb2_grpc import JobServiceAsyncStub
    from jobwire.v1.queue_service_pb2_grpc import QueueServiceAsyncStub
    from jobwire.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub


_REFUSED_WITHIN_S = 20.0


class Api:
    """All services over one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.jobs: JobServiceAsyncStub = JobServiceStub(channel)
        self.workers: WorkerServiceAsyncStub = WorkerServiceStub(channel)
        self.queues: QueueServiceAsyncStub = QueueServiceStub(channel)
        self.events: EventServiceAsyncStub = EventServiceStub(channel)
        self.admin: AdminServiceAsyncStub = AdminServiceStub(channel)


@asynccontextmanager
async def api(broker: Broker | str) -> AsyncIterator[Api]:
    """The services of one broker."""
    async with connect(broker if isinstance(broker, str) else broker.address) as channel:
        yield Api(channel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An error of the API, details and all. `fields` are those of the BadRequest, `quota` the subjects of the QuotaFailure."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    fields: tuple[str, ...]
    metadata: dict[str, str]
    retry_after_s: float | None
    quota: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Refusal":
        """Read it from the trailers. An error without details has an empty reason."""
        assert isinstance(error, grpc.aio.AioRpcError)
        status = error_pb2.ErrorStatus()
        for key, value in error.trailing_metadata():
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                status.ParseFromString(value)
        info, bad, retry = error_pb2.ErrorInfo(), error_pb2.BadRequest(), error_pb2.RetryInfo()
        quota = error_pb2.QuotaFailure()
        has_retry = [_unpack(detail, info, bad, retry, quota) for detail in status.details].count(retry) > 0
        return cls(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason,
            domain=info.domain,
            fields=tuple(v.field for v in bad.field_violations),
            metadata=dict(info.metadata),
            retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
            quota=tuple(v.subject for v in quota.violations),
        )


async def refusal(call: Awaitable[object]) -> Refusal:
    """Await a call that must be refused, and soon."""
    try:
        async with asyncio.timeout(_REFUSED_WITHIN_S):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError(f"the call was not refused, it answered: {answer}")


_Detail = error_pb2.ErrorInfo | error_pb2.BadRequest | error_pb2.RetryInfo | error_pb2.QuotaFailure


def _unpack(detail: AnyMessage, *known: _Detail) -> _Detail | None:
    for message in known:
        if detail.type_url == f"type.googleapis.com/google.rpc.{message.DESCRIPTOR.name}":
            message.ParseFromString(detail.value)
            return message
    return None
