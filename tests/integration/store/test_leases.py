"""Leases: who gets which job, in what order, and what the queue looks like after."""

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import MAX_BYTES, LeaseRequest, TurnItem

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView, session_bytes

ALONE = frozenset({"ALONE"})


async def twice_lost(q: QueueLab, *ids: str) -> None:
    """These jobs wait to go alone."""
    for round_number in range(2):
        session = f"killed{round_number}"
        await q.make(*ids)
        await q.attach(session)
        assert set(await q.lease(session, len(ids))) == set(ids)
        await q.lose(session)
    await q.come_due(*ids)
    assert (await q.state()).alone == list(ids)


async def test_a_lease_counts_the_attempt_and_gives_a_token(q: QueueLab) -> None:
    await q.make(item("a", payload=b"payload"))
    await q.attach("s")
    async with q.heard() as heard:
        lease = await q.lease_fully("s", 1)
    ((raw_id, token, record),) = lease.jobs
    assert (lease.word, raw_id) == ("OK", b"a")
    assert codec.header_of(record).attempt == 0
    state = await q.state()
    assert state == QueueState(jobs={"a": JobView("ACTIVE", 1)}, active={"a": "s"}, sessions={"s": SessionView(1)}, timers={"session s": 5000})
    assert (state.numbers["a"].token, state.payloads["a"]) == (token, b"payload")
    assert record.endswith(b"payload")
    assert heard.events == [("a", "ACTIVE")]


async def test_leases_go_by_priority_and_then_in_order(q: QueueLab) -> None:
    await q.make("c", "b", item("z", priority=1), item("y", priority=1), "a")
    await q.attach("s")
    assert list(await q.lease("s", 3)) == ["z", "y", "c"]
    assert list(await q.lease("s", 9)) == ["b", "a"]
    assert (await q.state()).hungry


async def test_a_handed_back_job_goes_before_those_that_came_after_it(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.make("c")
    await q.turn("R", "a", tokens["a"])
    assert list(await q.lease("s", 2)) == ["a", "c"]


async def test_tokens_of_later_leases_are_greater(q: QueueLab) -> None:
    tokens = list((await q.leased("a", "b", "c")).values())
    assert tokens == sorted(set(tokens))
    await q.turn("R", "a", tokens[0])
    assert (await q.lease("s", 1))["a"] > tokens[-1]


async def test_a_session_gets_no_more_than_it_has_room_for(q: QueueLab) -> None:
    await q.make(*(f"a{i}" for i in range(9)))
    await q.attach("s")
    assert len(await q.lease("s", 5)) == 5
    assert await q.lease("s", 0) == {}
    state = await q.state()
    assert (len(state.waiting), state.hungry) == (4, False)


async def test_several_sessions_share_one_call(q: QueueLab) -> None:
    await q.make("a", "b", "c")
    await q.attach("s")
    await q.attach("t")
    report = await q.store.turn([], [LeaseRequest(session_bytes(s), 1, 1) for s in ("s", "t")])
    assert [[raw_id for raw_id, _, _ in lease.jobs] for lease in report.leases] == [[b"a"], [b"b"]]
    assert (report.waiting, (await q.state()).active) == (1, {"a": "s", "b": "t"})


async def test_a_call_gives_about_as_many_bytes_as_it_may(q: QueueLab) -> None:
    await q.make(*(item(f"a{i:02}", payload=bytes(200_000)) for i in range(20)))
    await q.attach("s")
    sizes = [len(record) for _, _, record in (await q.lease_fully("s", 20)).jobs]
    assert MAX_BYTES <= sum(sizes) <= MAX_BYTES + 200_000
    assert len(await q.lease("s", 20)) == len(sizes)


async def test_large_payloads_behind_small_ones_pass_the_bytes_of_a_call_by_one_job_at_the_most_and_the_rest_keeps_its_order(q: QueueLab) -> None:
    ids = [f"a{i:02}" for i in range(20)]
    await q.make(*(item(raw_id, payload=bytes(20 if i < 5 else 600_000), priority=i // 10) for i, raw_id in enumerate(ids)))
    await q.attach("s")
    async with q.heard() as heard:
        first = (await q.lease_fully("s", 20)).jobs
    assert [raw_id.decode() for raw_id, _, _ in first] == ids[:7]
    assert [raw_id for raw_id, _ in heard.events] == ids[:7]
    state = await q.state()
    assert (state.waiting, list(state.active), state.hungry) == (ids[7:], ids[:7], False)
    assert list(await q.lease("s", 20)) == ids[7:9]


async def test_ageing_jobs_that_go_back_keep_their_order(q: QueueLab) -> None:
    await q.set_policy(ageing=1000)
    ids = [f"a{i:02}" for i in range(9)]
    await q.make(*(item(raw_id, payload=bytes(20 if i < 4 else 600_000), priority=i % 2) for i, raw_id in enumerate(ids)))
    await q.attach("s")
    order = (await q.state()).waiting
    assert list(await q.lease("s", 9)) == order[: len(order) - len((await q.state()).waiting)]
    assert (await q.state()).waiting == order[len((await q.state()).active) :]


@pytest.mark.parametrize("payload_bytes", [-1, 100 << 20])
async def test_sessions_of_one_call_share_its_bytes(q: QueueLab, payload_bytes: int) -> None:
    await q.make(*(item(f"a{i}", payload=bytes(600_000)) for i in range(8)))
    sessions = ("s", "t", "u")
    for session in sessions:
        await q.attach(session)
    leases = (await q.store.turn([], [LeaseRequest(session_bytes(session), 1, 4, payload_bytes) for session in sessions])).leases
    assert [(lease.word, len(lease.jobs)) for lease in leases] == [("OK", 2), ("OK", 0), ("OK", 0)]
    assert (await q.state()).waiting == [f"a{i}" for i in range(2, 8)]


async def test_a_paused_queue_gives_nothing_and_is_not_hungry(q: QueueLab) -> None:
    await q.leased("a")
    token = (await q.state()).numbers["a"].token
    await q.make("b")
    await q.store.pause(True)
    assert await q.lease("s", 1) == {}
    assert await q.complete("a", token) == ("OK", "COMPLETED")
    state = await q.state()
    assert (state.waiting, state.paused, state.hungry) == (["b"], True, False)
    async with q.heard() as heard:
        await q.store.pause(False)
    assert heard.wakes == ["work"]
    assert list(await q.lease("s", 1)) == ["b"]


@pytest.mark.parametrize(("session", "epoch", "word"), [("nobody", 1, "NO_SESSION"), ("s", 1, "SESSION_MOVED"), ("s", 3, "SESSION_MOVED")])
async def test_a_session_that_is_not_attached_with_this_epoch_gets_nothing(q: QueueLab, session: str, epoch: int, word: str) -> None:
    await q.make("a")
    await q.attach("s", 2)
    before = await q.state()
    lease = await q.lease_fully(session, 1, epoch)
    assert (lease.word, lease.jobs) == (word, [])
    assert await q.state() == before


# Alone ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_job_that_goes_alone_goes_to_a_session_that_holds_nothing(q: QueueLab) -> None:
    await twice_lost(q, "a")
    await q.make("b")
    await q.attach("s")
    assert list(await q.lease("s", 5)) == ["a"]
    assert await q.state() == QueueState(
        jobs={"a": JobView("ACTIVE", 1, 2, ALONE), "b": JobView("WAITING")},
        waiting=["b"],
        active={"a": "s"},
        sessions={"s": SessionView(1, solo="a")},
        timers={"session s": 5000},
    )


async def test_the_session_gets_nothing_else_until_the_lone_job_is_done(q: QueueLab) -> None:
    await twice_lost(q, "a")
    await q.make("b")
    await q.attach("s")
    token = (await q.lease("s", 5))["a"]
    assert await q.lease("s", 5) == {}
    report = await q.store.turn([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("s"), 1, 5)])
    assert [raw_id for raw_id, _, _ in report.leases[0].jobs] == [b"b"]
    assert (await q.state()).sessions == {"s": SessionView(1)}


async def test_two_lone_jobs_go_to_two_sessions(q: QueueLab) -> None:
    await twice_lost(q, "a", "b")
    await q.attach("s")
    await q.attach("t")
    assert (list(await q.lease("s", 5)), list(await q.lease("t", 5))) == (["a"], ["b"])
    assert (await q.state()).sessions == {"s": SessionView(1, solo="a"), "t": SessionView(1, solo="b")}


async def test_a_busy_session_is_kept_free_for_a_lone_job(q: QueueLab) -> None:
    busy = (await q.leased("busy"))["busy"]
    await twice_lost(q, "a")
    await q.make("b")
    assert await q.lease("s", 5) == {}
    assert (await q.state()).solo == "s"
    report = await q.store.turn([TurnItem("C", b"busy", busy)], [LeaseRequest(session_bytes("s"), 1, 5)])
    assert [raw_id for raw_id, _, _ in report.leases[0].jobs] == [b"a"]
    state = await q.state()
    assert (state.solo, state.sessions["s"]) == ("", SessionView(1, solo="a"))


async def test_one_session_alone_is_kept_free_and_the_others_go_on(q: QueueLab) -> None:
    await q.leased("busy1", session="s")
    await q.leased("busy2", session="t")
    await twice_lost(q, "a")
    await q.make("b", "c")
    assert await q.lease("s", 1) == {}
    assert list(await q.lease("t", 1)) == ["b"]
    state = await q.state()
    assert (state.solo, state.alone, state.waiting) == ("s", ["a"], ["c"])


async def test_a_session_that_holds_nothing_need_not_wait_for_the_one_that_is_kept_free(q: QueueLab) -> None:
    await q.leased("busy", session="s")
    await twice_lost(q, "a")
    await q.lease("s", 1)
    assert (await q.state()).solo == "s"
    await q.attach("t")
    assert list(await q.lease("t", 1)) == ["a"]
    assert (await q.state()).solo == ""


async def test_a_session_that_was_kept_free_and_went_away_is_forgotten(q: QueueLab) -> None:
    await q.leased("busy1", session="s")
    await q.leased("busy2", session="t")
    await twice_lost(q, "a")
    await q.lease("s", 1)
    await q.detach("s")
    await q.lease("t", 1)
    assert (await q.state()).solo == "t"
