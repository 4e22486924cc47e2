"""The Python client and the command line: identities, changes and purges against a real broker."""

import asyncio

import pytest
from jobwire_client import Client, Debounce, IdempotencyConflict, SyncClient, Throttle, WrongState

from tests.support import Broker
from tests.support.process import PATIENT_S


async def test_the_answer_says_whether_a_job_was_made_found_or_replaced(shared_broker: Broker, queue: str) -> None:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        made = await client.enqueue(queue, "work", 1, unique="k")
        found = await client.enqueue(queue, "work", 2, unique="k")
        assert (made.verdict, found.verdict, found.id, found.name) == ("made", "found", made.id, made.name)
        first = await client.enqueue(queue, "work", 1, debounce=Debounce("d", 60))
        last = await client.enqueue(queue, "work", 2, debounce=Debounce("d", 60))
        assert (last.verdict, last.id, (await client.get(first)).payload) == ("replaced", first.id, 2)
        await client.enqueue(queue, "work", 1, throttle=Throttle("t", 60))
        assert (await client.enqueue(queue, "work", 1, throttle=Throttle("t", 60))).verdict == "found"


async def test_fifty_callers_with_one_idempotency_key_get_one_job(shared_broker: Broker, queue: str) -> None:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client, Client(shared_broker.address, timeout=PATIENT_S) as other:
        results = await asyncio.gather(*((client, other)[i % 2].enqueue(queue, "work", "x", idempotency_key="k") for i in range(50)))
        assert len({result.id for result in results}) == 1
        assert [result.verdict for result in results].count("made") == 1
        with pytest.raises(IdempotencyConflict) as caught:
            await client.enqueue(queue, "work", "y", idempotency_key="k")
        assert caught.value.metadata["differs"] == "payload"


async def test_a_job_that_waits_is_changed_and_a_queue_is_emptied(shared_broker: Broker, queue: str) -> None:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        job = await client.enqueue(queue, "work", 1)
        changed = await client.update(job, payload={"a": 2}, priority="high", due=3600, labels={"a": "b"})
        assert (changed.state, changed.priority, changed.labels, (await client.get(job)).payload) == ("delayed", 1, {"a": "b"}, {"a": 2})
        assert (await client.update(job, due=None)).state == "waiting"
        assert await client.purge_queue(queue) == 1
        ended = await client.enqueue(queue, "work", retention=0)
        await client.cancel(ended)
        assert [job async for job in client.list_jobs(queue, "cancelled")] == []
        assert (await client.wait(ended)).state == "cancelled"
        kept = await client.enqueue(queue, "work")
        await client.cancel(kept)
        with pytest.raises(WrongState):
            await client.update(kept, priority=1)


def test_the_sync_client_does_the_same(shared_broker: Broker, queue: str) -> None:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        job = client.enqueue(queue, "work", unique=True)
        assert client.enqueue(queue, "work", unique=True).verdict == "found"
        assert client.update(job, priority=3).priority == 3
        assert client.purge_queue(queue) == 1
