"""One Work stream: the I/O around rules.session. One reader and one writer, and never a timeout around either (RULES 8).

A stream ends in one of four ways: the worker's end of stream, an error of its own, the watchdog's verdict that nothing comes any more, or go_away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import lru_cache
from typing import Any

import grpc
from jobwire.v1 import admin_service_pb2
from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.config import BrokerConfig
from jobwire_broker.errors import BrokerError, Precondition, SessionMoved, ShuttingDown, StoreFailed, StoreFault, StoreFull, StoreUnavailable
from jobwire_broker.names import id_to_text
from jobwire_broker.rules.partition import verdict_of
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import MAX_RESULT_BYTES
from jobwire_broker.rules.session import Phase, WorkSession
from jobwire_broker.rules.sinks import SILENT, TurnEntry, turn_size
from jobwire_broker.services.answers import end_tasks
from jobwire_broker.store.answers import Settled, Word
from jobwire_broker.store.arguments import FINISHES, TurnItem
from jobwire_broker.store.codec import encode_labels

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

#: While so much of what a worker said has no verdict yet, nothing more is read from it.
MAX_UNSETTLED_BYTES = 4 << 20
#: How soon a call is repeated whose outcome is unknown, and how often a store that is away is asked again.
_REPEAT_S, _RETRY_S = 0.02, 0.3
#: A stream on which nothing came for this share of a session time gets no more leases.
_QUIET_SESSIONS = 0.6
#: A stream on which nothing came for this many session times is ended.
_SILENT_SESSIONS = 1.5


class WorkStream:
    """A worker's stream, from its first frame to its last."""

    def __init__(self, registry: Registry, config: BrokerConfig, broker_id: str, context: Context) -> None:
        self.work = WorkSession(time.monotonic(), class_of=lambda queue: registry.get(queue).partition.policy.queue_class)
        self._registry = registry
        self._config = config
        self._broker_id = broker_id
        self._context = context
        self._session_s = config.session_time.total_seconds()
        self._wake, self._eased = asyncio.Event(), asyncio.Event()
        self._unsettled = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reattaching: dict[str, asyncio.Task[None]] = {}
        self._attached_at = 0.0
        self._attaches = 0
        self._gone_away = False
        self._ending = False

    # Life ---------------------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the stream. Raises BrokerError when it ends with one."""
        tasks = [asyncio.create_task(role()) for role in (self._read, self._write, self._beat)]
        try:
            await asyncio.wait([*tasks, self._over], return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, self._over):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            self._ending = self.work.draining = True
            self._wake.set()
            reader, writer, beat = tasks
            await end_tasks(writer, reader, beat, *self._reattaching.values())
            self._leave()

    def end(self, error: BrokerError) -> None:
        """End the stream with this error, if it has not ended."""
        if not self._ending and not self._over.done():
            self._over.set_exception(error)

    def go_away(self) -> None:
        """Ask the worker to connect elsewhere."""
        self._gone_away = True
        if self.work.phase is Phase.LIVE:
            self.work.go_away(0.5)
            self._wake.set()
        else:
            self.end(ShuttingDown())

    def wake_writer(self) -> None:
        """Something is ready to be sent."""
        self._wake.set()

    def _leave(self) -> None:
        """Let go of the queues. What was leased and never written goes back at once; the rest waits for the session to come back, or to run out."""
        self.work.phase = Phase.ENDED
        for queue, raw_id, token in self.work.unsent():
            self._registry.get(queue).partition.settle(TurnItem("R", raw_id, token), "", SILENT)
        for queue in self.work.queues:
            self._registry.get(queue).partition.detached(self)

    # The three roles ----------------------------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while (frame := await self._next_frame()) is not grpc.aio.EOF:
            received = self.work.receive(frame, time.monotonic())
            if received.hello:
                await self._attach_all()
            if received.items:
                self._settle(received.items)
            if received.goodbye:
                await self._detach_all()
                return
            if received.credit:
                self._kick_all()

    def _settle(self, items: list[tuple[str, str, TurnItem]]) -> None:
        of_queue: dict[str, list[TurnEntry]] = {}
        for queue, text_id, item in items:
            self._unsettled += turn_size(item)
            of_queue.setdefault(queue, []).append((item, text_id, self))
        for queue, entries in of_queue.items():
            self._registry.get(queue).partition.settle_all(entries)

    async def _next_frame(self) -> Any:
        """The next frame, when the worker has read the most of what was said to it, and the store has settled the most of what it said."""
        while self.work.is_unread() or self._unsettled > MAX_UNSETTLED_BYTES:
            self._eased.clear()
            await self._eased.wait()
        return await self._context.read()

    async def _write(self) -> None:
        while not self._ending:
            await self._wake.wait()
            self._wake.clear()
            while self.work.has_frame() and not self._ending:
                await self._context.write(self.work.take_frame())
                self._eased.set()
            self._kick_all()

    async def _beat(self) -> None:
        interval = self._config.heartbeat_interval.total_seconds()
        while True:
            await asyncio.sleep(interval)
            silent = time.monotonic() - self.work.last_received
            if self.work.phase is Phase.NEW and silent > self._session_s:
                self.end(Precondition("the stream began without `hello`", reason="PROTOCOL_VIOLATION"))
                return
            # While it attaches, or has said a lot that can't be settled now, the stream is not read: a store that is away for long must not end it.
            if self.work.phase is Phase.LIVE:
                # Frozen or cut off, most likely: what it holds may come back to life, but it gets nothing more.
                self.work.is_silent = silent > self._session_s * _QUIET_SESSIONS
                if silent > self._session_s * _SILENT_SESSIONS and (self._unsettled <= MAX_UNSETTLED_BYTES or self._registry.client.available):
                    log.info("stream.silent session=%s seconds=%.1f", self.work.session.hex(), silent)
                    return
                self.work.ping(self.lease_left())
                self._wake.set()

    def lease_left(self) -> float:
        """How long the leases surely last: counted from before the last successful pulse of each queue (RULES 3)."""
        queues = [queue for queue in self.work.queues if self.work.held_in(queue)] or self.work.queues
        oldest = min(max(self._registry.get(queue).pulse.last_success, self._attached_at) for queue in queues)
        return max(0.0, self._session_s - (time.monotonic() - oldest))

    def _kick_all(self) -> None:
        if self.work.phase is Phase.LIVE:
            for queue in self.work.queues:
                self._registry.get(queue).partition.kick()

    # Attach and detach --------------------------------------------------------------------------------------------------------------------------------

    async def _attach_all(self) -> None:
        """Attach in every queue, however long the store is away: then both sides agree on what is held, and jobs may come."""
        acks: list[pb.Ack] = []
        for name in self.work.queues:
            # A full store takes no new queue, but its workers are what empties it; the queue's first job will register it.
            with contextlib.suppress(StoreFull):
                await self._patiently(self._registry.register, name)
            acks += await self._patiently(self._attach, name)
        self._attached_at = time.monotonic()
        welcome = pb.Welcome(broker_id=self._broker_id, held=acks, max_result_bytes=MAX_RESULT_BYTES)
        welcome.session_time.FromTimedelta(self._config.session_time)
        welcome.heartbeat_interval.FromTimedelta(self._config.heartbeat_interval)
        self.work.welcome(welcome)
        for name in self.work.queues:
            queue = self._registry.get(name)
            queue.partition.attached(self)
            queue.pulse.beat_soon()
        log.info(
            "worker.attached session=%s epoch=%d label=%s queues=%s",
            self.work.session.hex(),
            self.work.epoch,
            self.work.hello.instance_id,
            ",".join(self.work.queues),
        )
        self._wake.set()
        for name in self.work.queues:
            await self._registry.get(name).hear_wakes()
        if self._gone_away:
            self.go_away()

    async def _patiently(self, call: Any, name: str) -> Any:
        while True:
            try:
                return await call(name)
            except StoreUnavailable:
                await asyncio.sleep(_REPEAT_S if self._registry.client.available else _RETRY_S)

    async def _attach(self, name: str) -> list[pb.Ack]:
        """Attach in one queue; a verdict for each job that the session holds no more."""
        work = self.work
        held = work.held(name)
        partition = self._registry.get(name).partition
        self._attaches += 1
        session_ms = int(self._session_s * 1000)
        attached = await partition.store.attach(
            work.session, work.epoch, session_ms, self._descriptor(), held, number=self._attaches, labels=encode_labels(work.hello.labels)
        )
        if attached is None:
            raise SessionMoved("a newer stream of this session has taken over")
        # Before the first job comes: it says how many the session may hold.
        partition.learn_policy(attached.policy)
        acks = []
        for (raw_id, token), (word, state) in zip(held, attached.settled, strict=True):
            if word != Word.HELD:
                work.drop(name, raw_id, token)
                acks.append(pb.Ack(queue=name, id=id_to_text(raw_id), token=token, verdict=verdict_of(word), state=_state(word, state)))
        return acks

    def _descriptor(self) -> bytes:
        hello = self.work.hello
        worker = admin_service_pb2.Worker(
            session=self.work.session.hex(),
            instance_id=hello.instance_id,
            queues=self.work.queues,
            concurrency=hello.concurrency,
            sdk=hello.sdk,
            broker_id=self._broker_id,
            reserved=hello.reserved,
        )
        worker.connect_time.GetCurrentTime()
        return worker.SerializeToString()

    def reattach(self, queue: str) -> None:
        """What the store holds for the session may not be what was delivered: compare again."""
        if self.work.phase is Phase.LIVE and queue not in self._reattaching:
            task = asyncio.create_task(self._reattach(queue))
            self._reattaching[queue] = task
            task.add_done_callback(lambda _: self._reattaching.pop(queue, None))

    async def _reattach(self, queue: str) -> None:
        # A lease that a call under way brings would be missing from the list, and be given to another while this worker runs it.
        await self.work.suspend(queue)
        try:
            acks = await self._patiently(self._attach, queue)
        except SessionMoved as error:
            self.end(error)
            return
        except StoreFault as error:
            log.error("worker.reattach_failed session=%s queue=%s error=%s", self.work.session.hex(), queue, error)
            self.end(StoreFailed(error))
            return
        finally:
            self.work.unsuspend(queue)
        log.info("worker.reattached session=%s queue=%s dropped=%d", self.work.session.hex(), queue, len(acks))
        for ack in acks:
            # OK: its finish was settled, and the verdict on it is on its way.
            if ack.verdict != pb.VERDICT_OK:
                self.work.cancel(queue, ack.id, ack.token, pb.CANCEL_REASON_STALE_LEASE)
        self._wake.set()
        self._registry.get(queue).partition.wake()

    async def _detach_all(self) -> None:
        for name in self.work.queues:
            partition = self._registry.get(name).partition
            await self.work.suspend(name)
            partition.detached(self)
            # Its jobs go back with the end of the session then.
            with contextlib.suppress(StoreUnavailable, StoreFault):
                await partition.store.detach(self.work.session, self.work.epoch)
            partition.wake()

    # Verdicts -----------------------------------------------------------------------------------------------------------------------------------------

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """The store's word on what the worker said."""
        self._unsettled -= turn_size(item)
        self._eased.set()
        if item.kind in FINISHES:
            self.work.ack(queue, item.raw_id, item.token, *_verdict_and_state(settled))
        elif settled.word != Word.OK and item.kind in "PLK":
            self.work.drop(queue, item.raw_id, item.token)
            self.work.cancel(queue, text_id, item.token, pb.CANCEL_REASON_STALE_LEASE)
        else:
            return
        self._wake.set()

    def failed(self, error: BrokerError) -> bool:
        """The store is away: finishes are kept for the worker, even when the stream is gone; it may not come back."""
        return True

    def dropped(self, item: TurnItem) -> None:
        """It is out of the way."""
        self._unsettled -= turn_size(item)
        self._eased.set()

    def given_up(self, error: BrokerError) -> None:
        """A finish can't be settled: the worker keeps it, and says it again when it has connected anew."""
        self.end(error)


def _state(word: str, state: int) -> Any:
    return state if word == Word.OK else 0


@lru_cache(1024)
def _verdict_and_state(settled: Settled) -> tuple[pb.Verdict.ValueType, int]:
    """There are few different ones, and one for every finish."""
    return verdict_of(settled.word), _state(settled.word, settled.state)
