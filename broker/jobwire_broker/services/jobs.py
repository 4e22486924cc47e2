"""JobService."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1.job_service_pb2_grpc import JobServiceServicer

from jobwire_broker.errors import InvalidField, NotFound, ShuttingDown, WaitTimeout, WrongState
from jobwire_broker.names import id_to_text, job_path, parse_job, parse_queue
from jobwire_broker.rules.explaining import explain
from jobwire_broker.rules.filters import filter_of
from jobwire_broker.rules.hands import hands_of
from jobwire_broker.rules.listing import INDEXES, page_of
from jobwire_broker.rules.mailbox import Mailbox
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.rules.watching import gone_job
from jobwire_broker.services.answers import job_without_payload, state_word, streaming, total_of, unary
from jobwire_broker.services.batches import VERDICTS, Maker, batch_of, payload_too_large, refusal_of, say_verdict
from jobwire_broker.services.bulk import DEFAULT_GRACE_MS, MAX_GRACE_MS, bulk_jobs, check_note
from jobwire_broker.services.bulk_runs import get_bulk_run, list_bulk_runs, stop_bulk_run
from jobwire_broker.services.dead_letters import list_failures
from jobwire_broker.services.enqueue_stream import EnqueueStreams
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.services.specs import item_of
from jobwire_broker.services.updates import changes_of, payload_section
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Changed, Found, Other, Word
from jobwire_broker.store.attempts import attempts_of

MAX_WATCHED = 100
_MAX_WAIT_MS = 86_400_000

Context = grpc.aio.ServicerContext[Any, Any]


class JobService(JobServiceServicer):
    """Enqueue jobs, look at them, act on them, follow them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._maker = Maker(registry)
        self.streams = EnqueueStreams(self._maker)

    # Enqueue ------------------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def Enqueue(self, request: pb.EnqueueRequest, context: Context) -> pb.EnqueueResponse:
        """Make one job."""
        if not request.HasField("job"):
            raise InvalidField("job is required", field="job")
        try:
            queue, item = item_of(request.job)
        except InvalidField as error:
            raise error.under("job") from None
        self._maker.check_durability(request.durability)
        (result,) = await self._maker.make([queue], [item], request.durability)
        if refusal := refusal_of(queue, item, result, "job"):
            raise refusal
        raw_id, verdict = (result.raw_id, VERDICTS[Word(result.word)]) if isinstance(result, Other) else (item.raw_id, pb.ENQUEUE_VERDICT_MADE)
        return pb.EnqueueResponse(name=job_path(queue, raw_id), id=id_to_text(raw_id), verdict=verdict)

    @unary
    async def EnqueueBatch(self, request: pb.EnqueueBatchRequest, context: Context) -> pb.EnqueueBatchResponse:
        """Make many jobs, a verdict for each."""
        batch = batch_of(request.jobs)
        self._maker.check_durability(request.durability)
        outcome = batch.outcome(await self._maker.make(batch.queues, batch.items, request.durability))
        ids, queues = batch.ids(), dict(zip(batch.places, batch.queues, strict=True))
        answer = pb.EnqueueBatchResponse()
        for place in range(batch.size):
            item = answer.items.add()
            say_verdict(item, place, ids, outcome)
            if item.verdict != pb.ENQUEUE_VERDICT_REFUSED:
                item.name = f"queues/{queues[place]}/jobs/{item.id}"
        return answer

    async def EnqueueStream(  # type: ignore[override]  # it reads and writes itself, instead of being iterated
        self, request_iterator: Any, context: Context
    ) -> None:
        """Make jobs as they come."""
        await self.streams.serve(context)

    # Look ---------------------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """Read one job."""
        queue, raw_id = parse_job(request.name)
        found, descriptor, history, labels = await self._registry.store(queue).inspect(raw_id)
        if not found.record:
            raise _not_found(queue, raw_id, found.state)
        job = codec.job_from_record(queue, raw_id, found.record)
        job.attempts.extend(attempts_of(found.record, history, labels))
        job.worker = job_without_payload(queue, raw_id, found.record, descriptor).worker
        if codec.header_of(found.record).flags & codec.FLAG_KEPT:
            await self._add_kept(job, queue, raw_id)
        return pb.GetJobResponse(job=job)

    @unary
    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """List one state of one queue."""
        queue = parse_queue(request.parent, "parent")
        if request.state not in INDEXES:
            known = ", ".join(value.name for value in job_pb2.JobState.DESCRIPTOR.values if value.number in INDEXES)
            raise InvalidField(f"state must be one of {known}; it is {request.state}", field="state")
        if request.filter.states:
            raise InvalidField("filter.states must be empty here: the list is of the jobs in `state`", field="filter.states")
        size = page_size(request.page_size)
        wanted = filter_of(request.filter, frozenset((request.state,))) if request.HasField("filter") else None
        of = f"jobs/{queue}/{request.state}/{wanted}"
        cursor, store = read_token(of, request.page_token), self._registry.store(queue)
        (entries, cursor), stats = await asyncio.gather(page_of(store, request.state, wanted, cursor, size), store.stats())
        sids = sorted({codec.sid_of(record) for _, record in entries}) if request.state == job_pb2.JOB_STATE_ACTIVE else []
        workers = await store.holders(sids) if sids else {}
        return pb.ListJobsResponse(
            jobs=[job_without_payload(queue, raw_id, record, workers.get(codec.sid_of(record), b"")) for raw_id, record in entries],
            next_page_token=make_token(of, cursor),
            total=total_of(stats, request.state),
        )

    @unary
    async def ListFailures(self, request: pb.ListFailuresRequest, context: Context) -> pb.ListFailuresResponse:
        """Group the failed jobs."""
        return await list_failures(self._registry, request)

    @unary
    async def ListLogs(self, request: pb.ListLogsRequest, context: Context) -> pb.ListLogsResponse:
        """Read a page of a job's log."""
        queue, raw_id = parse_job(request.name)
        size = page_size(request.page_size)
        if request.after < 0:
            raise InvalidField(f"after must be a cursor of a line, or 0; it is {request.after}", field="after")
        logs = await self._registry.store(queue).logs(raw_id, request.after, size)
        if not logs.there:
            raise _not_found(queue, raw_id, logs.state)
        lines = [line for piece in logs.pieces for line in codec.decode_lines(piece) if line.cursor > request.after][:size]
        dropped = logs.head.cursor - logs.head.lines
        # A cursor that the log never had, or that a store lost with its last lines, is not one to go on from: the lines up to it would be missed.
        next_after = lines[-1].cursor if lines else min(request.after, logs.head.cursor)
        return pb.ListLogsResponse(lines=lines, next_after=next_after, dropped=dropped)

    async def _add_kept(self, job: job_pb2.Job, queue: str, raw_id: bytes) -> None:
        """What stands in keys of its own."""
        head, checkpoint = await self._registry.store(queue).kept(raw_id)
        job.log_lines = head.lines
        if checkpoint:
            job.checkpoint.MergeFromString(checkpoint)

    @unary
    async def ExplainJob(self, request: pb.ExplainJobRequest, context: Context) -> pb.ExplainJobResponse:
        """Say why a job does not run."""
        queue, raw_id = parse_job(request.name)
        found = await self._registry.store(queue).explain(raw_id)
        if not found.record:
            raise _not_found(queue, raw_id, found.state)
        return explain(queue, raw_id, found, await hands_of(self._registry, queue, found.crew))

    # Act ----------------------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        """Cancel a job."""
        queue, raw_id = parse_job(request.name)
        grace_ms = duration_ms(request.grace, "grace", low_ms=0, high_ms=MAX_GRACE_MS) if request.HasField("grace") else DEFAULT_GRACE_MS
        changed = await self._registry.store(queue).cancel(raw_id, grace_ms)
        job = _changed(queue, raw_id, changed, "cancel")
        self._registry.get(queue).pulse.beat_soon()
        return pb.CancelJobResponse(job=job)

    @unary
    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        """Put an ended job back."""
        queue, raw_id = parse_job(request.name)
        store = self._registry.store(queue)
        if request.HasField("payload"):
            changed = await store.redrive(raw_id, payload_section(request.payload))
            _check_payload(changed, "payload")
        else:
            changed = await store.retry(raw_id)
        return pb.RetryJobResponse(job=self._waits(queue, raw_id, changed, "retry"))

    @unary
    async def PromoteJob(self, request: pb.PromoteJobRequest, context: Context) -> pb.PromoteJobResponse:
        """Let a delayed job wait for a worker now."""
        queue, raw_id = parse_job(request.name)
        return pb.PromoteJobResponse(job=self._waits(queue, raw_id, await self._registry.store(queue).promote(raw_id), "promote"))

    @unary
    async def UpdateJob(self, request: pb.UpdateJobRequest, context: Context) -> pb.UpdateJobResponse:
        """Change a job that waits."""
        queue, raw_id = parse_job(request.job.name, "job.name")
        changed = await self._registry.store(queue).update(raw_id, changes_of(request))
        _check_payload(changed, "job.payload")
        return pb.UpdateJobResponse(job=self._waits(queue, raw_id, changed, "update"))

    def _waits(self, queue: str, raw_id: bytes, changed: Changed, verb: str) -> job_pb2.Job:
        """The job after a verb that has let it wait, for a worker or for its time."""
        job = _changed(queue, raw_id, changed, verb)
        entry = self._registry.get(queue)
        if job.state == job_pb2.JOB_STATE_DELAYED:
            entry.pulse.beat_soon()
        else:
            entry.partition.wake()
        return job

    @unary
    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        """Delete a job that does not run."""
        queue, raw_id = parse_job(request.name)
        changed = await self._registry.store(queue).delete(raw_id)
        if changed.word != Word.OK:
            _changed(queue, raw_id, changed, "delete")
        return pb.DeleteJobResponse()

    @unary
    async def ResolveJob(self, request: pb.ResolveJobRequest, context: Context) -> pb.ResolveJobResponse:
        """Leave a note on a failed job."""
        queue, raw_id = parse_job(request.name)
        changed = await self._registry.store(queue).resolve(raw_id, check_note(request.note))
        return pb.ResolveJobResponse(job=_changed(queue, raw_id, changed, "resolve"))

    @streaming
    async def BulkJobs(self, request: pb.BulkJobsRequest, context: Context) -> AsyncIterator[pb.BulkJobsResponse]:
        """Act on all jobs that a filter finds."""
        async for response in bulk_jobs(self._registry, request):
            yield response

    @unary
    async def ListBulkRuns(self, request: pb.ListBulkRunsRequest, context: Context) -> pb.ListBulkRunsResponse:
        """List the bulk runs of a queue."""
        return await list_bulk_runs(self._registry, request)

    @unary
    async def GetBulkRun(self, request: pb.GetBulkRunRequest, context: Context) -> pb.GetBulkRunResponse:
        """Read one bulk run."""
        return pb.GetBulkRunResponse(run=await get_bulk_run(self._registry, request.name))

    @unary
    async def StopBulkRun(self, request: pb.StopBulkRunRequest, context: Context) -> pb.StopBulkRunResponse:
        """Stop a bulk run."""
        return pb.StopBulkRunResponse(run=await stop_bulk_run(self._registry, request.name))

    # Follow -------------------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def WaitJob(self, request: pb.WaitJobRequest, context: Context) -> pb.WaitJobResponse:
        """Wait for a job's end."""
        queue, raw_id = parse_job(request.name)
        timeout_s = None
        if request.HasField("timeout"):
            timeout_s = duration_ms(request.timeout, "timeout", low_ms=0, high_ms=_MAX_WAIT_MS) / 1000
        mailbox = Mailbox()
        feed = self._registry.get(queue).feed
        await feed.watch_job(raw_id, mailbox)
        self._registry.get(queue).watched()
        try:
            with self._registry.waking_at_end(mailbox.wake):
                async with asyncio.timeout(timeout_s):
                    return pb.WaitJobResponse(job=await self._end_of(queue, raw_id, mailbox))
        except TimeoutError:
            raise WaitTimeout(f"{request.name} has not ended in {timeout_s:g} s", metadata={"name": request.name}) from None
        finally:
            await feed.leave_job(raw_id, mailbox)

    @streaming
    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Context) -> AsyncIterator[pb.WatchJobsResponse]:
        """Follow jobs and queues."""
        if not 1 <= len(request.names) <= MAX_WATCHED:
            raise InvalidField(f"names may hold 1 to {MAX_WATCHED}; it holds {len(request.names)}", field="names")
        jobs, queues = _topics(list(request.names))
        mailbox = Mailbox()
        open_ends = {job_path(*job) for job in jobs}
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._registry.waking_at_end(mailbox.wake))
            for queue in queues:
                entry = self._registry.get(queue)
                stack.push_async_callback(entry.feed.leave_all, mailbox)
                await entry.feed.watch_all(mailbox)
                entry.watched()
            for queue, raw_id in jobs:
                entry = self._registry.get(queue)
                stack.push_async_callback(entry.feed.leave_job, raw_id, mailbox)
                await entry.feed.watch_job(raw_id, mailbox)
                entry.watched()
            while open_ends or queues:
                await mailbox.wait()
                changes = mailbox.take()
                if changes:
                    yield pb.WatchJobsResponse(changes=changes)
                open_ends -= {c.job.name for c in changes if c.type in (pb.CHANGE_TYPE_FINAL, pb.CHANGE_TYPE_NOT_FOUND)}
                if self._registry.is_ending and (open_ends or queues):
                    raise ShuttingDown

    async def _end_of(self, queue: str, raw_id: bytes, mailbox: Mailbox) -> job_pb2.Job:
        while True:
            await mailbox.wait()
            for change in mailbox.take():
                if change.type == pb.CHANGE_TYPE_FINAL:
                    return change.job
                if change.type == pb.CHANGE_TYPE_NOT_FOUND:
                    raise _not_found(queue, raw_id, 0)
            if self._registry.is_ending:
                raise ShuttingDown


def _topics(names: list[str]) -> tuple[list[tuple[str, bytes]], list[str]]:
    jobs: dict[tuple[str, bytes], None] = {}
    queues: dict[str, None] = {}
    for i, name in enumerate(names):
        if name.count("/") == 1:
            queues[parse_queue(name, f"names[{i}]")] = None
        else:
            jobs[parse_job(name, f"names[{i}]")] = None
    return list(jobs), list(queues)


def _not_found(queue: str, raw_id: bytes, state: int) -> NotFound:
    name = job_path(queue, raw_id)
    if state:
        word = state_word(state)
        return NotFound(f"{name} is gone; its last state was {word}", metadata={"name": name, "state": word})
    return NotFound(f"there is no {name}, or it is long gone", metadata={"name": name})


def _check_payload(changed: Changed, field: str) -> None:
    """Raises InvalidField when the queue does not take what `field` brought."""
    if changed.word == Word.TOO_LARGE:
        raise payload_too_large(field)


def _changed(queue: str, raw_id: bytes, changed: Changed, verb: str) -> job_pb2.Job:
    """The job after a verb. Raises NotFound and WrongState."""
    if changed.word == Word.NOT_FOUND:
        raise _not_found(queue, raw_id, changed.state)
    if changed.word == Word.KEY_HELD:
        other = job_path(queue, changed.holder)
        raise WrongState(f"can't {verb} {job_path(queue, raw_id)}: {other} has its unique key now", metadata={"holder": other})
    if changed.word == Word.WRONG_STATE:
        word = state_word(changed.state)
        raise WrongState(f"can't {verb} {job_path(queue, raw_id)}: it is {word}", metadata={"state": word})
    if not changed.record:
        return gone_job(queue, raw_id, Found(b"", changed.state, 0))
    return job_without_payload(queue, raw_id, changed.record)


def enqueue_handler(service: JobService) -> grpc.GenericRpcHandler:
    """The stream of enqueues, whose messages are bytes both ways: they are read and made by hand (batch_bytes.py)."""
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
        service.EnqueueStream, request_deserializer=None, response_serializer=None
    )
    return grpc.method_handlers_generic_handler("jobwire.v1.JobService", {"EnqueueStream": method})
