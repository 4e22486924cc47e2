"""The line from one broker to the store: the real client and the real connections, over a line that is late, loses answers, and breaks.

A request that was sent is carried out even when its connection is cut or its broker is killed meanwhile, and it may be carried out long after the broker has
given it up: so it is with bytes that are on their way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobwire_broker.config import BrokerConfig
from jobwire_broker.store.client import CALL_TIMEOUT_S, DISK_STEP_S, StoreClient
from jobwire_broker.store.connections import Connections
from jobwire_broker.store.listener import Handler, Listener
from redis.exceptions import ConnectionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as LateError

from tests.simulation.real_store import RealStore
from tests.simulation.virtual_time import Process, VirtualLoop

RESUBSCRIBE_S = 0.3
_FENCE = b"WAITAOF"
#: How long the disk takes, at most.
DISK_S = 0.3


@dataclass
class Weather:
    """How bad the lines to the store are now. Shares are from 0 to 1."""

    refuses: bool = False
    """Connections are refused and broken: the store is down."""
    swallows: bool = False
    """Nothing gets through, and nothing is refused: the network is down."""
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    late_requests: float = 0.0
    """Carried out seconds later, whatever has become of the caller."""
    lost_messages: float = 0.0
    """Of pub/sub."""
    slow_s: float = 0.0
    """How much longer each way takes, at most."""


class SharedStore:
    """The store as all brokers of a run see it."""

    def __init__(self, loop: VirtualLoop, real: RealStore, rng: random.Random, namespace: str) -> None:
        self.loop = loop
        self.real = real
        self.rng = rng
        self.namespace = namespace
        self.weather = Weather()
        self.lines: list[Line] = []
        self.offset_us = 0
        """How far the store's clock is off: it may jump."""
        self.on_call: Callable[[bytes, Any], None] = lambda packed, answer: None
        self.before_call: Callable[[bytes], None] | None = None
        self.on_synced: Callable[[], None] = lambda: None
        """All that was written before now is on the disk."""
        self.starts = 1
        """How often the store's process was started."""
        self.synced_us = 0
        """When all that was written before was last brought to the disk."""
        self._heard: tuple[str, ...] = ()

    def now_us(self) -> int:
        """The store's date."""
        return self.loop.store_us() + self.offset_us

    def s_of(self, us: int) -> float:
        """When it was that date, in seconds of the run."""
        return self.loop.time() - (self.now_us() - us) / 1e6

    def carry_out(self, packed: bytes) -> Any:
        """Run one command now; tell what it published. Gives the answer, or an error."""
        if self.before_call is not None and b"FCALL" in packed[:40]:
            self.before_call(packed)
        answer = self.real.call(packed, self.now_us(), self._heard)
        if b"FCALL" not in packed[:40] or isinstance(answer, ResponseError):
            return answer
        answer, published = answer
        self.on_call(packed, answer)
        for i in range(0, len(published), 2):
            self._publish(published[i].decode(), published[i + 1])
        return answer

    def _publish(self, channel: str, message: bytes) -> None:
        for line in self.lines:
            if channel in line.heard and not line.is_cut and self.rng.random() >= self.weather.lost_messages:
                line.process.post(self.loop.time() + line.delay(), line.hear, channel, message)

    def heard_changed(self) -> None:
        """Somebody listens to other channels now."""
        self._heard = tuple(sorted({channel for line in self.lines if not line.is_cut for channel in line.heard if channel.endswith("E")}))

    def go_down(self, *, swallows: bool) -> None:
        """The store is away until `come_back`. What is on its way is lost."""
        self.weather.swallows, self.weather.refuses = swallows, not swallows
        if not swallows:
            for line in self.lines:
                line.break_all()

    def come_back(self) -> None:
        """It is there again, with all that it had. Listeners find it a little later."""
        self.weather.refuses = self.weather.swallows = False
        for line in self.lines:
            line.listen_again()


class Line:
    """One broker's line."""

    def __init__(self, store: SharedStore, process: Process) -> None:
        self.store = store
        self.process = process
        self.heard: dict[str, Handler] = {}
        self.is_cut = False
        self._connections: list[_Connection] = []
        store.lines.append(self)
        process.cut_links.append(self._cut)

    def delay(self) -> float:
        """How long one way takes now."""
        rng, slow_s = self.store.rng, self.store.weather.slow_s
        return 0.0002 + 0.0006 * rng.random() + (slow_s * rng.random() if slow_s else 0.0)

    def make_connection(self) -> _Connection:
        """One that is not connected yet."""
        connection = _Connection(self)
        self._connections.append(connection)
        return connection

    def forget(self, connection: _Connection) -> None:
        """It is closed."""
        if connection in self._connections:
            self._connections.remove(connection)

    def send(self, connection: _Connection, packed: bytes, answer: asyncio.Future[Any]) -> None:
        """Put a request on its way."""
        store = self.store
        weather, rng = store.weather, store.rng
        if self.is_cut or weather.swallows or (weather.lost_requests and rng.random() < weather.lost_requests):
            return
        delay = self.delay()
        if weather.late_requests and rng.random() < weather.late_requests:
            delay += rng.uniform(0.1, 3.0)
        store.loop.call_at(store.loop.time() + delay, self._arrive, connection, packed, answer)

    def _arrive(self, connection: _Connection, packed: bytes, answer: asyncio.Future[Any]) -> None:
        store = self.store
        weather = store.weather
        if weather.refuses or weather.swallows:
            return
        if packed is _FENCE:
            store.loop.call_later(DISK_S * store.rng.random(), self._written, connection, answer, store.now_us())
            return
        self._answer(connection, answer, store.carry_out(packed))

    def _written(self, connection: _Connection, answer: asyncio.Future[Any], us: int) -> None:
        """All that was there at this date has come to the disk."""
        if not (self.store.weather.refuses or self.store.weather.swallows):
            self.store.synced_us = max(self.store.synced_us, us)
            self.store.on_synced()
            self._answer(connection, answer, [1, 0])

    def _answer(self, connection: _Connection, answer: asyncio.Future[Any], result: Any) -> None:
        store, weather = self.store, self.store.weather
        if self.is_cut or (weather.lost_answers and store.rng.random() < weather.lost_answers):
            return
        self.process.post(store.loop.time() + self.delay(), connection.answered, answer, result)

    def hear(self, channel: str, message: bytes | None) -> None:
        """A message has come."""
        handler = self.heard.get(channel)
        if handler is not None and not self.is_cut:
            handler(message)

    def listen_again(self) -> None:
        """The connection for messages was lost; it is made again."""
        for channel in self.heard:
            self.process.post(self.store.loop.time() + RESUBSCRIBE_S, self.hear, channel, None)

    def break_all(self) -> None:
        """The store closes all connections."""
        for connection in list(self._connections):
            self.process.post(self.store.loop.time() + self.delay(), connection.lose)

    def _cut(self) -> None:
        self.is_cut = True
        self.store.heard_changed()


class _Connection:
    """What `connections.py` needs of a connection."""

    def __init__(self, line: Line) -> None:
        self.sent_at = self.ask_at = self.late_at = 0.0
        self._line = line
        self._is_open = False
        self._asked: asyncio.Future[Any] | None = None

    async def connect_line(self) -> None:
        """Raises ConnectionError."""
        weather = self._line.store.weather
        await asyncio.sleep(2 * self._line.delay())
        if self._line.is_cut or weather.swallows:
            await asyncio.get_running_loop().create_future()
        if weather.refuses:
            raise ConnectionError("refused")
        self._is_open = True

    def is_usable(self) -> bool:
        return self._is_open

    def is_being_answered(self) -> bool:
        return False

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        self._asked = answer = self._line.store.loop.create_future()
        if self._is_open:
            self._line.send(self, packed, answer)
        else:
            self.lose()
        return answer

    def answered(self, answer: asyncio.Future[Any], result: Any) -> None:
        """The answer is there."""
        if answer.done() or not self._is_open:
            return
        if isinstance(result, RedisError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def cut(self, error: RedisError | None = None) -> None:
        if error is not None and self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        if self._is_open:
            self._is_open = False
            self._line.process.post(self._line.store.loop.time(), self.lose)

    def lose(self) -> None:
        """It broke."""
        self._is_open = False
        self._line.forget(self)
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(ConnectionError("the connection to the store broke"))

    async def disconnect(self, nowait: bool = False) -> None:
        self.cut()


class SimulatedClient(StoreClient):
    """The real client on a line of the simulation."""

    def __init__(self, line: Line, config: BrokerConfig) -> None:
        super().__init__(config)
        pool: Any = line
        self._line = line
        self._calls = Connections(pool, CALL_TIMEOUT_S)
        self._command = self._calls.call
        self._version = line.store.real.library.version
        self._start = 0

    async def _prepare(self) -> None:
        await self._command("PING")
        self.disk_durability = True
        self._start = self._line.store.starts
        self._found()

    async def write_fence(self) -> None:
        connection = self._line.make_connection()
        try:
            async with asyncio.timeout(DISK_STEP_S):
                await connection.connect_line()
                await connection.ask(_FENCE)
        except TimeoutError:
            raise LateError("the store did not answer in time") from None
        finally:
            connection.cut()

    async def _load(self) -> None:
        """It is loaded."""

    async def _drop_idle(self) -> None:
        await self._calls.close_idle()

    async def _is_another(self) -> bool:
        return self._start != self._line.store.starts


class SimulatedListener(Listener):
    """Messages over the line."""

    def __init__(self, line: Line, client: StoreClient) -> None:
        super().__init__(client)
        self._line = line

    def start(self) -> None:
        """Nothing is to be started."""

    async def stop(self) -> None:
        self._line.heard.clear()

    async def add(self, channel: str, handler: Handler) -> None:
        if channel not in self._line.heard:
            self._line.heard[channel] = handler
            await asyncio.sleep(self._line.delay())
            self._line.store.heard_changed()
            await asyncio.sleep(self._line.delay())
            handler(None)

    async def remove(self, channel: str) -> None:
        self._line.heard.pop(channel, None)
        self._line.store.heard_changed()
