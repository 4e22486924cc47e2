"""`turn`, the items: what a worker says of a job, and the whole state of the queue after it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.names import id_to_bytes
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import LeaseRequest, TurnItem, item_args

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView, session_bytes

ATTACHED: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": 5000}}
CANCEL_ASKED = frozenset({"CANCEL_REQUESTED"})
ALONE = frozenset({"ALONE"})
LOST = frozenset({"LOST"})


# Complete ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_completed_job_keeps_its_result(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    async with q.heard() as heard:
        assert await q.complete("a", token, b"result") == ("OK", "COMPLETED")
    done = JobView("COMPLETED", 1, progress=100, ended="COMPLETE", sections={"result": b"result"})
    assert await q.state() == QueueState(jobs={"a": done}, completed=["a"], completed_total=1, **ATTACHED)
    assert heard.events == [("a", "COMPLETED")]
    assert heard.wakes == []


async def test_completions_stand_in_the_order_in_which_they_came(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c")
    await q.store.turn([TurnItem("C", raw_id.encode(), tokens[raw_id]) for raw_id in ("c", "a", "b")])
    state = await q.state()
    assert (state.completed, state.completed_total) == (["c", "a", "b"], 3)


# Fail -------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_failed_attempt_waits_for_the_next(q: QueueLab) -> None:
    await q.make(item("a", backoff=codec.Backoff(60_000, 3000, 86_400_000, 0)))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    before = await q.now_ms()
    assert await q.fail("a", token) == ("OK", "DELAYED")
    state = await q.state()
    view = state.jobs["a"]
    assert (view.state, view.attempt, view.ended, view.sections["failure"]) == ("DELAYED", 1, "FAIL", b"why")
    assert replace(state, jobs={}) == QueueState(delayed=["a"], **ATTACHED)
    assert before + 60_000 <= state.numbers["a"].order // 1000 <= await q.now_ms() + 60_000


@pytest.mark.parametrize(("attempt", "wait_ms"), [(1, 1000), (2, 3000), (3, 9000), (4, 20_000), (5, 20_000)])
async def test_each_wait_is_longer_than_the_one_before_up_to_the_cap(q: QueueLab, attempt: int, wait_ms: int) -> None:
    await q.make(item("a", attempts=9, backoff=codec.Backoff(1000, 3000, 20_000, 0)))
    await q.attach("s")
    await fail_before(q, "a", attempt)
    token = (await q.lease("s", 1))["a"]
    before = await q.now_ms()
    await q.fail("a", token)
    due = (await q.state()).numbers["a"].order // 1000
    assert before + wait_ms <= due <= await q.now_ms() + wait_ms


async def fail_before(q: QueueLab, raw_id: str, attempt: int) -> None:
    """Fail all attempts before this one."""
    for _ in range(attempt - 1):
        await q.fail(raw_id, (await q.lease("s", 1))[raw_id], retry_after_ms=0)
        await q.pulse("s")


async def test_jitter_only_adds_and_at_most_its_share(q: QueueLab) -> None:
    ids = [f"a{i}" for i in range(20)]
    await q.make(*(item(raw_id, backoff=codec.Backoff(100_000, 2000, 86_400_000, 5000)) for raw_id in ids))
    await q.attach("s")
    tokens = await q.lease("s", 20)
    before = await q.now_ms()
    await q.store.turn([TurnItem("F", raw_id.encode(), token, b"", -1) for raw_id, token in tokens.items()])
    after = await q.now_ms()
    dues = [numbers.order // 1000 for numbers in (await q.state()).numbers.values()]
    assert all(before + 100_000 <= due <= after + 150_000 for due in dues)
    assert max(dues) - min(dues) > 20_000


async def test_a_base_of_zero_stays_zero_however_many_attempts_there_were(q: QueueLab) -> None:
    await q.make(item("a", attempts=1000, backoff=codec.Backoff(0, 10_000, 86_400_000, 0)))
    await q.attach("s")
    record = await q.redis.get(q.base + "ja")
    await q.redis.setrange(q.base + "ja", 0, codec.HEADER.pack(*codec.header_of(record)._replace(attempt=900)))
    token = (await q.lease("s", 1))["a"]
    assert (await q.state()).jobs["a"].attempt == 901
    assert await q.fail("a", token) == ("OK", "DELAYED")
    assert (await q.state()).delayed == ["a"]


async def test_what_the_worker_asks_for_wins_over_the_backoff(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    before = await q.now_ms()
    await q.fail("a", token, retry_after_ms=77_000)
    assert before + 77_000 <= (await q.state()).numbers["a"].order // 1000 <= await q.now_ms() + 77_000


async def test_the_last_attempt_fails_the_job(q: QueueLab) -> None:
    await q.make(item("a", attempts=1))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    assert await q.fail("a", token) == ("OK", "FAILED")
    dead = JobView("FAILED", 1, ended="FAIL", attempts=1, sections={"failure": b"why"})
    assert await q.state() == QueueState(jobs={"a": dead}, failed=["a"], failed_total=1, **ATTACHED)


async def test_a_permanent_failure_ends_the_job_at_once(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await q.fail("a", token, permanent=True) == ("OK", "FAILED")
    dead = JobView("FAILED", 1, ended="FAIL", sections={"failure": b"why"})
    assert await q.state() == QueueState(jobs={"a": dead}, failed=["a"], failed_total=1, **ATTACHED)


# Snooze and release -----------------------------------------------------------------------------------------------------------------------------------


async def test_a_snooze_is_not_charged(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await q.turn("S", "a", token, 60_000) == ("OK", "DELAYED")
    assert await q.state() == QueueState(jobs={"a": JobView("DELAYED", ended="SNOOZE")}, delayed=["a"], **ATTACHED)


async def test_a_released_job_regains_its_place_uncharged(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.make("c", item("d", priority=1))
    assert await q.turn("R", "b", tokens["b"]) == ("OK", "WAITING")
    assert await q.turn("R", "a", tokens["a"]) == ("OK", "WAITING")
    back = JobView("WAITING", ended="RELEASE")
    assert await q.state() == QueueState(
        jobs={"a": back, "b": back, "c": JobView("WAITING"), "d": JobView("WAITING", priority=1)}, waiting=["d", "a", "b", "c"], **ATTACHED
    )


async def test_a_job_without_a_handler_fails_after_five_returns(q: QueueLab) -> None:
    await q.leased("a")
    token = (await q.state()).numbers["a"].token
    for returns in range(1, 5):
        assert await q.turn("R", "a", token, "NO_HANDLER") == ("OK", "DELAYED")
        assert await q.state() == QueueState(jobs={"a": JobView("DELAYED", ended="RELEASE", returns=returns)}, delayed=["a"], **ATTACHED)
        await q.come_due("a")
        token = (await q.lease("s", 1))["a"]
    assert await q.turn("R", "a", token, "NO_HANDLER") == ("OK", "FAILED")
    state = await q.state()
    failure = job_pb2.Failure.FromString(state.jobs["a"].sections["failure"])
    assert (failure.type, failure.reason) == ("NO_HANDLER", "NO_HANDLER")
    assert (state.failed, state.jobs["a"].attempt, state.failed_total) == (["a"], 0, 1)
    assert await q.turn("R", "a", token, "NO_HANDLER") == ("OK", "FAILED")


# Progress, receipts, log, extend ----------------------------------------------------------------------------------------------------------------------


async def test_progress_never_falls_within_an_attempt(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for percent, kept in ((1000, 10.0), (5000, 50.0), (2000, 50.0), (5001, 50.01)):
        assert await q.turn("P", "a", token, percent, b"note") == ("OK", "ACTIVE")
        assert await q.state() == QueueState(jobs={"a": JobView("ACTIVE", 1, progress=kept, sections={"progress": b"note"})}, active={"a": "s"}, **ATTACHED)


async def test_progress_without_a_message_takes_the_message_away(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("P", "a", token, 1000, b"note")
    await q.turn("P", "a", token, 2000, b"")
    assert (await q.state()).jobs["a"] == JobView("ACTIVE", 1, progress=20)


@pytest.mark.parametrize("way", ["fail", "release", "lost"])
async def test_the_next_attempt_begins_without_the_progress_of_the_last(q: QueueLab, way: str) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("P", "a", token, 7000, b"note")
    if way == "fail":
        await q.fail("a", token, retry_after_ms=0)
        await q.pulse("s")
    elif way == "release":
        await q.turn("R", "a", token)
    else:
        await q.lose("s")
        await q.attach("s", 2)
    epoch = 2 if way == "lost" else 1
    again = await q.lease("s", 1, epoch)
    view = (await q.state()).jobs["a"]
    assert (view.state, view.progress, "progress" in view.sections) == ("ACTIVE", None, False)
    await q.complete("a", again["a"])
    assert "progress" not in (await q.state()).jobs["a"].sections


async def test_progress_and_the_finish_after_it_in_one_call(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    report = await q.store.turn([TurnItem("P", b"a", token, 5000, b"note"), TurnItem("C", b"a", token, b"result")])
    assert [settled.word for settled in report.settled] == ["OK", "OK"]
    done = JobView("COMPLETED", 1, progress=100, ended="COMPLETE", sections={"progress": b"note", "result": b"result"})
    assert await q.state() == QueueState(jobs={"a": done}, completed=["a"], completed_total=1, **ATTACHED)


async def test_extend_moves_the_sessions_deadline_and_never_back(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for duration_ms, left in ((9000, 9000), (1000, 9000), (12_000, 12_000)):
        assert await q.turn("E", "a", token, duration_ms) == ("OK", "ACTIVE")
        assert (await q.state()).timers == {"session s": left}


async def test_a_cancels_receipt_is_noted_once(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.cancel(b"a", 3000)
    for _ in range(2):
        assert await q.turn("X", "a", token) == ("OK", "ACTIVE")
        assert await q.state() == QueueState(
            jobs={"a": JobView("ACTIVE", 1, flags=frozenset({"CANCEL_REQUESTED", "CANCEL_DELIVERED"}))},
            active={"a": "s"},
            sessions={"s": SessionView(1)},
            timers={"session s": 5000, "cancel a": 3000},
        )


async def test_a_receipt_for_a_cancel_that_nobody_asked_for_says_nothing_of_a_later_one(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await q.turn("X", "a", token) == ("OK", "ACTIVE")
    assert (await q.state()).jobs == {"a": JobView("ACTIVE", 1)}
    await q.store.cancel(b"a", 3000)
    assert (await q.state()).cancels == {"a": "s"}
    assert [cancel.raw_id for cancel in (await q.pulse("s")).cancels] == [b"a"]


# Verdicts ---------------------------------------------------------------------------------------------------------------------------------------------

SAME: list[tuple[str, tuple[Any, ...]]] = [("C", (b"result",)), ("F", (b"why", 60_000)), ("F", (b"why", -2)), ("S", (60_000,)), ("R", ("",))]
Act = Callable[[QueueLab], Awaitable[Any]]


async def nothing(q: QueueLab) -> None: ...


async def retry(q: QueueLab) -> None:
    await q.store.retry(b"a")


async def promote(q: QueueLab) -> None:
    await q.store.promote(b"a")


async def cancel(q: QueueLab) -> None:
    await q.store.cancel(b"a", 0)


async def delete(q: QueueLab) -> None:
    await q.store.delete(b"a")


async def cancel_and_delete(q: QueueLab) -> None:
    await q.store.cancel(b"a", 0)
    await q.store.delete(b"a")


async def cancel_and_retry(q: QueueLab) -> None:
    await q.store.cancel(b"a", 0)
    await q.store.retry(b"a")


@pytest.mark.parametrize("between", [nothing, retry, promote, cancel, delete, cancel_and_delete, cancel_and_retry], ids=lambda act: act.__name__)
@pytest.mark.parametrize(("kind", "args"), SAME, ids=["complete", "fail", "fail-for-good", "snooze", "release"])
async def test_the_same_finish_twice_gets_the_same_verdict(q: QueueLab, kind: str, args: tuple[Any, ...], between: Act) -> None:
    token = (await q.leased("a"))["a"]
    first, _ = await q.turn(kind, "a", token, *args)
    await between(q)
    before = await q.state()
    second, _ = await q.turn(kind, "a", token, *args)
    assert (first, second) == ("OK", "OK")
    assert await q.state() == before


@pytest.mark.parametrize(("kind", "args"), SAME[1:], ids=["fail", "fail-for-good", "snooze", "release"])
async def test_the_same_finish_of_a_cancelled_attempt_gets_the_same_verdict(q: QueueLab, kind: str, args: tuple[Any, ...]) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.cancel(b"a", 3000)
    for _ in range(2):
        assert await q.turn(kind, "a", token, *args) == ("CANCELLED", "CANCELLED")
    await q.store.retry(b"a")
    assert await q.turn(kind, "a", token, *args) == ("CANCELLED", "WAITING")


@pytest.mark.parametrize(("kind", "args"), SAME[1:], ids=["fail", "fail-for-good", "snooze", "release"])
async def test_another_finish_of_the_same_lease_comes_too_late(q: QueueLab, kind: str, args: tuple[Any, ...]) -> None:
    token = (await q.leased("a"))["a"]
    await q.complete("a", token)
    before = await q.state()
    assert await q.turn(kind, "a", token, *args) == ("ALREADY_FINISHED", "COMPLETED")
    assert await q.state() == before


@pytest.mark.parametrize("kind", ["C", "F", "S", "R", "P", "X", "E", "L", "K"])
async def test_an_old_token_is_stale_once_the_job_was_leased_again(q: QueueLab, kind: str) -> None:
    old = (await q.leased("a"))["a"]
    await q.turn("R", "a", old)
    new = (await q.lease("s", 1))["a"]
    assert new > old
    before = await q.state()
    for token in (old, new + 1, 0, -1):
        assert (await q.turn(kind, "a", token, 1000, -1))[0] == "STALE_LEASE"
    after = await q.state()
    assert (after, after.numbers) == (before, before.numbers)


@pytest.mark.parametrize("kind", ["C", "F", "S", "R", "P", "X", "E", "L", "K"])
async def test_of_a_job_that_never_was_nothing_is_known(q: QueueLab, kind: str) -> None:
    assert await q.turn(kind, "never", 17, 1000, -1) == ("NOT_FOUND", "UNSPECIFIED")
    assert await q.state() == QueueState()


@pytest.mark.parametrize("kind", ["C", "F", "S", "R", "P", "X", "E", "L", "K"])
async def test_a_job_that_was_never_leased_has_no_token(q: QueueLab, kind: str) -> None:
    await q.make("a")
    before = await q.state()
    assert (await q.turn(kind, "a", 0, 1000, -1))[0] == "STALE_LEASE"
    assert await q.state() == before


# Cancelled attempts -----------------------------------------------------------------------------------------------------------------------------------


async def test_a_completion_wins_over_a_cancel_that_was_only_asked_for(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.cancel(b"a", 3000)
    assert await q.complete("a", token) == ("OK", "COMPLETED")
    done = JobView("COMPLETED", 1, progress=100, ended="COMPLETE", flags=CANCEL_ASKED)
    assert await q.state() == QueueState(jobs={"a": done}, completed=["a"], completed_total=1, **ATTACHED)


@pytest.mark.parametrize(
    ("kind", "args", "attempt", "sections"),
    [
        ("F", (b"why", -1), 1, {"failure": b"why"}),
        ("F", (b"why", -2), 1, {"failure": b"why"}),
        ("S", (60_000,), 0, {}),
        ("R", ("",), 0, {}),
        ("R", ("NO_HANDLER",), 0, {}),
    ],
    ids=["fail", "fail-for-good", "snooze", "release", "no-handler"],
)
async def test_a_cancelled_job_that_comes_back_has_ended(q: QueueLab, kind: str, args: tuple[Any, ...], attempt: int, sections: dict[str, bytes]) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.cancel(b"a", 3000)
    await q.turn(kind, "a", token, *args)
    gone = JobView("CANCELLED", attempt, ended="CANCEL", flags=CANCEL_ASKED, sections=sections)
    assert await q.state() == QueueState(jobs={"a": gone}, cancelled=["a"], **ATTACHED)


# Late finishes ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "word", "state"),
    [
        ("C", (b"",), "OK", JobView("COMPLETED", 1, progress=100, ended="COMPLETE")),
        ("F", (b"why", -2), "OK", JobView("FAILED", 1, ended="FAIL", sections={"failure": b"why"})),
        ("F", (b"why", 60_000), "OK", JobView("DELAYED", 1, ended="FAIL", sections={"failure": b"why"})),
        ("S", (60_000,), "OK", JobView("DELAYED", 0, ended="SNOOZE")),
        ("R", ("",), "OK", JobView("WAITING", 0, 1, ended="RELEASE")),
    ],
    ids=["complete", "fail-for-good", "fail", "snooze", "release"],
)
async def test_a_late_finish_of_a_reaped_job_that_still_waits_counts(q: QueueLab, kind: str, args: tuple[Any, ...], word: str, state: JobView) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING", 0, 1, LOST)}, waiting=["a"])
    assert (await q.turn(kind, "a", token, *args))[0] == word
    assert (await q.state()).jobs == {"a": state}
    assert (await q.turn(kind, "a", token, *args))[0] == word


async def test_a_late_finish_counts_as_well_while_the_job_waits_to_go_alone(q: QueueLab) -> None:
    token = 0
    for epoch in (1, 2):
        await q.make("a")
        await q.attach("s", epoch)
        token = (await q.lease("s", 1, epoch))["a"]
        await q.lose("s")
    assert await q.state() == QueueState(jobs={"a": JobView("DELAYED", 0, 2, ALONE | LOST)}, delayed=["a"])
    assert await q.complete("a", token) == ("OK", "COMPLETED")
    assert await q.state() == QueueState(jobs={"a": JobView("COMPLETED", 1, flags=ALONE, progress=100, ended="COMPLETE")}, completed=["a"], completed_total=1)


async def test_a_late_finish_is_stale_once_the_job_was_given_away(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    await q.attach("t")
    await q.lease("t", 1)
    before = await q.state()
    assert (await q.complete("a", token))[0] == "STALE_LEASE"
    assert await q.state() == before


@pytest.mark.parametrize("kind", ["P", "X", "E", "L", "K"])
async def test_a_reaped_job_takes_no_progress(q: QueueLab, kind: str) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    before = await q.state()
    assert await q.turn(kind, "a", token, 1000, b"") == ("STALE_LEASE", "WAITING")
    assert await q.state() == before


async def test_a_late_finish_of_a_job_that_was_cancelled_meanwhile_is_told_so(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    await q.store.cancel(b"a", 0)
    assert await q.complete("a", token) == ("CANCELLED", "CANCELLED")


async def test_a_late_finish_of_a_job_that_was_deleted_meanwhile_is_told_so(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    await q.store.delete(b"a")
    assert await q.complete("a", token) == ("CANCELLED", "CANCELLED")
    assert (await q.turn("C", "a", token + 1))[0] == "STALE_LEASE"


# Batches ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_batch_settles_each_item_by_itself_and_leases_with_what_came_free(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c")
    await q.make("d")
    report = await q.store.turn(
        [
            TurnItem("C", b"a", tokens["a"]),
            TurnItem("C", b"b", tokens["b"] - 1),
            TurnItem("C", b"never", 5),
            TurnItem("C", b"a", tokens["a"]),
            TurnItem("R", b"c", tokens["c"]),
            TurnItem("C", b"c", tokens["c"]),
        ],
        [LeaseRequest(session_bytes("s"), 1, 1)],
    )
    assert [settled.word for settled in report.settled] == ["OK", "STALE_LEASE", "NOT_FOUND", "OK", "OK", "ALREADY_FINISHED"]
    assert [raw_id for raw_id, _, _ in report.leases[0].jobs] == [b"c"]
    assert await q.state() == QueueState(
        jobs={
            "a": JobView("COMPLETED", 1, progress=100, ended="COMPLETE"),
            "b": JobView("ACTIVE", 1),
            "c": JobView("ACTIVE", 1),
            "d": JobView("WAITING"),
        },
        waiting=["d"],
        active={"b": "s", "c": "s"},
        completed=["a"],
        completed_total=1,
        **ATTACHED,
    )


@pytest.mark.parametrize(
    "bad",
    [
        ("Z", "", ""),
        ("F", "why", "soon"),
        ("S", "soon", ""),
        ("P", "half", ""),
        ("E", "long", ""),
    ],
    ids=["kind", "fail", "snooze", "progress", "extend"],
)
async def test_a_batch_with_a_malformed_item_is_refused_before_anything_is_written(q: QueueLab, bad: tuple[Any, ...]) -> None:
    tokens = await q.leased("a", "b")
    before = await q.state()
    malformed = TurnItem(bad[0], b"b", tokens["b"], *bad[1:])
    with pytest.raises(Exception, match="item 2 is malformed"):
        await q.store.turn([TurnItem("C", b"a", tokens["a"]), malformed])
    after = await q.state()
    assert (after, after.numbers) == (before, before.numbers)


async def test_a_batch_with_a_malformed_job_makes_none(q: QueueLab) -> None:
    for bad, what in ((item("b", due="soon"), "due date 1"), (item("b")._replace(body=b""), "item 2")):
        with pytest.raises(Exception, match=f"{what} is malformed"):
            await q.make(item("a"), bad)
        assert await q.state() == QueueState()
    jobs = [item("a", priority=None), item("b", priority=33)]
    args = item_args(jobs, 5)
    for at, bad_value, what in ((4, "", "the priority of the queue is missing"), (args.index(33), "high", "priority 1 is malformed")):
        with pytest.raises(Exception, match=what):
            await q.store.enqueue(jobs, args=[bad_value if i == at else value for i, value in enumerate(args)])
        assert await q.state() == QueueState()


async def test_as_many_items_as_a_call_may_have_are_settled_at_once(q: QueueLab) -> None:
    ids = [f"a{i:03}" for i in range(128)]
    tokens = await q.leased(*ids)
    assert list(tokens) == ids
    assert len(set(tokens.values())) == 128
    report = await q.store.turn([TurnItem("C", id_to_bytes(raw_id), token) for raw_id, token in tokens.items()])
    assert {settled.word for settled in report.settled} == {"OK"}
    assert (await q.state()).completed == ids
