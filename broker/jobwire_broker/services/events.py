"""EventService: topics come and go on one stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any

import grpc
from jobwire.v1 import event_service_pb2 as pb
from jobwire.v1.event_service_pb2_grpc import EventServiceServicer

from jobwire_broker.errors import BrokerError, ShuttingDown, StoreFault, StoreUnavailable, TooManyTopics
from jobwire_broker.rules.mailbox import Mailbox
from jobwire_broker.rules.registry import Queue, Registry
from jobwire_broker.rules.watching import part_of
from jobwire_broker.services.answers import abort, end_tasks, queue_of
from jobwire_broker.topics import parse_topic

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TOPICS = 100_000
#: How many confirmations, and how many queues, one frame carries: beside what the mailbox gives, that stays under 3 MiB.
MAX_ADDED = MAX_COUNTS = 2_000
COUNTS_INTERVAL_S = 0.25
_RETRY_S = 0.5


class EventService(EventServiceServicer):
    """The gateway's feed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def Subscribe(  # type: ignore[override]  # it reads and writes itself, instead of being iterated
        self, request_iterator: Any, context: Context
    ) -> None:
        """Serve one stream until either side ends it."""
        if self._registry.is_ending:
            await abort(context, ShuttingDown())
        subscription = Subscription(self._registry)
        reader = asyncio.create_task(self._read(subscription, context))
        writer = asyncio.create_task(self._write(subscription, context))
        try:
            with self._registry.waking_at_end(subscription.end):
                await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            subscription.end()
            await end_tasks(writer, reader)
            await subscription.close()
        for task in (reader, writer):
            if not task.cancelled() and isinstance(error := task.exception(), BrokerError):
                await abort(context, error)
        if self._registry.is_ending:
            await abort(context, ShuttingDown())

    async def _read(self, subscription: Subscription, context: Context) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            for i, topic in enumerate(request.add):
                subscription.add(topic, f"add[{i}]")
            for topic in request.remove:
                subscription.remove(topic)

    async def _write(self, subscription: Subscription, context: Context) -> None:
        while not subscription.is_ending:
            await subscription.mailbox.wait()
            while not subscription.is_ending and (response := subscription.take()):
                await context.write(response)


class Subscription:
    """The topics of one stream and what is ready for it."""

    def __init__(self, registry: Registry) -> None:
        self.mailbox = Mailbox(is_shared=True)
        self.is_ending = False
        self._registry = registry
        self._topics: Counter[str] = Counter()
        self._added: list[str] = []
        self._counts: Counts | None = None
        self._openings: set[asyncio.Task[None]] = set()
        self._store_available: bool | None = registry.client.available
        registry.client.on_change.append(self._store_changed)
        self.mailbox.wake()

    def add(self, topic: str, field: str) -> None:
        """Add a topic; it is confirmed when it is live. Raises InvalidField."""
        if self._topics.total() >= MAX_TOPICS:
            raise TooManyTopics(f"{field}: a stream may have {MAX_TOPICS} topics: open another", field=field)
        parse_topic(topic, field)
        self._topics[topic] += 1
        task = asyncio.create_task(self._open(topic))
        self._openings.add(task)
        task.add_done_callback(self._openings.discard)

    def remove(self, topic: str) -> None:
        """Remove a topic as often as it was added."""
        if self._topics[topic] > 1:
            self._topics[topic] -= 1
        elif self._topics.pop(topic, 0):
            task = asyncio.create_task(self._close(topic))
            self._openings.add(task)
            task.add_done_callback(self._openings.discard)

    def take(self) -> pb.SubscribeResponse | None:
        """Everything that is ready, as one frame; a further one where that passes 3 MiB."""
        added, self._added = self._added[:MAX_ADDED], self._added[MAX_ADDED:]
        # A topic is confirmed before anything is said of it.
        changes = [] if self._added else self.mailbox.take()
        queues = self._counts.take() if self._counts and not self._added else []
        if not (changes or queues or added or self._store_available is not None):
            return None
        response = pb.SubscribeResponse(added=added, changes=changes, queues=queues)
        if self._store_available is not None:
            response.store_available = self._store_available
        self._store_available = None
        return response

    def end(self) -> None:
        """Let the writer stop."""
        self.is_ending = True
        self.mailbox.wake()

    async def close(self) -> None:
        """Leave all topics."""
        self._registry.client.on_change.remove(self._store_changed)
        for task in list(self._openings):
            task.cancel()
        for topic in list(self._topics):
            await self._close(topic)

    async def _open(self, topic: str) -> None:
        while topic in self._topics:
            try:
                await self._open_once(topic)
            except (StoreUnavailable, StoreFault) as error:
                if isinstance(error, StoreFault):
                    log.error("subscribe.store_fault topic=%s error=%s", topic, error)
                await asyncio.sleep(_RETRY_S)
                continue
            self._added.append(topic)
            self.mailbox.wake()
            return

    async def _open_once(self, topic: str) -> None:
        if topic == "queues":
            self._counts = self._counts or Counts(self._registry, self.mailbox)
            await self._counts.snapshot()
            return
        wanted = parse_topic(topic, "topic")
        queue = self._registry.get(wanted.queue)
        if wanted.raw_id:
            await queue.feed.watch_job(wanted.raw_id, self.mailbox)
        else:
            await queue.feed.watch_many(part_of(wanted), self.mailbox)
        queue.watched()

    async def _close(self, topic: str) -> None:
        if topic == "queues":
            if self._counts:
                await self._counts.close()
                self._counts = None
            return
        left = parse_topic(topic, "topic")
        feed = self._registry.get(left.queue).feed
        if left.raw_id:
            # Before anything is awaited: the topic may be added again meanwhile.
            self.mailbox.forget(topic)
            await feed.leave_job(left.raw_id, self.mailbox)
        else:
            await feed.leave_many(part_of(left), self.mailbox)

    def _store_changed(self, available: bool) -> None:
        self._store_available = available
        self.mailbox.wake()


class Counts:
    """The counts of all queues: what changed, at most every COUNTS_INTERVAL_S."""

    def __init__(self, registry: Registry, mailbox: Mailbox) -> None:
        self._registry = registry
        self._mailbox = mailbox
        self._watched: dict[str, Any] = {}
        self._dirty: set[str] = set()
        self._ready: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        registry.on_new_queue.append(self._new_queue)

    async def snapshot(self) -> None:
        """Watch all queues, and read all of them. Raises StoreUnavailable."""
        for name in await self._registry.known():
            await self._watch(self._registry.get(name))
            self._mark(name)

    async def close(self) -> None:
        """Watch no more."""
        self._registry.on_new_queue.remove(self._new_queue)
        if self._task is not None:
            self._task.cancel()
        for name, changed in self._watched.items():
            await self._registry.get(name).feed.leave_counts(changed)

    def take(self) -> list[Any]:
        """Queues whose counts changed: some of them, and the rest with the next call."""
        names = list(self._ready)[:MAX_COUNTS]
        return [self._ready.pop(name) for name in names]

    async def _watch(self, queue: Queue) -> None:
        if queue.name not in self._watched:
            changed = self._watched[queue.name] = lambda: self._mark(queue.name)
            await queue.feed.watch_counts(changed)
            queue.watched()

    def _new_queue(self, queue: Queue) -> None:
        task = asyncio.create_task(self._watch(queue))
        task.add_done_callback(lambda _: self._mark(queue.name))

    def _mark(self, name: str) -> None:
        self._dirty.add(name)
        if self._task is None:
            self._task = asyncio.create_task(self._read_dirty())

    async def _read_dirty(self) -> None:
        try:
            while self._dirty:
                dirty, self._dirty = self._dirty, set()
                for name in dirty:
                    with contextlib.suppress(BrokerError, StoreFault):
                        self._ready[name] = queue_of(name, await self._registry.get(name).store.stats())
                self._mailbox.wake()
                await asyncio.sleep(COUNTS_INTERVAL_S)
        finally:
            self._task = None
