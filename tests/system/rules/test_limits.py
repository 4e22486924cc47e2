"""Limits under fire: never one too many by the store's own account, nor by handlers that overlap, however workers come and go; and rates that hold and are
reached."""

import asyncio
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import queue_service_pb2 as pb
from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.watching import decode_events
from jobwire_broker.store import codec
from jobwire_broker.store.client import StoreClient

from tests.support import outcomes
from tests.support.history import History
from tests.support.meanwhile import meanwhile
from tests.support.system import System, system

LIMIT, JOBS, WORKERS = 7, 20_000, 4
GO_EVERY_S = 1.5
GROUP_LIMIT, GROUPS, MOST_UNITS = 4, ("a", "b", "c"), 3
RATE, PERIOD_MS = 100, 1_000
_ACTIVE = job_pb2.JOB_STATE_ACTIVE
_ALL = ""


class Leases:
    """The leases of a queue as each transition that the store publishes leaves them: in units, of all jobs and of each group's."""

    def __init__(self) -> None:
        self.held: dict[bytes, tuple[int, str]] = {}
        self.units: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.transitions = 0
        self.tokens: list[int] = []

    def take(self, message: bytes) -> None:
        """Follow one call to the store, in the order in which it did things."""
        for raw_id, record in decode_events(message)[2]:
            header = codec.header_of(record)
            self.transitions += 1
            if header.state != _ACTIVE:
                self._count(-1, *self.held.pop(raw_id, (0, "")))
            elif raw_id not in self.held:
                found = codec.sections(record, codec.body_start(record))
                units = int.from_bytes(found.get(codec.TAG_UNITS, b"\1"), "big")
                self.held[raw_id] = (units, found.get(codec.TAG_GROUP, b"").decode())
                self.tokens.append(header.token)
                self._count(1, *self.held[raw_id])

    def _count(self, sign: int, units: int, group: str) -> None:
        for counted in {_ALL, group}:
            self.units[counted] += sign * units
            self.most[counted] = max(self.most[counted], self.units[counted])


@asynccontextmanager
async def watched(it: System) -> AsyncIterator[Leases]:
    """Follow the leases of the test's queue."""
    client = redis.asyncio.Redis.from_url(it.store.url)
    pubsub = client.pubsub()
    leases = Leases()
    await pubsub.subscribe(StoreClient(BrokerConfig(store=it.store.url)).base(it.queue) + "E")

    async def follow() -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                leases.take(message["data"])

    task = asyncio.create_task(follow())
    try:
        yield leases
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis.asyncio leaves it without types
        await client.aclose()


async def set_limits(it: System, **limits: policy_pb2.Limit) -> None:
    queue = pb.Queue(name=f"queues/{it.queue}", policy=policy_pb2.QueuePolicy(**limits))  # type: ignore[arg-type]  # protobuf checks the names
    await it.apis[0].queues.UpdateQueue(pb.UpdateQueueRequest(queue=queue, update_mask=FieldMask(paths=["policy"])))


async def come_and_go(it: System, killed: dict[int, float], drained: list[int]) -> None:
    """Kill a worker at random, or tell it to end and hand back what it has, and start another, until told to stop. Notes when each process died."""
    while True:
        await asyncio.sleep(it.random.uniform(0, 2 * GO_EVERY_S))
        worker = it.workers.pop(it.random.randrange(len(it.workers)))
        if it.random.random() < 1 / 3:
            await worker.stop()
            drained.append(worker.pid)
        else:
            killed[worker.pid] = await it.kill_worker(worker)
        await it.start_workers(1, concurrency=10)


def most_overlapping(history: History, killed: dict[int, float]) -> int:
    """How many handlers ran at once, at the most. One ends when it says so, or when its process is killed."""
    ends = {(event.job, event.token): event.at_s for event in [*history.dones, *history.stops]}
    moments = []
    for start in history.starts:
        end = min(ends.get((start.job, start.token), math.inf), killed.get(start.pid, math.inf))
        moments += [(start.at_s, 1), (end, -1)]
    running = most = 0
    for _, step in sorted(moments):
        running += step
        most = max(most, running)
    return most


@pytest.mark.slow
@meanwhile
async def test_a_limit_of_seven_never_sees_eight() -> None:
    async with system("limit of seven") as it, watched(it) as leases:
        await set_limits(it, limit=policy_pb2.Limit(concurrency=LIMIT))
        killed, drained = await _run_beside_workers_that_come_and_go(it, [{}] * JOBS)
        verdict, overlapping = it.history.verdict(), most_overlapping(it.history, killed)
        said = f"{verdict}; {leases.transitions} transitions, {leases.most[_ALL]} leases and {overlapping} handlers at most"
        outcomes.tell(it.test, f"{said}, {len(killed)} kills, {len(drained)} drains")
        assert leases.most[_ALL] == LIMIT
        assert overlapping <= LIMIT
        assert killed
        assert leases.transitions >= 2 * JOBS
        assert not verdict.lost


@pytest.mark.slow
@meanwhile
async def test_limits_in_units_of_a_queue_and_of_each_group_are_never_passed() -> None:
    async with system("limits in units") as it, watched(it) as leases:
        await set_limits(it, limit=policy_pb2.Limit(concurrency=LIMIT), group_limit=policy_pb2.Limit(concurrency=GROUP_LIMIT))
        asked: list[dict[str, Any]] = [{"group": it.random.choice(GROUPS), "units": it.random.randint(1, MOST_UNITS)} for _ in range(JOBS // 5)]
        killed, drained = await _run_beside_workers_that_come_and_go(it, asked)
        verdict = it.history.verdict()
        most = ", ".join(f"{leases.most[group]} of group {group}" for group in GROUPS)
        outcomes.tell(it.test, f"{verdict}; {leases.most[_ALL]} units at most, {most}, {len(killed)} kills, {len(drained)} drains")
        assert leases.most[_ALL] == LIMIT
        assert {leases.most[group] for group in GROUPS} == {GROUP_LIMIT}
        assert not verdict.lost


async def _run_beside_workers_that_come_and_go(it: System, jobs: Sequence[dict[str, Any]]) -> tuple[dict[int, float], list[int]]:
    """Run a job with each of these fields. Returns when which worker was killed, and which ones were told to end."""
    killed: dict[int, float] = {}
    drained: list[int] = []
    await it.start_workers(WORKERS, concurrency=10)
    going = asyncio.create_task(come_and_go(it, killed, drained))
    alike = Counter(tuple(fields.items()) for fields in jobs)
    for fields, count in alike.items():
        await it.enqueue(count, ms=(0, 3), **dict(fields))
    await it.all_done(170)
    going.cancel()
    return killed, drained


@pytest.mark.slow
async def test_a_hundred_a_second_is_never_a_hundred_and_one_and_is_reached() -> None:
    async with system("rate of a hundred") as it, watched(it) as leases:
        rate = policy_pb2.RateLimit(count=RATE, period=Duration(seconds=PERIOD_MS // 1000))
        await set_limits(it, limit=policy_pb2.Limit(rate=rate))
        await it.enqueue(1_000, ms=(0, 0))
        await it.start_workers(WORKERS, concurrency=50)
        began = time.monotonic()
        await it.all_done(60)
        took = timedelta(seconds=time.monotonic() - began)
    tokens = sorted(leases.tokens)
    most = max(bisect_left(tokens, first + PERIOD_MS * 1000) - i for i, first in enumerate(tokens))
    spread_s = (tokens[-1] - tokens[0]) / 1e6
    outcomes.tell("rate of a hundred", f"{len(tokens)} starts within {spread_s:.2f} s, at most {most} in any second; {took}")
    assert len(tokens) == 1_000
    assert most <= RATE
    assert spread_s < 11
