"""Rates: in no window more starts than the maximum, and no start later than the rate lets it be. And groups that a worker said are limited for a while."""

import asyncio
from collections.abc import Callable

import pytest
from jobwire_broker.store.arguments import JobItem, LeaseRequest

from tests.support.line_state import GroupView
from tests.support.queue_lab import QueueLab, ruled
from tests.support.queue_state import session_bytes


async def starts(q: QueueLab, jobs: int = 50) -> list[int]:
    """Lease whenever the store says that it may be worth it, until nothing waits."""
    tokens: list[int] = []
    while True:
        report = await q.store.turn([], [LeaseRequest(session_bytes("s"), 1, jobs)])
        tokens += [token for _, token, _ in report.leases[0].jobs]
        if not report.waiting:
            return tokens
        assert report.opens_ms >= 0
        await asyncio.sleep(report.opens_ms / 1000)


def most_in_a_window(tokens: list[int], window_us: int) -> int:
    """The most starts in any half-open window."""
    return max(sum(first <= token < first + window_us for token in tokens) for first in tokens)


RATE = {"count": 20, "period": 100}
KINDS: dict[str, Callable[[int], JobItem | str]] = {"queue": lambda i: f"x{i:02}", "group": lambda i: ruled(f"x{i:02}", "g"), "name": lambda i: f"x{i:02}"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("burst", [1, 5, 18])
async def test_no_window_has_more_starts_than_the_rate(q: QueueLab, kind: str, burst: int) -> None:
    rate = {"rate": {**RATE, "burst": burst}}
    policies: dict[str, dict[str, object]] = {"queue": {"limit": rate}, "group": {"group_limit": rate}, "name": {"names": {"work": rate}}}
    await q.set_policy(**policies[kind])
    await q.make(*(KINDS[kind](i) for i in range(44)))
    await q.attach("s")
    tokens = await starts(q)
    assert len(tokens) == 44
    assert most_in_a_window(tokens, 100_000) <= 20
    await q.state()


async def test_the_rate_counts_units(q: QueueLab) -> None:
    await q.set_policy(limit={"rate": {"count": 10, "period": 200}})
    await q.make(*(ruled(f"x{i}", units=1 + 3 * (i % 3)) for i in range(12)))
    await q.attach("s")
    tokens = await starts(q)
    units = [1 + 3 * (i % 3) for i in range(12)]
    assert len(tokens) == 12
    for first in tokens:
        assert sum(count for token, count in zip(tokens, units, strict=True) if first <= token < first + 200_000) <= 10


@pytest.mark.parametrize("kind", ["group", "name"])
async def test_a_rate_is_remembered_while_nothing_runs(q: QueueLab, kind: str) -> None:
    rate: dict[str, object] = {"rate": {"count": 2, "period": 400}}
    await q.set_policy(**({"group_limit": rate} if kind == "group" else {"names": {"work": rate}}))
    group = "g" if kind == "group" else ""
    await q.make(ruled("a", group), ruled("b", group, units=2))
    await q.attach("s")
    (a,) = (await q.lease("s", 1)).values()
    await q.complete("a", a)
    # Another start of one unit would be allowed from here on; what the job of two units needs is not forgotten with the group's last lease.
    await asyncio.sleep(0.21)
    await q.tick("s")
    assert await q.lease("s", 1) == {}
    (b,) = await starts(q)
    assert b - a >= 400_000


async def test_a_handed_back_job_has_started_all_the_same(q: QueueLab) -> None:
    await q.set_policy(limit={"rate": {"count": 1, "period": 60_000}})
    await q.make("a", "b")
    await q.attach("s")
    token = (await q.lease("s", 5))["a"]
    await q.turn("R", "a", token)
    report = await q.store.turn([], [LeaseRequest(session_bytes("s"), 1, 5)])
    assert report.leases[0].jobs == []
    assert 59_000 < report.opens_ms <= 60_100


async def test_a_worker_freezes_a_group_alone_and_uncharged(q: QueueLab) -> None:
    await q.make(*(ruled(f"{group}{i}", group) for i in range(2) for group in "ab"))
    await q.attach("s")
    tokens = await q.lease("s", 1)
    assert await q.turn("G", "a0", tokens["a0"], 60_000) == ("OK", "WAITING")
    assert await q.turn("G", "a0", tokens["a0"], 60_000) == ("OK", "WAITING")
    state = await q.state()
    assert (state.lines["la"], state.jobs["a0"].attempt, state.groups["a"].place) == (["a0", "a1"], 0, "b")
    assert list(await q.lease("s", 9)) == ["b0", "b1"]
    assert 59_000 < (await q.store.group("a")).limited_until_ms - await q.now_ms() <= 60_000
    await q.store.set_group("a", thaw=True)
    assert list(await q.lease("s", 9)) == ["a0", "a1"]


async def test_a_frozen_group_runs_again_by_itself(q: QueueLab) -> None:
    await q.make(ruled("a0", "a"))
    await q.attach("s")
    token = (await q.lease("s", 1))["a0"]
    await q.turn("G", "a0", token, 50)
    assert await q.lease("s", 1) == {}
    assert len(await starts(q, 1)) == 1


async def test_a_paused_queue_names_no_time_at_which_to_ask_again(q: QueueLab) -> None:
    await q.make(ruled("a0", "a"), ruled("a1", "a"))
    await q.attach("s")
    await q.turn("G", "a0", (await q.lease("s", 1))["a0"], 1)
    await q.store.pause(True)
    await asyncio.sleep(0.002)
    report = await q.store.turn([], [LeaseRequest(session_bytes("s"), 1, 5)])
    assert (report.waiting, report.leases[0].jobs, report.opens_ms) == (2, [], -1)
    await q.store.pause(False)
    assert list(await q.lease("s", 5)) == ["a0", "a1"]


async def test_the_memory_of_a_frozen_group_without_jobs_goes_with_its_time(q: QueueLab) -> None:
    await q.make(ruled("a0", "a"))
    await q.attach("s")
    token = (await q.lease("s", 1))["a0"]
    await q.turn("G", "a0", token, 1)
    await q.store.cancel(b"a0", 0)
    await asyncio.sleep(0.01)
    await q.pulse()
    assert (await q.state()).groups == {"a": GroupView("v")}
    assert await q.redis.keys(q.base + "[GbrU]*") == []


async def test_a_job_of_no_group_is_put_off_alone(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    assert await q.turn("G", "a", tokens["a"], 60_000) == ("OK", "DELAYED")
    state = await q.state()
    assert (state.delayed, state.jobs["a"].attempt) == (["a"], 0)


async def test_a_group_whose_rate_is_remembered_starts_as_soon_as_the_rate_lets_it(q: QueueLab) -> None:
    await q.set_policy(group_limit={"rate": {"count": 10, "period": 60_000, "burst": 5}})
    await q.attach("s")
    await q.make(ruled("a1", "a"))
    await q.complete("a1", (await q.lease("s", 1))["a1"])
    await q.make(ruled("a2", "a"))
    assert list(await q.lease("s", 1)) == ["a2"]
