"""A primary and a replica of real stores, and one address that leads to whichever is the primary, as a name of a managed store does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis

from tests.support.relay import Relay
from tests.support.store import Store

# A replica is sent its first copy at once, and not after the five seconds in which more of them might come.
_AT_ONCE = ["--repl-diskless-sync-delay", "0"]
_SYNC_MS = 10_000


class Pair:
    """The two of them. What the primary has written reaches the replica until `cut_replication`."""

    def __init__(self, primary: Store, replica: Store, front: Relay, replication: Relay) -> None:
        self.primary = primary
        self.replica = replica
        self._front = front
        self._replication = replication

    @property
    def url(self) -> str:
        """As `jobwire broker --store` takes it."""
        return f"redis://{self._front.address}"

    async def caught_up(self) -> None:
        """Wait until the replica has all that the primary has."""
        async with _connected(self.primary) as store:
            await store.set("caught up", "")
            assert await store.wait(1, _SYNC_MS) == 1

    def cut_replication(self) -> None:
        """What the primary writes from here on stays with it alone."""
        self._replication.refuse()
        self._replication.cut_all()

    async def fail_over(self) -> None:
        """The primary dies, and the replica takes its place with what it has."""
        await self.primary.kill()
        await self._promote()
        self._front.cut_all()

    async def hand_over(self) -> None:
        """The replica takes its place, and the old primary lives on as a replica that hears nothing new: so do the connections to it."""
        async with _connected(self.primary) as store:
            await store.replicaof("127.0.0.1", 1)
        await self._promote()

    async def _promote(self) -> None:
        async with _connected(self.replica) as store:
            await store.replicaof("NO", "ONE")
        self._front.target = str(self.replica.socket)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """A primary, and a replica that has caught up with it."""
    primary = Store(extra=_AT_ONCE)
    async with (
        Relay(str(primary.socket)) as front,
        Relay(str(primary.socket)) as replication,
        primary,
        Store(extra=["--replicaof", *replication.address.split(":")]) as replica,
    ):
        both = Pair(primary, replica, front, replication)
        await both.caught_up()
        yield both


@asynccontextmanager
async def _connected(store: Store) -> AsyncIterator["redis.Redis"]:
    client = redis.Redis(unix_socket_path=str(store.socket))
    try:
        yield client
    finally:
        await client.aclose()
