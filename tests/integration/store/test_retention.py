"""Retention: what is kept of ended jobs, by the queue's policy and by the jobs themselves."""

import json

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.store.arguments import TurnItem

from tests.support.queue_lab import QueueLab, debounced, idempotent, item, throttled, unique
from tests.support.queue_state import JobView, QueueState, SessionView

State = job_pb2.JobState
DAY_MS = 86_400_000
SUFFIXES = {"COMPLETED": "c", "FAILED": "f", "CANCELLED": "x"}


async def set_policy(q: QueueLab, **keep: dict[str, int]) -> None:
    await q.redis.hset(q.base + "m", "policy", json.dumps({"keep": {str(State.Value(f"JOB_STATE_{name}")): bounds for name, bounds in keep.items()}}))


async def end(q: QueueLab, state: str, *ids: str, retention_ms: int | None = None) -> None:
    """Let jobs end, one call each."""
    await q.attach("s")
    for raw_id in ids:
        await q.make(item(raw_id, retention_ms=retention_ms, attempts=1))
        if state == "CANCELLED":
            await q.store.cancel(raw_id.encode(), 0)
        else:
            token = (await q.lease("s", 1))[raw_id]
            await (q.complete(raw_id, token) if state == "COMPLETED" else q.fail(raw_id, token))


async def kept(q: QueueLab, state: str, limit: int = 100) -> list[str]:
    """What a list shows, newest first, page by page."""
    found, cursor = [], b""
    while True:
        cursor, page = await q.store.page(SUFFIXES[state], cursor, limit)
        found += [raw_id.decode() for raw_id, _ in page]
        if not cursor:
            return found


# By the policy ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_a_count_holds_from_the_next_end_on(q: QueueLab, state: str) -> None:
    await set_policy(q, **{state: {"count": 2}})
    await end(q, state, "a", "b", "c")
    assert await kept(q, state) == ["c", "b"]
    assert (await q.state()).ring["a"][0] == state


@pytest.mark.parametrize("bound", [{"count": 0}, {"age": 0}])
@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_a_count_or_an_age_of_zero_keeps_none_and_the_end_is_known(q: QueueLab, state: str, bound: dict[str, int]) -> None:
    await set_policy(q, **{state: bound})
    async with q.heard() as heard:
        await end(q, state, "a")
    assert heard.events[-1] == ("a", state)
    (found,) = await q.store.get([b"a"])
    assert (found.record, found.state) == (b"", State.Value(f"JOB_STATE_{state}"))
    after = await q.state()
    assert (after.jobs, list(after.ring)) == ({}, ["a"])


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_a_policy_that_shrinks_lets_go_of_what_is_over_in_steps(q: QueueLab, state: str) -> None:
    await set_policy(q, **{state: {"count": 5000}})
    await q.attach("s")
    for batch in range(6):
        ids = [f"{batch}-{i}" for i in range(100)]
        await q.make(*(item(raw_id, attempts=1) for raw_id in ids))
        if state == "CANCELLED":
            for raw_id in ids:
                await q.store.cancel(raw_id.encode(), 0)
        else:
            kind, rest = ("C", ()) if state == "COMPLETED" else ("F", (b"why", -1))
            await q.store.turn([TurnItem(kind, raw_id.encode(), token, *rest) for raw_id, token in (await q.lease("s", 100)).items()])
    await set_policy(q, **{state: {"count": 10}})
    steps = []
    while True:
        report = await q.pulse("s")
        steps.append(len(await kept(q, state)))
        if not report.more:
            break
    assert steps == [344, 88, 10]
    assert await kept(q, state) == [f"5-{i}" for i in range(99, 89, -1)]


async def test_an_age_lets_go_at_the_next_pulse(q: QueueLab) -> None:
    await end(q, "CANCELLED", "a", "b")
    await set_policy(q, CANCELLED={"age": 1})
    while await kept(q, "CANCELLED"):
        await q.pulse()
    assert (await q.state()).jobs == {}


async def test_without_a_policy_the_defaults_hold(q: QueueLab) -> None:
    await end(q, "COMPLETED", "a", "b")
    await q.pulse()
    assert await kept(q, "COMPLETED") == ["b", "a"]


# By the job -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_a_job_that_says_how_long_stands_beside_the_others_and_is_listed_among_them(q: QueueLab, state: str) -> None:
    await end(q, state, "a")
    await end(q, state, "b", retention_ms=60_000)
    await end(q, state, "c")
    await end(q, state, "d", retention_ms=2 * DAY_MS)
    after = await q.state()
    assert getattr(after, state.lower()) == ["a", "c"]
    assert after.own == {state: ["b", "d"]}
    for limit in (1, 2, 3, 100):
        assert await kept(q, state, limit) == ["d", "c", "b", "a"]
    stats = await q.store.stats()
    assert getattr(stats, state.lower()) == 4


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_an_age_of_zero_leaves_those_that_say_how_long_to_the_count(q: QueueLab, state: str) -> None:
    await set_policy(q, **{state: {"age": 0, "count": 2}})
    await end(q, state, "a", "b", "c", retention_ms=DAY_MS)
    await end(q, state, "plain")
    assert await kept(q, state) == ["c", "b"]
    await q.pulse("s")
    assert await kept(q, state) == ["c", "b"]
    await q.state()


async def test_it_goes_when_its_time_is_over_and_another_before_or_after(q: QueueLab) -> None:
    await end(q, "COMPLETED", "a", "b")
    await end(q, "COMPLETED", "short", retention_ms=1)
    await end(q, "FAILED", "long", retention_ms=2 * DAY_MS)
    await set_policy(q, FAILED={"age": 1}, COMPLETED={"age": DAY_MS})
    while "short" in await kept(q, "COMPLETED"):
        await q.pulse("s")
    after = await q.state()
    assert (after.completed, after.own, after.ring["short"]) == (["a", "b"], {"FAILED": ["long"]}, ("COMPLETED", "COMPLETE"))


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_a_retention_of_zero_removes_it_at_its_end(q: QueueLab, state: str) -> None:
    async with q.heard() as heard:
        await end(q, state, "a", retention_ms=0)
    assert heard.events[-1] == ("a", state)
    (found,) = await q.store.get([b"a"])
    assert (found.record, found.state) == (b"", State.Value(f"JOB_STATE_{state}"))
    ended = {"COMPLETED": "COMPLETE", "FAILED": "FAIL", "CANCELLED": "CANCEL"}[state]
    assert await q.state() == QueueState(
        ring={"a": (state, ended)},
        sessions={"s": SessionView(1)},
        timers={"session s": 5000},
        completed_total=state == "COMPLETED",
        failed_total=state == "FAILED",
    )


async def test_a_long_payload_goes_with_its_job(q: QueueLab) -> None:
    await q.attach("s")
    await q.make(item("a", payload=bytes(5000), retention_ms=0), item("b", payload=bytes(5000), retention_ms=60_000))
    leased = await q.lease("s", 2)
    for raw_id, token in leased.items():
        await q.complete(raw_id, token)
    assert (await q.store.clean(State.JOB_STATE_COMPLETED, 0)).forgotten == 1
    assert await q.redis.keys(q.base + "[jp]*") == []


@pytest.mark.parametrize("state", list(SUFFIXES))
async def test_the_count_of_the_queue_holds_for_all_the_oldest_go_first(q: QueueLab, state: str) -> None:
    await set_policy(q, **{state: {"count": 3}})
    await end(q, state, "a", retention_ms=60_000)
    await end(q, state, "b")
    await end(q, state, "c", "d", retention_ms=60_000)
    assert await kept(q, state) == ["d", "c", "b"]
    await end(q, state, "e")
    assert await kept(q, state) == ["e", "d", "c"]
    await end(q, state, "f", "g")
    assert await kept(q, state) == ["g", "f", "e"]
    await q.state()


async def test_clean_and_delete_and_retry_find_it(q: QueueLab) -> None:
    await end(q, "FAILED", "a", "b", "c", retention_ms=60_000)
    await end(q, "FAILED", "d")
    await q.store.delete(b"a")
    assert (await q.store.retry(b"b")).word == "OK"
    after = await q.state()
    assert (after.own, after.waiting) == ({"FAILED": ["c"]}, ["b"])
    assert (await q.store.clean(State.JOB_STATE_FAILED, 0)).forgotten == 2
    after = await q.state()
    assert (after.own, after.failed, list(after.jobs)) == ({}, [], ["b"])


async def test_a_waiting_job_with_a_retention_is_a_job_like_any_other(q: QueueLab) -> None:
    await q.make(item("a", retention_ms=5))
    state = await q.state()
    assert state.jobs == {"a": JobView("WAITING", flags=frozenset({"KEPT"}), sections={"retention": (5).to_bytes(8, "big")})}
    assert await q.make(item("a", retention_ms=5), item("a"), item("a", retention_ms=6)) == ["MADE", "EXISTS", "EXISTS"]


@pytest.mark.parametrize("identity", [idempotent("k"), throttled("k"), unique("k"), debounced("k", 1)], ids=["idempotency", "throttle", "unique", "debounce"])
async def test_a_job_with_a_key_is_kept_as_long_as_it_says(q: QueueLab, identity: bytes) -> None:
    await q.attach("s")
    await q.make(item("a", identity=identity, retention_ms=0))
    await q.come_due("a")
    await q.complete("a", (await q.lease("s", 1))["a"])
    after = await q.state()
    assert (after.jobs, after.ring) == ({}, {"a": ("COMPLETED", "COMPLETE")})
