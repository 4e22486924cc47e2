"""One verb for all jobs that a filter finds: a dry run, then the run that takes what it saw."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import grpc.aio
from jobwire.v1 import job_service_pb2

from jobwire_client._connections import Connections, Method
from jobwire_client._filter import JobFilter
from jobwire_client._wire import duration, sendable
from jobwire_client.errors import InvalidRequest, QueueUnavailable

BulkVerb = Literal["cancel", "retry", "promote", "delete", "resolve"]
"""What to do with all jobs that a filter finds, as the single call of that name does it."""

_BULK = Method("/jobwire.v1.JobService/BulkJobs", job_service_pb2.BulkJobsResponse.FromString)
_DRY_RUN_S = 600.0
"""How long a dry run may take: it looks at tens of thousands of jobs in a second."""
_SILENCE_S = 30.0
"""A run that says nothing for so long is asked for again. The broker says something after every few thousand jobs that it has looked at."""
_FIRST_WAIT_S, _MAX_WAIT_S = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """What a dry run saw. Nothing is changed yet."""

    queue: str
    """The queue's name."""
    verb: BulkVerb
    """What is to be done."""
    matched: int
    """How many jobs it found."""
    token: str
    """What binds the run to them; good for an hour."""
    request: bytes = field(repr=False)
    """The request, as it travels."""
    run: str = ""
    """The name of the run, `queues/{queue}/bulkRuns/{run}`: for `bulk_run` and `stop_bulk_run`, once it has begun."""


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a run is."""

    matched: int
    """How many jobs the dry run found."""
    done: int
    """How many were acted on so far, by all runs with this token."""
    skipped: int
    """How many had changed since the dry run, or were gone, so far."""
    finished: bool
    """Whether this is the end."""


def bulk_request(
    queue: str, verb: str, wanted: JobFilter | None, note: str, grace: timedelta | float | None, token: str = ""
) -> job_service_pb2.BulkJobsRequest:
    """The request.

    Raises:
        InvalidRequest: there is no such verb, or the filter can't be sent.
    """
    try:
        number = job_service_pb2.BulkVerb.Value(f"BULK_VERB_{verb.upper()}")
    except ValueError:
        raise InvalidRequest(f"{verb!r} is no verb; use cancel, retry, promote, delete or resolve") from None
    with sendable("note"):
        request = job_service_pb2.BulkJobsRequest(parent=f"queues/{queue}", verb=number, note=note, token=token)
    if wanted is not None:
        request.filter.CopyFrom(wanted.message())
    if grace is not None:
        with sendable("grace"):
            request.grace.CopyFrom(duration(grace))
    return request


async def plan_bulk(connections: Connections, queue: str, verb: BulkVerb, request: job_service_pb2.BulkJobsRequest, *, patience_s: float) -> BulkPlan:
    """The dry run. Raises QueueUnavailable after `patience_s` without an answer, and what else the broker refuses with."""
    clock = asyncio.get_running_loop().time
    began, wait_s = clock(), _FIRST_WAIT_S
    while True:
        try:
            async with contextlib.aclosing(_one_stream(connections, request.SerializeToString(), _DRY_RUN_S)) as answers:
                answer = await anext(answers)
            request.token = answer.token
            return BulkPlan(queue, verb, answer.matched, answer.token, request.SerializeToString(), answer.run)
        except QueueUnavailable:
            if clock() + wait_s - began > patience_s:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _MAX_WAIT_S)


async def run_bulk(connections: Connections, plan: BulkPlan, *, patience_s: float, first_patience_s: float) -> AsyncGenerator[BulkProgress, None]:
    """The run, over broken streams. Raises QueueUnavailable when nobody answers, at first for `first_patience_s`, later for `patience_s`."""
    clock = asyncio.get_running_loop().time
    answered, patience, wait_s = clock(), first_patience_s, _FIRST_WAIT_S
    while True:
        try:
            async with contextlib.aclosing(_one_stream(connections, plan.request, _SILENCE_S)) as answers:
                async for answer in answers:
                    answered, patience, wait_s = clock(), patience_s, _FIRST_WAIT_S
                    yield BulkProgress(answer.matched, answer.done, answer.skipped, answer.finished)
                    if answer.finished:
                        return
        except QueueUnavailable:
            if clock() + wait_s - answered > patience:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _MAX_WAIT_S)


async def _one_stream(connections: Connections, request: bytes, silence_s: float) -> AsyncGenerator[job_service_pb2.BulkJobsResponse, None]:
    """The answers of one call, until it breaks (QueueUnavailable) or ends."""
    index, call = connections.stream(_BULK, request)
    try:
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    answer = await call.read()
            except TimeoutError:
                connections.move_on(index)
                raise QueueUnavailable(f"the broker said nothing for {silence_s:g} s", accepted="unknown") from None
            except grpc.aio.AioRpcError as failure:
                error = connections.failure(index, failure)
                if isinstance(error, QueueUnavailable):
                    connections.move_on(index)
                raise error from failure
            if not isinstance(answer, job_service_pb2.BulkJobsResponse):
                connections.move_on(index)
                raise QueueUnavailable("the broker ended the call before it was done", accepted="unknown")
            yield answer
            if answer.finished:
                return
    finally:
        call.cancel()
