"""Expiry, timeouts of attempts and of jobs, listed errors and lists of waits, with the whole state of the queue after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jobwire.v1 import admin_service_pb2, job_pb2
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import JobItem
from jobwire_broker.store.attempts import attempts_of

from tests.support.queue_lab import SESSION_MS, TICK_MS, QueueLab
from tests.support.queue_state import JobView, QueueState, SessionView

TIMED = frozenset({"TIMED"})
HELD: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": SESSION_MS}}


def timed(raw_id: str, *, due: str = "", attempts: int = 3, **rules: Any) -> JobItem:
    """A job with rules of time: timeout, total, expires_in (ms), expires_at (date in ms), delays, permanent."""
    sections: dict[int, bytes] = {}
    if "expires_in" in rules:
        sections[codec.TAG_EXPIRY] = codec.encode_expiry("r", rules["expires_in"])
    if "expires_at" in rules:
        sections[codec.TAG_EXPIRY] = codec.encode_expiry("d", rules["expires_at"])
    for name, tag in (("timeout", codec.TAG_TIMEOUT), ("total", codec.TAG_TOTAL_TIMEOUT)):
        if name in rules:
            sections[tag] = codec.encode_ms(rules[name])
    flags = codec.FLAG_TIMED if sections else 0
    if "delays" in rules:
        sections[codec.TAG_DELAYS] = codec.encode_delays(rules.get("jitter", 0), rules["delays"])
    if "permanent" in rules:
        sections[codec.TAG_PERMANENT] = codec.encode_names(rules["permanent"])
    delay_ms = int(due[1:]) if due.startswith("+") else 0
    return JobItem(raw_id.encode(), due, 5, attempts, codec.encode_body("work", b"", None, delay_ms, sections), None, flags)


async def compared(q: QueueLab, *, dates_moved: bool = False) -> QueueState:
    """The state without the sections that the test put in itself."""
    state = await q.state(dates_moved=dates_moved)
    state.jobs = {raw_id: replace(job, sections={}) for raw_id, job in state.jobs.items()}
    return state


async def set_policy(q: QueueLab, text: str) -> None:
    await q.redis.hset(q.base + "m", "policy", text)


def failure(kind: str) -> bytes:
    return job_pb2.Failure(type=kind, message="why").SerializeToString()


# Expiry -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_job_that_has_not_started_in_time_expires(q: QueueLab) -> None:
    await q.make(timed("a", expires_in=100_000), "b")
    before = await q.now_ms()
    state = await compared(q)
    assert state == QueueState(jobs={"a": JobView("WAITING", flags=TIMED), "b": JobView("WAITING")}, waiting=["a", "b"], expiring=["a"])
    assert before + 99_000 < state.dates["a"] <= before + 100_000
    await q.make(timed("c", expires_at=before - 1))
    async with q.heard() as heard:
        report = await q.pulse()
    assert heard.events == [("c", "EXPIRED")]
    assert 99_000 < report.due_ms <= 100_000
    jobs = {"a": JobView("WAITING", flags=TIMED), "b": JobView("WAITING"), "c": JobView("EXPIRED", flags=TIMED)}
    assert await compared(q) == QueueState(jobs=jobs, waiting=["a", "b"], expired=["c"], expiring=["a"])
    assert (await q.store.stats()).expired == 1


async def test_a_delayed_job_expires_from_its_due_date_on(q: QueueLab) -> None:
    await q.make(timed("a", due="+60000", expires_in=5_000), timed("b", due="+60000", expires_at=await q.now_ms() + 20))
    state = await q.state()
    assert state.expiring == ["b", "a"]
    assert state.dates["a"] == state.numbers["a"].order // 1000 + 5_000
    while await q.now_ms() < state.dates["b"]:
        pass
    await q.pulse()
    jobs = {"a": JobView("DELAYED", flags=TIMED), "b": JobView("EXPIRED", flags=TIMED)}
    assert await compared(q) == QueueState(jobs=jobs, delayed=["a"], expired=["b"], expiring=["a"])
    await q.store.promote(b"a")
    state = await q.state()
    assert state.dates["a"] == state.numbers["a"].order // 1000 + 5_000


async def test_what_has_expired_is_not_delivered_even_before_a_pulse(q: QueueLab) -> None:
    late = await q.now_ms() - 1
    await q.make(*(timed(f"a{i}", expires_at=late) for i in range(6)), "b", "c")
    await q.attach("s")
    assert list(await q.lease("s", 2)) == ["b", "c"]
    state = await compared(q)
    gone = [f"a{i}" for i in range(6)]
    jobs = {raw_id: JobView("EXPIRED", flags=TIMED) for raw_id in gone} | {raw_id: JobView("ACTIVE", 1) for raw_id in ("b", "c")}
    assert state == QueueState(jobs=jobs, active={"b": "s", "c": "s"}, expired=gone, **HELD)


async def test_what_was_leased_once_expires_no_more(q: QueueLab) -> None:
    await q.make(timed("a", expires_in=100_000))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    assert await compared(q) == QueueState(jobs={"a": JobView("ACTIVE", 1, flags=TIMED)}, active={"a": "s"}, **HELD)
    await q.turn("R", "a", token)
    assert (await compared(q)).expiring == []
    assert list(await q.lease("s", 1)) == ["a"]


@pytest.mark.parametrize("verb", ["cancel", "delete", "expired and retried"])
async def test_no_expiry_outlives_what_ends_a_job_or_takes_it_back(q: QueueLab, verb: str) -> None:
    await q.make(timed("a", expires_in=1 if verb.startswith("expired") else 100_000, due="+0"))
    if verb == "cancel":
        await q.store.cancel(b"a", 0)
        expected = QueueState(jobs={"a": JobView("CANCELLED", ended="CANCEL", flags=TIMED)}, cancelled=["a"])
    elif verb == "delete":
        await q.store.delete(b"a")
        expected = QueueState(ring={"a": ("CANCELLED", "CANCEL")})
    else:
        while not (await q.state()).expired:
            await q.pulse()
        await q.store.retry(b"a")
        await q.pulse()
        expected = QueueState(jobs={"a": JobView("WAITING", ended="CANCEL", flags=TIMED)}, waiting=["a"])
    assert await compared(q) == expected


async def test_expired_jobs_are_kept_to_their_count(q: QueueLab) -> None:
    late = await q.now_ms() - 1
    for start in range(0, 1020, 60):
        await q.make(*(timed(f"a{i}", expires_at=late) for i in range(start, start + 60)))
    report = await q.pulse()
    while report.more:
        report = await q.pulse()
    state = await q.state()
    assert (len(state.expired), len(state.ring), state.expiring) == (1000, 20, [])


async def test_an_expiry_of_the_policy_holds_for_jobs_that_name_none(q: QueueLab) -> None:
    await set_policy(q, '{"v": 1, "expires": 60000}')
    await q.make("a", timed("b", expires_in=5_000))
    state = await q.state()
    assert state.expiring == ["b", "a"]
    assert state.dates["a"] == state.numbers["a"].created // 1000 + 60_000
    await set_policy(q, '{"v": 2, "expires": 120000}')
    await q.redis.zadd(q.base + "u", {b"a": 1})
    await q.pulse()
    assert (await q.state()).dates["a"] == state.dates["a"] + 60_000
    await set_policy(q, "{}")
    await q.redis.zadd(q.base + "u", {b"a": 1})
    await q.pulse()
    assert (await q.state()).expiring == ["b"]


async def test_an_expiry_that_the_policy_got_later_keeps_what_waited_from_being_delivered(q: QueueLab) -> None:
    await q.make("a")
    await q.attach("s")
    await set_policy(q, '{"v": 1, "expires": 1}')
    while await q.now_ms() * 1000 < (await q.state()).numbers["a"].created + 3_000:
        pass
    assert await q.lease("s", 1) == {}
    assert (await q.state()).expired == ["a"]


# Timeouts ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_takes_too_long_fails_and_its_worker_is_told_once(q: QueueLab) -> None:
    await q.make(timed("a", timeout=1_500, delays=[60_000]))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    running = QueueState(jobs={"a": JobView("ACTIVE", 1, flags=TIMED)}, active={"a": "s"}, sessions=HELD["sessions"])
    running.timers = {"session s": SESSION_MS, "attempt a": 1_500}
    assert await compared(q) == running
    assert (await q.tick("s")).timeouts == []
    report = await q.tick("s")
    assert report.timeouts == [(0, b"a", token)]
    state = await q.state()
    failed = job_pb2.Failure.FromString(state.jobs["a"].sections["failure"])
    assert (failed.type, failed.reason, failed.message) == ("TIMEOUT", "TIMEOUT", "the attempt took longer than its timeout")
    assert state.history == {"a": [(1, "TIMEOUT")]}
    assert await compared(q) == QueueState(jobs={"a": JobView("DELAYED", 1, ended="TIMEOUT", flags=TIMED)}, delayed=["a"], **HELD)
    assert (await q.tick("s")).timeouts == []
    for kind in "CFSR":
        assert await q.turn(kind, "a", token, b"" if kind in "CR" else 0 if kind == "S" else b"", -1) == ("ALREADY_FINISHED", "DELAYED")
    assert await q.turn("P", "a", token, 5000, b"") == ("ALREADY_FINISHED", "DELAYED")


async def test_the_broker_that_has_the_worker_is_woken_and_tells_it(q: QueueLab) -> None:
    await q.make(timed("a", timeout=500))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    async with q.heard() as heard:
        await q.tick()
    assert heard.wakes == ["pulse"]
    assert (await q.state()).untold == {"a": ["s"]}
    assert (await q.pulse("s")).timeouts == [(0, b"a", token)]
    assert (await q.state()).untold == {}


async def test_what_a_lost_worker_was_not_told_is_forgotten_with_it(q: QueueLab) -> None:
    await q.make(timed("a", timeout=500))
    await q.attach("s")
    await q.lease("s", 1)
    await q.tick()
    assert (await q.state()).untold == {"a": ["s"]}
    await q.lose("s")
    assert (await q.state()).untold == {}


async def test_a_worker_that_comes_back_with_an_attempt_that_has_timed_out_does_not_hear_that_its_finish_counts(q: QueueLab) -> None:
    await q.make(timed("a", timeout=500), timed("b", timeout=500, attempts=1))
    await q.attach("s")
    tokens = await q.lease("s", 2)
    await q.tick()
    held = list(tokens.items())
    assert [settled.word for settled in await q.attach("s", 2, held) or []] == ["ALREADY_FINISHED", "ALREADY_FINISHED"]
    await q.store.delete(b"b")
    assert [settled.word for settled in await q.attach("s", 3, held) or []] == ["ALREADY_FINISHED", "ALREADY_FINISHED"]


async def test_a_timeout_is_charged_and_the_last_one_ends_the_job(q: QueueLab) -> None:
    await q.make(timed("a", timeout=500, attempts=1))
    await q.attach("s")
    await q.lease("s", 1)
    await q.tick("s")
    assert await compared(q) == QueueState(
        jobs={"a": JobView("FAILED", 1, ended="TIMEOUT", flags=TIMED, attempts=1)},
        failed=["a"],
        failed_total=1,
        **(HELD | {"timers": {"session s": SESSION_MS}}),
    )


async def test_a_timeout_of_the_policy_holds_for_attempts_that_begin_then(q: QueueLab) -> None:
    await q.make("a", "b")
    await q.attach("s")
    await q.lease("s", 1)
    await set_policy(q, '{"v": 1, "timeout": 700}')
    token = (await q.lease("s", 1))["b"]
    assert (await q.state()).timers == {"session s": SESSION_MS, "attempt b": 700}
    assert await q.complete("b", token) == ("OK", "COMPLETED")
    assert (await q.state()).timers == {"session s": SESSION_MS}


@pytest.mark.parametrize("end", ["complete", "fail", "snooze", "release", "cancel", "lose"])
async def test_no_deadline_outlives_its_attempt(q: QueueLab, end: str) -> None:
    await q.make(timed("a", timeout=100_000, total=200_000))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    assert (await q.state()).timers == {"session s": SESSION_MS, "attempt a": 100_000, "total a": 200_000}
    if end == "lose":
        await q.lose("s")
    elif end == "cancel":
        await q.store.cancel(b"a", 0)
    else:
        await q.turn({"complete": "C", "fail": "F", "snooze": "S", "release": "R"}[end], "a", token, b"" if end != "snooze" else 0, -1)
    timers = {name: left for name, left in (await q.state()).timers.items() if not name.startswith("session")}
    assert timers == ({} if end in ("complete", "cancel") else {"total a": 200_000 - (TICK_MS if end == "lose" else 0)})


async def test_a_lease_that_is_adopted_again_keeps_its_deadline(q: QueueLab) -> None:
    await q.make(timed("a", timeout=100_000))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.attach("s", 2, [("a", token)])
    assert (await q.state()).timers["attempt a"] == 100_000
    await q.lose("s")
    assert "attempt a" not in (await q.state()).timers
    await q.attach("s", 3, [("a", token)])
    assert 98_000 < (await q.state()).timers["attempt a"] <= 100_000


async def test_all_attempts_together_end_at_the_total_timeout(q: QueueLab) -> None:
    await q.make(timed("a", total=2_500, delays=[60_000]), timed("b", total=2_500), timed("c", total=2_500))
    await q.attach("s")
    tokens = await q.lease("s", 3)
    await q.fail("a", tokens["a"])
    await q.turn("R", "b", tokens["b"])
    for _ in range(2):
        await q.tick("s")
    assert (await q.state()).timers == {"session s": SESSION_MS, "total a": 500, "total b": 500, "total c": 500}
    report = await q.tick("s")
    assert report.timeouts == [(0, b"c", tokens["c"])]
    view = JobView("FAILED", 1, ended="TIMEOUT", flags=TIMED)
    state = await q.state()
    assert [job_pb2.Failure.FromString(job.sections["failure"]).reason for job in state.jobs.values()] == ["TOTAL_TIMEOUT"] * 3
    assert await compared(q) == QueueState(jobs={"a": view, "b": replace(view, attempt=0), "c": view}, failed=["a", "b", "c"], failed_total=3, **HELD)
    await q.store.retry(b"a")
    assert (await q.lease("s", 1)).keys() == {"a"}
    assert (await q.state()).timers["total a"] == 2_500


async def test_a_deadline_counts_from_the_lease_and_not_from_the_pulse_before_it(q: QueueLab) -> None:
    await q.make(timed("a", timeout=1_000))
    await q.attach("s")
    await q.redis.hset(q.base + "m", "last_pulse", await q.now_ms() - 900)
    await q.lease("s", 1)
    assert 1_900 <= (await q.state()).timers["attempt a"] < 2_500


async def test_a_cancelled_job_whose_attempt_times_out_was_forced(q: QueueLab) -> None:
    await q.make(timed("a", timeout=500))
    await q.attach("s")
    await q.lease("s", 1)
    await q.store.cancel(b"a", 60_000)
    await q.tick("s")
    state = await q.state()
    assert (state.jobs["a"].state, state.stages, state.history) == ("CANCELLED", {"a": "FORCED"}, {"a": [(1, "CANCELLED")]})
    assert state.timers == {"session s": SESSION_MS}


# Retry ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_the_last_wait_of_a_list_holds_for_all_later_attempts(q: QueueLab) -> None:
    await q.make(timed("a", delays=[1_000, 5_000], attempts=5), timed("b", delays=[1_000], jitter=10_000))
    await q.attach("s")
    waits = []
    for _ in range(4):
        tokens = await q.lease("s", 1)
        before = await q.now_ms()
        await q.fail(*tokens.popitem())
        state = await q.state(dates_moved=True)
        waits.append(round((state.numbers["a"].order / 1000 - before) / 100) * 100)
        if len(waits) == 1:
            await q.fail("b", (await q.lease("s", 1))["b"])
            assert 1_000 <= (await q.state()).numbers["b"].order / 1000 - before <= 2_100
        await q.come_due("a")
    assert waits == [1_000, 5_000, 5_000, 5_000]


@pytest.mark.parametrize(("kind", "ended"), [("Bad", True), ("b", True), ("Fine", False), ("", False), ("TIMEOUT", False), ("x" * 128, True)])
async def test_errors_that_are_listed_end_a_job_at_once(q: QueueLab, kind: str, ended: bool) -> None:
    await set_policy(q, '{"v": 1, "permanent": ["b"]}')
    await q.make(timed("a", permanent=["Bad", "x" * 128]))
    await q.attach("s")
    assert await q.turn("F", "a", (await q.lease("s", 1))["a"], failure(kind), -1) == ("OK", "FAILED" if ended else "DELAYED")


# Attempts ---------------------------------------------------------------------------------------------------------------------------------------------


async def all_attempts(q: QueueLab, raw_id: str) -> list[tuple[int, str, str]]:
    found, _, history, labels = await q.store.inspect(raw_id.encode())
    attempts = attempts_of(found.record, history, labels)
    assert all(attempt.start_time.ToMicroseconds() == attempt.token for attempt in attempts)
    assert all(not attempt.HasField("end_time") or attempt.end_time.ToMicroseconds() >= attempt.token for attempt in attempts)
    return [(attempt.number, job_pb2.AttemptEnd.Name(attempt.end).removeprefix("ATTEMPT_END_"), attempt.failure.type) for attempt in attempts]


async def test_the_only_attempt_of_a_job_is_told_from_its_record(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await all_attempts(q, "a") == [(1, "UNSPECIFIED", "")]
    await q.complete("a", token)
    assert await all_attempts(q, "a") == [(1, "COMPLETED", "")]
    assert not await q.redis.keys(q.base + "h*")


async def test_every_attempt_that_ended_otherwise_is_kept(q: QueueLab) -> None:
    await q.make("a")
    await q.attach("s")
    for kind, arguments in (("F", (failure("E1"), 0)), ("S", (0,)), ("R", ()), ("F", (failure("E2"), 0))):
        await q.turn(kind, "a", (await q.lease("s", 1))["a"], *arguments)
        await q.come_due("a")
    await q.lease("s", 1)
    await q.lose("s")
    await q.come_due("a")
    await q.attach("t")
    token = (await q.lease("t", 1))["a"]
    kept = [(1, "FAILED", "E1"), (2, "SNOOZED", ""), (2, "RELEASED", ""), (2, "FAILED", "E2"), (3, "LOST", "")]
    assert await all_attempts(q, "a") == [*kept, (3, "UNSPECIFIED", "")]
    await q.complete("a", token)
    assert await all_attempts(q, "a") == [*kept, (3, "COMPLETED", "")]


async def test_what_is_handed_back_uncharged_is_an_attempt_too(q: QueueLab) -> None:
    await q.make(timed("a", attempts=9))
    await q.attach("s")
    await q.turn("G", "a", (await q.lease("s", 1))["a"], 0)
    await q.come_due("a")
    await q.lease("s", 1)
    # The stream broke, and the worker that comes back does not have it.
    await q.attach("s", 2)
    await q.lease("s", 1, 2)
    await q.detach("s", 2)
    kept = [(1, "LIMITED", ""), (1, "RELEASED", ""), (1, "RELEASED", "")]
    assert await all_attempts(q, "a") == kept
    # A goodbye that came while a newer stream was on its way: the lease goes on, and ends once.
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.detach("s")
    await q.attach("s", 1, [("a", token)])
    assert await all_attempts(q, "a") == [*kept, (1, "UNSPECIFIED", "")]
    await q.turn("F", "a", token, failure("E"), 0)
    assert await all_attempts(q, "a") == [*kept, (1, "FAILED", "E")]


async def test_a_cancelled_attempt_has_its_number_however_it_comes_back(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c", "d", "e", "f")
    for raw_id in tokens:
        await q.store.cancel(raw_id.encode(), 60_000)
    await q.turn("G", "a", tokens["a"], 0)
    await q.turn("S", "b", tokens["b"], 0)
    await q.turn("R", "c", tokens["c"])
    await q.fail("d", tokens["d"])
    await q.attach("s", 2, [("f", tokens["f"])])
    await q.detach("s", 2)
    assert (await q.state()).history == {key: [(1, "CANCELLED")] for key in "abcdef"}


async def test_a_lease_that_was_lost_and_went_on_is_one_attempt(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    assert await all_attempts(q, "a") == [(1, "LOST", "")]
    await q.turn("F", "a", token, failure("E"), 0)
    assert await all_attempts(q, "a") == [(1, "FAILED", "E")]
    await q.come_due("a")
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.lose("s")
    await q.attach("s", 2, [("a", token)])
    assert await all_attempts(q, "a") == [(1, "FAILED", "E"), (2, "UNSPECIFIED", "")]


async def test_a_history_is_bounded_in_entries_and_bytes(q: QueueLab) -> None:
    await q.make(timed("a", attempts=1000))
    await q.attach("s")
    for i in range(25):
        await q.turn("F", "a", (await q.lease("s", 1))["a"], failure(f"E{i}"), 0)
        await q.come_due("a")
    assert await all_attempts(q, "a") == [(i + 1, "FAILED", f"E{i}") for i in range(5, 25)]
    long = job_pb2.Failure(type="Long", stack="x" * 8192).SerializeToString()
    for _ in range(10):
        await q.turn("F", "a", (await q.lease("s", 1))["a"], long, 0)
        await q.come_due("a")
    assert await q.redis.strlen(q.base + "ha") <= 65_536
    assert [kind for _, _, kind in await all_attempts(q, "a")] == ["Long"] * 7


async def test_a_history_goes_with_its_job(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c")
    await q.turn("F", "a", tokens["a"], failure("E"), 0)
    await q.come_due("a")
    await q.complete("a", (await q.lease("s", 1))["a"])
    await q.turn("F", "b", tokens["b"], failure("E"), -2)
    await q.turn("F", "c", tokens["c"], failure("E"), 60_000)
    assert (await q.state()).history.keys() == {"a", "b", "c"}
    await q.store.clean(job_pb2.JOB_STATE_COMPLETED, 0)
    await q.store.clean(job_pb2.JOB_STATE_FAILED, 0)
    await q.store.delete(b"c")
    assert (await q.state()).history == {}
    assert not await q.redis.keys(q.base + "h*")


async def test_the_worker_of_an_attempt_is_known_when_it_is_gone(q: QueueLab) -> None:
    worker = admin_service_pb2.Worker(session="0" * 32, instance_id="größe-" + "x" * 122, queues=["q"]).SerializeToString()
    await q.make("a", "b")
    await q.store.attach(b"s" + b"-" * 15, 1, SESSION_MS, worker, [])
    tokens = await q.lease("s", 2)
    await q.complete("a", tokens["a"])
    await q.turn("F", "b", tokens["b"], failure("E"), 0)
    for _ in range(2):
        for raw_id in ("a", "b"):
            found, _, history, labels = await q.store.inspect(raw_id.encode())
            assert [attempt.worker for attempt in attempts_of(found.record, history, labels)] == ["größe-" + "x" * 122]
        await q.detach("s")


# Cancels ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_cancel_shows_how_far_it_is(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c")
    for raw_id in "abc":
        await q.store.cancel(raw_id.encode(), 1_500)
    assert (await q.state()).stages == dict.fromkeys("abc", "REQUESTED")
    await q.turn("X", "a", tokens["a"])
    await q.turn("X", "b", tokens["b"])
    assert (await q.state()).stages == {"a": "DELIVERED", "b": "DELIVERED", "c": "REQUESTED"}
    await q.fail("a", tokens["a"])
    for _ in range(2):
        await q.tick("s")
    state = await q.state()
    assert state.stages == {"a": "DONE", "b": "FORCED", "c": "FORCED"}
    assert state.history == {key: [(1, "CANCELLED")] for key in "abc"}
    await q.store.retry(b"a")
    assert "a" not in (await q.state()).stages
