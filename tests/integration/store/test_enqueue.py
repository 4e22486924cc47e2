"""`enqueue`: the whole state of the queue after one call."""

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import JobItem, LeaseRequest, TurnItem

from tests.support import Store
from tests.support.queue_lab import QueueLab, item, open_lab
from tests.support.queue_state import JobView, QueueState, SessionView, session_bytes


async def test_a_plain_job_waits(q: QueueLab) -> None:
    assert await q.make("a") == ["MADE"]
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING")}, waiting=["a"])


async def test_a_batch_waits_by_priority_and_then_in_order(q: QueueLab) -> None:
    assert await q.make(item("a"), item("b", priority=1), item("c"), item("d", priority=-7)) == ["MADE"] * 4
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING"), "b": JobView("WAITING", priority=1), "c": JobView("WAITING"), "d": JobView("WAITING", priority=-7)},
        waiting=["d", "b", "a", "c"],
    )


async def test_a_delayed_job_stands_at_its_date(q: QueueLab) -> None:
    before = await q.now_ms()
    await q.make(item("a", due="+60000"))
    state = await q.state()
    assert state == QueueState(jobs={"a": JobView("DELAYED", sections={"delay": (60_000).to_bytes(8, "big")})}, delayed=["a"])
    assert before + 60_000 <= state.numbers["a"].order // 1000 <= await q.now_ms() + 60_000


async def test_a_date_in_the_past_means_now(q: QueueLab) -> None:
    await q.make(item("a", due=str(await q.now_ms() - 1)), item("b", due=str(await q.now_ms() + 60_000)))
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING"), "b": JobView("DELAYED")}, waiting=["a"], delayed=["b"])


async def test_the_same_job_again_is_made_once(q: QueueLab) -> None:
    await q.make(item("a", payload=b"x"))
    before = await q.state()
    assert await q.make(item("a", payload=b"x")) == ["MADE"]
    after = await q.state()
    assert (after, after.numbers) == (before, before.numbers)


async def test_the_same_job_twice_in_one_call_is_made_once(q: QueueLab) -> None:
    assert await q.make("a", "a") == ["MADE", "MADE"]
    assert await q.state() == QueueState(jobs={"a": JobView("WAITING")}, waiting=["a"])


async def test_an_id_taken_by_other_content_is_refused(q: QueueLab) -> None:
    await q.make(item("a", payload=b"x"))
    before = await q.state()
    other = [item("a", payload=b"y"), item("a"), item("a", payload=b"x", priority=4), item("a", payload=b"x", attempts=4), item("a", due="+9", payload=b"x")]
    assert await q.make(*other) == ["EXISTS"] * 5
    after = await q.state()
    assert (after, after.numbers, after.payloads) == (before, before.numbers, {"a": b"x"})


async def test_the_same_job_is_known_whatever_has_happened_to_it_since(q: QueueLab) -> None:
    token = (await q.leased("a"))["a"]
    assert await q.make("a") == ["MADE"]
    await q.turn("P", "a", token, 4000, b"section")
    await q.complete("a", token, b"result")
    before = await q.state()
    assert await q.make("a") == ["MADE"]
    assert await q.make(item("a", payload=b"other")) == ["EXISTS"]
    assert await q.state() == before


async def test_a_job_goes_at_once_to_a_session_with_room(q: QueueLab) -> None:
    await q.attach("s")
    report = await q.store.enqueue([item("a"), item("b")], [LeaseRequest(session_bytes("s"), 1, 1)])
    ((raw_id, token, record),) = report.leases[0].jobs
    assert (report.words, report.waiting, raw_id) == (["MADE", "MADE"], 1, b"a")
    assert codec.header_of(record).attempt == 0
    state = await q.state()
    assert state == QueueState(
        jobs={"a": JobView("ACTIVE", 1), "b": JobView("WAITING")},
        waiting=["b"],
        active={"a": "s"},
        sessions={"s": SessionView(1)},
        timers={"session s": 5000},
    )
    assert state.numbers["a"].token == token


async def test_room_that_stays_empty_is_noted_and_the_next_job_wakes(q: QueueLab) -> None:
    await q.attach("s")
    await q.lease("s", 3)
    assert (await q.state()).hungry
    async with q.heard() as heard:
        await q.make("a")
    assert heard.wakes == ["work"]
    assert heard.events == [("a", "WAITING")]
    assert heard.sequences == [(0, 1)]
    assert await q.state() == QueueState(
        jobs={"a": JobView("WAITING")}, waiting=["a"], sessions={"s": SessionView(1)}, timers={"session s": 5000}, hungry=False
    )


async def test_events_follow_each_other_without_a_hole(q: QueueLab) -> None:
    async with q.heard() as heard:
        await q.make("a", item("b", due="+9999"))
        await q.make("a")
        await q.make("c")
    assert heard.sequences == [(0, 1), (1, 2)]
    assert heard.events == [("a", "WAITING"), ("b", "DELAYED"), ("c", "WAITING")]
    assert heard.wakes == []


async def test_an_event_carries_the_record_without_its_payload(q: QueueLab) -> None:
    async with q.heard() as heard:
        await q.make(item("a", payload=b"x" * 5000))
    assert len(heard.records[0]) == codec.HEADER_SIZE + 1 + len("work")


async def test_an_id_of_ours_and_an_id_of_text_live_side_by_side(q: QueueLab) -> None:
    ours = bytes(range(16))
    report = await q.store.enqueue([item("a")._replace(raw_id=ours), item(ours.hex())])
    assert report.words == ["MADE", "MADE"]
    found = await q.store.get([ours, ours.hex().encode()])
    assert all(answer.record for answer in found)


# Long payloads, and ids that come again ---------------------------------------------------------------------------------------------------------------


async def test_a_long_payload_is_kept_apart_and_goes_wherever_the_job_goes(q: QueueLab) -> None:
    payload = bytes(range(256)) * 20
    assert await q.make(item("a", payload=payload)) == ["MADE"]
    assert await q.redis.strlen(q.base + "ja") < 100
    assert (await q.state()).payloads == {"a": payload}
    await q.attach("s")
    ((_, token, record),) = (await q.lease_fully("s", 1)).jobs
    assert codec.sections(record, codec.body_start(record)) == {codec.TAG_PAYLOAD: payload}
    found = (await q.store.inspect(b"a")).found
    assert codec.sections(found.record, codec.body_start(found.record)) == {codec.TAG_PAYLOAD: payload}
    assert await q.complete("a", token, b"result") == ("OK", "COMPLETED")
    assert (await q.state()).payloads == {"a": payload}
    await q.store.delete(b"a")
    assert await q.redis.keys(q.base + "[jp]*") == []


async def test_a_long_payload_is_forgotten_with_its_job(q: QueueLab) -> None:
    await q.make(item("a", payload=bytes(5000)))
    await q.attach("s")
    await q.complete("a", (await q.lease("s", 1))["a"])
    for batch in range(10):
        await q.make(*(f"b{batch}-{i}" for i in range(100)))
        leased = await q.lease("s", 100)
        await q.store.turn([TurnItem("C", raw_id.encode(), token) for raw_id, token in leased.items()])
    state = await q.state()
    assert (len(state.completed), state.ring, await q.redis.keys(q.base + "p*")) == (1000, {"a": ("COMPLETED", "COMPLETE")}, [])


@pytest.mark.parametrize("size", [10, 5000])
async def test_the_same_id_with_another_payload_is_another_job(q: QueueLab, size: int) -> None:
    payload = bytes(size)
    assert await q.make(item("a", payload=payload)) == ["MADE"]
    before = await q.state()
    assert await q.make(item("a", payload=payload), item("a", payload=payload + b"x"), item("a", payload=payload[1:])) == ["MADE", "EXISTS", "EXISTS"]
    assert await q.state() == before


@pytest.mark.parametrize("size", [10, 5000])
async def test_an_id_that_comes_twice_in_one_call_is_one_job(q: QueueLab, size: int) -> None:
    twice = item("a", payload=bytes(size))
    assert await q.make(twice, "b", twice, item("a")) == ["MADE", "MADE", "MADE", "EXISTS"]
    assert (await q.state()).waiting == ["a", "b"]


@pytest.mark.parametrize("days_ahead", [0, 1.5, 3, 300_000])
async def test_an_id_of_ours_that_was_removed_is_known_whatever_its_date_says(q: QueueLab, days_ahead: float) -> None:
    date = int((await q.now_ms()) + days_ahead * 86_400_000).to_bytes(6, "big")
    removed, newer = (JobItem(date + bytes((0x70, i)) + bytes(8), "", 5, 3, b"\x04work") for i in (1, 2))
    assert await q.make(removed) == ["MADE"]
    await q.store.delete(removed.raw_id)
    assert await q.make(removed) == ["MADE"]
    assert (await q.state()).waiting == []
    assert await q.make(newer) == ["MADE"]
    assert (await q.state()).waiting == [newer.raw_id.hex()]


async def test_the_time_is_asked_for_once_in_a_call_also_when_an_id_is_there_already(store: Store, queue: str) -> None:
    """On a store of its own: brokers of other tests ask for the time, too."""
    async with open_lab(store, queue) as q:

        async def asked() -> int:
            return int((await q.redis.info("commandstats"))["cmdstat_time"]["calls"])

        await q.make("a")
        before = await asked()
        assert await q.make("a", "b") == ["MADE", "MADE"]
        assert await asked() - before == 1
