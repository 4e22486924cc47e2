"""`update`, `redrive` and `purge`: what of a job changes while it waits, and what a purge takes."""

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Purged

from tests.support.queue_lab import QueueLab, debounced, item, unique


def section(tag: int, content: bytes) -> bytes:
    return codec.SECTION.pack(tag, len(content)) + content


def payload(content: bytes) -> tuple[str, bytes]:
    return "payload", section(codec.TAG_PAYLOAD, content)


async def update(q: QueueLab, raw_id: str, *changes: str | bytes | int) -> str:
    return (await q.store.update(raw_id.encode(), changes)).word


SHORT, LONG, LONGER = b"x", bytes(5000), bytes(6000)


@pytest.mark.parametrize("before", [b"", SHORT, LONG])
@pytest.mark.parametrize("after", [b"", SHORT, LONGER])
async def test_a_payload_is_replaced_wherever_it_stands(q: QueueLab, before: bytes, after: bytes) -> None:
    await q.make(item("a", payload=before), "b")
    first = (await q.state()).numbers["a"]
    async with q.heard() as heard:
        assert await update(q, "a", *(payload(after) if after else ("payload", b""))) == "OK"
    state = await q.state()
    assert (state.payloads["a"], state.waiting) == (after, ["a", "b"])
    assert state.numbers["a"].revision > first.revision
    assert state.numbers["a"]._replace(revision=0) == first._replace(revision=0)
    assert heard.events == [("a", "WAITING")]
    await q.attach("s")
    (_, _, record), _ = (await q.lease_fully("s", 2)).jobs
    assert codec.sections(record, codec.body_start(record)).get(codec.TAG_PAYLOAD, b"") == after


async def test_the_call_that_made_a_job_finds_it_also_when_it_was_changed(q: QueueLab) -> None:
    made = item("a", payload=LONG)
    await q.make(made)
    await update(q, "a", *payload(SHORT))
    await update(q, "a", *payload(LONGER), "priority", 9)
    assert await q.make(made, item("a", payload=LONGER), item("a", payload=LONGER, priority=9)) == ["MADE", "EXISTS", "EXISTS"]


async def test_a_priority_moves_a_job_at_once(q: QueueLab) -> None:
    await q.make("a", "b", item("c", due="+60000"))
    assert await update(q, "b", "priority", 1) == "OK"
    assert await update(q, "c", "priority", -3) == "OK"
    state = await q.state()
    assert (state.waiting, state.jobs["b"].priority, state.jobs["c"].priority) == (["b", "a"], 1, -3)


async def test_a_due_date_moves_a_job_between_waiting_and_delayed(q: QueueLab) -> None:
    await q.make("a", "b", item("c", due="+60000"))
    due = await q.now_ms() + 90_000
    assert await update(q, "a", "due", due) == "OK"
    state = await q.state()
    assert (state.waiting, state.delayed, state.numbers["a"].order) == (["b"], ["c", "a"], due * 1000)
    assert await update(q, "c", "due", 0) == "OK"
    assert await update(q, "b", "due", 0) == "OK"
    assert (await q.state()).waiting == ["b", "c"]
    assert await update(q, "a", "due", 1) == "OK"
    state = await q.state()
    assert (state.waiting, state.delayed) == (["b", "c", "a"], [])


async def test_labels_stand_before_the_payload(q: QueueLab) -> None:
    await q.make(item("a", payload=SHORT, due="+60000"))
    labels = codec.encode_labels({"a": "b"})
    assert await update(q, "a", "labels", section(codec.TAG_LABELS, labels)) == "OK"
    record = (await q.store.inspect(b"a")).found.record
    assert list(codec.sections(record, codec.body_start(record)))[:3] == [codec.TAG_DELAY, codec.TAG_LABELS, codec.TAG_PAYLOAD]
    assert await update(q, "a", "labels", b"") == "OK"
    assert codec.TAG_LABELS not in codec.sections((await q.store.get([b"a"]))[0].record, codec.body_start(record))


async def test_what_runs_or_has_ended_stays_as_it_is(q: QueueLab) -> None:
    tokens = await q.leased("a", "b")
    await q.complete("b", tokens["b"])
    before = await q.state()
    assert [await update(q, name, *payload(SHORT)) for name in "abc"] == ["WRONG_STATE", "WRONG_STATE", "NOT_FOUND"]
    assert await q.state() == before


async def test_a_lost_worker_does_not_complete_the_job_that_its_job_became(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    await q.lose("s")
    assert await update(q, "a", "priority", 1) == "OK"
    assert await update(q, "a", *payload(SHORT)) == "OK"
    assert await q.complete("a", token) == ("CANCELLED", "WAITING")
    assert (await q.state()).waiting == ["a"]


async def test_a_unique_job_keeps_its_key(q: QueueLab) -> None:
    await q.make(item("a", identity=unique("k")))
    await update(q, "a", *payload(SHORT))
    assert await q.make(item("b", identity=unique("k"))) == ["FOUND a"]
    await q.store.delete(b"a")
    assert (await q.state()).identities == {}


@pytest.mark.parametrize("after", [b"", SHORT, LONG])
async def test_an_ended_job_is_put_back_with_another_payload(q: QueueLab, after: bytes) -> None:
    token = (await q.leased("a"))["a"]
    await q.fail("a", token, permanent=True)
    assert (await q.store.redrive(b"a", section(codec.TAG_PAYLOAD, after) if after else b"")).word == "OK"
    state = await q.state()
    assert (state.waiting, state.payloads, state.jobs["a"].attempt) == (["a"], {"a": after}, 0)
    # The same call again.
    assert (await q.store.redrive(b"a", section(codec.TAG_PAYLOAD, after) if after else b"")).word == "OK"
    assert (await q.state()).payloads == {"a": after}
    await q.lease("s", 1)
    assert (await q.store.redrive(b"a", b"")).word == "WRONG_STATE"


# Purge ------------------------------------------------------------------------------------------------------------------------------------------------


async def purge(q: QueueLab, at: Purged | None = None) -> int:
    at = await q.store.purge(at)
    count = at.deleted
    while at.next_index:
        at = await q.store.purge(at)
        count += at.deleted
    return count


async def test_what_waits_is_deleted_and_what_runs_or_has_ended_stays(q: QueueLab) -> None:
    tokens = await q.leased("run", "done")
    await q.complete("done", tokens["done"])
    await q.make("a", item("b", priority=0, payload=LONG), item("d", due="+60000"), item("u", identity=unique("k")), item("e", identity=debounced("k")))
    async with q.heard() as heard:
        assert await purge(q) == 5
    assert sorted(heard.events) == [(name, "REMOVED") for name in "abdeu"]
    state = await q.state()
    assert (sorted(state.jobs), state.identities, state.ring["a"]) == (["done", "run"], {}, ("CANCELLED", "CANCEL"))
    assert await purge(q) == 0


async def test_a_job_that_was_lost_twice_is_deleted_too(q: QueueLab) -> None:
    await q.make("a")
    for name in ("s", "t"):
        await q.attach(name)
        await q.lease(name, 1)
        await q.lose(name)
        await q.come_due("a")
    assert (await q.state(dates_moved=True)).alone == ["a"]
    assert await purge(q) == 1


async def test_what_came_after_the_call_began_stays(q: QueueLab) -> None:
    for batch in range(4):
        await q.make(*(item(f"a{batch}-{i}", priority=5 + i % 3) for i in range(100)), *(item(f"d{batch}-{i}", due="+60000") for i in range(100)))
    first = await q.store.purge()
    assert (first.deleted, first.next_index) == (256, b"d")
    await q.make(*(item(f"new{i}", priority=priority) for i, priority in enumerate((0, 5, 9))), item("newd", due="+1000"))
    await q.store.promote(b"d3-99")
    assert first.deleted + await purge(q, first) == 800
    state = await q.state()
    assert (state.waiting, state.delayed) == (["new0", "new1", "new2"], ["newd"])
