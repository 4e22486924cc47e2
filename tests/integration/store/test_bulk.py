"""A step of a bulk verb: it takes what has not changed since its dry run, and counts; with the whole state of the queue after it."""

from collections.abc import Awaitable, Callable

import pytest
from jobwire_broker.store.answers import Changed
from jobwire_broker.store.arguments import TurnItem

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import QueueState, RunView

RUN = b"the run!"


async def bulk(q: QueueLab, verb: str, newest: int, *ids: str, argument: str | int = "", run: bytes = RUN) -> tuple[int, int]:
    """A step of a run, which is begun before: how many all of its steps have acted on, and how many this one has not."""
    assert (await q.store.begin_run(run, newest, b"head")).word == "OK"
    step = await q.store.bulk(verb, argument, newest, run, 0, [raw_id.encode() for raw_id in ids])
    assert (step.word, step.stopped_by) == ("OK", "")
    return step.done, step.skipped


async def each_state(q: QueueLab) -> None:
    """Two jobs in each state."""
    tokens = await q.leased("c1", "c2", "f1", "f2", "a1", "a2")
    for raw_id in ("c1", "c2"):
        await q.complete(raw_id, tokens[raw_id])
    for raw_id in ("f1", "f2"):
        await q.fail(raw_id, tokens[raw_id], permanent=True)
    await q.make("x1", "x2", "w1", "w2", item("d1", due="+60000"), item("d2", due="+60000"))
    for cancelled in (b"x1", b"x2"):
        await q.store.cancel(cancelled, 0)


async def one_by_one(q: QueueLab, verb: str, argument: str | int, ids: list[str]) -> list[str]:
    """The words of the single verb."""
    calls: dict[str, Callable[[bytes], Awaitable[Changed]]] = {
        "cancel": lambda raw_id: q.store.cancel(raw_id, int(argument)),
        "retry": q.store.retry,
        "promote": q.store.promote,
        "delete": q.store.delete,
        "resolve": lambda raw_id: q.store.resolve(raw_id, str(argument)),
    }
    return [(await calls[verb](raw_id.encode())).word for raw_id in ids]


ALL = ["w1", "d1", "a1", "c1", "f1", "x1"]


@pytest.mark.parametrize(("verb", "argument"), [("cancel", 0), ("cancel", 5000), ("retry", ""), ("promote", ""), ("delete", ""), ("resolve", "known")])
async def test_a_step_does_what_the_single_verb_does(q: QueueLab, other: QueueLab, verb: str, argument: str | int) -> None:
    await each_state(q)
    await each_state(other)
    words = await one_by_one(other, verb, argument, ALL)
    step = await bulk(q, verb, await q.store.moment(), *ALL, argument=argument)
    state, expected = await q.state(), await other.state()
    expected.runs = {RUN.decode(): RunView(words.count("OK"), len(ALL) - words.count("OK"), head=b"head")}
    assert state == expected
    assert step == (words.count("OK"), len(ALL) - words.count("OK"))


@pytest.fixture
async def other(q: QueueLab) -> QueueLab:
    return QueueLab(q.client, q.redis, q.store.queue + ".other")


async def test_a_step_is_one_change_to_whoever_reads_the_events(q: QueueLab) -> None:
    await q.make("a", "b", "c")
    newest = await q.store.moment()
    async with q.heard() as heard:
        await bulk(q, "cancel", newest, "a", "b", "c", argument=0)
    assert (heard.events, len(heard.sequences)) == ([("a", "CANCELLED"), ("b", "CANCELLED"), ("c", "CANCELLED")], 1)


async def test_what_was_made_or_changed_since_is_left_alone(q: QueueLab) -> None:
    tokens = await q.leased("runs", "done")
    await q.make("a", "b")
    newest = await q.store.moment()
    await q.make("new")
    await q.complete("done", tokens["done"])
    await q.store.cancel(b"b", 0)
    await q.store.retry(b"b")
    expected = await q.state()
    expected.runs = {RUN.decode(): RunView(0, 5, head=b"head")}
    assert await bulk(q, "delete", newest, "new", "b", "done", "runs", "none") == (0, 5)
    assert await q.state() == expected
    assert await bulk(q, "delete", newest, "a", "b") == (1, 1)
    assert "a" not in (await q.state()).jobs


async def test_the_moment_is_before_all_that_comes_after_it(q: QueueLab) -> None:
    for number in range(20):
        newest = await q.store.moment()
        await q.make(f"j{number}")
        assert (await q.state()).numbers[f"j{number}"].revision > newest


async def test_progress_is_no_change_and_another_lease_is_one(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    newest = await q.store.moment()
    await q.turn("P", "a", tokens["a"], 5000, b"")
    await q.turn("R", "b", tokens["b"], "")
    await q.lease("s", 1)
    assert await bulk(q, "cancel", newest, "a", "b", argument=5000) == (1, 1)
    state = await q.state()
    assert (state.jobs["a"].flags, state.jobs["b"].flags) == (frozenset({"CANCEL_REQUESTED"}), frozenset())
    assert await bulk(q, "cancel", newest, "a", "b", argument=5000) == (1, 2)


async def test_a_run_counts_on_over_its_steps_and_an_id_once(q: QueueLab) -> None:
    await q.make("a", "b", "c")
    newest = await q.store.moment()
    assert await bulk(q, "cancel", newest, argument=0) == (0, 0)
    assert await bulk(q, "cancel", newest, "a", "a", argument=0) == (1, 1)
    assert await bulk(q, "cancel", newest, "b", "c", argument=0) == (3, 0)
    assert await bulk(q, "cancel", newest, argument=0) == (3, 0)
    assert await bulk(q, "cancel", newest, argument=0, run=b"another.") == (0, 0)
    assert (await q.state()).runs == {RUN.decode(): RunView(3, head=b"head"), "another.": RunView(head=b"head")}


async def test_a_bulk_verb_on_nothing_changes_nothing(q: QueueLab) -> None:
    newest = await q.store.moment()
    async with q.heard() as heard:
        assert await bulk(q, "delete", newest) == (0, 0)
        assert await bulk(q, "delete", newest, "none") == (0, 1)
    assert (await q.state(), heard.sequences) == (QueueState(runs={RUN.decode(): RunView(0, 1, head=b"head")}), [])


async def test_a_step_wakes_who_waits_for_jobs(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.store.turn([TurnItem("F", raw_id.encode(), token, b"why", -2) for raw_id, token in tokens.items()])
    assert await q.lease("s", 1) == {}
    newest = await q.store.moment()
    async with q.heard() as heard:
        await bulk(q, "retry", newest, "a", "b")
    assert heard.wakes == ["work"]
    assert list(await q.lease("s", 2)) == ["a", "b"]


@pytest.mark.parametrize("verb", ["cancel", "delete", "resolve"])
async def test_a_bulk_verb_works_while_the_store_takes_no_more_jobs(q: QueueLab, verb: str) -> None:
    tokens = await q.leased("f")
    await q.fail("f", tokens["f"], permanent=True)
    await q.make("w")
    newest = await q.store.moment()
    limit = (await q.redis.config_get("maxmemory"))["maxmemory"]
    await q.redis.config_set("maxmemory", "1")
    try:
        assert await bulk(q, verb, newest, "w" if verb != "resolve" else "f", argument=0) == (1, 0)
    finally:
        await q.redis.config_set("maxmemory", limit)
    await q.state()
