"""What people do to jobs: cancel, retry, promote, delete, pause; from every state, with the whole state of the queue after it."""

from typing import Any

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Changed

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView, state_name

ATTACHED: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": 5000}}
CANCEL_ASKED = frozenset({"CANCEL_REQUESTED"})
STATES = ("WAITING", "DELAYED", "ALONE", "ACTIVE", "COMPLETED", "FAILED", "CANCELLED")


async def bring(q: QueueLab, state: str) -> QueueState:
    """Job `a` in this state."""
    if state == "ALONE":
        for session in ("x", "y"):
            await q.make("a")
            await q.attach(session)
            await q.lease(session, 1)
            await q.lose(session)
        await q.come_due("a")
    elif state == "DELAYED":
        await q.make(item("a", due="+60000"))
    else:
        await q.make("a")
        if state not in ("WAITING", "CANCELLED"):
            await q.attach("s")
            token = (await q.lease("s", 1))["a"]
            if state == "COMPLETED":
                await q.complete("a", token)
            elif state == "FAILED":
                await q.fail("a", token, permanent=True)
    if state == "CANCELLED":
        await q.store.cancel(b"a", 0)
    found = await q.state()
    assert found.jobs["a"].state == ("WAITING" if state == "ALONE" else state)
    return found


def seen(changed: Changed) -> tuple[str, str]:
    return changed.word, state_name(changed.state)


def assert_untouched(before: QueueState, after: QueueState) -> None:
    assert (after, after.numbers) == (before, before.numbers)


# Cancel -----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["WAITING", "DELAYED", "ALONE"])
async def test_a_job_that_does_not_run_is_cancelled_at_once(q: QueueLab, state: str) -> None:
    job = (await bring(q, state)).jobs["a"]
    async with q.heard() as heard:
        changed = await q.store.cancel(b"a", 30_000)
    assert seen(changed) == ("OK", "CANCELLED")
    gone = JobView("CANCELLED", losses=job.losses, flags=job.flags, ended="CANCEL", sections=job.sections)
    assert await q.state() == QueueState(jobs={"a": gone}, cancelled=["a"])
    assert (heard.events, heard.wakes) == ([("a", "CANCELLED")], [])
    assert codec.header_of(changed.record).state == 7


async def test_a_running_job_gets_its_grace(q: QueueLab) -> None:
    await bring(q, "ACTIVE")
    async with q.heard() as heard:
        assert seen(await q.store.cancel(b"a", 3000)) == ("OK", "ACTIVE")
    assert await q.state() == QueueState(
        jobs={"a": JobView("ACTIVE", 1, flags=CANCEL_ASKED)},
        active={"a": "s"},
        sessions={"s": SessionView(1)},
        timers={"session s": 5000, "cancel a": 3000},
        cancels={"a": "s"},
    )
    assert (heard.events, heard.wakes) == ([("a", "ACTIVE")], ["pulse"])


async def test_a_second_cancel_changes_nothing(q: QueueLab) -> None:
    await bring(q, "ACTIVE")
    await q.store.cancel(b"a", 3000)
    before = await q.state()
    assert seen(await q.store.cancel(b"a", 9000)) == ("OK", "ACTIVE")
    assert_untouched(before, await q.state())


@pytest.mark.parametrize("asked_before", [False, True])
async def test_without_grace_a_running_job_is_cancelled_at_once(q: QueueLab, asked_before: bool) -> None:
    await bring(q, "ACTIVE")
    if asked_before:
        await q.store.cancel(b"a", 3000)
    assert seen(await q.store.cancel(b"a", 0)) == ("OK", "CANCELLED")
    gone = JobView("CANCELLED", 1, ended="CANCEL", flags=CANCEL_ASKED if asked_before else frozenset())
    assert await q.state() == QueueState(jobs={"a": gone}, cancelled=["a"], **ATTACHED)


@pytest.mark.parametrize(("state", "word"), [("COMPLETED", "WRONG_STATE"), ("FAILED", "WRONG_STATE"), ("CANCELLED", "OK")])
async def test_what_has_ended_is_not_cancelled(q: QueueLab, state: str, word: str) -> None:
    before = await bring(q, state)
    assert seen(await q.store.cancel(b"a", 0)) == (word, state)
    assert_untouched(before, await q.state())


# Retry ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
async def test_a_retried_job_waits_at_the_end_with_all_its_attempts_before_it(q: QueueLab, state: str) -> None:
    before = await bring(q, state)
    await q.make("b")
    async with q.heard() as heard:
        assert seen(await q.store.retry(b"a")) == ("OK", "WAITING")
    job = before.jobs["a"]
    again = JobView("WAITING", ended=job.ended, sections=job.sections)
    assert await q.state() == QueueState(
        jobs={"a": again, "b": JobView("WAITING")},
        waiting=["b", "a"],
        sessions=before.sessions,
        timers=before.timers,
        failed_total=before.failed_total,
    )
    assert heard.events == [("a", "WAITING")]


async def test_a_retried_job_begins_without_the_progress_of_before(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("P", "a", token, 5001, b"note")
    await q.fail("a", token, permanent=True)
    await q.store.retry(b"a")
    assert (await q.state()).jobs["a"] == JobView("WAITING", ended="FAIL", sections={"failure": b"why"})


async def test_a_retry_makes_a_poisonous_job_innocent(q: QueueLab) -> None:
    await bring(q, "ALONE")
    await q.attach("z")
    await q.lease("z", 1)
    await q.lose("z")
    assert (await q.state()).failed == ["a"]
    await q.store.retry(b"a")
    state = await q.state()
    assert (state.waiting, state.jobs["a"].losses, state.jobs["a"].flags) == (["a"], 0, frozenset())


@pytest.mark.parametrize(("state", "word"), [("WAITING", "OK"), ("ALONE", "OK"), ("DELAYED", "OK"), ("ACTIVE", "WRONG_STATE"), ("COMPLETED", "WRONG_STATE")])
async def test_only_what_has_ended_without_success_is_retried(q: QueueLab, state: str, word: str) -> None:
    before = await bring(q, state)
    assert (await q.store.retry(b"a")).word == word
    assert_untouched(before, await q.state())


async def test_a_retried_job_wakes_those_who_wait_for_work(q: QueueLab) -> None:
    await bring(q, "FAILED")
    await q.lease("s", 1)
    async with q.heard() as heard:
        await q.store.retry(b"a")
    assert heard.wakes == ["work"]


# Promote ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_promoted_job_waits_at_the_end(q: QueueLab) -> None:
    before = await bring(q, "DELAYED")
    await q.make("b")
    assert seen(await q.store.promote(b"a")) == ("OK", "WAITING")
    again = JobView("WAITING", sections=before.jobs["a"].sections)
    assert await q.state() == QueueState(jobs={"a": again, "b": JobView("WAITING")}, waiting=["b", "a"])


@pytest.mark.parametrize("state", [s for s in STATES if s != "DELAYED"])
async def test_only_what_is_delayed_is_promoted(q: QueueLab, state: str) -> None:
    before = await bring(q, state)
    assert (await q.store.promote(b"a")).word == ("OK" if state in ("WAITING", "ALONE") else "WRONG_STATE")
    assert_untouched(before, await q.state())


# Delete -----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [s for s in STATES if s != "ACTIVE"])
async def test_a_deleted_job_is_gone_and_its_end_is_known(q: QueueLab, state: str) -> None:
    before = await bring(q, state)
    async with q.heard() as heard:
        changed = await q.store.delete(b"a")
    assert (seen(changed), changed.record) == (("OK", "REMOVED"), b"")
    end = {"COMPLETED": ("COMPLETED", "COMPLETE"), "FAILED": ("FAILED", "FAIL")}.get(state, ("CANCELLED", "CANCEL"))
    assert await q.state() == QueueState(
        ring={"a": end}, sessions=before.sessions, timers=before.timers, completed_total=before.completed_total, failed_total=before.failed_total
    )
    assert heard.events == [("a", "REMOVED")]
    assert codec.header_of(heard.records[0]).revision > before.numbers["a"].revision
    (found,) = await q.store.get([b"a"])
    assert (found.record, state_name(found.state)) == (b"", end[0])
    assert seen(await q.store.delete(b"a")) == ("NOT_FOUND", end[0])


async def test_a_running_job_is_not_deleted(q: QueueLab) -> None:
    before = await bring(q, "ACTIVE")
    assert seen(await q.store.delete(b"a")) == ("WRONG_STATE", "ACTIVE")
    assert_untouched(before, await q.state())


@pytest.mark.parametrize("verb", ["retry", "promote", "delete", "cancel"])
async def test_of_a_job_that_never_was_nothing_is_known(q: QueueLab, verb: str) -> None:
    args = (b"never", 0) if verb == "cancel" else (b"never",)
    changed = await getattr(q.store, verb)(*args)
    assert changed == Changed("NOT_FOUND", 0, b"")
    assert await q.redis.keys(q.base + "*") == []


# Pause ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_pause_moves_nothing(q: QueueLab) -> None:
    await q.leased("a")
    await q.make("b", item("c", due="+60000"))
    before = await q.state()
    async with q.heard() as heard:
        await q.store.pause(True)
        paused = await q.state()
        await q.store.pause(False)
    assert paused.paused
    assert await q.state() == before
    assert (heard.wakes, len(heard.sequences)) == (["work"], 2)
