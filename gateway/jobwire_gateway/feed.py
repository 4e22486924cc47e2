"""The one stream of changes from the broker, for everybody who watches anything in this process.

It is kept open for ever. When it breaks, readers are told (`degraded`), it is opened again with backoff and jitter, at the next broker where
there are several, and everything that is watched is asked for again; the snapshots that come then say what was missed.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio
from jobwire.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse

from jobwire_gateway.brokers import Broker, Brokers
from jobwire_gateway.topics import MOST_UNCONFIRMED

if TYPE_CHECKING:
    Call = grpc.aio.StreamStreamCall[SubscribeRequest, SubscribeResponse]

_log = logging.getLogger("jobwire.gateway")

_CONNECT_S = 2.0
"""A broker that takes longer to accept a connection, or then to say the first word, is passed over."""

_BACKOFF_S = (0.05, 1.0)
"""The first wait between two tries, and the longest. They double, and the real wait is from half of it to all of it."""

_STEADY_S = 5.0
"""A stream that lived this long was a good one: the next waits start over. One that ends as soon as it is asked for something would else be opened for ever
without a pause."""

_STORE_IS_BACK = "the store is back"
"""A replica that took over may have lost changes that were heard already, and a broker tells nothing twice on one stream: so all is asked for anew."""


_TURN_STEPS = 100
_TURN_S = 0.005
"""So long, or so many steps, until others have a turn. What is put into a mailbox is written in that turn, so steps count although they take no time."""


class Follower(Protocol):
    """What is watched, and what becomes of the changes."""

    on_demand: Callable[[], None]
    """To be called when the broker is to be asked for others than before."""

    @property
    def trouble(self) -> str | None:
        """What the feed is cut off by, or None."""
        ...

    def plug(self) -> Iterator[None]:
        """A new stream is open, on which nothing was asked for yet."""
        ...

    def unplug(self, reason: str) -> Iterator[None]:
        """The stream is broken."""
        ...

    def apply(self, response: SubscribeResponse) -> Iterator[None]:
        """Take what the broker says, and yield after each step, so that others can get a turn."""
        ...

    def demand(self) -> tuple[list[str], list[str]]:
        """What to add and what to remove on the open stream, since the last call."""
        ...


class Feed:
    """Runs until `stop`. `open` says whether a stream is there now."""

    def __init__(self, brokers: Brokers, topics: Follower) -> None:
        self.open = False
        self._brokers = brokers
        self._topics = topics
        self._wanted = asyncio.Event()
        self._failures = 0
        # Why the stream was lost, as it was said last; and whether it was lost like that again at once, as where a right is missing: then nothing is
        # said until one has lived for a while.
        self._said = ""
        self._repeats = False
        self._task: asyncio.Task[None] | None = None
        topics.on_demand = self._wanted.set

    def start(self) -> None:
        """Begin. To start twice is no error."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="feed")

    async def stop(self) -> None:
        """End the stream. To stop twice, or before the start, is no error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            broker = self._brokers.current
            began = asyncio.get_running_loop().time()
            reason = await self._try_session(broker)
            if asyncio.get_running_loop().time() - began > _STEADY_S:
                self._failures, self._said = 0, ""
            self._say_end(broker, reason)
            self.open = False
            if reason == _STORE_IS_BACK:
                await self._say_lost("store_unavailable")
                continue
            await self._say_lost("broker_unavailable")
            self._brokers.leave(broker)
            await asyncio.sleep(self._backoff_s())

    def _say_end(self, broker: Broker, reason: str) -> None:
        self._repeats = self.open and reason == self._said
        if (self.open or self._failures == 0) and not self._repeats:
            _log.warning("feed.lost broker=%s reason=%s", broker.address, reason)
            self._said = reason

    async def _say_lost(self, trouble: str) -> None:
        try:
            await drive(self._topics.unplug(trouble))
        except Exception:
            # A feed that ended here would end for good, and for everybody.
            _log.exception("feed.failed")

    async def _try_session(self, broker: Broker) -> str:
        """Hold one stream open for as long as it lasts. Returns why it ended."""
        try:
            async with asyncio.timeout(_CONNECT_S):
                await broker.channel.channel_ready()
            return await self._session(broker)
        except TimeoutError:
            return "no connection, or no answer"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except (asyncio.InvalidStateError, grpc.aio.UsageError, ValueError) as error:
            return str(error)
        except Exception as error:
            _log.exception("feed.failed broker=%s", broker.address)
            return repr(error)

    async def _session(self, broker: Broker) -> str:
        call: Call = broker.events.Subscribe(metadata=self._brokers.own_metadata())
        saying: asyncio.TimerHandle | None = None
        try:
            # It says at once whether it has its store. One that takes the call and then refuses it, as it does a key that is not good, was never open.
            async with asyncio.timeout(_CONNECT_S):
                first = await call.read()
            if not isinstance(first, SubscribeResponse):
                return await _end_of(call)
            self.open = True
            wait_s = _STEADY_S if self._repeats else 0.0
            saying = asyncio.get_running_loop().call_later(wait_s, _log.info, "feed.open broker=%s", broker.address)
            await drive(self._topics.plug())
            await drive(self._topics.apply(first))
            return await self._follow(call)
        finally:
            call.cancel()
            if saying is not None:
                saying.cancel()

    async def _follow(self, call: "Call") -> str:
        self._wanted.set()
        loop = asyncio.get_running_loop()
        reader, writer = loop.create_task(self._read(call), name="feed reader"), loop.create_task(self._write(call), name="feed writer")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            return await (reader if reader.done() else writer)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, call: "Call") -> str:
        while isinstance(response := await call.read(), SubscribeResponse):
            if response.store_available and self._topics.trouble == "store_unavailable":
                return _STORE_IS_BACK
            await drive(self._topics.apply(response))
        return await _end_of(call)

    async def _write(self, call: "Call") -> str:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            add, remove = self._topics.demand()
            for start in range(0, max(len(add), len(remove)), MOST_UNCONFIRMED):
                part = slice(start, start + MOST_UNCONFIRMED)
                await call.write(SubscribeRequest(add=add[part], remove=remove[part]))

    def _backoff_s(self) -> float:
        first, longest = _BACKOFF_S
        self._failures += 1
        return random.uniform(0.5, 1.0) * min(longest, first * 2.0 ** min(self._failures - 1, 10))


async def _end_of(call: "Call") -> str:
    return f"{(await call.code()).name}: {await call.details()}"


async def drive(work: Iterator[None]) -> None:
    """Do work that stops after each step, and let others have a turn before it has kept them waiting for long."""
    steps, until = 0, time.monotonic() + _TURN_S
    for _ in work:
        steps += 1
        if steps == _TURN_STEPS or time.monotonic() >= until:
            await asyncio.sleep(0)
            steps, until = 0, time.monotonic() + _TURN_S
