"""What a call says of its jobs is made ready while another call is under way (rules/partition.py): it is right also when something changes meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio
from jobwire.v1 import policy_pb2
from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.partition import Partition, Results, Ticket
from jobwire_broker.store.arguments import JobItem
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.codec import header_of
from jobwire_broker.store.policy import NO_POLICY, policy_to_text

from tests.support.queue_lab import item
from tests.support.store import Store

URGENT = policy_to_text(policy_pb2.QueuePolicy(priority=1), 1, NO_POLICY)


@pytest.fixture
async def partition(store: Store) -> AsyncIterator[Partition]:
    client = StoreClient(BrokerConfig(store=store.url))
    await client.start()
    partition = Partition(client, "q")
    yield partition
    await partition.idle()
    partition.close()
    await client.stop()


def _enqueue(partition: Partition, items: Sequence[JobItem]) -> asyncio.Future[Results]:
    told: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
    partition.enqueue(items, range(len(items)), Ticket(len(items), told.set_result))
    return told


async def _calls(store: Store) -> int:
    async with redis.asyncio.from_url(store.url) as raw:
        return int((await raw.info("commandstats")).get("cmdstat_fcall", {"calls": 0})["calls"])


async def test_jobs_have_the_priority_of_the_queue_that_was_learned_after_their_call_was_made_ready(store: Store, partition: Partition) -> None:
    await partition.store.set_policy(0, URGENT)
    before = await _calls(store)
    first = _enqueue(partition, [item("a")])
    await asyncio.sleep(0)  # its call is under way
    second = _enqueue(partition, [item("b", priority=None)])
    partition.learn_policy(URGENT)
    assert [await first, await second] == [["MADE"], ["MADE"]]
    assert await _calls(store) == before + 2
    (found,) = await partition.store.get([b"b"])
    assert header_of(found.record).priority == 1


async def test_jobs_that_come_behind_others_go_with_them(store: Store, partition: Partition) -> None:
    before = await _calls(store)
    told = [_enqueue(partition, [item("a")])]
    await asyncio.sleep(0)
    told += [_enqueue(partition, [item(name)]) for name in ("b", "c", "b")]
    assert [await each for each in told] == [["MADE"]] * 4
    assert await _calls(store) == before + 2
