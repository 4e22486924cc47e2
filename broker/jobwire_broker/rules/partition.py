"""One queue on this broker: group commit of all that changes it, and leases against the credit of its sessions.

While a call to the store is under way, what arrives is gathered; when it returns, the next call takes all of it (DESIGN 7). There are two lanes, since
`enqueue` must be refused when the store is full and `turn` must not (RULES 7). Credit is reserved before a call and given back after it, so that two calls
never lease against the same credit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from redis.exceptions import RedisError

from jobwire_broker.errors import BrokerError, SessionMoved, StoreUnavailable
from jobwire_broker.rules.session import WorkSession
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.queue_store import MAX_BYTES, MAX_ITEMS, JobItem, Lease, LeaseRequest, QueueStore, Settled, TurnItem, TurnReport, Word

log = logging.getLogger(__name__)

_DELAYED = job_pb2.JOB_STATE_DELAYED
#: How long to wait with a repeat while the store seems to be there.
_REPEAT_S = 0.1
#: The overhead of an item beside its body, for the bound on bytes.
_ITEM_OVERHEAD = 100


class Stream(Protocol):
    """What a partition needs of a Work stream."""

    work: WorkSession

    def wake_writer(self) -> None:
        """Something is ready to be sent."""

    def end(self, error: BrokerError) -> None:
        """The stream must end."""

    def reattach(self, queue: str) -> None:
        """What the store holds for the session may not be what was delivered: both sides must be compared again."""


class Sink(Protocol):
    """Who hears what became of a turn item."""

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """The store has answered."""

    def failed(self, error: BrokerError) -> bool:
        """The store is away. True: keep the item and try again when it is back."""
        ...


class Silent:
    """A sink for items whose verdict nobody waits for."""

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """Nobody waits."""

    def failed(self, error: BrokerError) -> bool:
        """Try again."""
        return True


SILENT = Silent()
_TurnEntry = tuple[TurnItem, str, Sink]


class Ticket:
    """The verdicts on jobs that were enqueued together; each a word or an error."""

    def __init__(self, size: int) -> None:
        self.results: list[str | BrokerError] = [""] * size
        self._missing = size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self, index: int, result: str | BrokerError) -> None:
        """Note one verdict."""
        self.results[index] = result
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


class Partition:
    """One queue on this broker."""

    def __init__(self, client: StoreClient, queue: str) -> None:
        self.queue = queue
        self.store = QueueStore(client, queue)
        self.streams: dict[bytes, Stream] = {}
        self.waiting = 0
        self.seq = 0
        self.on_delayed: Callable[[], None] = lambda: None
        self._client = client
        self._enqueues: deque[tuple[JobItem, Ticket, int]] = deque()
        self._entries: deque[_TurnEntry] = deque()
        self._parked: list[_TurnEntry] = []
        self._enqueuing: asyncio.Task[None] | None = None
        self._turning: asyncio.Task[None] | None = None
        self._dry = False
        client.on_change.append(self._store_changed)

    # In -----------------------------------------------------------------------------------------------------------------------------------------------

    def enqueue(self, item: JobItem, ticket: Ticket, index: int) -> None:
        """Make a job with the next call."""
        self._enqueues.append((item, ticket, index))
        if self._enqueuing is None:
            self._enqueuing = asyncio.create_task(self._enqueue_lane())

    def settle(self, item: TurnItem, text_id: str, sink: Sink) -> None:
        """Settle what a worker says with the next call."""
        self._entries.append((item, text_id, sink))
        self._dry = False
        self.kick()

    def kick(self) -> None:
        """Run the turn lane when there is something to do for it."""
        if self._turning is None and (self._entries or self._wants_leases()):
            self._turning = asyncio.create_task(self._turn_lane())

    def wake(self) -> None:
        """Jobs may wait that this broker has not heard of."""
        self._dry = False
        self.waiting = max(self.waiting, 1)
        self.kick()

    def attached(self, stream: Stream) -> None:
        """A session takes jobs from this queue now. An older stream of it on this broker ends: no pulse would tell it any more."""
        before = self.streams.get(stream.work.session)
        older, newer = (before, stream) if before is None or before.work.epoch <= stream.work.epoch else (stream, before)
        self.streams[stream.work.session] = newer
        if older is not None and older is not newer:
            older.end(SessionMoved("a newer stream of this session has taken over"))
        self.wake()

    def detached(self, stream: Stream) -> None:
        """It does no more."""
        if self.streams.get(stream.work.session) is stream:
            del self.streams[stream.work.session]

    def close(self) -> None:
        """Hear of the store no more."""
        self._client.on_change.remove(self._store_changed)

    def is_quiet(self) -> bool:
        """Whether no call is under way and nothing waits for one."""
        return self._enqueuing is None and self._turning is None and not self._parked

    async def idle(self) -> None:
        """Return when no call is under way and nothing waits for one."""
        while tasks := [task for task in (self._enqueuing, self._turning) if task is not None]:
            await asyncio.wait(tasks)

    # The enqueue lane ---------------------------------------------------------------------------------------------------------------------------------

    async def _enqueue_lane(self) -> None:
        # A yield, so that all who call in this turn of the loop share the first call.
        await asyncio.sleep(0)
        try:
            while self._enqueues:
                await self._enqueue_chunk(self._take_enqueues())
        finally:
            self._enqueuing = None

    def _take_enqueues(self) -> list[tuple[JobItem, Ticket, int]]:
        chunk: list[tuple[JobItem, Ticket, int]] = []
        size = 0
        while self._enqueues and len(chunk) < MAX_ITEMS:
            size += len(self._enqueues[0][0].body) + _ITEM_OVERHEAD
            if chunk and size > MAX_BYTES:
                break
            chunk.append(self._enqueues.popleft())
        return chunk

    async def _enqueue_chunk(self, chunk: list[tuple[JobItem, Ticket, int]]) -> None:
        requests = self._plan_leases(len(chunk) + self.waiting)
        try:
            report = await self.store.enqueue([item for item, _, _ in chunk], requests)
        except BrokerError as error:
            self._after_failed_leases(requests, error)
            for _, ticket, index in chunk:
                ticket.set(index, error)
        except RedisError as error:
            self._after_failed_leases(requests, None)
            await self._repeat_singly(chunk, error)
        else:
            for (_, ticket, index), word in zip(chunk, report.words, strict=True):
                ticket.set(index, word)
            if any(item.due for item, _, _ in chunk):
                self.on_delayed()
            self._after_call(report, requests)

    async def _repeat_singly(self, chunk: list[tuple[JobItem, Ticket, int]], error: RedisError) -> None:
        # The function raised, and some of the items may have been made: each is repeated by its identity, and alone (RULES 5).
        if len(chunk) == 1:
            log.error("partition.enqueue_failed queue=%s error=%s", self.queue, error)
            chunk[0][1].set(chunk[0][2], BrokerError(f"the store could not make the job: {error}"))
            return
        for entry in chunk:
            await self._enqueue_chunk([entry])

    # The turn lane ------------------------------------------------------------------------------------------------------------------------------------

    async def _turn_lane(self) -> None:
        await asyncio.sleep(0)
        try:
            while self._entries or self._wants_leases():
                if not self._client.available:
                    self._fail(list(self._entries), StoreUnavailable("the store is away", accepted="no"))
                    self._entries.clear()
                    break
                chunk = self._take_entries()
                requests = self._plan_leases(MAX_ITEMS if self._wants_leases() else 0)
                await self._turn_chunk(chunk, requests)
        finally:
            self._turning = None

    def _take_entries(self) -> list[_TurnEntry]:
        chunk: list[_TurnEntry] = []
        size = 0
        while self._entries and len(chunk) < MAX_ITEMS:
            body = self._entries[0][0].a
            size += (len(body) if isinstance(body, (bytes, str)) else 8) + _ITEM_OVERHEAD
            if chunk and size > MAX_BYTES:
                break
            chunk.append(self._entries.popleft())
        return chunk

    async def _turn_chunk(self, chunk: list[_TurnEntry], requests: list[LeaseRequest]) -> None:
        try:
            report = await self.store.turn([item for item, _, _ in chunk], requests)
        except BrokerError as error:
            self._after_failed_leases(requests, error)
            self._fail(chunk, error)
        except RedisError as error:
            self._after_failed_leases(requests, None)
            await self._settle_singly(chunk, error)
        else:
            for (item, text_id, sink), settled in zip(chunk, report.settled, strict=True):
                sink.settled(self.queue, text_id, item, settled)
            if any(settled.state == _DELAYED for settled in report.settled):
                self.on_delayed()
            self._after_call(report, requests)

    async def _settle_singly(self, chunk: list[_TurnEntry], error: RedisError) -> None:
        if len(chunk) == 1:
            log.error("partition.turn_failed queue=%s id=%s error=%s", self.queue, chunk[0][1], error)
            chunk[0][2].failed(BrokerError(f"the store could not settle the item: {error}"))
            return
        for entry in chunk:
            await self._turn_chunk([entry], [])

    def _fail(self, chunk: Sequence[_TurnEntry], error: BrokerError) -> None:
        for entry in chunk:
            if entry[2].failed(error):
                self._parked.append(entry)
        if self._parked and self._client.available:
            asyncio.get_running_loop().call_later(_REPEAT_S, self._unpark)

    def _store_changed(self, available: bool) -> None:
        if available:
            self._unpark()
            self.wake()

    def _unpark(self) -> None:
        if self._client.available:
            self._entries.extendleft(reversed(self._parked))
            self._parked.clear()
            self.kick()

    # Leases -------------------------------------------------------------------------------------------------------------------------------------------

    def _wants_leases(self) -> bool:
        return self.waiting > 0 and not self._dry and self._client.available and any(s.work.free(self.queue) > 0 for s in self.streams.values())

    def _plan_leases(self, limit: int) -> list[LeaseRequest]:
        """Share up to `limit` jobs out over the sessions, those with the most room first, and reserve their credit."""
        limit = min(limit, MAX_ITEMS)
        rooms = sorted(((s.work.free(self.queue), s) for s in self.streams.values()), key=lambda pair: -pair[0])
        rooms = [(room, stream) for room, stream in rooms if room > 0]
        requests = []
        for position, (room, stream) in enumerate(rooms):
            share = min(room, -(-limit // (len(rooms) - position)))
            if share <= 0:
                break
            limit -= share
            stream.work.reserve(self.queue, share)
            requests.append(LeaseRequest(stream.work.session, stream.work.epoch, share))
        return requests

    def _after_call(self, report: TurnReport, requests: list[LeaseRequest]) -> None:
        self.waiting, self.seq = report.waiting, report.seq
        granted = 0
        for request, lease in zip(requests, report.leases, strict=True):
            granted += len(lease.jobs)
            self._take_lease(request, lease)
        # Paused, or kept free for a job that goes alone: to ask again at once would bring nothing.
        self._dry = bool(requests) and not granted
        self.kick()

    def _take_lease(self, request: LeaseRequest, lease: Lease) -> None:
        stream = self.streams.get(request.session)
        if stream is None or stream.work.epoch != request.epoch:
            for raw_id, token, _ in lease.jobs:
                self.settle(TurnItem("R", raw_id, token), "", SILENT)
            return
        stream.work.unreserve(self.queue, request.jobs)
        if lease.word == Word.SESSION_MOVED:
            stream.end(SessionMoved("a newer stream of this session has taken over"))
        elif lease.word == Word.NO_SESSION:
            stream.reattach(self.queue)
        for raw_id, token, record in lease.jobs:
            stream.work.deliver(self.queue, raw_id, token, record)
        if lease.jobs:
            stream.wake_writer()

    def _after_failed_leases(self, requests: list[LeaseRequest], error: BrokerError | None) -> None:
        """Give the credit back; when the call may have leased something, find out what by attaching again (RULES 3)."""
        known = isinstance(error, BrokerError) and not (isinstance(error, StoreUnavailable) and error.accepted == "unknown")
        for request in requests:
            stream = self.streams.get(request.session)
            if stream is not None and stream.work.epoch == request.epoch:
                stream.work.unreserve(self.queue, request.jobs)
                if not known:
                    stream.reattach(self.queue)


def verdict_of(word: str) -> pb.Verdict.ValueType:
    """The contract's name for the store's word."""
    return _VERDICTS[word]


_VERDICTS = {
    Word.OK.value: pb.VERDICT_OK,
    Word.ALREADY_FINISHED.value: pb.VERDICT_ALREADY_FINISHED,
    Word.STALE_LEASE.value: pb.VERDICT_STALE_LEASE,
    Word.CANCELLED.value: pb.VERDICT_CANCELLED,
    Word.NOT_FOUND.value: pb.VERDICT_NOT_FOUND,
}
