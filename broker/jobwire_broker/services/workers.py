"""WorkerService: the stream, and the unary calls that do the same one by one."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from jobwire.v1 import admin_service_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire.v1.worker_service_pb2_grpc import WorkerServiceServicer

from jobwire_broker.auth.caller import end_with
from jobwire_broker.config import BrokerConfig
from jobwire_broker.errors import BrokerError, InvalidField, ShuttingDown, StoreFault, StoreUnavailable
from jobwire_broker.labels import check_labels
from jobwire_broker.names import check_queue, id_to_bytes, id_to_text
from jobwire_broker.rules.hands import SINGLE_CALLS
from jobwire_broker.rules.partition import verdict_of
from jobwire_broker.rules.registry import Queue, Registry
from jobwire_broker.rules.reports import duration_ms, finish_item, progress_item
from jobwire_broker.rules.session import MAX_LABELS
from jobwire_broker.services.answers import abort, abort_fault, unary
from jobwire_broker.services.work_stream import WorkStream
from jobwire_broker.store import wire
from jobwire_broker.store.answers import Settled, Word
from jobwire_broker.store.arguments import LeaseRequest, TurnItem
from jobwire_broker.store.codec import encode_labels

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

MAX_ITEMS = 1000
MAX_LEASED = 100
_MIN_LEASE_MS, _DEFAULT_LEASE_MS, _MAX_LEASE_MS = 1000, 30_000, 3_600_000
_MAX_WAIT_MS = 60_000
_RETRY_S = 0.3


class WorkerService(WorkerServiceServicer):
    """How workers get jobs, and give back what became of them."""

    def __init__(self, registry: Registry, config: BrokerConfig, broker_id: str) -> None:
        self._registry = registry
        self._config = config
        self._broker_id = broker_id
        self._streams: set[WorkStream] = set()
        self._detaching: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._closed = asyncio.Event()
        self._closed.set()

    async def go_away(self) -> None:
        """Ask all streams to connect elsewhere; refuse new ones."""
        self._stopping = True
        for stream in list(self._streams):
            stream.go_away()

    async def all_closed(self) -> None:
        """Return when no stream is open."""
        await self._closed.wait()

    async def Work(  # type: ignore[override]  # it reads and writes itself, instead of being iterated
        self, request_iterator: Any, context: Context
    ) -> None:
        """Serve one stream."""
        if self._stopping:
            await abort(context, ShuttingDown())
        stream = WorkStream(self._registry, self._config, self._broker_id, context)
        self._streams.add(stream)
        end_with(stream.go_away)
        self._closed.clear()
        try:
            await stream.run()
        except BrokerError as error:
            await abort(context, error)
        except StoreFault as error:
            await abort_fault(context, "Work", error)
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._closed.set()

    # Unary --------------------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def LeaseJobs(self, request: pb.LeaseJobsRequest, context: Context) -> pb.LeaseJobsResponse:
        """Lease jobs under a session that is made for this call alone."""
        queue = self._registry.get(check_queue(request.queue))
        if not 0 <= request.max_jobs <= MAX_LEASED:
            raise InvalidField(f"max_jobs must be from 1 to {MAX_LEASED}, or 0 for 1; it is {request.max_jobs}", field="max_jobs")
        if len(request.worker) > 128:
            raise InvalidField("worker may have 128 characters", field="worker")
        check_labels(request.labels, "labels", MAX_LABELS)
        lease_ms = _lease_ms(request.lease_duration) if request.HasField("lease_duration") else _DEFAULT_LEASE_MS
        wait_s = duration_ms(request.wait, "wait", low_ms=0, high_ms=_MAX_WAIT_MS) / 1000 if request.HasField("wait") else 0.0
        jobs = await self._lease(queue, request, lease_ms)
        deadline = time.monotonic() + wait_s
        while not jobs and not self._registry.is_ending and (left := deadline - time.monotonic()) > 0:
            await _something_waits(queue, left)
            jobs = await self._lease(queue, request, lease_ms)
        response = pb.LeaseJobsResponse()
        policy = queue.partition.policy
        for raw_id, token, record in jobs:
            response.jobs.add().MergeFromString(wire.delivery(queue.name, raw_id, token, record, policy.attempts, policy.timeout_ms))
        return response

    async def _lease(self, queue: Queue, request: pb.LeaseJobsRequest, lease_ms: int) -> list[tuple[bytes, int, bytes]]:
        stats = await queue.store.stats()
        if not stats.waiting:
            return []
        queue.partition.learn_policy(stats.policy)
        session = os.urandom(16)
        worker = admin_service_pb2.Worker(session=session.hex(), instance_id=request.worker, queues=[queue.name], sdk=SINGLE_CALLS, broker_id=self._broker_id)
        worker.connect_time.GetCurrentTime()
        jobs = min(request.max_jobs or 1, queue.partition.policy.slots or MAX_LEASED)
        try:
            await queue.store.attach(session, 1, lease_ms, worker.SerializeToString(), [], labels=encode_labels(request.labels))
            report = await queue.store.turn([], [LeaseRequest(session, 1, jobs)])
            if not report.leases[0].jobs:
                await queue.store.detach(session, 1)
                return []
        except BaseException:
            # The call may have leased jobs that its caller never hears of.
            self._detach_soon(queue, session, time.monotonic() + lease_ms / 1000)
            raise
        queue.partition.delivered(report.leases)
        queue.pulse.schedule(1.0)
        return report.leases[0].jobs

    def _detach_soon(self, queue: Queue, session: bytes, until: float) -> None:
        task = asyncio.create_task(_detach(queue, session, until))
        self._detaching.add(task)
        task.add_done_callback(self._detaching.discard)

    @unary
    async def FinishJobs(self, request: pb.FinishJobsRequest, context: Context) -> pb.FinishJobsResponse:
        """End attempts."""
        _check_count(len(request.finishes), "finishes")
        return pb.FinishJobsResponse(acks=await self._settle(_items("finishes", request.finishes, finish_item)))

    @unary
    async def ExtendLeases(self, request: pb.ExtendLeasesRequest, context: Context) -> pb.ExtendLeasesResponse:
        """Renew leases of LeaseJobs."""
        _check_count(len(request.leases), "leases")
        lease_ms = _lease_ms(request.lease_duration) if request.HasField("lease_duration") else _DEFAULT_LEASE_MS
        items = _items("leases", request.leases, lambda held: TurnItem("E", id_to_bytes(held.id), _token(held.token), lease_ms))
        return pb.ExtendLeasesResponse(acks=await self._settle(items))

    @unary
    async def ReportProgress(self, request: pb.ReportProgressRequest, context: Context) -> pb.ReportProgressResponse:
        """Tell how far jobs are."""
        _check_count(len(request.reports), "reports")
        return pb.ReportProgressResponse(acks=await self._settle(_items("reports", request.reports, progress_item)))

    async def _settle(self, items: Sequence[tuple[str, TurnItem]]) -> list[pb.Ack]:
        collector = _Collector(len(items))
        for index, (queue, item) in enumerate(items):
            self._registry.get(queue).partition.settle(item, str(index), collector)
        return await collector.acks


def work_handler(service: WorkerService) -> grpc.GenericRpcHandler:
    """The Work stream, whose frames down are written as bytes: sessions encode them themselves (store/wire.py)."""
    method = grpc.stream_stream_rpc_method_handler(service.Work, request_deserializer=pb.WorkRequest.FromString, response_serializer=bytes)
    return grpc.method_handlers_generic_handler("jobwire.v1.WorkerService", {"Work": method})


class _Collector:
    """Gathers the verdicts of one unary call."""

    def __init__(self, size: int) -> None:
        self.acks: asyncio.Future[list[pb.Ack]] = asyncio.get_running_loop().create_future()
        self._found: list[pb.Ack | None] = [None] * size
        self._missing = size

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """`text_id` is the position in the call."""
        state: Any = settled.state if settled.word == Word.OK else 0
        self._found[int(text_id)] = pb.Ack(queue=queue, id=id_to_text(item.raw_id), token=item.token, verdict=verdict_of(settled.word), state=state)
        self._missing -= 1
        if not self._missing and not self.acks.done():
            self.acks.set_result([ack for ack in self._found if ack is not None])

    def failed(self, error: BrokerError) -> bool:
        """The caller repeats the call: the same finish gets the same verdict."""
        self.given_up(error)
        return False

    def dropped(self, item: TurnItem) -> None:
        """The call has its error."""

    def given_up(self, error: BrokerError) -> None:
        """As when it failed."""
        if not self.acks.done():
            self.acks.set_exception(error)


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidField(f"{field} may hold 1 to {MAX_ITEMS}; it holds {count}", field=field, reason="BATCH_TOO_LARGE" if count else None)


def _items(path: str, reports: Sequence[Any], to_item: Callable[[Any], TurnItem]) -> list[tuple[str, TurnItem]]:
    """All checked before anything is done."""
    items = []
    for i, report in enumerate(reports):
        try:
            items.append((check_queue(report.queue), to_item(report)))
        except InvalidField as error:
            raise error.under(f"{path}[{i}]") from None
    return items


def _token(token: int) -> int:
    if token < 1:
        raise InvalidField(f"token must be that of a lease; it is {token}", field="token")
    return token


def _lease_ms(duration: Any) -> int:
    return duration_ms(duration, "lease_duration", low_ms=_MIN_LEASE_MS, high_ms=_MAX_LEASE_MS)


async def _detach(queue: Queue, session: bytes, until: float) -> None:
    """End a session whose caller never heard of it: what it may hold goes back at its place, uncharged. After `until` it has ended by itself."""
    while time.monotonic() < until:
        try:
            await queue.store.detach(session, 1)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_S)
        except StoreFault as error:
            log.error("lease.detach_failed queue=%s error=%s", queue.name, error)
            return
        else:
            queue.partition.wake()
            return


async def _something_waits(queue: Queue, timeout_s: float) -> None:
    """Return when the queue may have jobs: its counts changed, or a second has passed."""
    changed = asyncio.Event()
    await queue.feed.watch_counts(changed.set)
    try:
        async with asyncio.timeout(min(timeout_s, 1.0)):
            await changed.wait()
    except TimeoutError:
        pass
    finally:
        await queue.feed.leave_counts(changed.set)
