"""Connections for calls, without the layers that a general client puts around each: no pool lock, no retry wrapper, no health check.

A call through them costs half the CPU of one through the client's own execute_command, and every job goes through three calls.
"""

from __future__ import annotations

from typing import Any

import hiredis
import redis.asyncio as redis
from redis.exceptions import ResponseError


def packing_in_c(connection_class: type[Any]) -> type[Any]:
    """The same connection, with hiredis packing its commands: the asyncio client packs in Python, which cost as much as all of our own work on a call."""

    class PackingConnection(connection_class):  # type: ignore[misc]  # its base is known at run time alone
        def pack_command(self, *args: Any) -> list[bytes]:
            return [hiredis.pack_command(args)]

        def is_usable(self) -> bool:
            """Whether it is open, and the store has not closed it meanwhile."""
            return bool(self.is_connected) and not self._reader.at_eof()

    return PackingConnection


class Connections:
    """As many connections as there are calls at once; one that has failed is closed."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._make: Any = pool.make_connection
        self._idle: list[Any] = []

    async def call(self, *args: Any) -> Any:
        """Send one command and read its answer. Raises RedisError."""
        connection: Any = self._idle.pop() if self._idle else self._make()
        try:
            if not connection.is_usable():
                await connection.disconnect(nowait=True)
                await connection.connect()
            await connection.send_packed_command([hiredis.pack_command(args)], check_health=False)
            answer = await connection.read_response()
        except ResponseError:
            # An answer like any other: the connection is in order.
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return answer

    async def close(self) -> None:
        """Close those that are idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)
