"""Cleaning: what had ended in one state is forgotten, the oldest first, a bounded step at a time; with the whole state of the queue after it."""

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.names import id_to_text
from jobwire_broker.store.arguments import TurnItem

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView

COMPLETED, FAILED, CANCELLED, EXPIRED = (job_pb2.JobState.Value(f"JOB_STATE_{name}") for name in ("COMPLETED", "FAILED", "CANCELLED", "EXPIRED"))
STEP = 256
LONG = b"x" * 2000


async def end_all(q: QueueLab) -> None:
    """Two jobs in each of three final states, one that runs, one that waits and one that is delayed."""
    tokens = await q.leased("c1", "c2", "f1", "f2", "runs")
    for raw_id in ("c1", "c2"):
        await q.complete(raw_id, tokens[raw_id])
    for raw_id in ("f1", "f2"):
        await q.fail(raw_id, tokens[raw_id], permanent=True)
    await q.make("x1", "x2", "waits", item("later", due="+60000"))
    for cancelled in (b"x1", b"x2"):
        await q.store.cancel(cancelled, 0)


async def make_cancelled(q: QueueLab, count: int) -> None:
    for first in range(0, count, 100):
        ids = [f"j{i:04}" for i in range(first, min(first + 100, count))]
        await q.make(*ids)
        for raw_id in ids:
            await q.store.cancel(raw_id.encode(), 0)


async def make_completed(q: QueueLab, count: int) -> None:
    await q.attach("s")
    for first in range(0, count, 100):
        await q.make(*(f"j{i:04}" for i in range(first, min(first + 100, count))))
        tokens = await q.lease("s", 100)
        await q.store.turn([TurnItem("C", raw_id.encode(), token) for raw_id, token in tokens.items()])


@pytest.mark.parametrize(("state", "first"), [(COMPLETED, "c"), (FAILED, "f"), (CANCELLED, "x")])
async def test_a_clean_forgets_one_state_alone_and_its_ends_stay_known(q: QueueLab, state: int, first: str) -> None:
    await end_all(q)
    expected = await q.state()
    seq = expected.seq
    async with q.heard() as heard:
        cleaned = await q.store.clean(state, 0)
    assert (cleaned.forgotten, cleaned.more) == (2, False)
    found = await q.state()
    name, ended = {"c": ("COMPLETED", "COMPLETE"), "f": ("FAILED", "FAIL"), "x": ("CANCELLED", "CANCEL")}[first]
    for raw_id in (f"{first}1", f"{first}2"):
        del expected.jobs[raw_id]
        expected.ring[raw_id] = (name, ended)
    setattr(expected, name.lower(), [])
    assert found == expected
    # Nobody is told of single jobs, and whoever reads the queue's events finds no hole.
    assert (heard.events, heard.wakes, heard.sequences) == ([], [], [(seq, seq + 1)])


@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED, EXPIRED])
async def test_a_clean_of_nothing_leaves_no_trace(q: QueueLab, state: int) -> None:
    async with q.heard() as heard:
        cleaned = await q.store.clean(state, 0)
    assert (cleaned.forgotten, cleaned.more, heard.sequences) == (0, False, [])
    assert await q.state() == QueueState()
    assert await q.redis.keys(q.base + "*") == []


@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED])
async def test_what_ended_within_the_grace_is_kept(q: QueueLab, state: int) -> None:
    await end_all(q)
    before = await q.state()
    assert (await q.store.clean(state, 60_000)).forgotten == 0
    after = await q.state()
    assert (after, after.numbers, after.seq) == (before, before.numbers, before.seq)


@pytest.mark.parametrize(("state", "old", "young"), [(COMPLETED, "c1", "c2"), (FAILED, "f1", "f2"), (CANCELLED, "x1", "x2")])
async def test_a_clean_goes_up_to_a_revision_and_no_further(q: QueueLab, state: int, old: str, young: str) -> None:
    await end_all(q)
    bound = (await q.state()).numbers[old].revision
    cleaned = await q.store.clean(state, 0, bound)
    assert cleaned == (1, bound, False)
    jobs = (await q.state()).jobs
    assert (old in jobs, young in jobs) == (False, True)


@pytest.mark.parametrize("state", [COMPLETED, CANCELLED])
async def test_one_call_forgets_a_step_and_the_next_goes_on_to_where_the_first_began(q: QueueLab, state: int) -> None:
    make = make_completed if state == COMPLETED else make_cancelled
    await make(q, STEP + 10)
    first = await q.store.clean(state, 0)
    assert (first.forgotten, first.more) == (STEP, True)
    # The oldest went first.
    assert sorted((await q.state()).jobs) == [f"j{i:04}" for i in range(STEP, STEP + 10)]
    await q.make("later")
    await q.store.cancel(b"later", 0)
    if state == COMPLETED:
        await q.make("last")
        await q.complete("last", (await q.lease("s", 1))["last"])
    second = await q.store.clean(state, 0, first.newest)
    assert (second.forgotten, second.newest, second.more) == (10, first.newest, False)
    # What ended after the first call is not part of this clean.
    assert set((await q.state()).jobs) == ({"later", "last"} if state == COMPLETED else {"later"})


@pytest.mark.parametrize("state", [COMPLETED, FAILED, CANCELLED])
async def test_a_payload_that_is_kept_apart_goes_with_its_job(q: QueueLab, state: int) -> None:
    await q.make(item("a", payload=LONG))
    if state == CANCELLED:
        await q.store.cancel(b"a", 0)
    else:
        await q.attach("s")
        token = (await q.lease("s", 1))["a"]
        await (q.complete("a", token) if state == COMPLETED else q.fail("a", token, permanent=True))
    assert (await q.store.clean(state, 0)).forgotten == 1
    assert [key for key in await q.redis.keys(q.base + "*") if key.removeprefix(q.base.encode())[:1] in (b"j", b"p")] == []


async def test_an_expired_job_is_forgotten_as_the_others_are(q: QueueLab) -> None:
    await q.make("a")
    await q.store.cancel(b"a", 0)
    # No rule of the broker makes a job EXPIRED yet, so its record and its place are changed by hand.
    record = bytearray(await q.redis.get(q.base + "ja"))
    record[1] = EXPIRED
    await q.redis.set(q.base + "ja", bytes(record))
    await q.redis.rename(q.base + "x", q.base + "e")
    assert (await q.store.clean(EXPIRED, 0)).forgotten == 1
    assert await q.state() == QueueState(ring={"a": ("EXPIRED", "CANCEL")})


async def test_a_repeated_finish_of_a_forgotten_job_gets_its_answer_and_a_new_one_of_that_id_is_not_made(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.complete("a", token)
    await q.store.clean(COMPLETED, 0)
    assert await q.complete("a", token) == ("OK", "COMPLETED")
    assert await q.make("a") == ["MADE"]
    assert await q.state() == QueueState(
        ring={"a": ("COMPLETED", "COMPLETE")}, sessions={"s": SessionView(1)}, timers={"session s": 5000}, completed_total=1, hungry=False
    )


async def test_a_clean_works_while_the_store_takes_no_more_jobs(q: QueueLab) -> None:
    await make_cancelled(q, 3)
    limit = (await q.redis.config_get("maxmemory"))["maxmemory"]
    await q.redis.config_set("maxmemory", "1")
    try:
        assert (await q.store.clean(CANCELLED, 0)).forgotten == 3
    finally:
        await q.redis.config_set("maxmemory", limit)
    assert (await q.state()).jobs == {}


async def test_an_ended_job_that_waits_again_is_not_forgotten(q: QueueLab) -> None:
    await make_cancelled(q, 2)
    await q.store.retry(b"j0000")
    assert (await q.store.clean(CANCELLED, 0)).forgotten == 1
    assert (await q.state()).jobs == {id_to_text(b"j0000"): JobView("WAITING", ended="CANCEL")}
