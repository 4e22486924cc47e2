"""Connections for calls, without the layers that a general client puts around each: no pool lock, no retry wrapper, no health check, no timer per call.

A call through them costs half the CPU of one through the client's own execute_command, and every job goes through three calls.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import deque
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


def connection_for_calls(connection_class: type[Any]) -> type[Any]:
    """The same connection, with what a call needs and no more."""

    class CallConnection(connection_class):  # type: ignore[misc]  # its base is known at run time alone
        #: Of the call under way, on the loop's clock: when it was sent, when the watch asks after it, and when its time is up.
        sent_at = ask_at = late_at = 0.0
        #: Why the watch has cut this connection.
        cut_for: RedisError | None = None

        def pack_command(self, *args: Any) -> list[bytes]:
            """With hiredis: the asyncio client packs in Python, which cost as much as all of our own work on a call."""
            return [hiredis.pack_command(args)]

        def is_usable(self) -> bool:
            """Whether it is open, and the store has not closed it meanwhile."""
            return bool(self.is_connected) and not self._reader.at_eof()

        async def exchange(self, packed: bytes) -> Any:
            """Send one command and read its answer, without a time limit. Raises RedisError."""
            try:
                self._writer.write(packed)
                await self._writer.drain()
                answer = await self._parser.read_response()
            except OSError as error:
                raise ConnectionError(f"the connection to the store broke: {error}") from error
            if isinstance(answer, ResponseError):
                raise answer
            return answer

        def is_being_answered(self) -> bool:
            """Whether a part of the answer is there, so that the rest is on its way."""
            return bool(self._parser._reader.has_data())

        def cut(self, error: RedisError) -> None:
            """End the call that is under way with `error`."""
            self.cut_for = error
            self._writer.transport.abort()

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
            return await self._exchange(packed, late_at)
        finally:
            self._let_next()

    async def _exchange(self, packed: bytes, late_at: float) -> Any:
        connection: Any = self._idle.pop() if self._idle else self._make()
        try:
            if not connection.is_usable():
                await self._connect(connection, late_at)
            self._watch.begin(connection, len(packed), late_at)
            try:
                answer = await connection.exchange(packed)
            finally:
                self._watch.end(connection)
        except ResponseError:
            # An answer like any other: the connection is in order.
            self._idle.append(connection)
            raise
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if connection.cut_for is None or not isinstance(error, RedisError):
                raise
            if isinstance(connection.cut_for, AnswerLost):
                # What took this one may have taken others, too.
                await self.close_idle()
            raise connection.cut_for from error
        self._idle.append(connection)
        return answer

    async def _connect(self, connection: Any, late_at: float) -> None:
        try:
            async with asyncio.timeout_at(late_at):
                await connection.disconnect(nowait=True)
                await connection.connect()
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
            await connection.exchange(hiredis.pack_command(("PING",)))
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
