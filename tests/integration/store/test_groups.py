"""Groups: fair shares, and who stands where."""

from collections import Counter

from tests.support.line_state import GroupView
from tests.support.queue_lab import QueueLab, item, ruled
from tests.support.queue_state import JobView, QueueState, SessionView

COUNTED = frozenset({"COUNTED"})


async def fill(q: QueueLab, **groups: int) -> None:
    """So many jobs of each group, one group after the other."""
    for group, count in groups.items():
        await q.make(*(ruled(f"{group}{i}", group) for i in range(count)))
    await q.attach("s")


async def order(q: QueueLab, count: int, session: str = "s") -> str:
    """The groups of the next leases: the first letter of each id."""
    return "".join(raw_id[0] for raw_id in await q.lease(session, count))


async def test_a_job_with_a_group_waits_in_its_line(q: QueueLab) -> None:
    await q.make(ruled("a", "acme"))
    section = {"4": b"acme"}
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING", flags=COUNTED, sections=section)}, lines={"lacme": ["a"]}, groups={"acme": GroupView("r")}
    )
    await q.attach("s")
    token = (await q.lease("s", 5))["a"]
    assert await q.state() == QueueState(
        jobs={"a": JobView("ACTIVE", 1, flags=COUNTED, sections=section)},
        active={"a": "s"},
        sessions={"s": SessionView(1)},
        timers={"session s": 5000},
        hungry=True,
        groups={"acme": GroupView("v", active=1)},
    )
    assert await q.complete("a", token) == ("OK", "COMPLETED")
    state = await q.state()
    assert state.groups == {"acme": GroupView("v")}
    await q.pulse()


async def test_groups_take_turns(q: QueueLab) -> None:
    await fill(q, a=5, b=5, c=2)
    assert await order(q, 9) == "abcabcaba"
    assert await order(q, 9) == "bab"


async def test_a_weight_is_a_share(q: QueueLab) -> None:
    await fill(q, a=30, b=30)
    await q.store.set_group("a", weight=3.0)
    assert Counter(await order(q, 20)) == {"a": 15, "b": 5}


async def test_jobs_without_a_group_are_one_group(q: QueueLab) -> None:
    await q.make("x1", "x2", "x3")
    await fill(q, a=3, b=3)
    assert sorted(await order(q, 3)) == ["a", "b", "x"]
    assert sorted(await order(q, 3)) == ["a", "b", "x"]
    assert sorted(await order(q, 9)) == ["a", "b", "x"]


async def test_priority_orders_the_jobs_of_a_group_and_never_those_of_others(q: QueueLab) -> None:
    await q.make(ruled("a1", "a"), ruled("a2", "a"), ruled("b1", "b", priority=0), ruled("a3", "a", priority=0), ruled("b2", "b", priority=0))
    await q.attach("s")
    assert list(await q.lease("s", 9)) == ["a3", "b1", "a1", "b2", "a2"]


async def test_a_group_that_had_nothing_to_do_has_saved_nothing_up(q: QueueLab) -> None:
    await fill(q, a=20)
    assert await order(q, 10) == "a" * 10
    await q.make(*(ruled(f"b{i}", "b") for i in range(5)))
    assert Counter(await order(q, 4)) == {"a": 2, "b": 2}


async def test_a_group_cannot_run_from_its_share_by_being_idle_for_a_moment(q: QueueLab) -> None:
    await fill(q, a=1, b=10)
    for number in range(1, 5):
        assert sorted(await order(q, 2)) == ["a", "b"]
        await q.make(ruled(f"a{number}", "a"))


async def test_units_are_paid_for(q: QueueLab) -> None:
    await q.make(*(ruled(f"a{i}", "a", units=3) for i in range(4)), *(ruled(f"b{i}", "b") for i in range(9)))
    await q.attach("s")
    assert Counter(await order(q, 8)) == {"a": 2, "b": 6}


async def test_express_groups_go_first_and_share_among_themselves(q: QueueLab) -> None:
    await fill(q, a=3, b=3, c=2)
    for group in "bc":
        await q.store.set_group(group, express=True)
    assert (await q.state()).groups["b"] == GroupView("y", express=True)
    assert await order(q, 9) == "bcbcbaaa"


async def test_an_express_group_pays_for_its_turns_when_all_it_has_was_parked(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.store.set_group("b", express=True, weight=0.1)
    await q.store.set_group("c", express=True)
    await q.make(ruled("b0", "b", name="slow"), ruled("b1", "b", name="slow"), ruled("c0", "c"))
    await q.attach("s")
    tokens = await q.lease("s", 4)
    assert list(tokens) == ["b0", "c0"]
    assert "nslow" in (await q.state()).lines, "b1 is parked"
    await q.make(*(ruled(f"c{i}", "c") for i in range(1, 4)))
    await q.complete("b0", tokens["b0"])
    assert list(await q.lease("s", 9)) == ["c1", "c2", "c3", "b1"]
    await q.state()


async def test_a_paused_group_is_in_nobodys_way(q: QueueLab) -> None:
    await fill(q, a=2, b=2)
    await q.store.set_group("a", paused=True)
    assert (await q.state()).groups["a"] == GroupView("b", paused=True)
    assert await order(q, 9) == "bb"
    await q.make(ruled("a9", "a"))
    assert await order(q, 9) == ""
    await q.store.set_group("a", paused=False)
    assert await order(q, 9) == "aaa"


async def test_parked_jobs_wait_in_their_group(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.make(ruled("x", name="slow"), ruled("a", "named", name="slow"), ruled("b", "labelled", labels={"gpu": "a100"}), ruled("c", "labelled"))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    assert sorted(tokens) == ["c", "x"]
    await q.complete("c", tokens["c"])

    async def waiting() -> dict[str, int]:
        return {group.name: group.waiting for group in await q.store.groups("", 9)}

    assert await waiting() == {"labelled": 1, "named": 1}
    assert (await q.store.group("named")).waiting == 1
    await q.state()
    await q.store.cancel(b"b", 0)
    assert await waiting() == {"named": 1}
    await q.complete("x", tokens["x"])
    assert await waiting() == {"named": 1}
    assert list(await q.lease("s", 9)) == ["a"]
    await q.state()


async def test_a_group_without_jobs_may_have_rules(q: QueueLab) -> None:
    await q.store.set_group("a", paused=True, weight=2.0)
    assert (await q.state()).groups == {"a": GroupView(paused=True, weight=2)}
    await q.make(ruled("a1", "a"))
    assert (await q.state()).groups == {"a": GroupView("b", paused=True, weight=2)}
    await q.store.set_group("a", paused=False, weight=1.0)
    assert (await q.state()).groups == {"a": GroupView("r")}


async def test_a_waiting_job_of_a_group_can_be_cancelled_and_deleted(q: QueueLab) -> None:
    await fill(q, a=3)
    assert (await q.store.cancel(b"a0", 0)).word == "OK"
    assert (await q.state()).lines == {"la": ["a1", "a2"]}
    assert (await q.store.delete(b"a1")).word == "OK"
    assert (await q.store.cancel(b"a2", 0)).word == "OK"
    state = await q.state()
    assert (state.lines, state.groups, state.cancelled) == ({}, {}, ["a0", "a2"])
    assert (await q.store.retry(b"a2")).word == "OK"
    assert (await q.state()).lines == {"la": ["a2"]}


async def test_a_handed_back_job_regains_its_place_in_its_group(q: QueueLab) -> None:
    await fill(q, a=3)
    token = (await q.lease("s", 1))["a0"]
    await q.turn("R", "a0", token)
    assert (await q.state()).lines == {"la": ["a0", "a1", "a2"]}
    await q.lose("s")
    await q.attach("t")
    assert list(await q.lease("t", 3)) == ["a0", "a1", "a2"]
    await q.lose("t")
    assert (await q.state()).lines == {"la": ["a0", "a1", "a2"]}


async def test_a_delayed_job_of_a_group_comes_due_into_its_line(q: QueueLab) -> None:
    await q.make(ruled("a1", "a", due="+60000"))
    assert (await q.state()).delayed == ["a1"]
    await q.store.promote(b"a1")
    assert (await q.state()).lines == {"la": ["a1"]}


async def test_what_waits_in_lines_is_counted(q: QueueLab) -> None:
    await q.make("x")
    await fill(q, a=2)
    assert (await q.store.stats()).waiting == 3
    await q.lease("s", 1)
    assert (await q.store.stats()).waiting == 2


async def test_a_long_payload_of_a_group_is_kept_apart(q: QueueLab) -> None:
    plain = item("a", payload=b"x" * 2000)
    job = ruled("a", "acme")
    await q.make(job._replace(body=job.body + plain.body[len(b"\4work") :]))
    await q.attach("s")
    ((_, _, record),) = (await q.lease_fully("s", 1)).jobs
    assert record.endswith(b"x" * 2000)
    await q.state()
