"""`attach` and `detach`: both sides agree on what a session holds."""

from typing import Any

import pytest

from tests.support.queue_lab import SESSION_MS, QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView, session_bytes, state_name

ATTACHED: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": 5000}}
MOVED: dict[str, Any] = {"sessions": {"s": SessionView(2)}, "timers": {"session s": 5000}}

LOST = frozenset({"LOST"})


async def words(q: QueueLab, epoch: int, held: list[tuple[str, int]], session: str = "s") -> list[tuple[str, str]]:
    settled = await q.attach(session, epoch, held)
    assert settled is not None
    return [(word, state_name(state)) for word, state in settled]


async def test_a_new_session_has_a_row_and_a_deadline(q: QueueLab) -> None:
    await q.store.attach(session_bytes("s"), 1, SESSION_MS, b"descriptor", [])
    await q.store.attach(session_bytes("t"), 7, 9000, b"", [])
    assert await q.state() == QueueState(
        sessions={"s": SessionView(1, "", b"descriptor"), "t": SessionView(7)}, timers={"session s": SESSION_MS, "session t": 9000}
    )


async def test_a_newer_stream_takes_the_session_over(q: QueueLab) -> None:
    await q.attach("s", 1)
    await q.store.attach(session_bytes("s"), 4, 8000, b"new", [])
    assert await q.state() == QueueState(sessions={"s": SessionView(4, "", b"new")}, timers={"session s": 8000})


async def test_an_older_stream_is_told_that_it_was_superseded(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.attach("s", 2, [("a", token)])
    before = await q.state()
    assert await q.attach("s", 1, []) is None
    await q.detach("s", 1)
    assert (await q.tick("s", epoch=1)).words == ["SESSION_MOVED"]
    assert (await q.lease_fully("s", 1, epoch=1)).word == "SESSION_MOVED"
    after = await q.state()
    assert after.jobs == before.jobs
    assert after.sessions == {"s": SessionView(2)}


async def test_the_same_stream_may_attach_again(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    before = await q.state()
    assert await words(q, 1, [("a", token)]) == [("HELD", "ACTIVE")]
    after = await q.state()
    assert (after, after.numbers) == (before, before.numbers)


async def test_an_attach_that_was_late_on_its_way_undoes_nothing(q: QueueLab) -> None:
    await q.make("a")
    await q.store.attach(session_bytes("s"), 1, SESSION_MS, b"", [], number=2)
    await q.lease("s", 1)
    before = await q.state()
    assert await q.store.attach(session_bytes("s"), 1, SESSION_MS, b"", [], number=1) is None
    after = await q.state()
    assert (after, after.numbers) == (before, before.numbers)


async def test_what_both_sides_hold_stays(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    assert await words(q, 2, list(tokens.items())) == [("HELD", "ACTIVE")] * 2
    assert await q.state() == QueueState(jobs={"a": JobView("ACTIVE", 1), "b": JobView("ACTIVE", 1)}, active={"a": "s", "b": "s"}, **MOVED)


async def test_an_undelivered_job_goes_back_to_its_place_uncharged(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.make("c")
    async with q.heard() as heard:
        assert await words(q, 2, [("b", tokens["b"])]) == [("HELD", "ACTIVE")]
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING"), "b": JobView("ACTIVE", 1), "c": JobView("WAITING")}, waiting=["a", "c"], active={"b": "s"}, **MOVED
    )
    assert heard.events == [("a", "WAITING")]


async def test_a_job_that_is_held_with_another_token_was_not_delivered(q: QueueLab) -> None:
    old = (await q.leased("a"))["a"]
    await q.turn("R", "a", old)
    await q.lease("s", 1)
    assert await words(q, 2, [("a", old)]) == [("STALE_LEASE", "ACTIVE")]
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING")}, waiting=["a"], **MOVED)


async def test_an_undelivered_job_whose_cancel_was_asked_for_has_ended(q: QueueLab) -> None:
    await q.leased("a")
    await q.store.cancel(b"a", 3000)
    await q.attach("s", 2)
    gone = JobView("CANCELLED", ended="CANCEL", flags=frozenset({"CANCEL_REQUESTED"}))
    assert await q.state() == QueueState(jobs={"a": gone}, cancelled=["a"], **MOVED)


async def test_a_session_that_comes_back_late_adopts_what_still_waits(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.lose("s")
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING", 0, 1, LOST), "b": JobView("WAITING", 0, 1, LOST)}, waiting=["a", "b"])
    assert await words(q, 2, list(tokens.items())) == [("HELD", "ACTIVE")] * 2
    state = await q.state()
    assert state == QueueState(jobs={"a": JobView("ACTIVE", 1), "b": JobView("ACTIVE", 1)}, active={"a": "s", "b": "s"}, **MOVED)
    assert {raw_id: numbers.token for raw_id, numbers in state.numbers.items()} == tokens
    assert await q.complete("a", tokens["a"]) == ("OK", "COMPLETED")


async def test_an_adoption_takes_back_the_loss_of_its_own_lease_and_no_earlier_one(q: QueueLab) -> None:
    await q.leased("a")
    await q.lose("s")
    await q.attach("s", 2)
    token = (await q.lease("s", 1, 2))["a"]
    await q.attach("s", 3)
    assert (await q.state()).jobs == {"a": JobView("WAITING", 0, 1)}
    assert await words(q, 4, [("a", token)]) == [("HELD", "ACTIVE")]
    assert (await q.state()).jobs == {"a": JobView("ACTIVE", 1, 1)}


async def test_a_job_that_waits_to_go_alone_is_adopted_as_it_was_before_the_loss(q: QueueLab) -> None:
    token = 0
    for epoch in (1, 2):
        await q.make("a")
        await q.attach("s", epoch)
        token = (await q.lease("s", 1, epoch))["a"]
        await q.lose("s")
    assert (await q.state()).delayed == ["a"]
    assert await words(q, 3, [("a", token)]) == [("HELD", "ACTIVE")]
    assert await q.state() == QueueState(jobs={"a": JobView("ACTIVE", 1, 1)}, active={"a": "s"}, sessions={"s": SessionView(3)}, timers={"session s": 5000})


@pytest.mark.parametrize("other", ["leased", "completed"])
async def test_what_was_given_away_since_is_not_adopted(q: QueueLab, other: str) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    await q.attach("t")
    new = (await q.lease("t", 1))["a"]
    if other == "completed":
        await q.complete("a", new)
    before = (await q.state()).jobs
    assert (await words(q, 2, [("a", token)]))[0][0] == "STALE_LEASE"
    assert (await q.state()).jobs == before


async def test_each_held_job_gets_the_word_for_what_became_of_it(q: QueueLab) -> None:
    await q.make("held", "completed", "failed", "cancelled", "released", "removed", "gone", "retried", item("mine"))
    await q.attach("s")
    tokens = await q.lease("s", 9)
    await q.complete("completed", tokens["completed"])
    await q.fail("failed", tokens["failed"], permanent=True)
    await q.store.cancel(b"cancelled", 0)
    await q.turn("R", "released", tokens["released"])
    await q.complete("removed", tokens["removed"])
    await q.store.delete(b"removed")
    await q.store.cancel(b"gone", 0)
    await q.store.delete(b"gone")
    await q.fail("retried", tokens["retried"], permanent=True)
    await q.store.retry(b"retried")
    answers = await words(q, 2, [*tokens.items(), ("never", 5), ("removed", 5)])
    assert dict(zip([*tokens, "never", "removed with another token"], answers, strict=True)) == {
        "held": ("HELD", "ACTIVE"),
        "completed": ("OK", "COMPLETED"),
        "failed": ("OK", "FAILED"),
        "cancelled": ("CANCELLED", "CANCELLED"),
        "released": ("OK", "WAITING"),
        "removed": ("OK", "COMPLETED"),
        "gone": ("CANCELLED", "CANCELLED"),
        "retried": ("OK", "WAITING"),
        "mine": ("HELD", "ACTIVE"),
        "never": ("NOT_FOUND", "UNSPECIFIED"),
        "removed with another token": ("STALE_LEASE", "COMPLETED"),
    }
    assert (await q.state()).active == {"held": "s", "mine": "s"}


async def test_nobody_adopts_a_job_that_was_never_leased(q: QueueLab) -> None:
    await q.make("a")
    assert await words(q, 1, [("a", 0)]) == [("STALE_LEASE", "WAITING")]
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING")}, waiting=["a"], **ATTACHED)


async def test_a_session_stays_alone_with_its_job_over_a_reconnect(q: QueueLab) -> None:
    for session in ("x", "y"):
        await q.make("a")
        await q.attach(session)
        await q.lease(session, 1)
        await q.lose(session)
    await q.come_due("a")
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.make("b")
    assert await words(q, 2, [("a", token)]) == [("HELD", "ACTIVE")]
    assert (await q.state()).sessions == {"s": SessionView(2, solo="a")}
    assert await q.lease("s", 1, 2) == {}


# Detach -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_goodbye_hands_everything_back_uncharged(q: QueueLab) -> None:
    await q.leased("a", "b")
    await q.make("c")
    await q.store.cancel(b"b", 3000)
    async with q.heard() as heard:
        await q.detach("s")
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING"), "b": JobView("CANCELLED", ended="CANCEL", flags=frozenset({"CANCEL_REQUESTED"})), "c": JobView("WAITING")},
        waiting=["a", "c"],
        cancelled=["b"],
    )
    assert heard.events == [("a", "WAITING"), ("b", "CANCELLED")]


async def test_a_goodbye_of_a_session_that_is_not_there_changes_nothing(q: QueueLab) -> None:
    await q.detach("s")
    assert await q.state() == QueueState()
    assert await q.redis.keys(q.base + "*") == []


async def test_jobs_handed_back_wake_those_who_wait_for_work(q: QueueLab) -> None:
    await q.leased("a")
    await q.attach("t")
    await q.lease("t", 1)
    async with q.heard() as heard:
        await q.detach("s")
    assert heard.wakes == ["work"]


async def test_what_a_session_of_many_jobs_did_not_get_goes_back_in_pieces(q: QueueLab) -> None:
    ids = [f"a{i:03}" for i in range(300)]
    for at in range(0, 300, 100):
        await q.make(*ids[at : at + 100])
    await q.attach("s")
    tokens = await q.lease("s", 128) | await q.lease("s", 128) | await q.lease("s", 128)
    assert list(tokens) == ids
    kept = [(raw_id, tokens[raw_id]) for raw_id in ids[::50]]
    async with q.heard() as heard:
        settled = await q.attach("s", 2, held=[*kept, ("a001", 1), ("never", 1)])
    assert [word for word, _ in settled or ()] == ["HELD"] * 6 + ["STALE_LEASE", "NOT_FOUND"]
    state = await q.state()
    assert (list(state.active), state.waiting) == (ids[::50], [raw_id for raw_id in ids if (raw_id, tokens[raw_id]) not in kept])
    # No call did more than 128.
    assert len(heard.sequences) == 3


async def test_a_session_of_many_jobs_that_says_goodbye_ends_in_pieces(q: QueueLab) -> None:
    ids = [f"a{i:03}" for i in range(200)]
    await q.make(*ids[:100])
    await q.make(*ids[100:])
    await q.attach("s")
    await q.lease("s", 128)
    await q.lease("s", 128)
    async with q.heard() as heard:
        await q.detach("s")
    state = await q.state()
    assert (state.waiting, state.active, state.sessions) == (ids, {}, {})
    assert len(heard.sequences) == 2
