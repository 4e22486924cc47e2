"""The brokers that this process may ask, one at a time.

All of them are equal, so which one is asked matters to nobody; when it cannot be reached, the next is tried. Each has a connection of its own
that shares nothing, or a reconnect would lead back to the process that was left.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import grpc.aio
from jobwire.v1.admin_service_pb2_grpc import AdminServiceStub
from jobwire.v1.event_service_pb2_grpc import EventServiceStub
from jobwire.v1.job_service_pb2_grpc import JobServiceStub
from jobwire.v1.queue_service_pb2_grpc import QueueServiceStub

from jobwire_gateway.callers import caller
from jobwire_gateway.credentials import BrokerCredentials
from jobwire_gateway.problems import Problem, details_of, from_rpc

if TYPE_CHECKING:
    from jobwire.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from jobwire.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from jobwire.v1.job_service_pb2_grpc import JobServiceAsyncStub
    from jobwire.v1.queue_service_pb2_grpc import QueueServiceAsyncStub

Answer = TypeVar("Answer")

_log = logging.getLogger("jobwire.gateway")

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    # A broker that came back is found at once, not after gRPC's own two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one try to connect may take, in spite of its name: TLS to a broker far away, or on a busy machine, takes more than a tenth of a second.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The feed may be silent for hours; without this a cut cable would not be noticed. The broker allows a ping every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class Answers(Protocol):
    """A call with many answers."""

    async def read(self) -> Any:
        """The next one; `EOF` after the last. Raises AioRpcError."""

    def cancel(self) -> bool:
        """Hear no more."""
        ...


_KEPT = "what was read before stays in use; exchange the files once more"
_CLOSE_S = 30.0
"""How long the calls of a connection may go on that another has taken the place of."""


class Broker:
    """One broker, by its address."""

    jobs: "JobServiceAsyncStub"
    queues: "QueueServiceAsyncStub"
    events: "EventServiceAsyncStub"
    admin: "AdminServiceAsyncStub"

    def __init__(self, address: str, credentials: BrokerCredentials) -> None:
        self.address = address
        self.stamps = credentials.stamps()
        self.channel = credentials.channel(address, _OPTIONS)
        self.jobs = JobServiceStub(self.channel)
        self.queues = QueueServiceStub(self.channel)
        self.events = EventServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)


class Brokers:
    """All of them. Made inside the event loop that uses it."""

    def __init__(self, addresses: Sequence[str], call_timeout_s: float, credentials: BrokerCredentials | None = None) -> None:
        self._credentials = credentials or BrokerCredentials()
        self._brokers = [Broker(address, self._credentials) for address in addresses]
        self._closing: set[asyncio.Task[None]] = set()
        # Whether a call that is cancelled from now on is so because the process ends.
        self.ending = False
        self._current = 0
        self._call_timeout_s = call_timeout_s

    @property
    def current(self) -> Broker:
        """The one that is asked now."""
        return self._brokers[self._current]

    def leave(self, broker: Broker) -> None:
        """Ask the next one from now on, unless somebody has moved on already."""
        if broker is self.current:
            self._renew(broker)
            self._current = (self._current + 1) % len(self._brokers)

    def _renew(self, broker: Broker) -> None:
        """Connect with other certificates from now on, when their files have changed: with the old ones it may never come back."""
        stamps = self._credentials.stamps()
        if stamps == broker.stamps:
            return
        broker.stamps = stamps
        try:
            renewed = Broker(broker.address, self._credentials)
        except ValueError as error:
            # Most likely one file is being exchanged; a failure after that looks again.
            _log.error("brokers.certificates_not_renewed broker=%s error=%s advice=%s", broker.address, error, _KEPT)
            return
        self._brokers[self._brokers.index(broker)] = renewed
        closing = asyncio.get_running_loop().create_task(broker.channel.close(_CLOSE_S))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        _log.info("brokers.certificates_renewed broker=%s", broker.address)

    def own_metadata(self) -> list[tuple[str, str]]:
        """What our own calls carry. Empty without a key. Raises ValueError when its file cannot be read."""
        return _bearing(self._credentials.authorization())

    def metadata(self, credentials: str | None = None) -> list[tuple[str, str]]:
        """What a call carries: `credentials`, else those of the caller whose request is being answered, else our own: we never lend ours to a caller."""
        asking = caller()
        lent = credentials or (asking.credentials if asking is not None else None)
        return _bearing(f"Bearer {lent}") if lent else self.own_metadata()

    async def call(
        self,
        ask: Callable[[Broker], Callable[..., Awaitable[Answer]]],
        request: object,
        *,
        timeout_s: float | None = None,
        credentials: str | None = None,
        as_itself: bool = False,
    ) -> Answer:
        """Make one call, at the next broker when one cannot be reached or does not answer. Every call of the gateway may be made twice without harm.

        `as_itself`: it is the gateway that asks, for what it has found its caller may see.

        Raises:
            Problem: the broker's answer is an error, or none answers in time.
        """
        deadline = time.monotonic() + (timeout_s or self._call_timeout_s)
        metadata = self.own_metadata() if as_itself else self.metadata(credentials)
        for left in reversed(range(len(self._brokers))):
            broker = self.current
            try:
                return await ask(broker)(request, timeout=max(0.05, deadline - time.monotonic()) / (left + 1), metadata=metadata)
            except asyncio.CancelledError:
                if self.ending:
                    raise Problem(503, "This gateway ends.", reason="SHUTTING_DOWN", retry_after_ms=1_000) from None
                raise
            except grpc.aio.AioRpcError as error:
                if not _try_elsewhere(error):
                    raise from_rpc(error) from None
                self.leave(broker)
                if not left:
                    raise from_rpc(error) from None
        raise AssertionError("there is at least one broker")

    async def begin(self, ask: Callable[[Broker], Callable[..., Answers]], request: object, first_s: float) -> tuple[Answers, Any]:
        """Begin a call with many answers, at the next broker when one cannot be reached or does not answer. Gives it with its first answer.

        Raises:
            Problem: the broker's answer is an error, or none answers in time.
        """
        metadata = self.metadata()
        for left in reversed(range(len(self._brokers))):
            broker = self.current
            answers = ask(broker)(request, metadata=metadata)
            try:
                async with asyncio.timeout(first_s / len(self._brokers)):
                    first = await answers.read()
                if first is grpc.aio.EOF:
                    raise Problem(500, "The broker said nothing.")
                return answers, first
            except grpc.aio.AioRpcError as error:
                if not _try_elsewhere(error) or not left:
                    raise from_rpc(error) from None
            except TimeoutError:
                answers.cancel()
                if not left:
                    raise Problem(504, "The broker did not answer in time.", code="deadline_exceeded") from None
            self.leave(broker)
        raise AssertionError("there is at least one broker")

    async def close(self) -> None:
        """End all connections and the calls on them."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*(broker.channel.close() for broker in self._brokers), *self._closing, return_exceptions=True)


def _bearing(authorization: str | None) -> list[tuple[str, str]]:
    return [("authorization", authorization)] if authorization else []


def _try_elsewhere(error: grpc.aio.AioRpcError) -> bool:
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) and details_of(error).reason in ("", "SHUTTING_DOWN")
