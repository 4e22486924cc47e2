"""The store is there and takes no writes, or fails over single calls: nobody loses anything, and all goes on when it does its work again."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
import redis.asyncio as redis
from jobwire.v1 import event_service_pb2, job_pb2
from jobwire.v1 import worker_service_pb2 as work
from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.registry import Registry
from jobwire_broker.store.client import StoreClient
from jobwire_client import Client, QueueUnavailable

from tests.integration.broker.asking import completed, enqueue, get, job_name_of, patiently
from tests.support import Broker, Store
from tests.support.api import Refusal, refusal
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A Valkey for the tests of this file."""
    with Store().started() as store:
        yield store


@pytest.fixture(scope="module")
def broker(store: Store) -> Iterator[Broker]:
    """A broker on it with a session time of 2 s."""
    with Broker(store, session_time="2s").started() as broker:
        yield broker


@asynccontextmanager
async def asking(store: Store) -> AsyncIterator[Any]:
    """A connection to the store, for whoever operates it."""
    client: Any = redis.Redis.from_url(store.url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


async def test_a_store_without_enough_replicas_costs_no_finish_no_stream_and_no_time(store: Store, broker: Broker, queue: str) -> None:
    async with (
        connected(broker) as api,
        asking(store) as operator,
        Client(broker.address) as client,
        RawWorker(broker.address, queue) as worker,
        RawWorker(broker.address, queue) as later,
    ):
        name = await enqueue(api, queue, "one")
        await worker.hello(credit=1)
        (one,) = await worker.jobs(1)
        await operator.config_set("min-replicas-to-write", 1)
        await worker.send(work.WorkRequest(finishes=[completed(one)]))
        await later.send(work.WorkRequest(hello=work.Hello(session=later.session, epoch=1, queues=[queue])))
        began = time.monotonic()
        with pytest.raises(QueueUnavailable) as refused:
            await client.enqueue(queue, "work", {})
        assert time.monotonic() - began < 2
        assert (refused.value.accepted, refused.value.reason, refused.value.retry_after) == ("no", "STORE_UNAVAILABLE", timedelta(seconds=1))
        # Longer than the session time.
        while (await worker.receive(lambda frame: frame.HasField("ping"))).ping.lease_left.ToNanoseconds():
            pass
        await operator.config_set("min-replicas-to-write", 0)
        async with asyncio.timeout(5):
            (ack,) = (await worker.receive(lambda frame: bool(frame.acks))).acks
            await later.receive(lambda frame: frame.HasField("welcome"))
        assert (ack.id, ack.verdict) == ("one", work.VERDICT_OK)
        ended = await get(api, name)
        assert (ended.state, ended.attempt, ended.losses) == (State.JOB_STATE_COMPLETED, 1, 0)
        assert not [line for line in broker.lines() if "Traceback" in line or "never retrieved" in line]


async def test_a_store_that_comes_back_and_may_evict_jobs_is_not_used_and_callers_hear_why(store: Store, broker: Broker, queue: str) -> None:
    async with connected(broker) as api, asking(store) as operator:
        await operator.config_set("min-replicas-to-write", 1)
        assert "replicas" in (await refusal(enqueue(api, queue))).message
        await operator.config_set("maxmemory-policy", "allkeys-lru")
        await operator.config_set("min-replicas-to-write", 0)
        await broker.line("store.unusable .*allkeys-lru", past=True)
        refused = await refusal(enqueue(api, queue))
        assert (refused.reason, refused.metadata["accepted"]) == ("STORE_UNAVAILABLE", "no")
        assert "set it to noeviction" in refused.message
        await operator.config_set("maxmemory-policy", "noeviction")
        await patiently(lambda: enqueue(api, queue), 5)
        assert len([line for line in broker.lines() if "store.unusable" in line and "allkeys-lru" in line]) == 1


async def is_busy(operator: Any) -> bool:
    """Whether the store says so."""
    try:
        await operator.get("anything")
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


async def test_the_sweep_outlives_a_script_that_keeps_the_store_busy(store: Store) -> None:
    client = StoreClient(BrokerConfig(store=store.url))
    await client.start()
    registry = Registry(client, 10_000)
    async with asking(store) as operator, asking(store) as busy:
        await operator.config_set("busy-reply-threshold", 1)
        running = asyncio.create_task(busy.eval("while true do end", 0))
        async with asyncio.timeout(5):
            while not await is_busy(operator):
                pass
            registry.start()
            while client.available:
                await asyncio.sleep(0.01)
        await operator.script_kill()
        with pytest.raises(redis.ResponseError, match="killed"):
            await running
    assert registry._sweep is not None
    assert not registry._sweep.done()
    await registry.stop()
    await client.stop()


@asynccontextmanager
async def without_functions(operator: Any) -> AsyncIterator[None]:
    """The store lets nobody call a function, which no broker is ready for: each call is a fault."""
    await operator.execute_command("ACL", "SETUSER", "default", "-fcall")
    try:
        yield
    finally:
        await operator.execute_command("ACL", "SETUSER", "default", "+fcall")


async def test_a_finish_over_which_the_store_fails_is_repeated(store: Store, broker: Broker, queue: str) -> None:
    async with connected(broker) as api, asking(store) as operator, RawWorker(broker.address, queue) as worker:
        name = await enqueue(api, queue, "one")
        await worker.hello(credit=1)
        (one,) = await worker.jobs(1)
        async with without_functions(operator):
            await worker.send(work.WorkRequest(finishes=[completed(one)], progress=[work.ProgressReport(queue=queue, id="one", token=one.token)]))
            await broker.line(f"partition.turn_failed queue={queue} kind=C", past=True)
        async with asyncio.timeout(5):
            (ack,) = (await worker.receive(lambda frame: bool(frame.acks))).acks
        assert (ack.id, ack.verdict) == ("one", work.VERDICT_OK)
        assert (await get(api, name)).state == State.JOB_STATE_COMPLETED


async def test_a_stream_whose_finish_can_not_be_settled_ends_and_says_why(store: Store, broker: Broker, queue: str) -> None:
    async with connected(broker) as api, asking(store) as operator, RawWorker(broker.address, queue) as worker:
        await enqueue(api, queue, "one")
        await worker.hello(credit=1)
        (one,) = await worker.jobs(1)
        async with without_functions(operator):
            await worker.send(work.WorkRequest(finishes=[completed(one)]))
            async with asyncio.timeout(10):
                refused = Refusal.of(await worker.ended())
        assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "STORE_FAULT")


async def test_a_hello_over_which_the_store_fails_is_refused_and_says_why(store: Store, broker: Broker, queue: str) -> None:
    async with connected(broker) as api, asking(store) as operator, RawWorker(broker.address, queue) as worker:
        await enqueue(api, queue, "one")
        async with without_functions(operator):
            await worker.send(work.WorkRequest(hello=work.Hello(session=worker.session, epoch=1, queues=[queue])))
            async with asyncio.timeout(5):
                refused = Refusal.of(await worker.ended())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await enqueue(api, queue, "two")
        assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "STORE_FAULT")
        assert (Refusal.of(raised.value).code, Refusal.of(raised.value).reason) == (grpc.StatusCode.INTERNAL, "STORE_FAULT")


async def test_a_topic_over_which_the_store_fails_is_live_when_it_does_not_any_more(store: Store, broker: Broker, queue: str) -> None:
    async with connected(broker) as api, asking(store) as operator:
        await enqueue(api, queue, "one")
        call = api.events.Subscribe()
        async with without_functions(operator):
            await call.write(event_service_pb2.SubscribeRequest(add=[job_name_of(queue, "one")]))
            await broker.line("subscribe.store_fault", past=True)
        async with asyncio.timeout(5):
            frame: Any = await call.read()
            while not frame.added:
                frame = await call.read()
        assert list(frame.added) == [job_name_of(queue, "one")]
        call.cancel()
