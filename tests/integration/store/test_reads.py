"""What only reads: get, list, stats, sessions."""

import struct

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Found, Stats

from tests.support.queue_lab import SESSION_MS, QueueLab, item
from tests.support.queue_state import session_bytes, state_name


async def all_pages(q: QueueLab, index: str, limit: int) -> list[str]:
    ids: list[str] = []
    cursor = b""
    while True:
        cursor, found = await q.store.page(index, cursor, limit)
        assert len(found) <= limit
        ids += [raw_id.decode() for raw_id, _ in found]
        if not cursor:
            return ids


async def every_state(q: QueueLab) -> None:
    """9 jobs in each index."""
    await q.attach("s")
    for name, count in (("c", 9), ("f", 9), ("x", 9), ("a", 9)):
        ids = [f"{name}{i}" for i in range(count)]
        await q.make(*ids)
        tokens = await q.lease("s", count)
        for raw_id, token in tokens.items():
            if name == "c":
                await q.complete(raw_id, token)
            elif name == "f":
                await q.fail(raw_id, token, permanent=True)
            elif name == "x":
                await q.store.cancel(raw_id.encode(), 0)
    now = await q.now_ms()
    await q.make(*(item(f"w{i}", priority=i % 3) for i in range(9)), *(item(f"d{i}", due=str(now + 60_000 + i // 2)) for i in range(9)))


async def test_get_gives_the_whole_record_and_who_holds_it(q: QueueLab) -> None:
    await q.store.attach(session_bytes("s"), 1, SESSION_MS, b"descriptor", [])
    await q.make(item("a", payload=b"xyz"), "b")
    await q.lease("s", 1)
    held, waiting, never = [await q.store.inspect(raw_id) for raw_id in (b"a", b"b", b"never")]
    assert (held.descriptor, codec.sections(held.found.record, codec.body_start(held.found.record))) == (b"descriptor", {codec.TAG_PAYLOAD: b"xyz"})
    assert (waiting.descriptor, state_name(waiting.found.record[1])) == (b"", "WAITING")
    assert never.found == Found(b"", 0, 0)


async def test_watchers_get_the_record_without_its_payload(q: QueueLab) -> None:
    await q.make(item("a", payload=bytes(5000)), item("b", payload=b"xyz"))
    found = await q.store.get([b"a", b"never", b"b"])
    assert [len(one.record) for one in found] == [codec.HEADER_SIZE + 5, 0, codec.HEADER_SIZE + 5]
    assert found[1] == Found(b"", 0, 0)


async def large_results(q: QueueLab, *ids: str) -> None:
    for raw_id, token in (await q.leased(*ids)).items():
        await q.complete(raw_id, token, bytes(400_000))


async def test_one_call_reads_about_1_mib_of_results(q: QueueLab) -> None:
    ids = [f"j{i}".encode() for i in range(5)]
    await large_results(q, *(raw_id.decode() for raw_id in ids))
    first = await q.store.get(ids)
    assert len(first) == 2
    assert [codec.sections(one.record, codec.body_start(one.record))[codec.TAG_RESULT] for one in first] == [bytes(400_000)] * 2
    # However large: the first one comes.
    await q.make("large")
    tokens = await q.lease("s", 1)
    await q.complete("large", tokens["large"], bytes((1 << 20) + 1))
    assert len(await q.store.get([b"large", *ids])) == 1


@pytest.mark.parametrize("upward", [False, True])
async def test_a_page_leaves_results_out_and_one_call_reads_about_1_mib_of_them(q: QueueLab, upward: bool) -> None:
    await large_results(q, *(f"j{i}" for i in range(5)))
    cursor, ids = b"", []
    while True:
        cursor, found = await q.store.page("c", cursor, 100, upward=upward)
        assert len(found) == (2 if cursor else 1)
        assert not any(codec.TAG_RESULT in codec.sections(record, codec.body_start(record)) for _, record in found)
        ids += [raw_id.decode() for raw_id, _ in found]
        if not cursor:
            break
    assert ids == [f"j{i}" for i in range(5)][:: 1 if upward else -1]


@pytest.mark.parametrize("limit", [1, 2, 4, 9, 10, 100])
async def test_pages_together_are_the_whole_list_in_its_order(q: QueueLab, limit: int) -> None:
    await every_state(q)
    state = await q.state()
    assert await all_pages(q, "w", limit) == state.waiting == ["w0", "w3", "w6", "w1", "w4", "w7", "w2", "w5", "w8"]
    assert await all_pages(q, "d", limit) == state.delayed == [f"d{i}" for i in range(9)]
    assert await all_pages(q, "a", limit) == [f"a{i}" for i in range(9)]
    for index in "cfx":
        assert await all_pages(q, index, limit) == [f"{index}{i}" for i in reversed(range(9))]
    assert await all_pages(q, "e", limit) == []


async def test_a_list_leaves_payloads_out(q: QueueLab) -> None:
    await q.make(item("a", payload=bytes(5000)))
    _, ((_, record),) = await q.store.page("w", b"", 5)
    assert len(record) == codec.HEADER_SIZE + 5


@pytest.mark.parametrize("index", ["w", "d", "a", "c"])
async def test_a_page_goes_on_where_the_last_ended_though_that_job_is_gone(q: QueueLab, index: str) -> None:
    await every_state(q)
    whole = await all_pages(q, index, 100)
    cursor, found = await q.store.page(index, b"", 4)
    (*_, (last, _)) = found
    if index == "a":
        await q.complete(last.decode(), (await q.state()).numbers[last.decode()].token)
    else:
        await q.store.delete(last)
    _, rest = await q.store.page(index, cursor, 100)
    assert [raw_id.decode() for raw_id, _ in rest] == whole[4:]


async def test_stats_count_what_lists_give(q: QueueLab) -> None:
    await every_state(q)
    for session in ("x", "y"):
        await q.make("alone", "ended")
        await q.attach(session)
        await q.store.pause(False)
        await q.lose(session)
    await q.store.delete(b"c0")
    await q.store.pause(True)
    state = await q.state()
    assert (await q.store.stats())[:13] == (len(state.waiting), 9, 9, 8, 9, 9, 0, 9, 9, True, 1, state.seq, "")


async def test_a_job_that_waits_to_go_alone_counts_as_waiting(q: QueueLab) -> None:
    for session in ("x", "y"):
        await q.make("a")
        await q.attach(session)
        await q.lease(session, 1)
        await q.lose(session)
    await q.come_due("a")
    assert (await q.state()).alone == ["a"]
    assert (await q.store.stats()).waiting == 1


async def test_the_stats_of_a_queue_that_never_was_are_zero(q: QueueLab) -> None:
    assert await q.store.stats() == Stats(0, 0, 0, 0, 0, 0, 0, 0, 0, False, 0, 0, "", 0, 0, 0, 0)
    assert await q.store.sessions() == []
    assert await q.redis.keys(q.base + "*") == []


async def test_sessions_tell_what_each_one_holds(q: QueueLab) -> None:
    await q.store.attach(session_bytes("s"), 1, SESSION_MS, b"one", [])
    await q.store.attach(session_bytes("t"), 1, SESSION_MS, b"two", [])
    await q.make("a", "b", "c")
    await q.lease("s", 2)
    assert sorted(await q.store.sessions()) == [(session_bytes("s"), 2, b"one"), (session_bytes("t"), 0, b"two")]


async def test_a_wide_cursor_reads_on_at_its_score(q: QueueLab) -> None:
    await q.make(item("a", priority=-5), item("b", priority=7))
    for score, ids in ((-6.0, ["a", "b"]), (0.0, ["b"]), (8.0, [])):
        _, found = await q.store.page("w", struct.pack(">d", score) + bytes(9), 9)
        assert [raw_id.decode() for raw_id, _ in found] == ids


async def test_rates_are_those_of_the_last_minute(q: QueueLab) -> None:
    async def rates() -> tuple[float, float]:
        stats = await q.store.stats()
        return round(stats.rate_in_milli * 60 / 1000), round(stats.rate_out_milli * 60 / 1000)

    async def ago(ms: int) -> None:
        """Let all that was noted be so much older."""
        entries = await q.redis.hget(q.base + "m", "rates")
        moved = [int.from_bytes(entries[at : at + 6], "big") - ms for at in range(0, len(entries), 22)]
        parts = [date.to_bytes(6, "big") + entries[22 * i + 6 : 22 * i + 22] for i, date in enumerate(moved)]
        await q.redis.hset(q.base + "m", "rates", b"".join(parts))

    assert await rates() == (0, 0)
    tokens = await q.leased("a", "b", "c", "d")
    await q.complete("a", tokens["a"])
    await q.fail("b", tokens["b"], permanent=True)
    await q.store.cancel(b"c", 0)
    # Whatever was made before the first pulse counts as well.
    assert await rates() == (4, 3)
    await q.pulse("s")
    assert await rates() == (4, 3)
    await ago(30_000)
    await q.pulse("s")
    await q.make("e")
    assert await rates() == (5, 3)
    await ago(40_000)
    await q.pulse("s")
    # The first four were made 70 s ago, at the latest; `e` 40 s ago.
    assert [round(rate) for rate in await rates()] == [4, 3]
    await ago(61_000)
    assert await rates() == (0, 0)
    await q.make("f")
    assert (await rates())[0] == 1
