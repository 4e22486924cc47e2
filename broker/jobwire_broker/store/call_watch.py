"""Finds the calls that will never be answered, long before their time is up.

A store runs commands in their order, on one thread. So a PING that was sent well after a call, on another connection, and that is answered, proves that the
call was carried out or never came: its answer is lost, and it is given up at once. A store that is slow (a long script, a fork, a slow disk) is slow to answer
the PING as well, and nothing is given up before its time. What is given up is "unknown", and repeated by its identity: a call that was given up wrongly (its
packets were lost twice; a failover holds writes back, and answers PING) costs a repetition, and breaks nothing.

One timer serves all calls, and only while one is under way: a call costs it two entries in a dict.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, RedisError, TimeoutError

#: A call without an answer for so long makes the watch ask. More than TCP takes to send a lost packet again.
PATIENCE_S = 0.25
#: A line is taken to move so much at least: a large command is waited for so much longer.
_BYTES_PER_S = 4 << 20
#: A PING without an answer for so long says nothing, and is asked again on a new connection.
_PING_TIMEOUT_S = 0.6
_PING = hiredis.pack_command(("PING",))


class AnswerLost(ConnectionError):
    """Raised when the store has answered what was asked later, and not this call: it may have been carried out."""


class CallWatch:
    """Looks after the connections on which calls are under way. `connected` makes one for its own questions."""

    def __init__(self, connected: Callable[[], Awaitable[Any]]) -> None:
        self._connected = connected
        self._under_way: dict[Any, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._own: Any = None

    def begin(self, connection: Any, size: int, late_at: float) -> None:
        """A command of `size` bytes is being sent; its time is up at `late_at`."""
        loop = asyncio.get_running_loop()
        connection.sent_at = now = loop.time()
        connection.ask_at = now + PATIENCE_S + size / _BYTES_PER_S
        connection.late_at = late_at
        self._under_way[connection] = None
        if self._timer is None:
            self._timer = loop.call_at(now + PATIENCE_S, self._look)

    def end(self, connection: Any) -> None:
        """It is answered, or over."""
        del self._under_way[connection]

    async def close(self) -> None:
        """Look after nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._forget_own()

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._under_way):
            if now >= connection.late_at:
                connection.cut(TimeoutError("the store has not answered in time"))
        if self._asking is None and any(now >= connection.ask_at for connection in self._under_way):
            self._asking = asyncio.create_task(self._ask())
        self._look_again(now)

    def _look_again(self, now: float) -> None:
        """Set the timer for the next moment at which something is to be done; a call that begins later is looked at no sooner than PATIENCE_S from now."""
        if self._under_way and self._timer is None:
            moments = [at for connection in self._under_way for at in (connection.ask_at, connection.late_at) if at > now]
            self._timer = asyncio.get_running_loop().call_at(min([now + PATIENCE_S, *moments]), self._look)

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        suspects = [(connection, connection.sent_at) for connection in self._under_way if now >= connection.ask_at]
        try:
            async with asyncio.timeout(_PING_TIMEOUT_S):
                await self._ping_twice()
            for connection, sent_at in suspects:
                if connection in self._under_way and connection.sent_at == sent_at and not connection.is_being_answered():
                    connection.cut(AnswerLost("the store has answered later calls, and not this one"))
        except (RedisError, OSError, builtins.TimeoutError):
            await self._forget_own()
        finally:
            self._asking = None
        # Of those that are left, nothing was learned.
        now = loop.time()
        for connection in self._under_way:
            if now >= connection.ask_at:
                connection.ask_at = now + PATIENCE_S
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_again(now)

    async def _ping_twice(self) -> None:
        """Once, so that all that was sent before is carried out; and again, so that what was answered by then has reached us when this is read."""
        if self._own is None or not self._own.is_usable():
            await self._forget_own()
            self._own = await self._connected()
        await self._own.ask(_PING)
        await self._own.ask(_PING)
        # Who reads them takes a turn of the loop or two.
        for _ in range(3):
            await asyncio.sleep(0)

    async def _forget_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            await own.disconnect(nowait=True)
