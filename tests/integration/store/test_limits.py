"""Limits: never one too many, however leases begin and end; and nobody is held for longer than a limit holds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.queue_store import NO_LIMIT, JobItem, KeptRoom, LeaseRequest, OwnLimit, TurnItem

from tests.support.line_state import GroupView
from tests.support.queue_lab import QueueLab, item, ruled
from tests.support.queue_state import session_bytes

GPU = {"gpu": "a100"}


async def two_workers(q: QueueLab) -> None:
    await q.attach("s")
    await q.attach("t")


# Concurrency of the queue ---------------------------------------------------------------------------------------------------------------------------------


async def test_a_queue_runs_no_more_than_its_limit(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 3})
    await q.make(*(f"a{i}" for i in range(9)))
    await two_workers(q)
    first = await q.lease("s", 2)
    assert list(await q.lease("t", 5)) == ["a2"]
    assert await q.lease("t", 5) == {}
    async with q.heard() as heard:
        await q.complete("a0", first["a0"])
    assert heard.wakes == ["work"]
    assert list(await q.lease("t", 5)) == ["a3"]
    await q.state()


async def test_two_sessions_of_one_call_share_the_limit(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 3})
    await q.make(*(f"a{i}" for i in range(9)))
    await two_workers(q)
    report = await q.store.turn([], [LeaseRequest(session_bytes(session), 1, 2) for session in ("s", "t")])
    assert [len(lease.jobs) for lease in report.leases] == [2, 1]


async def test_a_lost_worker_gives_its_part_of_the_limit_back(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 2}, group_limit={"concurrency": 2}, names={"work": {"concurrency": 2}})
    await q.make(*(ruled(f"a{i}", "a") for i in range(4)))
    await q.attach("s")
    assert len(await q.lease("s", 4)) == 2
    await q.lose("s")
    await q.attach("t")
    assert list(await q.lease("t", 4)) == ["a0", "a1"]
    await q.state()


async def test_a_lowered_limit_stops_only_new_starts(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 3})
    await q.make(*(f"a{i}" for i in range(6)))
    await q.attach("s")
    tokens = await q.lease("s", 6)
    await q.set_policy(limit={"concurrency": 1})
    for done in ("a0", "a1"):
        await q.complete(done, tokens[done])
        assert await q.lease("s", 6) == {}
    await q.complete("a2", tokens["a2"])
    assert len(await q.lease("s", 6)) == 1


async def test_units_count(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 5})
    await q.make(ruled("a", units=3), ruled("b", units=3), ruled("c", units=1), "d")
    await q.attach("s")
    tokens = await q.lease("s", 9)
    assert list(tokens) == ["a"], "b waits for room, and nothing goes past it"
    await q.state()
    await q.complete("a", tokens["a"])
    assert list(await q.lease("s", 9)) == ["b", "c", "d"]
    await q.state()


async def test_a_job_with_more_units_than_the_limit_takes_all_of_it(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 5})
    await q.make("x", ruled("a", units=100), "y")
    await q.attach("s")
    tokens = await q.lease("s", 9)
    assert list(tokens) == ["x"]
    async with q.heard() as heard:
        await q.lease("s", 9)
    assert heard.wakes == [], "nobody is woken for what there is no room for"
    await q.complete("x", tokens["x"])
    tokens = await q.lease("s", 9)
    assert list(tokens) == ["a"]
    await q.complete("a", tokens["a"])
    assert list(await q.lease("s", 9)) == ["y"]


# Concurrency of groups and names ---------------------------------------------------------------------------------------------------------------------------


async def test_each_group_has_its_limit(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 2})
    await q.make(*(ruled(f"{group}{i}", group) for i in range(4) for group in "ab"), "x", "y", "z")
    await q.store.set_group("b", limit=OwnLimit(concurrency=1))
    await q.attach("s")
    tokens = await q.lease("s", 99)
    assert sorted(tokens) == ["a0", "a1", "b0", "x", "y", "z"]
    assert (await q.state()).groups == {"a": GroupView("b", 2), "b": GroupView("b", 1, own=(1, 0, 0, 1))}
    await q.complete("a0", tokens["a0"])
    assert list(await q.lease("s", 99)) == ["a2"]
    await q.store.set_group("b", limit=NO_LIMIT)
    assert list(await q.lease("s", 99)) == ["b1"]


async def test_a_new_limit_of_all_groups_holds_at_once(q: QueueLab) -> None:
    await q.make(*(ruled(f"a{i}", "a") for i in range(6)))
    await q.attach("s")
    tokens = await q.lease("s", 3)
    await q.set_policy(group_limit={"concurrency": 3})
    assert await q.lease("s", 9) == {}
    await q.set_policy(group_limit={"concurrency": 4})
    assert len(await q.lease("s", 9)) == 1
    await q.set_policy()
    assert len(await q.lease("s", 9)) == 2
    await q.complete("a0", tokens["a0"])
    await q.state()


async def test_a_job_name_has_its_limit_and_is_in_nobodys_way(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.make(*(ruled(f"s{i}", name="slow") for i in range(3)), ruled("f0", name="fast"), ruled("g0", "g", name="slow"))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    assert list(tokens) == ["s0", "f0"]
    state = await q.state()
    assert state.lines == {"nslow": ["s1", "s2", "g0"]}
    assert (await q.store.stats()).waiting == 3
    await q.complete("s0", tokens["s0"])
    state = await q.state()
    assert (state.waiting, state.lines) == (["s1"], {"nslow": ["s2", "g0"]})
    tokens |= await q.lease("s", 9)
    await q.complete("s1", tokens["s1"])
    tokens |= await q.lease("s", 9)
    await q.complete("s2", tokens["s2"])
    assert list(await q.lease("s", 9)) == ["g0"]
    state = await q.state()
    assert state.lines == {}


async def test_smaller_jobs_of_a_name_do_not_go_past_one_that_waits_for_room(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 5}})
    await q.make(*(ruled(f"s{i}", name="slow") for i in range(3)))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    big = ruled("big", name="slow", units=4)
    await q.make(big, ruled("small", name="slow"), ruled("other", name="fast"), ruled("urgent", name="slow", priority=0))
    assert list(await q.lease("s", 9)) == ["urgent", "other"]
    judged = (await q.store.explain(b"small")).judged
    assert judged is not None
    assert (judged.name_opens, judged.holders) == (float("inf"), {session_bytes("s"): 4})
    for raw_id in ("s0", "s1"):
        await q.complete(raw_id, tokens[raw_id])
        assert await q.lease("s", 9) == {}
    await q.complete("s2", tokens["s2"])
    assert list(await q.lease("s", 9)) == ["big"]
    await q.state()


async def test_leases_from_before_the_limit_of_their_name_count(q: QueueLab) -> None:
    await q.make(*(ruled(f"s{i}", name="slow") for i in range(5)))
    await q.attach("s")
    tokens = await q.lease("s", 2)
    await q.set_policy(names={"slow": {"concurrency": 3}})
    assert len(await q.lease("s", 9)) == 1
    for raw_id, token in tokens.items():
        assert (await q.complete(raw_id, token))[0] == "OK"
    assert len(await q.lease("s", 9)) == 2
    await q.state()


async def test_jobs_go_back_to_their_line_when_their_name_has_no_limit_any_more(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.make(*(ruled(f"s{i}", name="slow") for i in range(4)))
    await q.attach("s")
    await q.lease("s", 9)
    assert (await q.state()).lines == {"nslow": ["s1", "s2", "s3"]}
    await q.set_policy()
    await q.pulse()
    assert (await q.state()).waiting == ["s1", "s2", "s3"]


async def test_a_parked_job_can_be_cancelled_and_leaves_no_trace(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.make(*(ruled(f"s{i}", name="slow") for i in range(2)))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    await q.store.cancel(b"s1", 0)
    await q.complete("s0", tokens["s0"])
    assert (await q.state()).lines == {}
    assert await q.redis.keys(q.base + "[bnNU]*") == []


async def test_whoever_is_adopted_again_needs_room(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 2})
    await q.make("a", "b", "c", "d")
    await q.attach("s")
    tokens = await q.lease("s", 2)
    await q.lose("s")
    await q.attach("t")
    assert list(await q.lease("t", 1)) == ["a"]
    settled = await q.attach("s", 2, list(tokens.items()))
    assert [x.word for x in settled or []] == ["STALE_LEASE", "HELD"]
    assert await q.lease("t", 9) == {}


@pytest.mark.parametrize("policy", [{"group_limit": {"concurrency": 1}}, {"names": {"work": {"concurrency": 1}}}])
async def test_a_job_is_not_adopted_beyond_a_limit(q: QueueLab, policy: dict[str, object]) -> None:
    await q.set_policy(**policy)
    await q.make(ruled("a", "g"), ruled("b", "g"))
    await q.attach("s")
    tokens = await q.lease("s", 1)
    await q.lose("s")
    await q.attach("t")
    await q.store.cancel(b"a", 0)
    await q.store.retry(b"a")
    assert list(await q.lease("t", 2)) == ["b"]
    settled = await q.attach("s", 2, list(tokens.items()))
    assert settled is not None
    assert settled[0].word != "HELD"
    await q.state()


async def test_a_job_that_goes_alone_needs_room_as_well(q: QueueLab) -> None:
    await q.make(ruled("a", "g"))
    for round_number in range(2):
        await q.attach(f"k{round_number}")
        await q.lease(f"k{round_number}", 1)
        await q.lose(f"k{round_number}")
    await q.come_due("a")
    assert (await q.state()).alone == ["a"]
    await q.store.set_group("g", limit=OwnLimit(concurrency=1))
    await q.make(ruled("b", "g"))
    await q.attach("s")
    await q.attach("t")
    assert list(await q.lease("s", 5)) == ["a"]
    assert await q.lease("t", 5) == {}
    await q.state()


_ONE_LIMIT: dict[str, dict[str, Any]] = {
    "queue": {"limit": {"concurrency": 3}},
    "group": {"group_limit": {"concurrency": 3}},
    "name": {"names": {"work": {"concurrency": 3}}},
}


_LIMITS = {
    **_ONE_LIMIT,
    "queue and group": _ONE_LIMIT["queue"] | _ONE_LIMIT["group"],
    "queue and name": _ONE_LIMIT["queue"] | _ONE_LIMIT["name"],
    "group and name": _ONE_LIMIT["group"] | _ONE_LIMIT["name"],
    "all": _ONE_LIMIT["queue"] | _ONE_LIMIT["group"] | _ONE_LIMIT["name"],
}


@pytest.mark.parametrize("labels", [None, GPU], ids=["no labels", "labels"])
@pytest.mark.parametrize("limit", _LIMITS)
async def test_small_jobs_do_not_pass_for_ever_one_that_goes_alone_and_needs_more_room(q: QueueLab, limit: str, labels: dict[str, str] | None) -> None:
    await q.make(ruled("big", "g", units=3, labels=labels))
    for number in range(2):
        await q.attach(f"k{number}", labels=labels)
        await q.lease(f"k{number}", 1)
        await q.lose(f"k{number}")
    await q.set_policy(**_LIMITS[limit])
    await q.make(*(ruled(f"a{i}", "g") for i in range(9)))
    await q.attach("r")
    running = await q.lease("r", 3)
    assert list(running) == ["a0", "a1", "a2"]
    await q.come_due("big")
    assert (await q.state()).alone == ["big"]
    await q.attach("s", labels=labels)
    await q.attach("t")
    for done, token in running.items():
        assert await q.lease("s", 1) == {}, "big waits for room"
        assert await q.lease("t", 1) == {}, "and others leave it theirs"
        await q.complete(done, token)
    assert list(await q.lease("t", 1)) == ([] if labels else ["big"])
    assert list(await q.lease("s", 1)) == (["big"] if labels else [])
    await q.state()


async def big_goes_alone(q: QueueLab) -> None:
    """A job of two units of group g that is due to go alone in a while."""
    await q.make(ruled("big", "g", units=2))
    for number in range(2):
        await q.attach(f"k{number}")
        await q.lease(f"k{number}", 1)
        await q.lose(f"k{number}")


async def test_who_goes_alone_and_lacks_two_limits_is_left_the_room_of_the_narrower_one_first(q: QueueLab) -> None:
    await big_goes_alone(q)
    await q.set_policy(limit={"concurrency": 4}, group_limit={"concurrency": 2})
    await q.attach("s")
    await q.make(*(ruled(f"g{i}", "g") for i in range(4)))
    tokens = await q.lease("s", 2)
    await q.make(*(f"a{i}" for i in range(6)))
    tokens |= await q.lease("s", 2)
    assert list(tokens) == ["g0", "g1", "a0", "a1"]
    await q.come_due("big")
    await q.attach("t")
    await q.complete("g0", tokens["g0"])
    # Its group is left to it, and the queue is not yet: it could do nothing with that.
    tokens |= await q.lease("s", 9)
    assert set(tokens) == {"a0", "a1", "a2", "g0", "g1"}
    await q.complete("g1", tokens["g1"])
    assert await q.lease("s", 9) == {}
    await q.complete("a0", tokens["a0"])
    assert list(await q.lease("t", 9)) == ["big"]
    await q.state()


@pytest.mark.parametrize("names", [{}, {"work": {"concurrency": 2}}], ids=["queue", "queue and name"])
@pytest.mark.parametrize("stop", ["paused", "limited"])
async def test_who_goes_alone_and_whose_group_may_not_start_holds_nobody(q: QueueLab, stop: str, names: dict[str, Any]) -> None:
    await big_goes_alone(q)
    await q.set_policy(limit={"concurrency": 2}, names=names)
    await q.attach("s")
    await q.make(ruled("other", "g"))
    tokens = await q.lease("s", 1)
    await q.make(*(f"a{i}" for i in range(5)))
    tokens |= await q.lease("s", 1)
    assert list(tokens) == ["other", "a0"]
    if stop == "paused":
        await q.store.set_group("g", paused=True)
        await q.complete("other", tokens["other"])
    else:
        await q.turn("G", "other", tokens["other"], 3_600_000)
    await q.come_due("big")
    assert list(await q.lease("s", 1)) == ["a1"]
    await q.complete("a0", tokens["a0"])
    assert list(await q.lease("s", 1)) == ["a2"]
    await q.state()


# A name and a group -----------------------------------------------------------------------------------------------------------------------------------------

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


# Labels -----------------------------------------------------------------------------------------------------------------------------------------------------


async def test_only_a_session_with_the_labels_gets_the_job(q: QueueLab) -> None:
    await q.make(ruled("a", labels=GPU), "b")
    await q.attach("s")
    await q.attach("t", labels={**GPU, "zone": "eu"})
    async with q.heard() as heard:
        assert list(await q.lease("s", 5)) == ["b"]
    assert heard.wakes == ["work"]
    assert list((await q.state()).lines) == ["q\0\x09\x03gpu\x04a100"]
    assert list(await q.lease("t", 5)) == ["a"]
    assert (await q.state()).lines == {}


async def test_all_of_the_labels_are_needed(q: QueueLab) -> None:
    await q.make(ruled("a", "g", labels={**GPU, "zone": "us"}), ruled("b", "g", labels={"zone": "us"}))
    await q.attach("s", labels=GPU)
    await q.attach("t", labels={"gpu": "h100", "zone": "us"})
    await q.attach("u", labels={**GPU, "zone": "us"})
    assert await q.lease("s", 5) == {}
    assert list(await q.lease("t", 5)) == ["b"]
    assert list(await q.lease("u", 5)) == ["a"]


async def test_groups_have_their_turns_also_among_jobs_that_sessions_without_their_labels_have_met(q: QueueLab) -> None:
    await q.make(*(ruled(f"{group}{i:02}", group, labels=GPU) for group in ("a", "", "b", "c") for i in range(30)))
    await q.store.set_group("a", weight=2.0)
    await q.store.set_group("c", express=True)
    await q.attach("n")
    await q.attach("l", labels=GPU)
    started = []
    for _ in range(27):
        # Whoever lacks the labels meets all of them, and puts them aside.
        assert await q.lease("n", 9) == {}
        assert {line[0] for line in (await q.state()).lines} == {"q"}
        for raw_id, token in (await q.lease("l", 2)).items():
            started.append(raw_id[:-2])
            await q.complete(raw_id, token)
    assert started[:30] == ["c"] * 30
    assert {group: started[30:].count(group) for group in ("a", "", "b")} == {"a": 12, "": 6, "b": 6}


async def test_a_lone_labelled_job_of_a_group_does_not_wait_for_those_of_many_others(q: QueueLab) -> None:
    await q.make(*(ruled(f"{number:02}{i}", f"g{number:02}", labels=GPU) for number in range(20) for i in range(9)), ruled("lone", "z", labels=GPU))
    await q.attach("n")
    await q.attach("l", labels=GPU)
    started: list[str] = []
    while "lone" not in started:
        assert await q.lease("n", 9) == {}
        started += await q.lease("l", 1)
    assert len(started) <= 21, "it comes when each of the twenty groups has had its turn"
    await q.state()


async def test_a_goodbye_forgets_the_labels(q: QueueLab) -> None:
    await q.attach("s", labels=GPU)
    await q.detach("s")
    assert await q.redis.exists(q.base + "M") == 0


async def test_a_job_that_waits_for_room_is_not_passed_by_sessions_without_its_labels(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 7})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a0", "a1", "a2", "a3")
    running = await q.lease("n", 4)
    await q.make(ruled("x", units=5, labels=GPU), *(f"b{i}" for i in range(20)))
    assert list(await q.lease("n", 1)) == ["b0"], "nobody with the labels has asked yet"
    assert await q.lease("l", 9) == {}
    async with q.heard() as heard:
        for _ in range(3):
            assert await q.lease("n", 9) == {}
            assert await q.lease("l", 9) == {}
    assert heard.wakes == [], "nothing has changed"
    for raw_id in ("a0", "a1"):
        await q.turn_all([TurnItem("C", raw_id.encode(), running[raw_id])], [LeaseRequest(session_bytes("n"), 1, 9)])
        assert await q.lease("l", 9) == {}
    async with q.heard() as heard:
        report = await q.turn_all([TurnItem("C", b"a2", running["a2"])], [LeaseRequest(session_bytes("n"), 1, 9)])
    assert (report.leases[0].jobs, heard.wakes) == ([], ["work"])
    assert 0 < report.opens_ms <= 3_000, "if nobody comes for it, the others go on"
    async with q.heard() as heard:
        assert list(await q.lease("l", 1)) == ["x"]
        assert await q.lease("n", 9) == {}
    assert heard.wakes == ["work"], "its room is owed no longer"
    await q.complete("a3", running["a3"])
    assert list(await q.lease("n", 9)) == ["b1"]
    await q.state()


async def test_a_full_queue_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a", ruled("x", labels=GPU), "b", "c")
    token = (await q.lease("n", 1))["a"]
    assert await q.lease("l", 1) == {}
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]


async def test_a_group_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 3})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("b", "g", units=2), ruled("x", "g", units=2, labels=GPU), ruled("c", "g"), ruled("d", "h"))
    running = await q.lease("n", 2)
    assert sorted(running) == ["a", "d"]
    running |= await q.lease("n", 1)
    assert list(await q.lease("l", 1)) == []
    await q.complete("a", running["a"])
    assert list(await q.lease("l", 1)) == []
    assert list(await q.lease("n", 1)) == [], "x needs two units, and only one is free"
    await q.complete("b", running["b"])
    assert list(await q.lease("n", 1)) == []
    assert list(await q.lease("l", 1)) == ["x"]
    assert list(await q.lease("n", 1)) == ["c"]
    await q.state()


async def test_a_group_that_is_always_full_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", labels=GPU), *(ruled(f"b{i}", "g") for i in range(9)))
    token = (await q.lease("n", 1))["a"]
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    ((b0, token, _),) = report.leases[0].jobs
    assert b0 == b"b0", "nobody with the labels has asked yet"
    assert await q.lease("l", 1) == {}
    report = await q.turn_all([TurnItem("C", b"b0", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]
    assert await q.redis.exists(q.base + "O") == 0
    await q.state()


@pytest.mark.parametrize("policy", [{"group_limit": {"concurrency": 2}}, {"names": {"work": {"concurrency": 2}}}], ids=["group", "job name"])
async def test_a_session_that_asks_again_keeps_the_room_that_is_owed(q: QueueLab, policy: dict[str, dict[str, object]]) -> None:
    await q.set_policy(**policy)
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", units=2, labels=GPU), *(ruled(f"b{i}", "g") for i in range(9)))
    token = (await q.lease("n", 1))["a"]
    assert await q.lease("l", 1) == {}
    first = await q.redis.zrange(q.base + "O", 0, -1, withscores=True)
    await asyncio.sleep(0.002)
    assert await q.lease("l", 1) == {}
    ((member, until),) = await q.redis.zrange(q.base + "O", 0, -1, withscores=True)
    assert (first[0][0], first[0][1] < until) == (member, True)
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]


async def test_a_session_without_room_is_owed_nothing_more(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", labels=GPU), ruled("b", "g"))
    token = (await q.lease("n", 1))["a"]
    await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    await q.make("c")
    assert list(await q.lease("l", 1)) == ["c"]
    assert await q.redis.exists(q.base + "O") == 0


async def test_room_is_owed_for_a_time_only(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 2})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a", ruled("x", units=2, labels=GPU), "b")
    await q.lease("n", 1)
    assert await q.lease("l", 1) == {}
    await q.detach("l")
    assert await q.lease("n", 1) == {}
    await q.redis.delete(q.base + "O")
    assert list(await q.lease("n", 1)) == ["b"]
    async with q.heard() as heard:
        assert await q.lease("n", 1) == {}
    assert heard.wakes == []


async def test_jobs_too_large_for_the_bytes_of_a_session_with_their_labels_wake_nobody(q: QueueLab) -> None:
    await q.attach("n")
    await q.attach("l", labels=GPU)
    labels = {codec.TAG_REQUIRED_LABELS: codec.encode_labels(GPU)}
    body = codec.encode_body("work", b"x" * 600, None, 0, labels)
    await q.make(*(JobItem(f"x{i}".encode(), "", 5, 3, body, flags=codec.FLAG_COUNTED) for i in range(3)), "a")

    async def ask() -> tuple[list[str], list[str]]:
        small = await q.store.turn([], [LeaseRequest(session_bytes("l"), 1, 9, 100)])
        return [raw_id.decode() for raw_id, _, _ in small.leases[0].jobs], list(await q.lease("n", 9))

    assert await ask() == ([], ["a"])
    async with q.heard() as heard:
        assert [await ask() for _ in range(3)] == [([], [])] * 3
    assert heard.wakes == []
    assert list((await q.state()).lines.values()) == [["x0", "x1", "x2"]]
    assert list(await q.lease("l", 9)) == ["x0", "x1", "x2"]
    await q.state()


# Rates -------------------------------------------------------------------------------------------------------------------------------------------------------


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


# Ageing -------------------------------------------------------------------------------------------------------------------------------------------------------


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
    await q.make(ruled("s0", name="slow"), ruled("s1", name="slow"), ruled("lab", "g", labels=GPU), item("low", priority=9))
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


async def test_a_group_whose_rate_is_remembered_starts_as_soon_as_the_rate_lets_it(q: QueueLab) -> None:
    await q.set_policy(group_limit={"rate": {"count": 10, "period": 60_000, "burst": 5}})
    await q.attach("s")
    await q.make(ruled("a1", "a"))
    await q.complete("a1", (await q.lease("s", 1))["a1"])
    await q.make(ruled("a2", "a"))
    assert list(await q.lease("s", 1)) == ["a2"]


async def test_a_group_that_has_no_room_for_its_first_job_has_room_for_a_smaller_one_that_comes_before_it(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 2})
    await q.attach("s")
    await q.make(ruled("a1", "a"), ruled("a2", "a", units=2))
    assert list(await q.lease("s", 2)) == ["a1"]
    await q.make(ruled("a3", "a", priority=0))
    assert list(await q.lease("s", 2)) == ["a3"]
