"""The network between workers, clients and brokers: gRPC's streams and calls as both sides see them, with delays, cuts and silence.

Frames of a stream arrive in order or not at all, as over TCP. A stream that breaks is seen by both ends, each in its time; one that goes silent by neither.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._credentials import Credentials, Transport

from tests.simulation.virtual_time import Process, VirtualLoop

#: What to call at the other end, and with what.
Message = tuple[Callable[..., Any], tuple[Any, ...]]


class Refused(Exception):
    """Raised by a simulated call: its status."""

    def __init__(self, code: grpc.StatusCode, message: str = "", trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(f"{code.name} {message}")
        self.code = code
        self.message = message
        self.trailers = trailers


class Network:
    """Who reaches whom, and how fast."""

    def __init__(self, loop: VirtualLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.slow_s = 0.0
        self.lost_calls = 0.0
        """The share of unary calls whose request or answer is lost."""
        self.repeated_calls = 0.0
        """The share of unary calls that arrive twice, as a proxy that tries again makes them."""
        self.brokers: dict[str, Any] = {}
        self.unreachable: dict[tuple[str, str], int] = {}
        """Pairs of a worker and a broker that get nothing through to each other."""
        self.streams: list[StreamLink] = []

    def delay(self) -> float:
        """How long one way takes now."""
        return 0.0003 + 0.0015 * self.rng.random() + (self.slow_s * self.rng.random() if self.slow_s else 0.0)

    def part(self, worker: str, address: str) -> None:
        """Nothing gets through between these from now on."""
        self.unreachable[worker, address] = self.unreachable.get((worker, address), 0) + 1

    def heal(self, worker: str, address: str) -> None:
        """It does again."""
        self.unreachable[worker, address] -= 1
        if not self.unreachable[worker, address]:
            del self.unreachable[worker, address]
            for link in list(self.streams):
                if (link.worker.name, link.address) == (worker, address):
                    link.heal()

    async def call(self, address: str, method: str, request: Any, timeout_s: float = 5.0) -> Any:
        """A unary call of the job service. Raises Refused."""
        loop, rng = self.loop, self.rng
        done: asyncio.Future[Any] = loop.create_future()
        lost = rng.random() if self.lost_calls else 1.0
        times = 2 if self.repeated_calls and rng.random() < self.repeated_calls else 1
        if lost >= self.lost_calls / 2:
            for _ in range(times):
                loop.call_later(self.delay() + (rng.random() if times == 2 else 0.0), self._arrive, address, method, request, done, lost < self.lost_calls)
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED) from None

    def _arrive(self, address: str, method: str, request: Any, done: asyncio.Future[Any], is_lost: bool) -> None:
        broker = self.brokers.get(address)
        if broker is None:
            self._answer(done, Refused(grpc.StatusCode.UNAVAILABLE, "nobody listens"))
            return
        answer: Callable[[Any], None] = (lambda _: None) if is_lost else lambda result: self._answer(done, result)
        broker.process.post(self.loop.time(), broker.serve, method, request, answer)

    def _answer(self, done: asyncio.Future[Any], result: Any) -> None:
        self.loop.call_later(self.delay(), _settle, done, result)


def _settle(done: asyncio.Future[Any], result: Any) -> None:
    if done.done():
        return
    if isinstance(result, Refused):
        done.set_exception(result)
    else:
        done.set_result(result)


class StreamLink:
    """One Work stream: `call` is the worker's end, `context` the broker's."""

    def __init__(self, network: Network, worker: Process, address: str) -> None:
        self.network = network
        self.loop = network.loop
        self.worker = worker
        self.address = address
        self.broker: Any = None
        self.is_silent = False
        self.is_broken = False
        self.call = WorkerEnd(self)
        self.context = BrokerEnd(self)
        self._at = {True: 0.0, False: 0.0}
        self._held: dict[bool, list[Message]] = {True: [], False: []}
        network.streams.append(self)
        self.loop.call_later(network.delay(), self._connect)

    @property
    def is_gone(self) -> bool:
        """Whether nothing will ever get through again."""
        return self.is_silent or self.is_broken

    @property
    def is_parted(self) -> bool:
        """Whether nothing gets through now; TCP sends it again when it can."""
        return (self.worker.name, self.address) in self.network.unreachable

    def _connect(self) -> None:
        if self.is_gone or self.call.is_over:
            self.ended()
            return
        if self.is_parted:
            self.loop.call_later(1.0, self._connect)
            return
        self.broker = self.network.brokers.get(self.address)
        if self.broker is None:
            self.ended()
            self.down(self.call.end, Refused(grpc.StatusCode.UNAVAILABLE, "nobody listens"))
            return
        self.broker.process.post(self.loop.time(), self.broker.serve_stream, self)
        for frame in self.call.early:
            self.up(self.context.receive, frame)
        self.call.early.clear()

    def up(self, callback: Callable[..., Any], *args: Any) -> None:
        """To the broker, in order."""
        if self.broker is not None:
            self._send(True, (callback, args), self.network.delay())

    def down(self, callback: Callable[..., Any], *args: Any) -> None:
        """To the worker, in order."""
        self._send(False, (callback, args), self.network.delay())

    def _send(self, is_up: bool, message: Message, delay_s: float) -> None:
        if not self.is_gone:
            # Later than the one before it: of two timers with one time, either may be the first.
            self._at[is_up] = max(self._at[is_up] + 1e-9, self.loop.time() + delay_s)
            (self.broker.process if is_up else self.worker).post(self._at[is_up], self._pass, is_up, message)

    def _pass(self, is_up: bool, message: Message) -> None:
        if self.is_gone:
            return
        if self.is_parted or self._held[is_up]:
            self._held[is_up].append(message)
        else:
            message[0](*message[1])

    def heal(self) -> None:
        """What was held up is sent again."""
        for is_up, held in self._held.items():
            delay_s = self.network.rng.uniform(0.02, 0.8)
            messages, self._held[is_up] = list(held), []
            for message in messages:
                self._send(is_up, message, delay_s)

    def break_off(self) -> None:
        """The connection is reset: each end hears of it in its time."""
        if self.is_broken:
            return
        if not (self.is_silent or self.is_parted):
            self.worker.post(self.loop.time() + self.network.delay(), self.call.end, Refused(grpc.StatusCode.UNAVAILABLE, "connection reset"))
            if self.broker is not None:
                self.broker.process.post(self.loop.time() + self.network.delay(), self.context.vanish)
        self.is_broken = True

    def ended(self) -> None:
        """The broker is done with it."""
        if self in self.network.streams:
            self.network.streams.remove(self)


class WorkerEnd:
    """What the worker's stream needs of grpc.aio.StreamStreamCall."""

    def __init__(self, link: StreamLink) -> None:
        self.early: list[Any] = []
        self._link = link
        self._frames: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._status: Refused | None = None
        self._is_over = False
        self._is_cancelled = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in any way."""
        return self._is_over or self._is_cancelled

    def receive(self, frame: bytes) -> None:
        """A frame has come."""
        self._frames.append(frame)
        self._ready.set()

    def end(self, status: Refused | None) -> None:
        """The broker's status has come; None is OK."""
        if not self._is_over:
            self._is_over, self._status = True, status
            self._ready.set()

    async def read(self) -> Any:
        while not self._frames:
            if self._is_cancelled:
                raise asyncio.CancelledError
            if self._is_over:
                if self._status is not None:
                    raise _rpc_error(self._status)
                return grpc.aio.EOF
            self._ready.clear()
            await self._ready.wait()
        if self._is_cancelled:
            raise asyncio.CancelledError
        return pb.WorkResponse.FromString(self._frames.popleft())

    async def write(self, frame: pb.WorkRequest) -> None:
        if self._is_over or self._is_cancelled:
            raise asyncio.InvalidStateError("the call has ended")
        if self._link.broker is None:
            self.early.append(frame)
        else:
            self._link.up(self._link.context.receive, frame)
        await asyncio.sleep(0)

    async def done_writing(self) -> None:
        self._link.up(self._link.context.half_close)

    def cancel(self) -> bool:
        if self._is_over or self._is_cancelled:
            return False
        self._is_cancelled = True
        self._ready.set()
        self._link.up(self._link.context.vanish)
        return True

    async def code(self) -> grpc.StatusCode:
        return self._status.code if self._status else grpc.StatusCode.OK

    async def details(self) -> str:
        return self._status.message if self._status else ""

    async def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._status.trailers if self._status else ()


def _rpc_error(status: Refused) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailers), details=status.message)


class CallContext:
    """What a handler of a unary call needs of grpc.aio.ServicerContext."""

    def __init__(self) -> None:
        self._trailers: tuple[tuple[str, bytes], ...] = ()

    def set_trailing_metadata(self, trailers: tuple[tuple[str, bytes], ...]) -> None:
        self._trailers = trailers

    async def abort(self, code: grpc.StatusCode, message: str = "") -> None:
        raise Refused(code, message, self._trailers)


class BrokerEnd(CallContext):
    """The same of a stream."""

    def __init__(self, link: StreamLink) -> None:
        super().__init__()
        self.task: asyncio.Task[None] | None = None
        self._link = link
        self._frames: deque[pb.WorkRequest] = deque()
        self._ready = asyncio.Event()
        self._is_closed = False

    def receive(self, frame: pb.WorkRequest) -> None:
        """A frame has come."""
        self._frames.append(frame)
        self._ready.set()

    def half_close(self) -> None:
        """The worker writes no more."""
        self._is_closed = True
        self._ready.set()

    def vanish(self) -> None:
        """The worker has cancelled the call, or its connection broke."""
        self.half_close()
        if self.task is not None:
            self.task.cancel()

    async def read(self) -> Any:
        while not self._frames:
            if self._is_closed:
                return grpc.aio.EOF
            self._ready.clear()
            await self._ready.wait()
        return self._frames.popleft()

    async def write(self, frame: bytes) -> None:
        self._link.down(self._link.call.receive, frame)
        await asyncio.sleep(0)

    def finish(self, status: Refused | None) -> None:
        """The handler has ended."""
        self._link.ended()
        self._link.down(self._link.call.end, status)


class _Channel:
    """What a stub and the worker's stream need of grpc.aio.Channel."""

    def __init__(self, network: Network, worker: Process, address: str) -> None:
        self._open: Callable[[], WorkerEnd] = lambda: StreamLink(network, worker, address).call

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., WorkerEnd] | None:
        return (lambda **_: self._open()) if method.endswith("/Work") else None

    def unary_unary(self, *_: Any, **__: Any) -> None:
        return None

    unary_stream = stream_unary = unary_unary


class Reach(Credentials):
    """Credentials whose channels lead through the simulation."""

    @classmethod
    def of(cls, network: Network, worker: Process) -> Reach:
        """Those of one worker."""
        made = cls()
        made.__dict__["through"] = _Through(network, worker)
        return made

    def transport(self) -> Transport:
        return self.__dict__.get("through") or super().transport()


class _Through(Transport):
    """The simulation's own way to connect."""

    def __init__(self, network: Network, worker: Process) -> None:
        super().__init__(secure=False)
        self.__dict__.update(network=network, worker=worker)

    def channel(self, address: str, options: Any, host: str = "") -> Any:
        return _Channel(self.__dict__["network"], self.__dict__["worker"], address)
