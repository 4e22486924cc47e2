"""Limits of concurrency: never one too many, however leases begin and end; and nobody is held for longer than a limit holds."""

from typing import Any

import pytest
from jobwire_broker.store.arguments import NO_LIMIT, LeaseRequest, OwnLimit

from tests.support.line_state import GroupView
from tests.support.queue_lab import QueueLab, ruled
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


async def test_a_group_that_has_no_room_for_its_first_job_has_room_for_a_smaller_one_that_comes_before_it(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 2})
    await q.attach("s")
    await q.make(ruled("a1", "a"), ruled("a2", "a", units=2))
    assert list(await q.lease("s", 2)) == ["a1"]
    await q.make(ruled("a3", "a", priority=0))
    assert list(await q.lease("s", 2)) == ["a3"]
