"""The broker's side of one Work stream, without any I/O: frames in, frames and items for the queues out.

    NEW ──hello──► ATTACHING ──attached──► LIVE ──goodbye, end of stream, superseded──► ENDED

Invariants: jobs are delivered and reserved only against credit; what is held (queue_use.py) is what the worker may be running or still has to hear an ack for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.errors import BrokerError, InvalidField, Precondition
from jobwire_broker.labels import check_labels
from jobwire_broker.names import check_queue, id_to_bytes
from jobwire_broker.rules.queue_use import QueueUse
from jobwire_broker.rules.reports import checkpoint_item, finish_item, log_item, progress_item, receipt_item
from jobwire_broker.rules.shares import Shares
from jobwire_broker.store import wire
from jobwire_broker.store.arguments import TurnItem
from jobwire_broker.store.policy import DEFAULT_ATTEMPTS

MAX_CREDIT = 1 << 40
MAX_QUEUES = 100
MAX_LABELS = 32
#: What one session may hold: after a break, all of it is compared with the store in one call per queue.
MAX_HELD = 10_000
MAX_FRAME_BYTES = 3 << 20
#: Nothing more is leased to a stream that this much waits for: its reader is slow. Less than that is what gathers while a frame is on its way.
MAX_BACKLOG_BYTES = 256 << 10
#: From a worker that has left so many bytes of acks unread, nothing more is read: each finish would add one. Jobs do not count: they may be long on a slow
#: line, and their worker must be heard meanwhile.
MAX_UNREAD_BYTES = MAX_FRAME_BYTES


class Phase(Enum):
    """Where a session is in its life."""

    NEW = 0
    ATTACHING = 1
    LIVE = 2
    ENDED = 3


@dataclass(slots=True)
class Received:
    """What a frame asks for."""

    hello: bool = False
    goodbye: bool = False
    credit: bool = False
    items: list[tuple[str, str, TurnItem]] = field(default_factory=list)
    """(queue, id as text, item), in the order in which they are to be settled."""


def _violation(message: str) -> BrokerError:
    return Precondition(message, reason="PROTOCOL_VIOLATION")


def _no_class(queue: str) -> int:
    return 0


class WorkSession:
    """One stream of one worker session. Times are seconds on the broker's monotonic clock."""

    def __init__(self, now: float, *, class_of: Callable[[str], int] = _no_class) -> None:
        self.phase = Phase.NEW
        self.session = b""
        self.epoch = 0
        self.hello = pb.Hello()
        self.queues: tuple[str, ...] = ()
        self.held_count = 0
        self.draining = False
        self.last_received = now
        self.is_silent = False
        self.error: BrokerError | None = None
        self._credit = 0
        self._bytes_credit = 0
        self._queue_credit: dict[str, int] = {}
        self._sent = 0
        self._bytes_sent = 0
        self._reserved: dict[str, int] = {}
        self._shares = Shares(class_of)
        self._uses: dict[str, QueueUse] = {}
        self._suspended: set[str] = set()
        self._calls_over = asyncio.Event()
        self._outbox = pb.WorkResponse()
        self._wire: list[bytes] = []
        self._wire_bytes = self._ack_bytes = self._unread_bytes = 0
        self._full: deque[tuple[bytes, list[tuple[str, bytes, int]], int]] = deque()
        self._unsent: list[tuple[str, bytes, int]] = []
        self._ping_number = 0

    # Frames in ----------------------------------------------------------------------------------------------------------------------------------------

    def receive(self, frame: pb.WorkRequest, now: float) -> Received:
        """Take one frame. Raises BrokerError when the stream must end."""
        self.last_received = now
        self.is_silent = False
        out = Received()
        if frame.HasField("hello"):
            self._receive_hello(frame.hello)
            out.hello = True
        elif self.phase is Phase.NEW:
            raise _violation("the first frame must have `hello`")
        if frame.HasField("credit"):
            self._receive_credit(frame.credit)
            out.credit = True
        if frame.progress or frame.logs or frame.checkpoints or frame.finishes or frame.cancel_receipts:
            self._receive_reports(frame, out.items)
        if frame.HasField("draining"):
            self.draining = True
        if frame.HasField("goodbye"):
            self.draining = out.goodbye = True
        return out

    def _receive_hello(self, hello: pb.Hello) -> None:
        if self.phase is not Phase.NEW:
            raise _violation("`hello` came a second time on this stream")
        if len(hello.session) != 16:
            raise InvalidField(f"hello.session must be 16 bytes; it has {len(hello.session)}", field="hello.session")
        if not 1 <= hello.epoch < 1 << 31:
            raise InvalidField(f"hello.epoch must be from 1 to 2^31 - 1; it is {hello.epoch}", field="hello.epoch")
        if not 1 <= len(hello.queues) <= MAX_QUEUES:
            raise InvalidField(f"hello.queues must name 1 to {MAX_QUEUES} queues; there are {len(hello.queues)}", field="hello.queues")
        if len(hello.held) > MAX_HELD:
            raise InvalidField(f"hello.held may list {MAX_HELD} jobs; it lists {len(hello.held)}", field="hello.held")
        if not 0 <= hello.concurrency <= MAX_HELD:
            raise InvalidField(f"hello.concurrency must be from 1 to {MAX_HELD}, or 0 for unsaid; it is {hello.concurrency}", field="hello.concurrency")
        for text, name in ((hello.instance_id, "instance_id"), (hello.sdk, "sdk")):
            if len(text) > 128:
                raise InvalidField(f"hello.{name} may have 128 characters; it has {len(text)}", field=f"hello.{name}")
        check_labels(hello.labels, "hello.labels", MAX_LABELS)
        self.queues = tuple(dict.fromkeys(check_queue(queue, f"hello.queues[{i}]") for i, queue in enumerate(hello.queues)))
        self._uses = {queue: QueueUse() for queue in self.queues}
        for i, held in enumerate(hello.held):
            self._check_own_queue(held.queue, f"hello.held[{i}].queue")
            self.held_count += self._uses[held.queue].hold(id_to_bytes(held.id, f"hello.held[{i}].id"), held.token)
        self._shares.keep(hello, self.queues)
        self.session, self.epoch, self.hello = hello.session, hello.epoch, hello
        self.phase = Phase.ATTACHING

    def _receive_credit(self, credit: pb.Credit) -> None:
        if not self._credit <= credit.jobs <= MAX_CREDIT:
            raise _violation(f"credit.jobs is a running total: it may not fall below {self._credit} nor pass 2^40; it is {credit.jobs}")
        if credit.bytes < 0 or (self._bytes_credit and credit.bytes < self._bytes_credit):
            raise _violation(f"credit.bytes is a running total: it may not fall below {self._bytes_credit}; it is {credit.bytes}")
        for i, entry in enumerate(credit.queues):
            self._check_own_queue(entry.queue, f"credit.queues[{i}].queue")
            if not self._queue_credit.get(entry.queue, 0) <= entry.jobs <= MAX_CREDIT:
                raise _violation(f"credit.queues[{i}].jobs is a running total: it may not fall nor pass 2^40; it is {entry.jobs}")
            self._queue_credit[entry.queue] = entry.jobs
        self._credit, self._bytes_credit = credit.jobs, credit.bytes

    def _receive_reports(self, frame: pb.WorkRequest, items: list[tuple[str, str, TurnItem]]) -> None:
        self._collect("progress", frame.progress, progress_item, items)
        self._collect("logs", frame.logs, log_item, items)
        self._collect("checkpoints", frame.checkpoints, checkpoint_item, items)
        # A receipt for a job that ends in the same frame came before its end.
        self._collect("cancel_receipts", frame.cancel_receipts, receipt_item, items)
        at = len(items)
        self._collect("finishes", frame.finishes, finish_item, items)
        # With its finish, or even before, it granted credit for another.
        for queue, _, item in items[at:]:
            self._uses[queue].end(item.raw_id, item.token)

    def _collect(self, path: str, reports: Sequence[Any], to_item: Callable[[Any], TurnItem], items: list[tuple[str, str, TurnItem]]) -> None:
        for i, report in enumerate(reports):
            try:
                items.append((self._check_own_queue(report.queue, "queue"), report.id, to_item(report)))
            except InvalidField as error:
                raise error.under(f"{path}[{i}]") from None

    def _check_own_queue(self, queue: str, path: str) -> str:
        if queue not in self.queues:
            raise InvalidField(f"{path} is {queue[:100]!r}, which hello.queues does not name", field=path)
        return queue

    # Credit -------------------------------------------------------------------------------------------------------------------------------------------

    def free(self, queue: str, slots: int = 0) -> int:
        """How many jobs of `queue` may be leased now, when the session may hold `slots` of them (0: any number)."""
        if self.phase is not Phase.LIVE or self.draining or self.is_silent or self._full or self._wire_bytes > MAX_BACKLOG_BYTES:
            return 0
        # With a limit on bytes, one call at a time: two would lease against the same bytes.
        if queue in self._suspended or (self._bytes_credit and (self._reserved or self._bytes_sent >= self._bytes_credit)):
            return 0
        under_way = sum(self._reserved.values())
        room = min(self._credit - self._sent - under_way, MAX_HELD - self.held_count - under_way)
        # What is kept for others is kept of the worker's room, and not of what is for this queue alone.
        if self._shares:
            room = self._shares.room_of(queue, room, self._taken)
        if queue in self._queue_credit:
            room = min(room, self._queue_credit[queue] - self._uses[queue].sent - self._reserved.get(queue, 0))
        if slots:
            room = min(room, slots - self._taken(queue))
        return room

    def _taken(self, queue: str) -> int:
        """How many jobs of `queue` the worker runs, as far as it has told, or may run after the calls that are under way."""
        return self._uses[queue].running + self._reserved.get(queue, 0)

    def held(self, queue: str) -> list[tuple[bytes, int]]:
        """Ids and tokens of the jobs of `queue` that it holds."""
        return self._uses[queue].held()

    def held_in(self, queue: str) -> int:
        """How many jobs of `queue` it holds."""
        return len(self._uses[queue].tokens)

    def payload_room(self) -> int:
        """How many bytes of payload may be leased; -1 when the worker set no limit."""
        return self._bytes_credit - self._bytes_sent if self._bytes_credit else -1

    def reserve(self, queue: str, jobs: int) -> None:
        """Set credit aside for a call that is under way."""
        self._reserved[queue] = self._reserved.get(queue, 0) + jobs

    def unreserve(self, queue: str, jobs: int) -> None:
        """Give it back when the call is over."""
        self._reserved[queue] -= jobs
        if not self._reserved[queue]:
            del self._reserved[queue]
            self._calls_over.set()

    async def suspend(self, queue: str) -> None:
        """Ask for no more jobs of `queue`, and return when no call under way may still bring some."""
        self._suspended.add(queue)
        while queue in self._reserved:
            self._calls_over.clear()
            await self._calls_over.wait()

    def unsuspend(self, queue: str) -> None:
        """Ask for jobs again."""
        self._suspended.discard(queue)

    # Frames out ---------------------------------------------------------------------------------------------------------------------------------------

    def deliver(self, queue: str, raw_id: bytes, token: int, record: bytes, attempts: int = DEFAULT_ATTEMPTS, timeout_ms: int = 0) -> None:
        """Hand a leased job over to the writer. `attempts` and `timeout_ms` are those of its queue."""
        use = self._uses[queue]
        use.sent += 1
        self._sent += 1
        self._bytes_sent += wire.payload_size(record)
        self.held_count += use.hold(raw_id, token)
        self._append(wire.jobs_field(wire.delivery(queue, raw_id, token, record, attempts, timeout_ms)), len(record))
        self._unsent.append((queue, raw_id, token))

    def _append(self, part: bytes, size: int) -> None:
        if self._wire and self._wire_bytes + size > MAX_FRAME_BYTES:
            self._close_frame()
        self._wire.append(part)
        self._wire_bytes += size

    def _close_frame(self) -> None:
        frame = self._outbox.SerializeToString() + b"".join(self._wire)
        self._full.append((frame, self._unsent, self._ack_bytes))
        self._outbox, self._wire, self._unsent, self._wire_bytes, self._ack_bytes = pb.WorkResponse(), [], [], 0, 0

    def ack(self, queue: str, raw_id: bytes, token: int, verdict: pb.Verdict.ValueType, state: int) -> None:
        """Tell the verdict on a finish."""
        self.held_count -= self._uses[queue].drop(raw_id, token)
        ack = wire.acks_field(queue, raw_id, token, verdict, state)
        size = len(ack)
        self._append(ack, size)
        self._ack_bytes += size
        self._unread_bytes += size

    def drop(self, queue: str, raw_id: bytes, token: int) -> None:
        """Forget a job that is not this session's any more."""
        self.held_count -= self._uses[queue].drop(raw_id, token)

    def cancel(self, queue: str, text_id: str, token: int, reason: pb.CancelReason.ValueType, grace_ms: int = 0) -> None:
        """Tell the worker to give an attempt up."""
        cancel = self._outbox.cancels.add(queue=queue, id=text_id, token=token, reason=reason)
        cancel.grace.FromMilliseconds(grace_ms)

    def welcome(self, welcome: pb.Welcome) -> None:
        """The session is attached in all its queues."""
        self._outbox.welcome.CopyFrom(welcome)
        self.phase = Phase.LIVE

    def ping(self, lease_left_s: float) -> None:
        """Ask for a pong."""
        self._ping_number += 1
        self._outbox.ping.number = self._ping_number
        self._outbox.ping.lease_left.FromMilliseconds(max(0, int(lease_left_s * 1000)))

    def go_away(self, retry_after_s: float) -> None:
        """Tell the worker to connect elsewhere."""
        self._outbox.go_away.retry_after.FromMilliseconds(int(retry_after_s * 1000))
        self.draining = True

    def has_frame(self) -> bool:
        """Whether anything is ready to be sent."""
        return bool(self._full or self._wire) or self._outbox.ByteSize() > 0

    def take_frame(self) -> bytes:
        """Everything that is ready, as one WorkResponse in its wire form; a further one where that passes 3 MiB."""
        if not self._full:
            self._close_frame()
        frame, _, ack_bytes = self._full.popleft()
        self._unread_bytes -= ack_bytes
        return frame

    def is_unread(self) -> bool:
        """Whether the worker has left so many acks unread that nothing more is to be read from it."""
        return self._unread_bytes > MAX_UNREAD_BYTES

    def unsent(self) -> list[tuple[str, bytes, int]]:
        """Jobs that were leased and never written: (queue, id, token)."""
        return [job for _, jobs, _ in self._full for job in jobs] + self._unsent
