"""Ageing: how long a job is passed over by those of higher priority has a bound."""

import asyncio

import pytest
from jobwire_broker.store import codec

from tests.support.queue_lab import QueueLab, item, ruled


async def test_ageing_bounds_how_long_a_job_is_passed_over(q: QueueLab) -> None:
    await q.set_policy(ageing=100)
    await q.make(item("old", priority=7), item("first", priority=5))
    await asyncio.sleep(0.25)
    await q.make(item("late", priority=5), item("urgent", priority=-95))
    await q.attach("s")
    assert list(await q.lease("s", 9)) == ["urgent", "first", "old", "late"]
    await q.state()


AGEING_MS = 50


async def passed_by(q: QueueLab, low: str, group: str) -> list[int]:
    """Let a stream of urgent jobs run, one at a time and never without the next, until `low` starts. By how many µs those that passed it came after it."""
    await q.make(ruled("u0", group, priority=0))
    passed: list[int] = []
    since = (await q.state()).numbers[low].order
    for number in range(1, 100_000):
        await q.make(ruled(f"u{number}", group, priority=0))
        lease = await q.lease_fully("s", 1)
        ((raw_id, token, record),) = lease.jobs
        await q.complete(raw_id.decode(), token)
        if raw_id.decode() == low:
            return passed
        passed.append(codec.header_of(record).order - since)
    raise AssertionError(f"{low} starves")


@pytest.mark.parametrize("group", ["", "g"])
@pytest.mark.parametrize("retried", [False, True])
async def test_nothing_starves_with_ageing(q: QueueLab, group: str, retried: bool) -> None:
    """A job of priority 3 is passed by those of priority 0 only that came less than three ageing times after it could start."""
    await q.set_policy(ageing=AGEING_MS)
    await q.attach("s")
    await q.make(ruled("low", group, priority=3))
    if retried:
        token = (await q.lease("s", 1))["low"]
        assert await q.fail("low", token, retry_after_ms=1) == ("OK", "DELAYED")
        await asyncio.sleep(0.002)
        await q.pulse("s")
    passed = await passed_by(q, "low", group)
    assert passed, "priority goes first for a while"
    # Places are of milliseconds.
    assert max(passed) < 3 * AGEING_MS * 1000 + 1000
    await q.state()


async def test_what_waits_goes_by_the_ageing_that_holds_now(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.attach("s")
    await q.make(ruled("s0", name="slow"), ruled("s1", name="slow"), ruled("lab", "g", labels={"gpu": "a100"}), item("low", priority=9))
    tokens = await q.lease("s", 1)
    await q.make(*(ruled(f"g{i}", "g", priority=i % 3) for i in range(100)))
    for first in range(0, 300, 100):
        await q.make(*(item(f"a{i}", priority=5) for i in range(first, first + 100)))
    await q.lease("s", 1)
    assert list(tokens) == ["s0"]
    for ageing in (60_000, None, 250, 60_000):
        await q.set_policy(names={"slow": {"concurrency": 1}}, **({"ageing": ageing} if ageing else {}))
        steps = 1
        while (await q.pulse("s")).more:
            steps += 1
            await q.make(item(f"n{ageing}{steps}", priority=1))
        assert 3 <= steps <= 12
        assert await q.redis.hget(q.base + "m", "scored") == str(ageing or 0).encode()
        await q.state()
    assert not (await q.pulse("s")).more


async def test_an_ageing_that_no_pulse_saw_leaves_no_trace(q: QueueLab) -> None:
    await q.make(item("low", priority=6))
    await q.store.set_policy(0, '{"v": 1, "ageing": 60000}')
    await q.make(item("late", priority=5))
    await q.store.set_policy(1, '{"v": 2}')
    await q.pulse()
    await q.attach("s")
    assert list(await q.lease("s", 2)) == ["late", "low"]
