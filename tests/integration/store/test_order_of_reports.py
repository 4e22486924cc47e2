"""What a worker says reaches the store in its order, also when a call is lost in between (rules/partition.py)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.partition import Partition
from jobwire_broker.rules.sinks import SILENT, Silent
from jobwire_broker.store.answers import Settled, Word
from jobwire_broker.store.arguments import JobItem, LeaseRequest, TurnItem
from jobwire_broker.store.client import StoreClient

from tests.support.relay import Link, Relay
from tests.support.store import Store

SESSION, JOB = b"s" * 16, b"a" * 16


class _LosesACall(Relay):
    """The first call with `word` in it, and without `other`, does not reach the store. Others do."""

    def __init__(self, target: str, word: bytes, other: bytes) -> None:
        super().__init__(target)
        self.lost = asyncio.Event()
        self._word = word
        self._other = other

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 << 16):
            if up and not self.lost.is_set() and self._word in data and self._other not in data:
                self.lost.set()
            else:
                writer.write(data)
                await writer.drain()


class _Told(Silent):
    """Hears the store's word."""

    def __init__(self) -> None:
        self.word: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        self.word.set_result(settled.word)


@contextlib.asynccontextmanager
async def _partition(line: Relay) -> AsyncIterator[Partition]:
    client = StoreClient(BrokerConfig(store=f"redis://{line.address}"))
    await client.start()
    partition = Partition(client, "q")
    try:
        yield partition
        await partition.idle()
    finally:
        partition.close()
        await client.stop()


async def _lease(partition: Partition) -> int:
    """The job's token, leased."""
    await partition.store.attach(SESSION, 1, 10_000, b"", [])
    report = await partition.store.enqueue([JobItem(JOB, "", 5, 3, b"\x04work")], [LeaseRequest(SESSION, 1, 1)])
    ((_, token, _),) = report.leases[0].jobs
    return token


async def test_a_finish_does_not_overtake_a_checkpoint_whose_call_is_lost(store: Store) -> None:
    async with _LosesACall(str(store.socket), b"page 3", b"no such") as line, _partition(line) as partition:
        token, told = await _lease(partition), _Told()
        partition.settle(TurnItem("K", JOB, token, 1, b"page 3"), "", SILENT)
        await line.lost.wait()
        partition.settle(TurnItem("F", JOB, token, b"", 0), "", told)
        assert await told.word == Word.OK
        assert (await partition.store.kept(JOB))[1] == b"page 3"


async def test_nor_does_it_where_another_item_spoils_the_call_and_each_goes_alone(store: Store) -> None:
    async with _LosesACall(str(store.socket), b"page 3", b"no number") as line, _partition(line) as partition:
        token, told = await _lease(partition), _Told()
        partition.settle(TurnItem("P", JOB, token, "no number"), "", SILENT)
        partition.settle(TurnItem("K", JOB, token, 1, b"page 3"), "", SILENT)
        partition.settle(TurnItem("F", JOB, token, b"", 0), "", told)
        assert await told.word == Word.OK
        assert line.lost.is_set()
        assert (await partition.store.kept(JOB))[1] == b"page 3"
