"""`pulse`: sessions are renewed and lost, dates come, the clock moves only while somebody pulses, and old ends are forgotten."""

from collections.abc import Sequence
from typing import Any

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.store import codec
from jobwire_broker.store.answers import PendingCancel
from jobwire_broker.store.arguments import Renewal

from tests.support.fingerprint import fingerprint
from tests.support.queue_lab import SESSION_MS, TICK_MS, QueueLab, item, ring_entry
from tests.support.queue_state import END_ENTRY, FINAL_INDEX, JobView, QueueState, SessionView, session_bytes

ATTACHED: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": 5000}}
ALONE = frozenset({"ALONE"})
LOST = frozenset({"LOST"})
CANCEL_ASKED = frozenset({"CANCEL_REQUESTED"})
DAY_US = 86_400_000_000


# The clock --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("session_ms", "ago_ms", "grows_ms"), [(20_000, 700, 700), (20_000, 60_000, 2000), (5_000, 60_000, 1000), (20_000, -60_000, 0)])
async def test_the_clock_grows_by_what_passed_up_to_a_bound(q: QueueLab, session_ms: int, ago_ms: int, grows_ms: int) -> None:
    await q.redis.hset(q.base + "m", mapping={"clock": 10_000, "last_pulse": await q.now_ms() - ago_ms})
    await q.store.pulse(session_ms, [])
    after = (await q.state()).clock
    slack_ms = 200 if 0 < ago_ms < 2000 else 0
    assert 10_000 + grows_ms <= after <= 10_000 + grows_ms + slack_ms


async def test_the_first_pulse_starts_the_clock_and_no_more(q: QueueLab) -> None:
    await q.make("a")
    await q.store.pulse(SESSION_MS, [])
    assert (await q.state()).clock == 0


async def test_a_session_outlives_any_time_without_pulses(q: QueueLab) -> None:
    await q.leased("a")
    await q.store.cancel(b"a", 3000)
    await q.redis.hset(q.base + "m", "last_pulse", 0)
    await q.store.pulse(SESSION_MS, [])
    state = await q.state()
    assert state.timers == {"session s": SESSION_MS - TICK_MS, "cancel a": 3000 - TICK_MS}
    assert state.active == {"a": "s"}


async def test_numbers_only_grow_when_the_stores_date_goes_back(q: QueueLab) -> None:
    ahead = (await q.now_ms() + 3_600_000) * 1000
    await q.redis.hset(q.base + "m", "n", ahead)
    tokens = await q.leased("a", "b")
    numbers = (await q.state()).numbers
    assert ahead < numbers["a"].created < numbers["b"].created < tokens["a"] < tokens["b"]
    await q.turn("R", "a", tokens["a"])
    assert (await q.lease("s", 1))["a"] > tokens["b"]
    assert (await q.state()).n < ahead + 10


async def test_numbers_are_dates_when_the_stores_date_is_right(q: QueueLab) -> None:
    before = await q.now_ms()
    token = (await q.leased("a"))["a"]
    assert before * 1000 <= token <= (await q.now_ms() + 1) * 1000


# Sessions ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_session_that_sent_something_is_renewed_from_then(q: QueueLab) -> None:
    await q.attach("s")
    await q.attach("t")
    report = await q.store.pulse(8000, [Renewal(session_bytes("s"), 1, 300), Renewal(session_bytes("t"), 1, -1), Renewal(session_bytes("u"), 1, 0)])
    assert (report.words, report.held) == (["OK", "OK", "NO_SESSION"], [0, 0, 0])
    assert (await q.state()).timers == {"session s": 7700, "session t": 5000}


async def test_a_pulse_counts_what_each_session_holds(q: QueueLab) -> None:
    await q.leased("a", "b", session="s")
    await q.leased("c", session="t")
    await q.make("d", item("e", due="+60000"))
    report = await q.pulse("s", "t")
    assert (report.held, report.waiting, report.active, report.delayed) == ([2, 1], 1, 3, 1)
    assert 59_000 <= report.due_ms <= 60_000
    assert report.deadline_ms == SESSION_MS
    assert (report.seq, report.more) == ((await q.state()).seq, False)


async def test_a_pulse_of_an_empty_queue_finds_nothing(q: QueueLab) -> None:
    report = await q.pulse()
    assert report[2:] == ([], 0, 0, 0, 0, -1, -1, False, [], None)
    assert await q.state() == QueueState()


async def test_a_silent_session_is_lost_when_its_time_is_over(q: QueueLab) -> None:
    await q.leased("a", "b")
    await q.make("c")
    for left in (4000, 3000, 2000, 1000):
        await q.tick()
        assert (await q.state()).timers == {"session s": left}
    async with q.heard() as heard:
        await q.tick()
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING", 0, 1, LOST), "b": JobView("WAITING", 0, 1, LOST), "c": JobView("WAITING")}, waiting=["a", "b", "c"]
    )
    assert heard.events == [("a", "WAITING"), ("b", "WAITING")]


async def test_a_session_is_renewed_before_it_could_be_lost(q: QueueLab) -> None:
    await q.leased("a")
    await q.redis.zadd(q.base + "t", {b"S" + session_bytes("s"): 0})
    await q.tick("s")
    assert (await q.state()).active == {"a": "s"}


async def test_a_session_that_holds_very_much_is_lost_in_several_pulses(q: QueueLab) -> None:
    ids = [f"a{i:03}" for i in range(300)]
    for start in range(0, 300, 100):
        await q.make(*ids[start : start + 100])
    await q.attach("s")
    for _ in range(3):
        await q.lease("s", 100)
    await q.lose("s")
    held = [len((await q.state()).active)]
    while (report := await q.pulse()).active:
        assert report.deadline_ms == 0
        held.append(report.active)
    assert held == [172, 44]
    state = await q.state()
    assert (state.waiting, state.sessions) == (ids, {})


async def test_the_second_loss_delays_a_job_and_sends_it_alone_and_the_third_alone_is_poison(q: QueueLab) -> None:
    await q.make("a", "innocent")
    await q.attach("x")
    await q.lease("x", 2)
    await q.lose("x")
    await q.attach("y")
    await q.lease("y", 1)
    before = await q.now_ms()
    await q.lose("y")
    state = await q.state()
    assert state == QueueState(
        jobs={"a": JobView("DELAYED", 0, 2, ALONE | LOST), "innocent": JobView("WAITING", 0, 1, LOST)}, delayed=["a"], waiting=["innocent"]
    )
    assert before + 1000 <= state.numbers["a"].order // 1000 <= await q.now_ms() + 1000
    await q.come_due("a")
    await q.attach("z")
    token = (await q.lease("z", 5))["a"]
    await q.lose("z")
    state = await q.state()
    dead = state.jobs["a"]
    failure = job_pb2.Failure.FromString(dead.sections["failure"])
    assert (dead.state, dead.losses, dead.attempt, failure.reason) == ("FAILED", 3, 0, "POISON")
    assert (state.failed, state.waiting, state.failed_total, state.sessions) == (["a"], ["innocent"], 1, {})
    assert (await q.complete("a", token))[0] == "ALREADY_FINISHED"


@pytest.mark.parametrize("end", ["fail", "snooze"])
async def test_losses_are_forgiven_at_a_normal_end_of_an_attempt(q: QueueLab, end: str) -> None:
    for session in ("x", "y"):
        await q.make("a")
        await q.attach(session)
        await q.lease(session, 1)
        await q.lose(session)
    await q.come_due("a")
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await (q.fail("a", token, retry_after_ms=0) if end == "fail" else q.turn("S", "a", token, 0))
    await q.pulse("s")
    state = await q.state()
    assert (state.jobs["a"].losses, state.jobs["a"].flags, state.waiting, state.sessions["s"].solo) == (0, frozenset(), ["a"], "")


async def test_a_release_neither_counts_as_a_loss_nor_forgives_one(q: QueueLab) -> None:
    await q.leased("a", session="x")
    await q.lose("x")
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.turn("R", "a", token)
    assert (await q.state()).jobs["a"].losses == 1


# Cancels ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_an_undelivered_cancel_is_named_until_its_receipt_comes(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", session="s")
    await q.leased("c", session="t")
    await q.store.cancel(b"a", 3000)
    await q.store.cancel(b"c", 9000)
    assert (await q.tick("u", "s")).cancels == [PendingCancel(1, b"a", tokens["a"], 3000 - TICK_MS)]
    assert len((await q.pulse("s", "t")).cancels) == 2
    await q.turn("X", "a", tokens["a"])
    assert [cancel.raw_id for cancel in (await q.pulse("s", "t")).cancels] == [b"c"]


async def test_at_the_end_of_its_grace_a_job_is_cancelled_and_its_token_revoked(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.cancel(b"a", 2 * TICK_MS)
    await q.tick("s")
    assert (await q.state()).active == {"a": "s"}
    await q.tick("s")
    gone = JobView("CANCELLED", 1, ended="CANCEL", flags=CANCEL_ASKED)
    after = QueueState(jobs={"a": gone}, cancelled=["a"], **ATTACHED)
    assert await q.state() == after
    for kind in ("C", "F", "S", "R", "P", "X", "E", "L"):
        assert await q.turn(kind, "a", token, 1000, -1) == ("CANCELLED", "CANCELLED")
    assert await q.state() == after


async def test_a_cancelled_job_whose_session_is_lost_has_ended(q: QueueLab) -> None:
    await q.leased("a")
    await q.store.cancel(b"a", 60_000)
    await q.lose("s")
    assert await q.state() == QueueState(jobs={"a": JobView("CANCELLED", 0, 1, CANCEL_ASKED, ended="CANCEL")}, cancelled=["a"])


async def test_a_session_and_the_grace_of_its_job_may_end_in_one_pulse(q: QueueLab) -> None:
    await q.leased("a")
    await q.store.cancel(b"a", TICK_MS)
    await q.lose("s")
    assert (await q.state()).cancelled == ["a"]


# Dates ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_what_is_due_waits_in_the_order_of_its_dates_behind_its_priority(q: QueueLab) -> None:
    now = await q.now_ms()
    await q.make(item("c", due=str(now + 30_003)), item("a", due=str(now + 30_001)), item("u", due=str(now + 30_004), priority=1), item("later", due="+90000"))
    await q.attach("s")
    await q.lease("s", 1)
    async with q.heard() as heard:
        await q.come_due("a", "c", "u")
    state = await q.state()
    assert (state.waiting, state.delayed, state.hungry) == (["u", "a", "c"], ["later"], False)
    assert sorted(heard.events) == [("a", "WAITING"), ("c", "WAITING"), ("u", "WAITING")]
    assert heard.wakes == ["work"]


async def test_nothing_comes_due_before_its_date(q: QueueLab) -> None:
    await q.make(item("a", due="+150"))
    while (report := await q.pulse()).delayed:
        assert await q.now_ms() <= (await q.state()).numbers["a"].order // 1000 + 50
        assert report.due_ms <= 150
    assert (await q.state()).numbers["a"].order // 1000 <= await q.now_ms()


async def test_very_much_that_is_due_comes_in_several_pulses(q: QueueLab) -> None:
    ids = [f"a{i:03}" for i in range(200)]
    for start in (0, 100):
        await q.make(*(item(raw_id, due="+60000") for raw_id in ids[start : start + 100]))
    for member, _ in await q.redis.zrange(q.base + "d", 0, -1, withscores=True):
        await q.redis.zadd(q.base + "d", {member: 0})
    first = await q.pulse()
    assert (first.waiting, first.delayed, first.due_ms, first.more) == (128, 72, 0, True)
    second = await q.pulse()
    assert (second.waiting, second.delayed, second.more) == (200, 0, False)


# Retention --------------------------------------------------------------------------------------------------------------------------------------------


ENDS_OF = {"c": "COMPLETED", **FINAL_INDEX}
NO_FAILURE = fingerprint("work", b"")


async def seed_ended(q: QueueLab, suffix: str, ends_us: Sequence[int], created_us: int) -> None:
    """Jobs that ended at these dates."""
    state = job_pb2.JobState.Value(f"JOB_STATE_{ENDS_OF[suffix]}")
    pipe = q.redis.pipeline(transaction=False)
    for i, end_us in enumerate(ends_us):
        header = codec.Header(state=state, ended=1, attempt=1, revision=end_us, token=created_us, order=created_us, created=created_us)
        own = {codec.TAG_FINGERPRINT: NO_FAILURE} if suffix == "f" else {}
        pipe.set(f"{q.base}jold{i}", codec.HEADER.pack(*header) + codec.encode_body("work", b"", None, 0, own))
        if suffix == "c":
            pipe.rpush(q.base + "c", END_ENTRY.pack(end_us, created_us, created_us, 1) + f"old{i}".encode())
        else:
            pipe.zadd(q.base + suffix, {f"old{i}": end_us})
        if suffix == "f":
            pipe.zadd(q.base + "D", {NO_FAILURE + end_us.to_bytes(8, "big") + f"old{i}".encode(): 0})
            pipe.zadd(q.base + "F", {NO_FAILURE: end_us})
    pipe.hset(q.base + "m", "n", max(*ends_us, 0))
    await pipe.execute()


@pytest.mark.parametrize(("suffix", "days"), [("c", 1), ("f", 30), ("x", 1), ("e", 1)])
async def test_ends_are_kept_for_their_age(q: QueueLab, suffix: str, days: int) -> None:
    now_us = await q.now_ms() * 1000
    cutoff = now_us - days * DAY_US
    await seed_ended(q, suffix, [cutoff - 2, cutoff - 1, cutoff, cutoff + 60_000_000], now_us - 40 * DAY_US)
    await q.pulse()
    state, ended = await q.state(), (ENDS_OF[suffix], "COMPLETE")
    assert list(state.jobs) == ["old3"]
    assert state.ring == {"old0": ended, "old1": ended, "old2": ended}


async def test_the_last_thousand_completions_are_kept(q: QueueLab) -> None:
    now_us = await q.now_ms() * 1000
    await seed_ended(q, "c", range(now_us - 1_000_000, now_us - 1_000_000 + 1000), now_us - 2_000_000)
    token = (await q.leased("a"))["a"]
    await q.complete("a", token)
    state = await q.state()
    assert (len(state.completed), state.completed[0], state.completed[-1], state.ring) == (1000, "old1", "a", {"old0": ("COMPLETED", "COMPLETE")})
    assert await q.turn("C", "old0", now_us - 2_000_000) == ("OK", "COMPLETED")
    assert await q.turn("F", "old0", now_us - 2_000_000, b"", -1) == ("ALREADY_FINISHED", "COMPLETED")
    assert (await q.turn("C", "old0", now_us))[0] == "STALE_LEASE"
    (found,) = await q.store.get([b"old0"])
    assert found == (b"", job_pb2.JOB_STATE_COMPLETED, now_us - 1_000_000)


async def test_a_late_crowd_of_ends_goes_a_piece_at_a_time(q: QueueLab) -> None:
    now_us = await q.now_ms() * 1000
    await seed_ended(q, "c", range(now_us - 1_000_000, now_us - 1_000_000 + 1600), now_us - 2_000_000)
    tokens = await q.leased("a", "b", "c")
    left = []
    for raw_id, token in tokens.items():
        await q.complete(raw_id, token)
        left.append(len((await q.state()).completed))
    assert left == [1345, 1090, 1000]


# The ring ---------------------------------------------------------------------------------------------------------------------------------------------


async def bucket_of(q: QueueLab) -> int:
    return await q.now_ms() // 30_000


async def test_the_end_of_a_removed_job_is_known_for_two_minutes_at_least(q: QueueLab) -> None:
    bucket = await bucket_of(q)
    await q.redis.hset(q.base + "m", "bucket", bucket)
    for age in range(5):
        await q.redis.hset(f"{q.base}g{(bucket - age) % 5}", f"removed{age}", ring_entry(5, 1, 77, 66))
    await q.pulse()
    assert {f"removed{age}" for age in range(5)} >= set((await q.state()).ring) >= {f"removed{age}" for age in range(4)}
    await q.redis.hset(q.base + "m", "bucket", bucket - 1)
    await q.pulse()
    assert "removed4" not in (await q.state()).ring or await bucket_of(q) == bucket


@pytest.mark.parametrize(("passed", "known"), [(0, 5), (1, 4), (3, 2), (4, 1), (5, 0), (1000, 0)])
async def test_the_slots_of_the_ring_take_turns(q: QueueLab, passed: int, known: int) -> None:
    bucket = await bucket_of(q)
    for slot in range(5):
        await q.redis.hset(f"{q.base}g{slot}", f"removed{slot}", ring_entry(5, 1, 77, 66))
    await q.redis.hset(q.base + "m", "bucket", bucket - passed)
    await q.pulse()
    assert len((await q.state()).ring) in {known, max(known - 1, 0)}
    if await bucket_of(q) == bucket:
        assert len((await q.state()).ring) == known
        assert int(await q.redis.hget(q.base + "m", "bucket")) == bucket


async def test_a_young_job_that_was_removed_is_not_made_again(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.complete("a", token)
    await q.store.delete(b"a")
    assert await q.make("a", "b") == ["MADE", "MADE"]
    assert await q.state() == QueueState(jobs={"b": JobView("WAITING")}, waiting=["b"], ring={"a": ("COMPLETED", "COMPLETE")}, completed_total=1, **ATTACHED)


@pytest.mark.parametrize("way", ["deleted", "too old"])
async def test_the_id_of_an_old_job_that_was_removed_may_be_taken_at_once(q: QueueLab, way: str) -> None:
    now_us = await q.now_ms() * 1000
    age_us = 2 * DAY_US if way == "too old" else 121_000_000
    await seed_ended(q, "c", range(now_us - age_us + 1000, now_us - age_us + 1000 + 1), now_us - age_us)
    await (q.pulse() if way == "too old" else q.store.delete(b"old0"))
    assert (await q.state()).ring == {"old0": ("COMPLETED", "COMPLETE")}
    assert await q.make("old0") == ["MADE"]
    assert (await q.state()).waiting == ["old0"]
