"""What the store says of why a job does not run: the whole answer for each reason, and the oldest jobs of a queue."""

from typing import Any

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Crew, Explained, KeptRoom

from tests.support.queue_lab import SESSION_MS, QueueLab, item, ruled
from tests.support.queue_state import session_bytes

S, T = session_bytes("s"), session_bytes("t")


async def explained(q: QueueLab, raw_id: str) -> Explained:
    """The answer, its record and date checked and left out."""
    found = await q.store.explain(raw_id.encode())
    (read,) = await q.store.get([raw_id.encode()])
    assert (codec.header_of(found.record), codec.header_of(found.record).state != 0) == (codec.header_of(read.record), True)
    assert abs(found.now_us / 1000 - await q.now_ms()) < 5_000
    return found._replace(record=b"", now_us=0, judged=None)


def answer(**given: object) -> Explained:
    """What is said of a job that nothing holds."""
    usual: dict[str, object] = {"record": b"", "state": 0, "now_us": 0, "paused": False, "before": -1, "before_by_priority": 0, "holder": b""}
    return Explained(**{**usual, "lease_left_ms": -1, "cancel_left_ms": -1, "crew": [], **given})  # type: ignore[arg-type]  # words and values of the fields


async def alone(q: QueueLab, raw_id: str) -> None:
    """Let a job wait to be delivered alone."""
    for session in ("x", "y"):
        if session == "x":
            await q.make(raw_id)
        await q.attach(session)
        await q.lease(session, 1)
        await q.lose(session)
    await q.come_due(raw_id)


async def test_a_place_in_line_counts_priorities_and_age(q: QueueLab) -> None:
    await q.make("a", item("urgent", priority=-3), "b", item("late", priority=9), "c")
    for raw_id, before, by_priority in (("urgent", 0, 0), ("a", 1, 1), ("b", 2, 1), ("c", 3, 1), ("late", 4, 4)):
        assert await explained(q, raw_id) == answer(before=before, before_by_priority=by_priority)


async def test_a_pause_and_the_workers_are_told(q: QueueLab) -> None:
    await q.make("a", "b", "c")
    await q.store.attach(S, 1, SESSION_MS, b"one", [])
    await q.lease("s", 2)
    await q.store.pause(True)
    assert await explained(q, "c") == answer(paused=True, before=0, crew=[Crew(S, 2, False, b"one")])


async def test_a_delayed_job_stands_in_no_line(q: QueueLab) -> None:
    await q.make(item("a", due="+60000"))
    assert await explained(q, "a") == answer()


async def test_a_running_job_has_a_holder_a_lease_and_the_grace_of_its_cancel(q: QueueLab) -> None:
    await q.leased("a")
    running = answer(holder=S, lease_left_ms=SESSION_MS, crew=[Crew(S, 1, False, b"")])
    assert await explained(q, "a") == running
    await q.store.cancel(b"a", 3_000)
    assert await explained(q, "a") == running._replace(cancel_left_ms=3_000)
    await q.tick()
    assert await explained(q, "a") == running._replace(lease_left_ms=SESSION_MS - 1_000, cancel_left_ms=2_000)


async def test_a_session_that_is_kept_free_for_a_job_alone_is_told(q: QueueLab) -> None:
    await q.leased("held")
    await alone(q, "a")
    await q.lease("s", 1)
    await q.make("other")
    assert await explained(q, "a") == answer(before=0, crew=[Crew(S, 1, True, b"")])
    await q.complete("held", (await q.state()).numbers["held"].token)
    await q.lease("s", 1)
    assert await explained(q, "other") == answer(before=0, crew=[Crew(S, 1, True, b"")])


async def test_an_ended_job_is_explained_and_one_that_is_gone_by_its_end(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.complete("a", token)
    assert await explained(q, "a") == answer(crew=[Crew(S, 0, False, b"")])
    await q.store.delete(b"a")
    gone = await q.store.explain(b"a")
    assert gone._replace(now_us=0) == answer(state=5)
    assert (await q.store.explain(b"never"))._replace(now_us=0) == answer()


async def test_the_oldest_are_found_over_priorities_and_sessions(q: QueueLab) -> None:
    assert (await q.store.oldest())._replace(now_us=0) == (0, 0, 0, [], False)
    await q.make(item("first", priority=9), "x", "y")
    for session in ("t", "s"):
        await q.attach(session)
        await q.lease(session, 1)
    await q.make(item("urgent", priority=0))
    state, found = await q.state(), await q.store.oldest()
    assert found.active_us == min(state.numbers["x"].token, state.numbers["y"].token)
    header = codec.header_of((await q.store.get([b"first"]))[0].record)
    assert found.waiting_us == header.order
    assert sorted(found.crew) == sorted([Crew(S, 1, False, b""), Crew(T, 1, False, b"")])


async def test_the_oldest_is_found_behind_any_number_of_groups(q: QueueLab) -> None:
    for number in range(510):
        await q.store.set_group(f"a{number:03}", weight=2.0)
    await q.make(ruled("late", "z"), ruled("later", "y"))
    found = await q.store.oldest()
    assert found.waiting_us == (await q.state()).numbers["late"].order
    assert found.open


async def test_the_oldest_is_found_among_parked_jobs(q: QueueLab) -> None:
    await q.set_policy(names={"slow": {"concurrency": 1}})
    await q.make(ruled("runs", name="slow"), ruled("named", name="slow"), ruled("labelled", "g", labels={"gpu": "a100"}))
    await q.attach("s")
    assert list(await q.lease("s", 9)) == ["runs"]
    await q.make("plain")
    numbers = (await q.state()).numbers
    assert (await q.store.oldest()).waiting_us == numbers["named"].order
    await q.store.cancel(b"named", 0)
    assert (await q.store.oldest()).waiting_us == numbers["labelled"].order


async def test_workers_do_not_help_where_all_that_waits_is_held(q: QueueLab) -> None:
    await q.make(ruled("a", "g"))
    await q.store.set_group("g", paused=True)
    found = await q.store.oldest()
    assert (found.open, found.waiting_us > 0) == (False, True)


async def test_with_ageing_the_oldest_is_found_behind_those_that_go_before_it(q: QueueLab) -> None:
    await q.set_policy(ageing=60_000)
    await q.make(item("low", priority=20))
    await q.make(*(item(f"a{priority:03}", priority=priority - 100) for priority in range(110)))
    assert (await q.store.oldest()).waiting_us == (await q.state()).numbers["low"].order


async def test_whoever_holds_a_limit_is_found_behind_any_number_of_leases(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 1101}, names={"slow": {"concurrency": 1}}, group_limit={"concurrency": 1})
    await q.attach("s")
    for start in range(0, 1100, 100):
        await q.make(*(f"a{start + i}" for i in range(100)))
        await q.lease("s", 100)
    await q.attach("t")
    await q.make(ruled("held", "g", name="slow"))
    assert list(await q.lease("t", 1)) == ["held"]
    await q.make("next", ruled("named", name="slow"), ruled("grouped", "g"))
    found = {raw_id: (await q.store.explain(raw_id.encode())).judged for raw_id in ("next", "named", "grouped")}
    assert {raw_id: judged and judged.holders for raw_id, judged in found.items()} == {raw_id: {S: 1100, T: 1} for raw_id in found}
    await q.set_policy(names={"slow": {"concurrency": 1}}, group_limit={"concurrency": 1})
    await q.pulse("s", "t")
    for raw_id in ("named", "grouped"):
        judged = (await q.store.explain(raw_id.encode())).judged
        assert judged is not None
        assert judged.holders == {T: 1}


async def test_explaining_leaves_no_trace(q: QueueLab) -> None:
    await q.store.explain(b"a")
    await q.store.oldest()
    assert await q.redis.keys(q.base + "*") == []


# Room that is kept -------------------------------------------------------------------------------------------------------------------------------------


async def kept(q: QueueLab, raw_id: str) -> list[KeptRoom]:
    """For whom room is kept that a job could use."""
    judged = (await q.store.explain(raw_id.encode())).judged
    assert judged is not None
    return list(judged.kept)


_KEPT: dict[str, dict[str, Any]] = {
    "queue": {"limit": {"concurrency": 3}},
    "group": {"group_limit": {"concurrency": 3}},
    "name": {"names": {"work": {"concurrency": 3}}},
}


@pytest.mark.parametrize("what", _KEPT)
async def test_room_that_is_kept_for_a_job_of_several_units_is_told(q: QueueLab, what: str) -> None:
    await q.set_policy(**_KEPT[what])
    await q.make(ruled("a", "g"), ruled("big", "g", units=3), ruled("b", "g"))
    await q.attach("s")
    tokens = await q.lease("s", 3)
    assert list(tokens) == ["a"]
    assert await kept(q, "b") == [KeptRoom(what, b"big", 3, alone=False)]
    assert await kept(q, "big") == []
    await q.complete("a", tokens["a"])
    tokens = await q.lease("s", 3)
    assert list(tokens) == ["big"]
    assert await kept(q, "b") == []


@pytest.mark.parametrize("what", _KEPT)
async def test_room_that_is_kept_for_a_job_that_goes_alone_is_told(q: QueueLab, what: str) -> None:
    await q.make(ruled("a", "g", units=3))
    for session in ("x", "y"):
        await q.attach(session)
        await q.lease(session, 1)
        await q.lose(session)
    await q.make(ruled("runs", "g"))
    await q.attach("s")
    assert list(await q.lease("s", 1)) == ["runs"]
    await q.set_policy(**_KEPT[what])
    await q.come_due("a")
    await q.make(ruled("b", "g"))
    assert await q.lease("s", 1) == {}
    assert await kept(q, "b") == [KeptRoom(what, b"a", 3, alone=True)]
    assert await kept(q, "a") == []
