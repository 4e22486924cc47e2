"""All queues that this broker knows, each with its partition, pulse and feed; and the sweep that finds the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from jobwire_broker.errors import BrokerError, StoreFault
from jobwire_broker.rules.meter import Clock, Meter
from jobwire_broker.rules.partition import Partition
from jobwire_broker.rules.pulse import SWEEP_S, Pulse
from jobwire_broker.rules.watching import Feed
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.listener import Listener
from jobwire_broker.store.queue_store import QueueStore

log = logging.getLogger(__name__)

#: So many queues are swept over at once.
_SWEEP_AT_ONCE = 16


class Queue:
    """One queue on this broker."""

    def __init__(self, client: StoreClient, listener: Listener, name: str, session_ms: int) -> None:
        self.name = name
        self.partition = Partition(client, name)
        self.store = self.partition.store
        self.pulse = Pulse(self.partition, session_ms)
        self.feed = Feed(self.store, listener)
        # A queue that does not exist may be watched, and must not come into being by that.
        self.pulse.is_watched = lambda: self.feed.is_watched and self.is_registered
        self.pulse.on_report = lambda report: self.feed.pulse_saw(report.seq)
        self.is_registered = False
        self._listener = listener
        self._hears_wakes = False

    def watched(self) -> None:
        """Somebody watches: what events lose, the pulse is to find."""
        if self.is_registered:
            self.pulse.schedule(self.pulse.interval_s)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost when this broker forgets the queue."""
        return not (self.is_registered or self.partition.streams or self.feed.is_watched) and self.partition.is_quiet()

    async def forget(self) -> None:
        """Let go of everything."""
        self.pulse.stop()
        self.partition.close()
        if self._hears_wakes:
            await self._listener.remove(self.store.wake_channel)

    async def hear_wakes(self) -> None:
        """Listen for work from other brokers: this one has workers for it."""
        if not self._hears_wakes:
            self._hears_wakes = True
            await self._listener.add(self.store.wake_channel, self._woken)

    def _woken(self, message: bytes | None) -> None:
        if message in (b"pulse", b"policy"):
            self.pulse.beat()
        else:
            self.partition.wake()


class Registry:
    """The queues by name."""

    def __init__(self, client: StoreClient, session_ms: int) -> None:
        self.client = client
        self.listener = Listener(client)
        self.queues: dict[str, Queue] = {}
        self.on_new_queue: list[Callable[[Queue], None]] = []
        self.is_ending = False
        self._on_ending: dict[object, Callable[[], None]] = {}
        self.clock = Clock()
        self._is_metered = False
        self._session_ms = session_ms
        self._sweep: asyncio.Task[None] | None = None
        client.on_change.append(self._store_changed)

    def start(self) -> None:
        """Begin to listen and to sweep."""
        self.listener.start()
        self._sweep = asyncio.create_task(self._sweep_forever())

    def end_calls(self) -> None:
        """The broker is ending: a call that waits for something to happen ends now, and says why."""
        self.is_ending = True
        for wake in list(self._on_ending.values()):
            wake()

    @contextlib.contextmanager
    def waking_at_end(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when the broker is ending."""
        key = object()
        self._on_ending[key] = wake
        try:
            yield
        finally:
            del self._on_ending[key]

    async def stop(self) -> None:
        """Stop all of it, after what is under way. Tolerates stop before start, and twice."""
        if self._sweep is not None:
            self._sweep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweep
            self._sweep = None
        for queue in self.queues.values():
            queue.pulse.stop()
            queue.partition.stop_asking()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                await asyncio.gather(*(queue.partition.idle() for queue in self.queues.values()))
        await self.listener.stop()

    def measure(self) -> None:
        """Count what every queue does, from now on."""
        self._is_metered = True
        for queue in self.queues.values():
            queue.partition.meter = Meter(self.clock)

    def get(self, name: str) -> Queue:
        """The queue of that name, known or not."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(self.client, self.listener, name, self._session_ms)
            if self._is_metered:
                queue.partition.meter = Meter(self.clock)
        return queue

    def store(self, name: str) -> QueueStore:
        """The store of a queue that may not exist: nothing is kept of it here."""
        queue = self.queues.get(name)
        return queue.store if queue is not None else QueueStore(self.client, name)

    async def register(self, name: str) -> Queue:
        """The queue of that name, which from now on exists. Raises StoreUnavailable."""
        while not (queue := self.get(name)).is_registered:
            await self.client.remember_queue(name)
            # The sweep may have let go of it meanwhile: it was idle, and not known to exist.
            if self.queues.get(name) is queue:
                self._mark_registered(queue)
        return queue

    async def known(self) -> list[str]:
        """The names of all queues that exist, sorted. Raises StoreUnavailable."""
        names = await self.client.queues()
        for name in names:
            self._mark_registered(self.get(name))
        return names

    def _mark_registered(self, queue: Queue) -> None:
        if not queue.is_registered:
            queue.is_registered = True
            if queue.feed.is_watched:
                queue.pulse.beat_soon()
            for callback in self.on_new_queue:
                callback(queue)

    def _store_changed(self, available: bool) -> None:
        if not available:
            return
        for queue in self.queues.values():
            # The store may have come back without its last seconds.
            queue.is_registered = False
            # The sweep finds those that nobody here has to do with: all at once, ten thousand would be in each other's way.
            if queue.partition.streams or queue.feed.is_watched:
                queue.pulse.beat()
            if queue.feed.is_watched:
                queue.feed.read_again()

    async def _sweep_forever(self) -> None:
        """A queue that no broker has workers or watchers for is pulsed all the same: its delayed jobs come due, its lost leases go back (RULES 2)."""
        while True:
            names: list[str] = []
            try:
                names = await self.known()
            except BrokerError:
                pass  # the store is away
            except StoreFault as error:
                log.error("sweep.failed error=%s", error)
            for queue in [queue for queue in self.queues.values() if queue.is_idle]:
                del self.queues[queue.name]
                await queue.forget()
            # A few at a time, spread over the interval: what else the broker has to ask the store never waits behind ten thousand idle queues.
            for start in range(0, max(1, len(names)), _SWEEP_AT_ONCE):
                for name in names[start : start + _SWEEP_AT_ONCE]:
                    self._sweep_over(name)
                await asyncio.sleep(SWEEP_S * min(1.0, _SWEEP_AT_ONCE / max(1, len(names))))

    def _sweep_over(self, name: str) -> None:
        queue = self.queues.get(name)
        if queue is not None and (time.monotonic() - queue.pulse.last_success >= SWEEP_S * 0.9 or queue.pulse.report is None):
            queue.pulse.beat()
