"""The brokers that a client may ask, and calls and enqueues that are repeated on the next of them until their time is up."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from jobwire_client._credentials import Bearer, Credentials, Transport
from jobwire_client._enqueue_stream import EnqueueStream, Tell, Verdicts
from jobwire_client._status import error_of
from jobwire_client.errors import InvalidRequest, JobwireError, QueueUnavailable

Answer = TypeVar("Answer", bound=Message)
Result = TypeVar("Result")

_ENQUEUE_STREAM = "/jobwire.v1.JobService/EnqueueStream"

DEFAULT_TARGET = "localhost:7410"
TARGET_VARIABLE = "JOBWIRE_TARGET"
_MAX_TARGETS = 256
_FIRST_WAIT_S = 0.03
_MAX_WAIT_S = 0.25
_MIN_TRY_S = 0.05
"""With less time left than this no further try is made: one that is cut off would turn a "no" into "unknown"."""

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.max_send_message_length", 32 * 1024 * 1024),
    # A broker that is back is found at once: gRPC's own waits begin at 1 s and grow to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Only this package repeats calls: a hidden repeat would spoil what `accepted` says.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Method(Generic[Answer]):
    """One method of the contract."""

    path: str
    """`/package.Service/Method`."""
    decode: Callable[[bytes], Answer]
    """From the bytes of the answer."""


def parse_targets(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """The addresses in `target`: one, several with commas between, or a sequence. None means JOBWIRE_TARGET, then localhost:7410.

    Raises:
        InvalidRequest: it names no broker.
    """
    if target is None:
        target = os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
    pieces = [target] if isinstance(target, str) else list(target)
    addresses = tuple(dict.fromkeys(part.strip() for piece in pieces for part in piece.split(",") if part.strip()))
    if not addresses or len(addresses) > _MAX_TARGETS:
        raise InvalidRequest(f"target {target!r} must name 1 to {_MAX_TARGETS} brokers; give 'localhost:7410', or several with commas between")
    for address in addresses:
        if "://" in address and not address.startswith(("unix://", "dns://")):
            raise InvalidRequest(f"target {address!r} has a scheme; a broker's address is 'host:port', for example 'localhost:7410'")
    return addresses


@dataclass(slots=True)
class _Tries:
    """How a call is doing that is repeated. Moments are those of the event loop's clock."""

    deadline: float
    retry_until: float | None
    maybe_accepted: bool = False
    made: int = 0
    wait_s: float = _FIRST_WAIT_S


class _Enqueue(NamedTuple):
    """A message that is being sent, and who is told its verdicts."""

    frames: bytes
    tries: _Tries
    tell: Tell


class Connections:
    """A channel per broker, made when it is first needed. One is used at a time; which comes first is chosen at random, so that clients spread."""

    def __init__(self, target: str | Sequence[str] | None, credentials: Credentials | None = None) -> None:
        """Take the addresses; nothing is connected yet. Raises InvalidRequest."""
        self.addresses = parse_targets(target)
        try:
            self._bearer = Bearer(Credentials.from_environment() if credentials is None else credentials)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        self._current = random.randrange(len(self.addresses))
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._transports: dict[int, Transport] = {}
        self._replaced: list[grpc.aio.Channel] = []
        self._enqueue_streams: dict[int, EnqueueStream] = {}
        self._stubs: dict[tuple[int, str], grpc.aio.UnaryUnaryMultiCallable[bytes, Any]] = {}

    async def call(self, method: Method[Answer], request: bytes, *, deadline: float, retry_until: float | None = None) -> Answer:
        """Call `method`, and repeat it elsewhere while nobody answers.

        Args:
            method: what to call. It must be safe to repeat.
            request: the encoded request.
            deadline: on the event loop's clock; no try lasts longer. With another broker to ask, a try takes at most half of what is left.
            retry_until: no further try begins after this. None: `deadline`. For calls that wait on purpose, which are then given all the time they have.

        Raises:
            QueueUnavailable: nobody answered. `accepted` is "no" only when no try can have reached the store.
            JobwireError: the broker refused.
        """
        return await self._repeatedly(
            lambda index, limit_s: self._stub(index, method)(request, timeout=limit_s, metadata=self._bearer.metadata()), deadline, retry_until
        )

    def enqueue(self, frames: bytes, limit_s: float, tell: Tell) -> None:
        """Make the jobs of the joined frames within `limit_s`, over a stream that all enqueues share, and tell once what became of them. It is repeated, and
        fails, as `call` does; it is under way when this returns, or was told that it failed."""
        self._ask(_Enqueue(frames, _Tries(asyncio.get_running_loop().time() + limit_s, None), tell))

    def _ask(self, enqueue: "_Enqueue") -> None:
        index = self._current
        try:
            limit_s = self._limit_s(enqueue.tries)
            self._enqueues(index).ask(enqueue.frames, limit_s, partial(self._told, enqueue, index))
        except Exception as error:  # no channel can be made, and another try would meet the same
            enqueue.tell(error)

    def _told(self, enqueue: "_Enqueue", index: int, said: Verdicts | BaseException) -> None:
        if not isinstance(said, QueueUnavailable):
            enqueue.tell(said)
            return
        try:
            pause_s = self._after(enqueue.tries, index, said)
        except QueueUnavailable as error:
            enqueue.tell(error)
        else:
            # Not at once: who tells is a stream that is just ending.
            asyncio.get_running_loop().call_later(pause_s, self._ask, enqueue)

    async def _repeatedly(self, attempt: Callable[[int, float], Awaitable[Result]], deadline: float, retry_until: float | None) -> Result:
        tries = _Tries(deadline, retry_until)
        while True:
            index = self._current
            try:
                return await attempt(index, self._limit_s(tries))
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure, self.addresses[index])
            if not isinstance(error, QueueUnavailable):
                raise error
            if pause_s := self._after(tries, index, error):
                await asyncio.sleep(pause_s)

    def _limit_s(self, tries: "_Tries") -> float:
        """How long the next try may take."""
        left_s = tries.deadline - asyncio.get_running_loop().time()
        return left_s if len(self.addresses) == 1 or tries.retry_until is not None else max(left_s / 2, _MIN_TRY_S)

    def _after(self, tries: "_Tries", index: int, error: QueueUnavailable) -> float:
        """Note that a try at `index` failed. How long to wait before the next; raises the error when there is no time for one."""
        tries.maybe_accepted = tries.maybe_accepted or error.accepted != "no"
        tries.made += 1
        self.move_on(index)
        pause_s = tries.wait_s if tries.made % len(self.addresses) == 0 else 0.0
        if asyncio.get_running_loop().time() + pause_s + _MIN_TRY_S >= (tries.deadline if tries.retry_until is None else tries.retry_until):
            error.accepted = "unknown" if tries.maybe_accepted else "no"
            raise error
        if pause_s:
            tries.wait_s = min(2 * tries.wait_s, _MAX_WAIT_S)
        return pause_s

    def stream(self, method: Method[Answer], request: bytes) -> tuple[int, grpc.aio.UnaryStreamCall[bytes, Answer]]:
        """Open a stream at the current broker; also says which that is, for `move_on`. It fails when it is read."""
        index = self._current
        opener: grpc.aio.UnaryStreamMultiCallable[bytes, Answer] = self._channel(index).unary_stream(
            method.path, request_serializer=None, response_deserializer=method.decode
        )
        return index, opener(request, metadata=self._bearer.metadata())

    def move_on(self, index: int) -> None:
        """Use the next broker from now on, unless that has happened since `index` was the current one."""
        if index == self._current:
            self._renew(index)
            self._current = (index + 1) % len(self.addresses)

    def _renew(self, index: int) -> None:
        """Connect with other certificates from now on, when their files have changed: with the old ones it may never come back."""
        if index in self._channels and self._bearer.transport() != self._transports[index]:
            # Calls may go on there, and a channel that is closed cancels them.
            self._replaced.append(self._channels.pop(index))
            self._stubs = {of: stub for of, stub in self._stubs.items() if of[0] != index}

    def failure(self, index: int, failure: grpc.aio.AioRpcError) -> JobwireError:
        """The error that a broken stream stands for."""
        return error_of(failure, self.addresses[index])

    async def close(self) -> None:
        """Close all streams and channels."""
        for enqueues in list(self._enqueue_streams.values()):
            await enqueues.close()
        channels, self._channels, self._replaced, self._stubs = [*self._channels.values(), *self._replaced], {}, [], {}
        for channel in channels:
            await channel.close()

    def _enqueues(self, index: int) -> EnqueueStream:
        stream = self._enqueue_streams.get(index)
        if stream is None:
            opener: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel(index).stream_stream(_ENQUEUE_STREAM)
            stream = self._enqueue_streams[index] = EnqueueStream(
                opener(metadata=self._bearer.metadata()),
                self.addresses[index],
                lambda failure: self.failure(index, failure),
                lambda broker_gone: self._enqueues_ended(index, broker_gone),
            )
        return stream

    def _enqueues_ended(self, index: int, broker_gone: bool) -> None:
        del self._enqueue_streams[index]
        if broker_gone:
            self.move_on(index)

    def _stub(self, index: int, method: Method[Answer]) -> grpc.aio.UnaryUnaryMultiCallable[bytes, Answer]:
        stub = self._stubs.get((index, method.path))
        if stub is None:
            stub = self._channel(index).unary_unary(method.path, request_serializer=None, response_deserializer=method.decode)
            self._stubs[index, method.path] = stub
        return stub

    def _channel(self, index: int) -> grpc.aio.Channel:
        channel = self._channels.get(index)
        if channel is None:
            transport = self._transports[index] = self._bearer.transport()
            channel = self._channels[index] = transport.channel(self.addresses[index], _OPTIONS)
        return channel
