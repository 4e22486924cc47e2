"""What is kept of bulk runs: each call with the whole state of the queue after it."""

import pytest

from tests.support.queue_lab import QueueLab
from tests.support.queue_state import QueueState, RunView

ONE, TWO = b"run one!", b"run two!"
SILENCE_MS = 10_000


async def begin(q: QueueLab, run: bytes = ONE, head: bytes = b"head") -> tuple[str, int, int, str]:
    return await q.store.begin_run(run, await q.store.moment(), head)


async def step(q: QueueLab, *ids: str, run: bytes = ONE, skipped: int = 0) -> tuple[str, int, int, str]:
    return await q.store.bulk("delete", "", await q.store.moment(), run, skipped, [raw_id.encode() for raw_id in ids])


async def states(q: QueueLab) -> dict[bytes, str]:
    return {run.number: run.state for run in await q.store.runs()}


async def silent_since(q: QueueLab, run: bytes, ms: int) -> None:
    """Let it be so long ago that it was last heard of."""
    key = (q.base + "B").encode() + run
    for field in ("seen", "begun"):
        await q.redis.hincrby(key, field, -ms)
    await q.redis.zincrby(q.base + "B", -ms, run)


async def test_a_run_is_known_from_its_beginning(q: QueueLab) -> None:
    assert await begin(q) == ("OK", 0, 0, "")
    assert await q.state() == QueueState(runs={"run one!": RunView(head=b"head")})
    (run,) = await q.store.runs()
    assert (run.number, run.state, run.ended_ms, run.done, run.skipped, run.stopped_by, run.head) == (ONE, "RUNNING", 0, 0, 0, "", b"head")
    assert await begin(q, head=b"other") == ("OK", 0, 0, "")
    assert await q.store.runs([ONE]) == [run], "the first to begin it says what it is"


async def test_a_step_counts_for_all_to_see(q: QueueLab) -> None:
    await q.make("a", "b")
    await begin(q)
    assert await step(q, "a", "none") == ("OK", 1, 1, "")
    assert await step(q, "b", "none", skipped=1) == ("OK", 2, 1, "")
    assert (await q.state()).runs == {"run one!": RunView(2, 2, head=b"head")}
    assert await step(q, skipped=2) == ("OK", 2, 0, "")
    assert (await q.state()).runs == {"run one!": RunView(2, 2, head=b"head")}


async def test_a_run_that_was_stopped_acts_on_nothing_more(q: QueueLab) -> None:
    await q.make("a", "b")
    await begin(q)
    await step(q, "a")
    word, run = await q.store.end_run(ONE, "STOPPED", stopped_by="ops")
    assert run is not None
    assert (word, run.state, run.done, run.stopped_by, run.ended_ms > 0) == ("OK", "STOPPED", 1, "ops", True)
    expected = await q.state()
    assert expected.runs == {"run one!": RunView(1, 0, "STOPPED", "ops", b"head")}
    assert expected.waiting == ["b"]
    async with q.heard() as heard:
        assert await step(q, "b") == ("STOPPED", 1, 0, "ops")
        assert await begin(q) == ("STOPPED", 1, 0, "ops")
        for ending in ("FINISHED", "ABANDONED", "STOPPED"):
            assert await q.store.end_run(ONE, ending, stopped_by="other") == ("STOPPED", run)
    assert (await q.state(), heard.sequences) == (expected, [])


async def test_a_run_that_has_finished_is_not_stopped_any_more_and_may_be_asked_for_again(q: QueueLab) -> None:
    await q.make("a")
    await begin(q)
    await step(q, "a")
    word, run = await q.store.end_run(ONE, "FINISHED", skipped=4)
    assert (word, run and run.state) == ("OK", "FINISHED")
    expected = await q.state()
    assert expected.runs == {"run one!": RunView(1, 4, "FINISHED", "", b"head")}
    for ending in ("STOPPED", "ABANDONED"):
        assert await q.store.end_run(ONE, ending, stopped_by="ops") == ("FINISHED", run)
    assert await q.state() == expected
    assert await begin(q) == ("OK", 1, 0, "")
    assert await states(q) == {ONE: "RUNNING"}


async def test_a_run_that_its_caller_left_goes_on_where_it_is_taken_up(q: QueueLab) -> None:
    await q.make("a", "b")
    await begin(q)
    await step(q, "a")
    word, run = await q.store.end_run(ONE, "ABANDONED")
    assert (word, run and run.state) == ("OK", "ABANDONED")
    assert (await q.state()).runs == {"run one!": RunView(1, 0, "ABANDONED", "", b"head")}
    assert await begin(q) == ("OK", 1, 0, "")
    assert await states(q) == {ONE: "RUNNING"}
    await q.store.end_run(ONE, "ABANDONED")
    assert await step(q, "b") == ("OK", 2, 0, ""), "another that has the same token still acts"
    assert await states(q) == {ONE: "RUNNING"}
    await q.store.end_run(ONE, "ABANDONED")
    assert (await q.store.end_run(ONE, "STOPPED"))[0] == "OK"
    assert await states(q) == {ONE: "STOPPED"}


async def test_a_run_that_is_silent_is_taken_for_abandoned(q: QueueLab) -> None:
    await begin(q)
    (run,) = await q.store.runs()
    await silent_since(q, ONE, SILENCE_MS + 1)
    (found,) = await q.store.runs()
    assert (found.state, found.ended_ms) == ("ABANDONED", run.begun_ms - SILENCE_MS - 1)
    await step(q)
    assert await states(q) == {ONE: "RUNNING"}


async def test_what_is_not_known_is_not_found(q: QueueLab) -> None:
    await q.make("a")
    before = await q.state()
    assert await q.store.runs() == await q.store.runs([ONE]) == []
    assert await q.store.end_run(ONE, "STOPPED") == ("NOT_FOUND", None)
    assert await step(q, "a") == ("NOT_FOUND", 0, 0, "")
    assert await q.state() == before


async def test_the_run_that_began_last_comes_first(q: QueueLab) -> None:
    for run in (ONE, TWO):
        await begin(q, run)
    await silent_since(q, ONE, 5)
    assert [run.number for run in await q.store.runs()] == [TWO, ONE]
    assert [run.number for run in await q.store.runs([ONE, b"unknown!", TWO])] == [ONE, TWO]


async def test_a_run_begins_within_an_hour_and_goes_on_as_long_as_it_takes(q: QueueLab) -> None:
    newest = await q.store.moment() - 3_600_000_000
    assert (await q.store.begin_run(ONE, newest, b"")).word == "TOO_OLD"
    assert await q.state() == QueueState()
    assert (await q.store.begin_run(ONE, newest + 10_000_000, b"")).word == "OK"
    assert (await q.store.begin_run(ONE, newest, b"")).word == "OK"


async def test_of_many_runs_the_oldest_that_is_over_gives_way(q: QueueLab) -> None:
    numbers = [b"run %4d" % i for i in range(100)]
    for i, number in enumerate(numbers):
        await begin(q, number, b"%d" % i)
        await silent_since(q, number, 100 - i)
        await q.redis.hincrby((q.base + "B").encode() + number, "seen", 3_600_000)
    assert await begin(q) == ("TOO_MANY", 0, 0, "")
    assert await begin(q, numbers[0]) == ("OK", 0, 0, ""), "one that is there needs no room"
    await q.store.end_run(numbers[7], "ABANDONED")
    await q.store.end_run(numbers[9], "FINISHED")
    assert await begin(q) == ("OK", 0, 0, "")
    left = {number.decode(): RunView(0, 0, "FINISHED" if i == 9 else "", "", b"%d" % i) for i, number in enumerate(numbers) if i != 7}
    assert await q.state() == QueueState(runs={**left, "run one!": RunView(head=b"head")})
    await q.redis.unlink((q.base + "B").encode() + numbers[50])
    assert (await begin(q, TWO), len(await q.store.runs())) == (("OK", 0, 0, ""), 99), "what is over is dropped before what is not known any more is passed"
    assert await begin(q, b"run thr.") == ("OK", 0, 0, "")
    assert await begin(q, b"run four") == ("TOO_MANY", 0, 0, "")


@pytest.mark.parametrize("ending", ["FINISHED", "STOPPED"])
async def test_runs_begin_and_end_while_the_store_takes_no_more_jobs(q: QueueLab, ending: str) -> None:
    limit = (await q.redis.config_get("maxmemory"))["maxmemory"]
    await q.redis.config_set("maxmemory", "1")
    try:
        assert (await begin(q), (await q.store.end_run(ONE, ending))[0]) == (("OK", 0, 0, ""), "OK")
    finally:
        await q.redis.config_set("maxmemory", limit)
