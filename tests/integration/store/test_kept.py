"""What a job keeps in keys of its own: its log and its checkpoint, and the whole state of the queue after each."""

from typing import Any

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import TurnItem
from jobwire_broker.store.codec import LogHead

from tests.support.queue_lab import QueueLab, item
from tests.support.queue_state import JobView, QueueState, SessionView

ATTACHED: dict[str, Any] = {"sessions": {"s": SessionView(1)}, "timers": {"session s": 5000}}
RUNS = JobView("ACTIVE", 1)


def lines(*messages: str, first: int = 1) -> bytes:
    """Lines with the sequences from `first` on."""
    return codec.encode_lines([job_pb2.LogLine(sequence=first + i, level="info", message=text) for i, text in enumerate(messages)])


async def read(q: QueueLab, raw_id: str, after: int = 0, limit: int = 100) -> tuple[list[tuple[int, str]], LogHead]:
    logs = await q.store.logs(raw_id.encode(), after, limit)
    assert logs.there
    found = [line for piece in logs.pieces for line in codec.decode_lines(piece) if line.cursor > after]
    return [(line.cursor, line.message) for line in found[:limit]], logs.head


# Logs -------------------------------------------------------------------------------------------------------------------------------------------------


async def test_lines_are_kept_in_their_order_with_cursor_and_attempt(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await q.turn("L", "a", token, lines("one", "two")) == ("OK", "ACTIVE")
    assert await q.turn("L", "a", token, lines("three", first=3)) == ("OK", "ACTIVE")
    logs = {"a": [(1, 1, "one"), (2, 1, "two"), (3, 1, "three")]}
    assert await q.state() == QueueState(jobs={"a": RUNS}, active={"a": "s"}, logs=logs, **ATTACHED)


async def test_lines_and_checkpoints_give_a_job_no_new_revision(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    before = await q.state()
    async with q.heard() as heard:
        await q.turn("L", "a", token, lines("one"))
        await q.turn("L", "a", token, lines("two", first=2))
        await q.turn("K", "a", token, 1, b"page 3")
    after = await q.state()
    assert after.numbers == before.numbers
    assert after.seq == before.seq + 2
    assert len(heard.events) == 2


async def test_a_line_and_progress_in_one_call_are_both_kept(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.store.turn([TurnItem("P", b"a", token, 5000), TurnItem("L", b"a", token, lines("one")), TurnItem("P", b"a", token, 6000)])
    state = await q.state()
    assert state.jobs["a"] == JobView("ACTIVE", 1, progress=60)
    assert state.logs == {"a": [(1, 1, "one")]}


async def test_repeats_add_nothing_and_what_comes_with_them_is_taken(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("L", "a", token, lines("one", "two"))
    before = await q.state()
    assert await q.turn("L", "a", token, lines("one", "two")) == ("OK", "ACTIVE")
    assert await q.state() == before
    await q.turn("L", "a", token, lines("two", "three", first=2))
    assert (await read(q, "a"))[0] == [(1, "one"), (2, "two"), (3, "three")]


async def test_the_next_attempt_counts_anew_and_the_cursor_goes_on(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("L", "a", token, lines("one", "two"))
    await q.fail("a", token, retry_after_ms=0)
    await q.come_due("a")
    token = (await q.lease("s", 1))["a"]
    await q.turn("L", "a", token, lines("again"))
    assert (await q.state()).logs == {"a": [(1, 1, "one"), (2, 1, "two"), (3, 2, "again")]}


async def test_watchers_are_told_the_new_lines_in_events_that_hold_them(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("L", "a", token, lines("one"))
    long = "x" * 2000
    async with q.heard() as heard:
        await q.turn("L", "a", token, lines("one", *[long] * 20))
        await q.turn("L", "a", token, lines("one"))
    told = [codec.sections(record, codec.body_start(record)) for record in heard.records]
    assert all(set(found) == {codec.TAG_LOG} for found in told)
    heard_lines = [line for found in told for line in codec.decode_lines(found[codec.TAG_LOG])]
    assert [(line.cursor, line.sequence, line.attempt, line.message) for line in heard_lines] == [(i, i, 1, long) for i in range(2, 22)]
    assert 3 <= len(told) <= 5
    # A repeat is no event.
    assert len(heard.sequences) == 1


async def test_a_log_keeps_its_last_thousand_lines(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for first in range(1, 1102, 50):
        await q.turn("L", "a", token, lines(*[f"line {i}" for i in range(first, first + 50)], first=first))
    found, head = await read(q, "a", limit=1000)
    assert (head.cursor, head.lines) == (1150, 1000)
    assert found == [(i, f"line {i}") for i in range(151, 1151)]


async def test_a_log_keeps_at_most_256_kib(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for first in range(1, 400, 100):
        await q.turn("L", "a", token, lines(*["x" * 2000] * 100, first=first))
    head = (await read(q, "a"))[1]
    assert (head.cursor, head.lines) == (400, 100)
    assert head.size <= 262_144


async def test_a_log_is_read_from_a_cursor_on(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for first in (1, 4, 7):
        await q.turn("L", "a", token, lines(*[f"line {i}" for i in range(first, first + 3)], first=first))
    for after in range(11):
        for limit in (1, 2, 100):
            assert (await read(q, "a", after, limit))[0] == [(i, f"line {i}") for i in range(after + 1, 10)][:limit]


async def test_a_job_without_a_line_has_no_log(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await read(q, "a") == ([], LogHead())
    assert await q.turn("L", "a", token, b"") == ("OK", "ACTIVE")
    assert await q.turn("L", "a", token, b"no lines") == ("OK", "ACTIVE")
    assert (await q.state()).jobs == {"a": JobView("ACTIVE", 1)}
    assert await q.store.kept(b"a") == (LogHead(), b"")


async def test_the_log_of_a_job_that_is_gone_is_gone_and_its_end_is_told(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("L", "a", token, lines("one"))
    await q.complete("a", token)
    assert (await q.state()).logs == {"a": [(1, 1, "one")]}
    await q.store.delete(b"a")
    assert await q.state() == QueueState(ring={"a": ("COMPLETED", "COMPLETE")}, completed_total=1, **ATTACHED)
    logs = await q.store.logs(b"a", 0, 10)
    assert (logs.there, logs.state, logs.pieces) == (False, job_pb2.JOB_STATE_COMPLETED, [])
    assert (await q.store.logs(b"never", 0, 10))[:2] == (False, 0)


# Checkpoints ------------------------------------------------------------------------------------------------------------------------------------------


async def test_the_latest_checkpoint_counts_and_an_empty_one_takes_it_away(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for sequence, checkpoint in ((1, b"first"), (2, b"second")):
        assert await q.turn("K", "a", token, sequence, checkpoint) == ("OK", "ACTIVE")
    assert await q.state() == QueueState(jobs={"a": RUNS}, active={"a": "s"}, checkpoints={"a": b"second"}, **ATTACHED)
    assert await q.store.kept(b"a") == (LogHead(), b"second")
    assert await q.turn("K", "a", token, 3, b"") == ("OK", "ACTIVE")
    assert (await q.state()).checkpoints == {}
    assert await q.store.kept(b"a") == (LogHead(), b"")


@pytest.mark.parametrize("latest", [b"page 3", b""])
async def test_a_checkpoint_that_was_held_up_on_its_way_does_not_replace_a_later_one(q: QueueLab, latest: bytes) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("K", "a", token, 3, latest)
    for late in (1, 2):
        assert await q.turn("K", "a", token, late, b"late") == ("OK", "ACTIVE")
    assert (await q.store.kept(b"a"))[1] == latest
    await q.turn("K", "a", token, 4, b"page 4")
    assert (await q.store.kept(b"a"))[1] == b"page 4"


async def test_checkpoints_are_counted_anew_with_each_lease(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("K", "a", token, 9, b"page 9")
    await q.turn("R", "a", token, "")
    token = (await q.lease("s", 1))["a"]
    await q.turn("K", "a", token, 1, b"page 10")
    assert (await q.store.kept(b"a"))[1] == b"page 10"


async def test_of_checkpoints_that_are_not_counted_the_last_to_come_counts(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    for checkpoint in (b"first", b"", b"second"):
        await q.turn("K", "a", token, 0, checkpoint)
    assert (await q.store.kept(b"a"))[1] == b"second"


async def ends(q: QueueLab, kind: str, token: int) -> None:
    if kind == "lost":
        await q.lose("s")
        await q.attach("s")
    elif kind == "fail":
        await q.fail("a", token, retry_after_ms=0)
    elif kind == "snooze":
        await q.turn("S", "a", token, 0)
    else:
        await q.turn("R", "a", token)
    if (await q.state()).delayed:
        await q.come_due("a")


@pytest.mark.parametrize("kind", ["lost", "fail", "snooze", "release"])
@pytest.mark.parametrize("payload", [b"", b"payload", b"p" * 70_000], ids=["none", "short", "apart"])
async def test_the_next_attempt_gets_the_checkpoint_however_the_last_one_ended(q: QueueLab, kind: str, payload: bytes) -> None:
    await q.make(item("a", payload=payload))
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    await q.turn("K", "a", token, 1, b"page 3")
    await ends(q, kind, token)
    ((_, _, record),) = (await q.lease_fully("s", 1)).jobs
    found = codec.sections(record, codec.body_start(record))
    assert found[codec.TAG_CHECKPOINT] == b"page 3"
    assert found.get(codec.TAG_PAYLOAD, b"") == payload


async def test_a_job_whose_flags_are_several_keeps_each(q: QueueLab) -> None:
    # The flag of a lost lease is cleared by the next one, and that of keys of its own stays.
    token = (await q.leased("a"))["a"]
    await q.turn("K", "a", token, 1, b"page 3")
    await q.lose("s")
    assert (await q.state()).jobs["a"].flags == {"LOST"}
    await q.attach("s")
    await q.lease("s", 1)
    assert (await q.state()).jobs["a"].flags == frozenset()


@pytest.mark.parametrize("lost", [False, True])
async def test_a_checkpoint_that_is_sent_again_on_the_next_stream_counts(q: QueueLab, lost: bool) -> None:
    token = (await q.leased("a"))["a"]
    if lost:
        await q.lose("s")
    await q.attach("s", 2, [("a", token)])
    items = [TurnItem("K", b"a", token, 1, b"page 3"), TurnItem("F", b"a", token, b"why", -1)]
    assert [settled.word for settled in (await q.store.turn(items)).settled] == ["OK", "OK"]
    # Nobody heard of that: both come once more, and change nothing.
    before = await q.state()
    assert [settled.word for settled in (await q.store.turn(items)).settled][1] == "OK"
    after = await q.state()
    assert (after, after.checkpoints) == (before, {"a": b"page 3"})


async def test_a_completed_job_keeps_no_checkpoint_and_a_failed_one_does(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.turn("L", "a", tokens["a"], lines("one"))
    for raw_id in tokens:
        await q.turn("K", raw_id, tokens[raw_id], 1, b"page 3")
    await q.complete("a", tokens["a"])
    await q.fail("b", tokens["b"], permanent=True)
    state = await q.state()
    assert (state.checkpoints, state.logs) == ({"b": b"page 3"}, {"a": [(1, 1, "one")]})
    await q.store.retry(b"b")
    assert (await q.state()).jobs["b"].flags == frozenset()
    ((_, _, record),) = (await q.lease_fully("s", 1)).jobs
    assert codec.sections(record, codec.body_start(record))[codec.TAG_CHECKPOINT] == b"page 3"


async def test_a_checkpoint_and_the_end_after_it_in_one_call(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    report = await q.store.turn([TurnItem("K", b"a", token, 1, b"page 3"), TurnItem("C", b"a", token, b"")])
    assert [settled.word for settled in report.settled] == ["OK", "OK"]
    done = JobView("COMPLETED", 1, progress=100, ended="COMPLETE")
    assert await q.state() == QueueState(jobs={"a": done}, completed=["a"], completed_total=1, **ATTACHED)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
async def test_what_retention_forgets_leaves_no_key(q: QueueLab, state: str) -> None:
    token = (await q.leased("a"))["a"]
    await q.turn("L", "a", token, lines("one"))
    await q.turn("K", "a", token, 1, b"page 3")
    if state == "COMPLETED":
        await q.complete("a", token)
    else:
        await q.fail("a", token, permanent=True)
    assert (await q.store.clean(job_pb2.JobState.Value(f"JOB_STATE_{state}"), 0)).forgotten == 1
    left = await q.state()
    assert (left.jobs, left.logs, left.checkpoints, set(left.ring)) == ({}, {}, {}, {"a"})
