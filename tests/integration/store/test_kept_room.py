"""Room that is kept for a job of a limited name: whoever was passed often enough by others is passed no more, and nobody is held for longer than that takes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from jobwire_broker.store.answers import KeptRoom
from jobwire_broker.store.arguments import OwnLimit

from tests.support.queue_lab import QueueLab, ruled

HOURLY = {"count": 1, "period": 3_600_000, "burst": 1}


async def open_rate(q: QueueLab, group: str) -> None:
    """Let the rate of a group forget what has started."""
    row = bytearray(await q.redis.hget(q.base + "G", group))
    row[13:21] = bytes(8)
    await q.redis.hset(q.base + "G", group, bytes(row))
    await q.redis.zadd(q.base + "b", {group: 0}, xx=True)


@pytest.mark.parametrize("units", [1, 2])
async def test_a_job_whose_name_and_whose_group_have_room_in_turn_is_not_passed_for_ever(q: QueueLab, units: int) -> None:
    """Each is used up without a break: group a by others of the name "work", the name "export" by others of group b."""
    await q.set_policy(names={"export": {"concurrency": units}}, group_limit={"concurrency": units})
    await q.make(ruled("b0", "b", name="export", units=units), *(ruled(f"a{i}", "a") for i in range(units)))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    await q.make(ruled("first", "a", name="export", units=units))
    for number in range(units, 80):
        await q.make(ruled(f"a{number}", "a"), ruled(f"b{number}", "b", name="export", units=units))
        for group in "ab":
            done = next((raw_id for raw_id in tokens if raw_id.startswith(group)), "")
            if done:
                await q.complete(done, tokens.pop(done))
                tokens |= await q.lease("s", 9)
        if "first" in tokens:
            break
    assert "first" in tokens
    # The rounds in which it misses the room of its name, and those that the wait for it takes.
    assert number <= 16
    await q.state()


async def begin_passing(q: QueueLab) -> dict[str, int]:
    """A job runs that uses up the name "export", and one that uses up the rate of group a; "first" waits for both. Gives the tokens of all that run."""
    await q.set_policy(names={"export": {"concurrency": 1}}, group_limit={"rate": HOURLY})
    await q.make(ruled("x0", name="export"), ruled("a0", "a"))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    assert sorted(tokens) == ["a0", "x0"]
    await q.make(ruled("first", "a", name="export", priority=4), ruled("a1", "a"))
    return tokens


async def passing(q: QueueLab, tokens: dict[str, int], rounds: range, raw_id: str = "first") -> int:
    """Let a job lack the rate of its group while its name has room, and the other way round, until it starts. Answers how many of its group have started."""
    for number in rounds:
        await open_rate(q, "a")
        tokens |= await q.lease("s", 9)
        passed = sum(raw_id.startswith("a") for raw_id in tokens) - 1
        await q.make(ruled(f"a{number + 1}", "a"), ruled(f"x{number}", name="export"))
        await q.complete(f"x{number - 1}", tokens[f"x{number - 1}"])
        tokens |= await q.lease("s", 9)
        if raw_id in tokens:
            break
    return passed


async def test_a_job_whose_name_has_room_while_the_rate_of_its_group_has_none_is_not_passed_for_ever(q: QueueLab) -> None:
    tokens = await begin_passing(q)
    assert await passing(q, tokens, range(1, 30)) == 8
    assert "first" in tokens
    await q.state()


async def test_one_that_waits_in_the_same_way_behind_one_that_is_gone_is_not_passed_for_ever_either(q: QueueLab) -> None:
    tokens = await begin_passing(q)
    assert await passing(q, tokens, range(1, 5)) == 4
    await q.store.cancel(b"first", 0)
    await q.make(ruled("second", "a", name="export", priority=4))
    assert await passing(q, tokens, range(5, 30), "second") == 12
    assert "second" in tokens
    await q.state()


async def test_what_its_group_keeps_for_it_is_told_and_goes_to_others_when_it_is_gone(q: QueueLab) -> None:
    tokens = await begin_passing(q)
    assert await passing(q, tokens, range(1, 9)) == 8
    await open_rate(q, "a")
    assert await q.lease("s", 9) == {}
    assert "first" in (await q.state()).lines["nexport"]
    judged = (await q.store.explain(b"a9")).judged
    assert judged is not None
    assert list(judged.kept) == [KeptRoom("group", b"first", 1, alone=False)]
    await q.store.cancel(b"first", 0)
    assert list(await q.lease("s", 9)) == ["a9"]
    await q.state()


async def test_a_group_gives_of_its_burst_what_is_not_kept(q: QueueLab) -> None:
    tokens = await begin_passing(q)
    assert await passing(q, tokens, range(1, 9)) == 8
    await q.set_policy(names={"export": {"concurrency": 1}}, group_limit={"rate": {"count": 10, "period": 3_600_000, "burst": 3}})
    await open_rate(q, "a")
    await q.make(*(ruled(f"b{i}", "a") for i in range(9)))
    assert list(await q.lease("s", 9)) == ["a9", "b0"]
    await q.state()


async def test_a_group_keeps_nothing_while_it_is_known_when_the_name_has_room_again(q: QueueLab) -> None:
    tokens = await begin_passing(q)
    assert await passing(q, tokens, range(1, 9)) == 8
    await q.set_policy(names={"export": {"rate": {"count": 1, "period": 86_400_000, "burst": 1}}}, group_limit={"rate": HOURLY})
    await q.complete("x8", tokens["x8"])
    await q.make(ruled("y0", name="export", priority=0))
    await open_rate(q, "a")
    assert list(await q.lease("s", 9)) == ["y0", "a9"]
    await q.state()


@pytest.mark.parametrize("limit", [{"concurrency": 1}, {"rate": HOURLY}], ids=["concurrency", "rate"])
async def test_a_name_that_is_used_up_for_long_is_in_nobodys_way(q: QueueLab, limit: dict[str, Any]) -> None:
    await q.set_policy(names={"export": {"concurrency": 1}}, group_limit=limit)
    await q.make(ruled("x", name="export"))
    await q.attach("s")
    await q.lease("s", 9)
    await q.make(ruled("first", "a", name="export"), *(ruled(f"a{i}", "a") for i in range(30)))
    for i in range(30):
        tokens = await q.lease("s", 9)
        assert list(tokens) == [f"a{i}"]
        await open_rate(q, "a")
        await q.complete(f"a{i}", tokens[f"a{i}"])
    await q.state()


NAME_LIMITS = pytest.mark.parametrize("limit", [{"concurrency": 1}, {"rate": HOURLY}], ids=["concurrency", "rate"])


async def open_name(q: QueueLab) -> None:
    """Let the rate of the name "export" forget what has started."""
    row = bytearray(await q.redis.hget(q.base + "N", "export") or bytes(12))
    row[4:12] = bytes(8)
    await q.redis.hset(q.base + "N", "export", bytes(row))
    await q.redis.zadd(q.base + "b", {"\1export": 0}, xx=True)


class Passing:
    """A job "first" of the name "export": others of its line use up the share of that, and later ones of its name come whenever that has room."""

    def __init__(self, q: QueueLab, limit: dict[str, Any], group: str = "a", rivals: str = "b") -> None:
        self._q, self._limit, self._group, self._rivals = q, limit, group, rivals
        self._round = 0
        self.tokens: dict[str, int] = {}

    async def begin(self, **policy: object) -> None:
        q = self._q
        await q.set_policy(names={"export": self._limit}, **policy)
        await q.attach("s")
        await self.round()
        await q.make(ruled("first", self._group, name="export"))

    async def round(self) -> list[str]:
        """One more of its name comes, and some of its line; what runs ends. Answers what starts."""
        await self.prepare(5)
        return await self.lease(9)

    async def prepare(self, busy: int) -> None:
        q, number = self._q, self._round
        self._round += 1
        await q.make(*(ruled(f"a{number}-{i}", self._group) for i in range(busy)), ruled(f"x{number}", self._rivals, name="export"))
        for raw_id in list(self.tokens):
            await q.complete(raw_id, self.tokens.pop(raw_id))
        await open_name(q)

    async def lease(self, jobs: int) -> list[str]:
        tokens = await self._q.lease("s", jobs)
        self.tokens |= tokens
        return list(tokens)

    async def pass_it(self) -> None:
        """It is parked, and then misses the room of its name as often as it takes until that is kept for it."""
        await self.begin()
        for number in range(1, 10):
            assert f"x{number}" in await self.round()
        assert "first" not in self.tokens

    async def keep(self) -> None:
        """The room is kept for it: "x10" is parked, and what starts is one of a group whose turn comes before its own."""
        await self.pass_it()
        await self.prepare(0)
        await self._q.make(ruled("c", "c"))
        assert await self.lease(1) == ["c"]
        assert (await self._q.state()).lines["nexport"] == ["x10"]


@NAME_LIMITS
@pytest.mark.parametrize(("group", "rivals"), [("a", ""), ("a", "b"), ("", "b")])
async def test_a_job_is_not_passed_for_ever_by_later_ones_of_its_name_while_others_use_up_the_share_of_its_group(
    q: QueueLab, limit: dict[str, Any], group: str, rivals: str
) -> None:
    passing = Passing(q, limit, group, rivals)
    await passing.pass_it()
    started = await passing.round()
    assert "first" in started
    assert not any(raw_id.startswith("x") for raw_id in started), "it has the name for itself"
    await q.state()
    assert "x10" in await passing.round(), "and then the others have their turn again"
    await q.state()


async def pause(q: QueueLab) -> None:
    await q.store.set_group("a", paused=True)


async def freeze(q: QueueLab) -> None:
    """A worker says that the group is limited. Its job goes back, and is taken away."""
    await q.make(ruled("limited", "a", priority=0))
    tokens = await q.lease("s", 1)
    await q.turn("G", "limited", tokens["limited"], 60_000)
    await q.store.cancel(b"limited", 0)


async def fill(q: QueueLab) -> None:
    await q.make(ruled("busy", "a", priority=0))
    assert list(await q.lease("s", 1)) == ["busy"]
    await q.store.set_group("a", limit=OwnLimit(concurrency=1))


@NAME_LIMITS
@pytest.mark.parametrize("hold", [pause, freeze, fill])
async def test_a_name_keeps_nothing_for_a_job_whose_group_may_not_start_it(
    q: QueueLab, limit: dict[str, Any], hold: Callable[[QueueLab], Awaitable[None]]
) -> None:
    passing = Passing(q, limit)
    await passing.keep()
    await hold(q)
    await open_name(q)
    assert await passing.lease(9) == ["x10"]
    await q.state()


@NAME_LIMITS
async def test_a_name_keeps_nothing_for_a_job_that_is_not_the_first_of_its_group(q: QueueLab, limit: dict[str, Any]) -> None:
    passing = Passing(q, limit)
    await passing.pass_it()
    await passing.prepare(0)
    await q.make(ruled("urgent", "a", priority=0))
    assert await passing.lease(1) == ["x10"]
    await q.state()


@NAME_LIMITS
async def test_a_name_keeps_nothing_from_an_express_group(q: QueueLab, limit: dict[str, Any]) -> None:
    passing = Passing(q, limit)
    await passing.pass_it()
    await q.store.set_group("b", express=True)
    assert "x10" in await passing.round()
    await q.store.set_group("a", express=True)
    assert "first" in await passing.round()
    await q.state()


@pytest.mark.parametrize("limit", [{"concurrency": 2}, {"rate": {"count": 10, "period": 3_600_000, "burst": 2}}], ids=["concurrency", "rate"])
async def test_a_name_with_room_for_both_starts_both(q: QueueLab, limit: dict[str, Any]) -> None:
    passing = Passing(q, {"concurrency": 1})
    await passing.pass_it()
    await q.set_policy(names={"export": limit})
    started = await passing.round()
    assert {"x10", "first"} <= set(started)
    assert started.index("x10") < started.index("first")
    await q.state()


@NAME_LIMITS
async def test_what_a_name_keeps_for_a_job_is_told_and_goes_to_others_when_it_is_gone(q: QueueLab, limit: dict[str, Any]) -> None:
    passing = Passing(q, limit)
    await passing.keep()
    judged = (await q.store.explain(b"x10")).judged
    assert judged is not None
    assert list(judged.kept) == [KeptRoom("name", b"first", 1, alone=False)]
    await q.store.cancel(b"first", 0)
    assert await passing.lease(9) == ["x10"]
    await q.state()
