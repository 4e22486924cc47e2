"""Errors and resources in the form of the contract."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, TypeVar, cast

import grpc
from jobwire.v1 import admin_service_pb2, error_pb2, job_pb2, queue_service_pb2

from jobwire_broker.errors import BrokerError, NotFound, StoreFailed, StoreFault
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Stats
from jobwire_broker.store.policy import policy_from_text

log = logging.getLogger(__name__)

_TYPE_URL = "type.googleapis.com/google.rpc."
_DETAILS_KEY = "grpc-status-details-bin"
#: Trailers over 16 KiB lose the error (RULES 8).
_MAX_MESSAGE = 1024

#: A method of a servicer: (self, request, context).
Handler = TypeVar("Handler", bound=Callable[..., Any])


def details_of(error: BrokerError) -> error_pb2.ErrorStatus:
    """The details of an error, as google.rpc.Status on the wire."""
    status = error_pb2.ErrorStatus(code=error.code.value[0], message=error.message[:_MAX_MESSAGE])
    info = error_pb2.ErrorInfo(reason=error.reason, domain="jobwire", metadata={key: value[:256] for key, value in error.metadata.items()})
    _attach(status, "ErrorInfo", info.SerializeToString())
    if error.field:
        violation = error_pb2.BadRequest.FieldViolation(field=error.field, description=error.message[:_MAX_MESSAGE])
        _attach(status, "BadRequest", error_pb2.BadRequest(field_violations=[violation]).SerializeToString())
    if error.retry_after_s is not None:
        retry = error_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        _attach(status, "RetryInfo", retry.SerializeToString())
    if error.quota:
        used_up = error_pb2.QuotaFailure.Violation(subject=error.quota, description=error.message[:_MAX_MESSAGE])
        _attach(status, "QuotaFailure", error_pb2.QuotaFailure(violations=[used_up]).SerializeToString())
    return status


def _attach(status: error_pb2.ErrorStatus, name: str, value: bytes) -> None:
    status.details.add(type_url=_TYPE_URL + name, value=value)


#: How long the last write of a stream may take when the stream is to end.
_LAST_WRITE_S = 1.0


async def end_tasks(writer: asyncio.Task[Any], *others: asyncio.Task[Any]) -> None:
    """Return when all are gone. The writer, which was told to end, may end its write: an abort beside a write that is under way fails both."""
    await asyncio.wait([writer], timeout=_LAST_WRITE_S)
    for task in (writer, *others):
        task.cancel()
    await asyncio.wait([writer, *others])


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BrokerError) -> NoReturn:
    """End the call with this error."""
    context.set_trailing_metadata(((_DETAILS_KEY, details_of(error).SerializeToString()),))
    await context.abort(error.code, error.message[:_MAX_MESSAGE])
    raise AssertionError("abort raises")


def unary(handler: Handler) -> Handler:
    """Let a handler of a unary call raise BrokerError."""

    @functools.wraps(handler)
    async def wrapped(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handler(self, request, context)
        except BrokerError as error:
            await abort(context, error)
        except StoreFault as error:
            await abort_fault(context, handler.__name__, error)

    return cast(Handler, wrapped)


async def abort_fault(context: grpc.aio.ServicerContext[Any, Any], call: str, error: StoreFault) -> NoReturn:
    """End the call with STORE_FAULT, and say in the log how the store failed."""
    log.error("call.store_fault call=%s error=%s", call, error)
    await abort(context, StoreFailed(error))


def streaming(handler: Handler) -> Handler:
    """Let a handler that streams its answer raise BrokerError."""

    @functools.wraps(handler)
    async def wrapped(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in handler(self, request, context):
                yield response
        except BrokerError as error:
            await abort(context, error)
        except StoreFault as error:
            await abort_fault(context, handler.__name__, error)

    return cast(Handler, wrapped)


def job_without_payload(queue: str, raw_id: bytes, record: bytes, descriptor: bytes = b"") -> job_pb2.Job:
    """A job as lists and verbs answer it."""
    job = codec.job_from_record(queue, raw_id, record)
    job.ClearField("payload")
    if descriptor:
        job.worker = admin_service_pb2.Worker.FromString(descriptor).instance_id
    return job


def counts_of(stats: Stats) -> job_pb2.JobCounts:
    """The counts of a queue. What waits for other jobs comes with that rule."""
    total = stats.waiting + stats.active + stats.delayed + stats.completed + stats.failed + stats.cancelled + stats.expired
    return job_pb2.JobCounts(
        waiting=stats.waiting,
        active=stats.active,
        delayed=stats.delayed,
        completed=stats.completed,
        failed=stats.failed,
        cancelled=stats.cancelled,
        expired=stats.expired,
        total=total,
        completed_total=stats.completed_total,
        failed_total=stats.failed_total,
    )


def total_of(stats: Stats, state: int) -> int:
    """How many jobs are in a state."""
    return int(getattr(counts_of(stats), job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_").lower()))


def queue_of(name: str, stats: Stats) -> queue_service_pb2.Queue:
    """A queue with its counts, and its class."""
    queue = queue_service_pb2.Queue(name=f"queues/{name}", queue=name, paused=stats.paused, counts=counts_of(stats), workers=stats.sessions)
    if queue_class := policy_from_text(stats.policy).queue_class:
        queue.policy.queue_class = queue_class
    return queue


def queue_not_found(queue: str) -> NotFound:
    """There is no such queue."""
    return NotFound(f"nothing was ever enqueued in {queue}", reason="QUEUE_NOT_FOUND", metadata={"queue": queue})


def state_word(state: int) -> str:
    """A state as it stands in errors: lower case, without prefix."""
    return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state)).removeprefix("JOB_STATE_").lower()
