"""Calls whose answers never come are given up soon, and no others are (store/call_watch.py)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis
from jobwire_broker.config import BrokerConfig
from jobwire_broker.errors import StoreUnavailable
from jobwire_broker.store.arguments import JobItem
from jobwire_broker.store.client import CALL_TIMEOUT_S, DISK_STEP_S, StoreClient
from jobwire_broker.store.connections import MAX_CONNECTIONS
from jobwire_broker.store.queue_store import QueueStore

from tests.support.lossy_store import Loss, LossyStore
from tests.support.relay import Link, Relay
from tests.support.store import Store

#: What a machine that runs other tests, too, may add to a time.
LOAD_S = 0.75


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[StoreClient]:
    client = StoreClient(BrokerConfig(store=url))
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def _job(number: int, payload: bytes = b"") -> JobItem:
    return JobItem(b"%016d" % number, "", 5, 1, b"\x04work" + payload)


async def test_a_call_whose_answer_is_lost_is_given_up_at_once_and_known_to_be_unknown(store: Store) -> None:
    async with LossyStore(store, seed=1, reply_every=3, loss=Loss.STALL) as proxy, _client(proxy.url) as client:
        queue = QueueStore(client, "q")
        for number in (1, 2):
            await queue.enqueue([_job(number)])
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            await queue.enqueue([_job(3)])
        assert raised.value.accepted == "unknown"
        assert time.monotonic() - began < CALL_TIMEOUT_S
        assert client.available
        # The one that was given up had been carried out.
        assert (await queue.stats()).waiting == 3


async def test_who_calls_beside_a_lost_answer_waits_for_nothing(store: Store) -> None:
    async with LossyStore(store, seed=1, reply_every=2, loss=Loss.STALL) as proxy, _client(proxy.url) as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        lost = asyncio.create_task(queue.stats())
        await proxy.lost.wait()
        await queue.stats()
        assert not lost.done()
        with pytest.raises(StoreUnavailable):
            await lost


async def test_a_store_that_is_slow_is_waited_for(store: Store) -> None:
    async with _client(store.url) as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        store.freeze()
        calls = [asyncio.create_task(queue.stats()) for _ in range(10)]
        await asyncio.sleep(CALL_TIMEOUT_S * 0.7)
        store.thaw()
        assert [stats.waiting for stats in await asyncio.gather(*calls)] == [0] * 10


async def test_a_store_that_hangs_is_given_up_when_the_time_of_the_call_is_up(store: Store) -> None:
    async with _client(store.url) as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        store.freeze()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            await queue.stats()
        assert raised.value.accepted == "unknown"
        assert CALL_TIMEOUT_S - 0.01 < time.monotonic() - began < CALL_TIMEOUT_S + LOAD_S
        store.thaw()


async def test_an_answer_that_takes_long_to_come_through_is_waited_for(store: Store) -> None:
    async with _client(store.url) as direct:
        await QueueStore(direct, "q").enqueue([_job(1, b"\x01" + (400_000).to_bytes(4, "big") + bytes(400_000))])
    async with _SlowLine(str(store.socket), bytes_per_s=600_000) as line, _client(f"redis://{line.address}") as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        began = time.monotonic()
        found = (await queue.inspect(_job(1).raw_id)).found
        assert len(found.record) > 400_000
        assert time.monotonic() - began > 0.5


class _SlowLine(Relay):
    """A line that moves so much per second towards the near side."""

    def __init__(self, target: str, bytes_per_s: int) -> None:
        super().__init__(target)
        self._bytes_per_s = bytes_per_s

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 << 12):
            if not up:
                await asyncio.sleep(len(data) / self._bytes_per_s)
            writer.write(data)
            await writer.drain()


async def test_a_thousand_calls_at_once_share_a_bounded_number_of_connections(store: Store) -> None:
    async with _client(store.url) as client:
        queue = QueueStore(client, "q")
        await asyncio.gather(*(queue.enqueue([_job(number)]) for number in range(1000)))
        assert (await queue.stats()).waiting == 1000
        async with redis.Redis.from_url(store.url, protocol=2) as asking:
            assert MAX_CONNECTIONS <= len(await asking.client_list()) <= MAX_CONNECTIONS + 4


async def test_who_waits_for_a_connection_has_no_longer_than_others_and_learns_that_nothing_was_sent(store: Store) -> None:
    # Where this process is held up, all connections may be given up at one moment, and those who wait for one be sent after all: then it is tried again.
    told: list[str] = []
    for _ in range(3):
        told = await _told_by_a_frozen_store(store)
        assert len(told) == MAX_CONNECTIONS + 30
        # A connection that is given up in time may still take one of those that wait for one.
        if 25 <= told.count("no") <= 30:
            return
    raise AssertionError(told)


async def _told_by_a_frozen_store(store: Store) -> list[str]:
    """Of more calls at once than there are connections: whether each may have been accepted."""
    async with _client(store.url) as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        store.freeze()
        began = time.monotonic()
        errors = await asyncio.gather(*(queue.enqueue([_job(number)]) for number in range(MAX_CONNECTIONS + 30)), return_exceptions=True)
        assert time.monotonic() - began < CALL_TIMEOUT_S + 0.2 + LOAD_S
        store.thaw()
        return [error.accepted for error in errors if isinstance(error, StoreUnavailable)]


async def test_one_who_gives_up_waiting_for_a_connection_takes_none_from_the_others(store: Store) -> None:
    async with _client(store.url) as client:
        queue = QueueStore(client, "q")
        await queue.stats()
        store.freeze()
        calls = [asyncio.create_task(queue.stats()) for _ in range(MAX_CONNECTIONS + 20)]
        await asyncio.sleep(0.1)
        for impatient in calls[MAX_CONNECTIONS::2]:
            impatient.cancel()
        store.thaw()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, asyncio.CancelledError) for answer in answers) == 10
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        await asyncio.gather(*(queue.stats() for _ in range(2 * MAX_CONNECTIONS)))


class _DeafToSyncs(Relay):
    """Its first connection that asks for a sync hangs from then on."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.hung = 0
        self._deaf: set[Link] = set()

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 << 16):
            if up and b"WAITAOF" in data and not self.hung:
                self.hung += 1
                self._deaf.add(link)
            if link not in self._deaf:
                writer.write(data)
                await writer.drain()


async def test_a_sync_whose_answer_is_lost_is_asked_for_again_on_another_connection(store: Store) -> None:
    async with _DeafToSyncs(str(store.socket)) as relay, _client(f"redis://{relay.address}") as client:
        began = time.monotonic()
        await client.sync_to_disk()
        assert relay.hung == 1
        assert time.monotonic() - began < 1.5 * DISK_STEP_S + 1 + LOAD_S
        assert client.available
