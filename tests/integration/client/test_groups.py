"""Groups through both clients."""

from datetime import timedelta

import pytest
from jobwire_client import Client, InvalidRequest, Limit, RateLimit, SyncClient

from tests.support import Broker
from tests.support.process import PATIENT_S


async def test_groups_are_listed_paused_and_given_rules(shared_broker: Broker, queue: str) -> None:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        await client.enqueue(queue, "double", 1, group="acme")
        await client.enqueue(queue, "double", 2, group="beta")
        assert (await client.pause_group(queue, "acme")).paused
        limit = Limit(concurrency=3, rate=RateLimit(count=10, period=timedelta(seconds=1), burst=2))
        changed = await client.update_group(queue, "beta", weight=2, express=True, limit=limit)
        assert (changed.weight, changed.express, changed.limit) == (2, True, limit)
        found = await client.groups(queue)
        assert [(group.name, group.waiting, group.paused, group.limit) for group in found] == [("acme", 1, True, None), ("beta", 1, False, limit)]
        assert not (await client.resume_group(queue, "acme")).paused
        assert (await client.update_group(queue, "beta", limit="default")).limit is None
        assert (await client.update_group(queue, "beta", limit=Limit())).limit == Limit()
        with pytest.raises(InvalidRequest):
            await client.update_group(queue, "beta", weight=0.001)
        with pytest.raises(InvalidRequest):
            await client.update_group(queue, "beta")


def test_the_client_for_threads_does_the_same(shared_broker: Broker, queue: str) -> None:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        assert client.update_group(queue, "acme", weight=2).weight == 2
        assert client.pause_group(queue, "acme").paused
        assert not client.resume_group(queue, "acme").paused
        assert [group.name for group in client.groups(queue)] == ["acme"]
