"""Connections for calls, without the layers that a general client puts around each: no pool lock, no retry wrapper, no health check, no timer per call.

A call through them costs half the CPU of one through the client's own execute_command, and every job goes through three calls.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import hiredis
import redis.asyncio as redis
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, RedisError, ResponseError, TimeoutError

from jobwire_broker.store.call_watch import AnswerLost, CallWatch

#: As many calls may be under way at once; who comes then waits for one of them to end, in order.
MAX_CONNECTIONS = 64
#: With less time left than this, there is no sense in asking.
_LEAST_S = 0.05


class NotSent(ConnectionError):
    """Raised when the store could not be connected to: nothing was asked of it."""


class Line(asyncio.Protocol):
    """A connection that is set up, without streams: what is asked is written at once, and each answer goes to who waits for it."""

    def __init__(self, transport: Any, to_error: Callable[[str], Exception]) -> None:
        self.closed = transport.is_closing()
        self._transport = transport
        self._reader = hiredis.Reader(replyError=to_error)
        self._asked: asyncio.Future[Any] | None = None
        self._loop = asyncio.get_running_loop()
        transport.set_protocol(self)

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a command. The answer, or RedisError; one command at a time."""
        self._asked = answer = self._loop.create_future()
        if self.closed:
            self._break(None)
        else:
            self._transport.write(packed)
        return answer

    def is_being_answered(self) -> bool:
        """Whether a part of the answer is there, so that the rest is on its way."""
        return bool(self._reader.has_data())

    def cut(self, error: RedisError | None) -> None:
        """Close it without waiting for anything. Who waits for an answer gets `error`, else ConnectionError."""
        if error is not None and self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)
        self.closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._reader.feed(data)
        answer = self._reader.gets()
        asked = self._asked
        if answer is False or asked is None or asked.done():
            return
        if isinstance(answer, RedisError):
            asked.set_exception(answer)
        else:
            asked.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self.closed = True
        self._break(exc)

    def _break(self, error: Exception | None) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(ConnectionError(f"the connection to the store broke: {error or 'the store closed it'}"))


def connection_for_calls(connection_class: type[Any]) -> type[Any]:
    """The same connection, which can be made a Line once it is set up."""

    class CallConnection(connection_class):  # type: ignore[misc]  # its base is known at run time alone
        line: Line | None = None
        #: Of the call under way, on the loop's clock: when it was sent, when the watch asks after it, and when its time is up.
        sent_at = ask_at = late_at = 0.0

        def pack_command(self, *args: Any) -> list[bytes]:
            """With hiredis: the asyncio client packs in Python, which cost as much as all of our own work on a call."""
            return [hiredis.pack_command(args)]

        async def connect_line(self) -> None:
            """Connect and say who we are, as the client library does; then go on without its streams."""
            await self.disconnect(nowait=True)
            await self.connect()
            writer: Any = self._writer
            self.line = Line(writer.transport, self._parser.parse_error)

        def is_usable(self) -> bool:
            """Whether it is open, and the store has not closed it meanwhile."""
            return self.line is not None and not self.line.closed

        def ask(self, packed: bytes) -> asyncio.Future[Any]:
            """Send one command, without a time limit. The answer, or RedisError."""
            assert self.line is not None
            return self.line.ask(packed)

        def is_being_answered(self) -> bool:
            """Whether a part of the answer is there."""
            return self.line is not None and self.line.is_being_answered()

        def cut(self, error: RedisError | None = None) -> None:
            """Close it at once. The call that is under way ends with `error`."""
            if self.line is not None:
                self.line.cut(error)
            # As its `disconnect` leaves it.
            self._parser.on_disconnect()
            self._reader = self._writer = None

    return CallConnection


class Connections:
    """At most MAX_CONNECTIONS, one call on each at a time; one that has failed is closed. `timeout_s` is the limit of a call, from when it is made."""

    def __init__(self, pool: redis.ConnectionPool, timeout_s: float) -> None:
        self._make: Any = pool.make_connection
        self._timeout_s = timeout_s
        self._idle: list[Any] = []
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watch = CallWatch(self._connected)

    async def call(self, *args: Any) -> Any:
        """Send one command and read its answer. Raises RedisError: NotSent when the store heard nothing of it, AnswerLost when its answer will not come."""
        packed = hiredis.pack_command(args)
        late_at = asyncio.get_running_loop().time() + self._timeout_s
        if self._busy < MAX_CONNECTIONS:
            self._busy += 1
        else:
            await self._wait_for_turn(late_at)
        try:
            connection = await self._ready(late_at)
        except BaseException:
            self._let_next()
            raise
        return await self._send(connection, packed, late_at)

    def begin(self, *args: Any) -> asyncio.Future[Any] | None:
        """The same, sent before this returns, on an idle connection; None when there is none."""
        if not self._idle or self._busy >= MAX_CONNECTIONS or not self._idle[-1].is_usable():
            return None
        packed, late_at = hiredis.pack_command(args), asyncio.get_running_loop().time() + self._timeout_s
        self._busy += 1
        return self._send(self._idle.pop(), packed, late_at)

    def _send(self, connection: Any, packed: bytes, late_at: float) -> asyncio.Future[Any]:
        self._watch.begin(connection, len(packed), late_at)
        answer: asyncio.Future[Any] = connection.ask(packed)
        answer.add_done_callback(partial(self._answered, connection))
        return answer

    def _answered(self, connection: Any, answer: asyncio.Future[Any]) -> None:
        self._watch.end(connection)
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is None or isinstance(error, ResponseError):
            # An error of the store is an answer like any other: the connection is in order.
            self._idle.append(connection)
        else:
            connection.cut()
        if isinstance(error, AnswerLost):
            # What took this one may have taken others, too.
            self._cut_idle()
        self._let_next()

    async def _ready(self, late_at: float) -> Any:
        connection: Any = self._idle.pop() if self._idle else self._make()
        if not connection.is_usable():
            await self._connect(connection, late_at)
        return connection

    def _cut_idle(self) -> None:
        for connection in self._idle:
            connection.cut()
        self._idle.clear()

    async def _connect(self, connection: Any, late_at: float) -> None:
        try:
            async with asyncio.timeout_at(late_at):
                await connection.connect_line()
        except (AuthenticationError, BusyLoadingError):
            raise
        except (ConnectionError, TimeoutError, OSError, builtins.TimeoutError) as error:
            raise NotSent(f"the store could not be connected to: {error}") from error

    async def _connected(self) -> Any:
        """A connection of its own for whoever asks. Raises RedisError."""
        connection = self._make()
        await self._connect(connection, asyncio.get_running_loop().time() + self._timeout_s)
        return connection

    async def _wait_for_turn(self, late_at: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(late_at - _LEAST_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._let_next()
            if isinstance(error, builtins.TimeoutError):
                raise NotSent(f"all {MAX_CONNECTIONS} connections to the store are busy") from None
            raise

    def _let_next(self) -> None:
        """A call is over: its place goes to who waits for longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._busy -= 1

    async def ping(self) -> None:
        """Return when the store answers on a new connection. Raises RedisError."""
        connection = await self._connected()
        try:
            await connection.ask(hiredis.pack_command(("PING",)))
        finally:
            await connection.disconnect(nowait=True)

    async def close_idle(self) -> None:
        """Close those that no call is on: when one has failed, they are suspect."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close those that no call is on, for good."""
        await self._watch.close()
        await self.close_idle()
