"""One queue on this broker: group commit of all that changes it, and leases against the credit of its sessions.

There are two lanes of calls (lane.py), since `enqueue` must be refused when the store is full and `turn` must not (RULES 7). Credit is reserved before a call
and given back after it, so that two calls never lease against the same credit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.errors import BrokerError, SessionMoved, StoreFailed, StoreFault, StoreFull, StoreUnavailable
from jobwire_broker.names import id_to_text
from jobwire_broker.rules.lane import Lane
from jobwire_broker.rules.meter import Meter
from jobwire_broker.rules.parked import Parked
from jobwire_broker.rules.session import WorkSession
from jobwire_broker.rules.sinks import ITEM_OVERHEAD, SILENT, Repeated, Sink, TurnEntry, turn_size
from jobwire_broker.rules.starts import Starts
from jobwire_broker.store.answers import Lease, Other, PolicyChanged, TurnReport, Word
from jobwire_broker.store.arguments import FINISHES, MAX_BYTES, MAX_ITEMS, JobItem, LeaseRequest, TurnItem, item_args
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.codec import FLAG_TIMED, timeout_of
from jobwire_broker.store.policy import NO_POLICY, policy_from_text
from jobwire_broker.store.queue_store import QueueStore

log = logging.getLogger(__name__)

_DELAYED = job_pb2.JOB_STATE_DELAYED
#: How long to wait with a repeat while the store seems to be there.
_REPEAT_S = 0.1
#: A finish over which the store fails is repeated so often, after _REPEAT_S and then twice the time before: for 3 s in all.
_MAX_FAULTS = 5
#: How often in a row the queue's priority may change under one call.
_MAX_CHANGES = 10
_due = itemgetter(JobItem._fields.index("due"))
_flags = itemgetter(JobItem._fields.index("flags"))


class Stream(Protocol):
    """What a partition needs of a Work stream."""

    work: WorkSession

    def wake_writer(self) -> None:
        """Something is ready to be sent."""

    def end(self, error: BrokerError) -> None:
        """The stream must end."""

    def reattach(self, queue: str) -> None:
        """What the store holds for the session may not be what was delivered: both sides must be compared again."""


Results = list[str | Other | BrokerError]


class Ticket:
    """The verdicts on jobs that were enqueued together, each a word, another job or an error. When the last of them is there, `tell` is called with all."""

    def __init__(self, size: int, tell: Callable[[Results], None]) -> None:
        self._results: Results = [""] * size
        self._missing = size
        self._tell = tell

    def settle(self, places: Sequence[int], results: Sequence[str | Other | BrokerError]) -> None:
        """Note the verdicts on the jobs at these places."""
        for place, result in zip(places, results, strict=True):
            self._results[place] = result
        self._missing -= len(places)
        if not self._missing:
            self._tell(self._results)


class _Piece(NamedTuple):
    """Jobs of one ticket that go with one call, and their places in it."""

    items: Sequence[JobItem]
    places: Sequence[int]
    ticket: Ticket
    size: int
    ahead: tuple[int, list[Any]] | None = None
    """The queue's priority and what a call then says of them, where it was made while another call was under way."""


class _EnqueueCall(NamedTuple):
    pieces: list[_Piece]
    requests: list[LeaseRequest]

    def items(self) -> Sequence[JobItem]:
        """All of them, in order."""
        return self.pieces[0].items if len(self.pieces) == 1 else [item for piece in self.pieces for item in piece.items]


class _TurnCall(NamedTuple):
    chunk: list[TurnEntry]
    requests: list[LeaseRequest]


class Partition:
    """One queue on this broker."""

    def __init__(self, client: StoreClient, queue: str) -> None:
        self.queue = queue
        self.store = QueueStore(client, queue)
        self.streams: dict[bytes, Stream] = {}
        self.waiting = 0
        self.seq = 0
        self.on_delayed: Callable[[], None] = lambda: None
        self.on_deadline: Callable[[float], None] = lambda seconds: None
        self.meter: Meter | None = None
        self.policy = NO_POLICY
        self.starts = Starts()
        self._client = client
        self._enqueues: deque[_Piece] = deque()
        self._entries: deque[TurnEntry] = deque()
        self._parked = Parked()
        self._enqueue_lane = Lane(
            prepare=self._prepare_enqueue, send=self._send_enqueue, note=self._note_report, done=self._enqueue_done, failed=self._enqueue_failed
        )
        self._turn_lane = Lane(prepare=self._prepare_turn, send=self._send_turn, note=self._note_report, done=self._turn_done, failed=self._turn_failed)
        self._dry = False
        self._behind = 0
        self._opening: asyncio.TimerHandle | None = None
        client.on_change.append(self._store_changed)

    # In -----------------------------------------------------------------------------------------------------------------------------------------------

    def enqueue(self, items: Sequence[JobItem], places: Sequence[int], ticket: Ticket) -> None:
        """Make jobs with the next calls; the ticket has these places for them."""
        sizes = [len(item.body) for item in items]
        total = sum(sizes) + ITEM_OVERHEAD * len(items)
        if len(items) <= MAX_ITEMS and total <= MAX_BYTES:
            # The store works on another call now, and need not wait for this when it is done. Who comes behind others goes with them.
            priority = self.policy.priority
            ahead = None if self._enqueue_lane.task is None or self._enqueues else (priority, item_args(items, priority))
            self._enqueues.append(_Piece(items, places, ticket, total, ahead))
        else:
            self._enqueue_in_pieces(items, places, ticket, sizes)
        self._enqueue_lane.run()

    def settle(self, item: TurnItem, text_id: str, sink: Sink) -> None:
        """Settle what a worker says with the next call."""
        self.settle_all([(item, text_id, sink)])

    def settle_all(self, entries: Sequence[TurnEntry]) -> None:
        """The same for several."""
        self._entries += entries
        self._dry = False
        self.kick()

    def kick(self) -> None:
        """Run the turn lane when there is something to do for it."""
        if self._entries or self._wants_leases():
            self._turn_lane.run()

    def pulsed(self, seq: int, waiting: int) -> None:
        """The pulse saw so many waiting. A store that is behind twice in a row has lost something, and is believed."""
        if self._is_news(seq, waiting):
            self._behind = 0
        else:
            self._behind += 1
            if self._behind > 1:
                self.seq, self.waiting, self._behind = seq, waiting, 0
        if self.waiting:
            self.wake()

    def learn_policy(self, text: str) -> None:
        """This is the queue's policy now."""
        self.policy = policy_from_text(text)
        self.kick()

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
        self.stop_asking()
        self._client.on_change.remove(self._store_changed)

    def stop_asking(self) -> None:
        """Ask for no leases that a limit holds back."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def is_quiet(self) -> bool:
        """Whether no call is under way and nothing waits for one."""
        return self._enqueue_lane.task is None and self._turn_lane.task is None and not self._parked

    async def idle(self) -> None:
        """Return when no call is under way and nothing waits for one."""
        while tasks := [lane.task for lane in (self._enqueue_lane, self._turn_lane) if lane.task is not None]:
            await asyncio.wait(tasks)

    # The enqueue lane ---------------------------------------------------------------------------------------------------------------------------------

    def _enqueue_in_pieces(self, items: Sequence[JobItem], places: Sequence[int], ticket: Ticket, sizes: Sequence[int]) -> None:
        start = size = 0
        for i, body in enumerate(sizes):
            if i > start and (i - start == MAX_ITEMS or size + body + ITEM_OVERHEAD > MAX_BYTES):
                self._enqueues.append(_Piece(items[start:i], places[start:i], ticket, size))
                start, size = i, 0
            size += body + ITEM_OVERHEAD
        self._enqueues.append(_Piece(items[start:], places[start:], ticket, size))

    def _prepare_enqueue(self) -> _EnqueueCall | None:
        if not self._enqueues:
            return None
        pieces: list[_Piece] = []
        count = size = 0
        while self._enqueues:
            piece = self._enqueues[0]
            count += len(piece.items)
            size += piece.size
            if pieces and (count > MAX_ITEMS or size > MAX_BYTES):
                count -= len(piece.items)
                break
            pieces.append(self._enqueues.popleft())
        return _EnqueueCall(pieces, [] if self._client.memory_watch.is_full() else self._plan_leases(count + self.waiting))

    def _send_enqueue(self, call: _EnqueueCall) -> Awaitable[TurnReport]:
        return self._enqueued(call, self._begin_enqueue(call))

    def _begin_enqueue(self, call: _EnqueueCall) -> Awaitable[TurnReport]:
        if self._client.memory_watch.is_full():
            return self._known(call)
        priority, ahead = self.policy.priority, call.pieces[0].ahead if len(call.pieces) == 1 else None
        args = ahead[1] if ahead is not None and ahead[0] == priority else None
        return self.store.enqueue(call.items(), call.requests, priority, args)

    async def _enqueued(self, call: _EnqueueCall, answer: Awaitable[TurnReport]) -> TurnReport:
        """The answer. When the queue's priority is not what we took it for, or the store is full, the call is repeated with what holds."""
        for _ in range(_MAX_CHANGES):
            try:
                return await answer
            except PolicyChanged as changed:
                self.learn_policy(changed.text)
            except StoreFull:
                self._client.memory_watch.refused()
            answer = self._begin_enqueue(call)
        return await answer

    async def _known(self, call: _EnqueueCall) -> TurnReport:
        """A full store makes no job and leases none with it: those that it has go with the turns."""
        report = await self.store.known(call.items(), self.policy.priority)
        if call.requests:
            asyncio.get_running_loop().call_soon(self.wake)
        return report._replace(leases=[Lease(Word.OK, [])] * len(call.requests))

    def _enqueue_done(self, call: _EnqueueCall, report: TurnReport) -> None:
        if self.meter is not None:
            self.meter.made(report.words)
        words, at = report.words, 0
        # A worker that has room waits for the job, its caller only for the answer.
        self._take_leases(call.requests, report)
        for piece in call.pieces:
            end = at + len(piece.items)
            piece.ticket.settle(piece.places, words[at:end])
            at = end
        if any(map(_due, call.items())) or any(map(_flags, call.items())):
            self.on_delayed()

    async def _enqueue_failed(self, call: _EnqueueCall, error: BrokerError | StoreFault) -> None:
        self._after_failed_leases(call.requests, error)
        if isinstance(error, BrokerError):
            for piece in call.pieces:
                piece.ticket.settle(piece.places, [error] * len(piece.items))
        elif len(call.pieces) == 1 and len(call.pieces[0].items) == 1:
            log.error("partition.enqueue_failed queue=%s error=%s", self.queue, error)
            (piece,) = call.pieces
            piece.ticket.settle(piece.places, [StoreFailed(error)])
        else:
            # The function raised, and some of the items may have been made: each is repeated by its identity, and alone (RULES 5).
            for piece in call.pieces:
                for item, place in zip(piece.items, piece.places, strict=True):
                    await self._enqueue_alone(_EnqueueCall([_Piece([item], [place], piece.ticket, 0)], []))

    async def _enqueue_alone(self, call: _EnqueueCall) -> None:
        try:
            self._enqueue_done(call, await self._send_enqueue(call))
        except (BrokerError, StoreFault) as error:
            await self._enqueue_failed(call, error)

    # The turn lane ------------------------------------------------------------------------------------------------------------------------------------

    def _prepare_turn(self) -> _TurnCall | None:
        if not self._client.available:
            entries = list(self._entries)
            self._entries.clear()
            self._fail(entries, self._client.absence())
            return None
        wants_leases = self._wants_leases()
        # What failed is repeated in a moment, and nothing that was said since may overtake it: a report counts only before its job's finish.
        chunk = [] if self._parked else self._take_entries()
        if not chunk and not wants_leases:
            return None
        return _TurnCall(chunk, self._plan_leases(MAX_ITEMS) if wants_leases else [])

    def _take_entries(self) -> list[TurnEntry]:
        chunk: list[TurnEntry] = []
        size = 0
        while self._entries and len(chunk) < MAX_ITEMS:
            size += turn_size(self._entries[0][0])
            if chunk and size > MAX_BYTES:
                break
            chunk.append(self._entries.popleft())
        return chunk

    def _send_turn(self, call: _TurnCall) -> Awaitable[TurnReport]:
        return self.store.turn([item for item, _, _ in call.chunk], call.requests)

    def _turn_done(self, call: _TurnCall, report: TurnReport) -> None:
        if self.meter is not None:
            self.meter.settled([item for item, _, _ in call.chunk], report.settled)
        for (item, text_id, sink), settled in zip(call.chunk, report.settled, strict=True):
            sink.settled(self.queue, text_id, item, settled)
        if any(state == _DELAYED for _, state in report.settled):
            self.on_delayed()
        self._take_leases(call.requests, report)

    async def _turn_failed(self, call: _TurnCall, error: BrokerError | StoreFault) -> None:
        self._after_failed_leases(call.requests, error)
        if isinstance(error, BrokerError):
            self._fail(call.chunk, error)
        elif len(call.chunk) == 1:
            self._repeat_fault(call.chunk[0], error)
        else:
            # Nothing but leases was asked for, or one item spoils the call: no lease is asked for again before something new happens.
            self._dry = True
            rest = deque(call.chunk)
            while rest and not self._parked:
                await self._turn_alone(_TurnCall([rest.popleft()], []))
            self._entries.extendleft(reversed(rest))

    async def _turn_alone(self, call: _TurnCall) -> None:
        try:
            self._turn_done(call, await self._send_turn(call))
        except (BrokerError, StoreFault) as error:
            await self._turn_failed(call, error)

    def _repeat_fault(self, entry: TurnEntry, error: StoreFault) -> None:
        """The store failed over one item alone. A finish is repeated a few times: it is all that is left of an attempt. A report is not."""
        item, text_id, sink = entry
        log.error("partition.turn_failed queue=%s kind=%s id=%s error=%s", self.queue, item.kind, id_to_text(item.raw_id), error)
        if item.kind not in FINISHES or not sink.failed(StoreFailed(error)):
            sink.dropped(item)
            return
        again = Repeated(sink)
        if again.faults > _MAX_FAULTS:
            sink.given_up(StoreFailed(error))
        else:
            asyncio.get_running_loop().call_later(_REPEAT_S * 2 ** (again.faults - 1), self.settle, item, text_id, again)

    def _fail(self, chunk: Sequence[TurnEntry], error: BrokerError) -> None:
        for entry in chunk:
            if entry[2].failed(error):
                self._parked.put(entry)
        if self._parked and self._client.available:
            asyncio.get_running_loop().call_later(_REPEAT_S, self._unpark)

    def _store_changed(self, available: bool) -> None:
        if available:
            self._unpark()
            self.wake()

    def _unpark(self) -> None:
        if self._client.available:
            parked, self._parked = self._parked, Parked()
            if parked.dropped:
                log.warning("partition.logs_dropped queue=%s entries=%d", self.queue, parked.dropped)
            self._entries.extendleft(reversed(parked.in_order()))
            self.kick()

    def delivered(self, leases: Sequence[Lease]) -> None:
        """Jobs were leased: count them."""
        if self.meter is not None:
            self.meter.delivered(leases)
        if self.policy.queue_class or self.policy.target_ms:
            self.starts.delivered(leases, self.policy.target_ms)

    # Leases -------------------------------------------------------------------------------------------------------------------------------------------

    def _wants_leases(self) -> bool:
        return (
            self.waiting > 0 and not self._dry and self._client.available and any(s.work.free(self.queue, self.policy.slots) > 0 for s in self.streams.values())
        )

    def _plan_leases(self, limit: int) -> list[LeaseRequest]:
        """Share up to `limit` jobs out over the sessions, those with the most room first, and reserve their credit."""
        limit = min(limit, MAX_ITEMS)
        rooms = sorted(((s.work.free(self.queue, self.policy.slots), s) for s in self.streams.values()), key=lambda pair: -pair[0])
        rooms = [(room, stream) for room, stream in rooms if room > 0]
        requests = []
        for position, (room, stream) in enumerate(rooms):
            share = min(room, -(-limit // (len(rooms) - position)))
            if share <= 0:
                break
            limit -= share
            stream.work.reserve(self.queue, share)
            requests.append(LeaseRequest(stream.work.session, stream.work.epoch, share, stream.work.payload_room()))
        return requests

    def _note_report(self, call: _EnqueueCall | _TurnCall, report: TurnReport) -> None:
        if self._is_news(report.seq, report.waiting):
            # Paused, held by a limit, or kept free for a job that goes alone: to ask again at once would bring nothing.
            self._dry = bool(call.requests) and not any(lease.jobs for lease in report.leases)
        if report.opens_ms >= 0 and report.waiting:
            self._ask_again(report.opens_ms / 1000)

    def _ask_again(self, delay_s: float) -> None:
        """A limit holds jobs back for so long."""
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_s
        if self._opening is not None:
            if self._opening.when() <= at:
                return
            self._opening.cancel()
        self._opening = loop.call_at(at, self._open)

    def _open(self) -> None:
        self._opening = None
        self.wake()

    def _is_news(self, seq: int, waiting: int) -> bool:
        """Take the count of what waits, unless a later one is known: answers on different connections may overtake each other."""
        if seq < self.seq:
            return False
        self.seq, self.waiting = seq, waiting
        return True

    def _take_leases(self, requests: list[LeaseRequest], report: TurnReport) -> None:
        if report.leases:
            self.delivered(report.leases)
        for request, lease in zip(requests, report.leases, strict=True):
            self._take_lease(request, lease)
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
        policy = self.policy
        for raw_id, token, record in lease.jobs:
            stream.work.deliver(self.queue, raw_id, token, record, policy.attempts, policy.timeout_ms)
            if policy.timeout_ms or record[2] & FLAG_TIMED:
                self._note_deadline(record, policy.timeout_ms)
        if lease.jobs:
            stream.wake_writer()

    def _note_deadline(self, record: bytes, policy_ms: int) -> None:
        """An attempt has a time: the pulse is to find its end then, and not at its next beat."""
        timeout_ms = timeout_of(record) or policy_ms
        if timeout_ms:
            self.on_deadline(timeout_ms / 1000)

    def _after_failed_leases(self, requests: list[LeaseRequest], error: BrokerError | StoreFault) -> None:
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
