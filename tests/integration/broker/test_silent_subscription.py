"""A connection for messages that brings none any more, and does not break: nobody is late for it, and it is made again."""

import asyncio
import time

import grpc.aio
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import enqueue
from tests.support import Broker, Store
from tests.support.api import Api, api
from tests.support.lossy_store import LossyStore


async def test_a_silent_subscription_is_found_and_made_again_and_its_watchers_learn_the_end_in_time(store: Store) -> None:
    async with LossyStore(store, seed=1) as proxy, Broker(proxy.url) as broker, api(broker) as services:
        first, second = await enqueue(services, "q", "first"), await enqueue(services, "q", "second")
        watch, later = await _watch(services, first), await _watch(services, second)
        proxy.silence_subscriptions()
        assert await _seconds_to_the_end(services, first, watch) < 2
        await broker.line("listener.lost", past=True, timeout=4)
        await broker.line("listener.back", past=True, timeout=2)
        assert await _seconds_to_the_end(services, second, later) < 0.25


async def test_a_store_that_is_slow_for_a_second_keeps_the_subscription(store: Store) -> None:
    async with Broker(store) as broker, api(broker) as services:
        name = await enqueue(services, "q", "one")
        watch = await _watch(services, name)
        await asyncio.sleep(1)
        store.freeze()
        await asyncio.sleep(1)
        store.thaw()
        assert await _seconds_to_the_end(services, name, watch) < 0.5
        assert not [line for line in broker.lines() if "listener.lost" in line or "store.unavailable" in line]


async def _watch(services: Api, name: str) -> "asyncio.Task[None]":
    """Follow a job to its end. Returns once the snapshot is there."""
    call = services.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]), timeout=30)
    await call.read()

    async def to_the_end() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    return asyncio.create_task(to_the_end())


async def _seconds_to_the_end(services: Api, name: str, watch: "asyncio.Task[None]") -> float:
    began = time.monotonic()
    await services.jobs.CancelJob(pb.CancelJobRequest(name=name))
    await watch
    return time.monotonic() - began
