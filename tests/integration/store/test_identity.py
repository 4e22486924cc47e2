"""Identities: the whole state of the queue after calls that ask for one job."""

import asyncio

import pytest
from jobwire_broker.store import codec

from tests.support import Store
from tests.support.queue_lab import QueueLab, debounced, idempotent, item, open_lab, throttled, unique
from tests.support.queue_state import JobView, QueueState

KEPT = frozenset({"KEPT"})


def view(state: str, identity: bytes, flags: frozenset[str] = KEPT, **fields: int) -> JobView:
    return JobView(state, flags=flags, sections={"identity": identity}, **fields)  # type: ignore[arg-type]  # numbers alone


#: What is kept of a call for job b that was answered with another.
FOUND_B = {"b": ("UNSPECIFIED", "")}


# Unique -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_unique_job_holds_its_key_while_it_waits(q: QueueLab) -> None:
    assert await q.make(item("a", identity=unique("k"))) == ["MADE"]
    assert await q.make(item("b", identity=unique("k"), payload=b"other"), item("c", identity=unique("l"))) == ["FOUND a", "MADE"]
    assert await q.state() == QueueState(
        jobs={"a": view("WAITING", unique("k")), "c": view("WAITING", unique("l"))}, waiting=["a", "c"], identities={"u k": "a", "u l": "c"}, ring=FOUND_B
    )


async def test_two_items_of_one_call_with_one_key_are_one_job(q: QueueLab) -> None:
    assert await q.make(item("a", identity=unique("k")), "p", item("b", identity=unique("k"))) == ["MADE", "MADE", "FOUND a"]
    assert (await q.state()).waiting == ["a", "p"]


async def test_the_call_that_made_a_unique_job_is_answered_made_again(q: QueueLab) -> None:
    made = item("a", identity=unique("k"))
    assert [await q.make(made), await q.make(made), await q.make(made, made)] == [["MADE"], ["MADE"], ["MADE", "MADE"]]
    assert await q.make(item("a", identity=unique("l"))) == ["EXISTS"]


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "delete", "delete active after cancel", "poison"])
async def test_the_end_of_a_unique_job_frees_its_key(q: QueueLab, end: str) -> None:
    await q.make(item("a", identity=unique("k")))
    await q.attach("s")
    if end in ("complete", "fail"):
        token = (await q.lease("s", 1))["a"]
        assert await q.make(item("b", identity=unique("k"))) == ["FOUND a"]
        await (q.complete("a", token) if end == "complete" else q.fail("a", token, permanent=True))
    elif end == "cancel":
        await q.store.cancel(b"a", 0)
    elif end == "delete":
        await q.store.delete(b"a")
    elif end == "delete active after cancel":
        await q.lease("s", 1)
        await q.store.cancel(b"a", 0)
        await q.store.delete(b"a")
    else:
        for losses in range(3):
            await q.attach(f"lost{losses}")
            await q.lease(f"lost{losses}", 1)
            await q.lose(f"lost{losses}")
            await q.come_due("a")
    assert (await q.state(dates_moved=True)).identities == {}
    assert await q.make(item("c", identity=unique("k"))) == ["MADE"]
    assert (await q.state(dates_moved=True)).identities == {"u k": "c"}


async def test_a_call_that_was_answered_with_a_job_makes_none_when_it_is_repeated_after_that_jobs_end(q: QueueLab) -> None:
    await q.make(item("a", identity=unique("k")))
    assert await q.make(item("b", identity=unique("k"))) == ["FOUND a"]
    await q.store.cancel(b"a", 0)
    assert await q.make(item("b", identity=unique("k")), item("c", identity=unique("k"))) == ["FOUND a", "MADE"]
    assert (await q.state()).identities == {"u k": "c"}


async def test_a_unique_job_that_waits_for_its_next_attempt_holds_its_key(q: QueueLab) -> None:
    await q.make(item("a", identity=unique("k")))
    await q.attach("s")
    await q.fail("a", (await q.lease("s", 1))["a"])
    assert await q.make(item("b", identity=unique("k"))) == ["FOUND a"]
    await q.store.promote(b"a")
    assert (await q.lease("s", 1)).keys() == {"a"}
    assert (await q.state()).identities == {"u k": "a"}


async def test_a_retry_takes_the_key_again_and_is_refused_while_another_job_has_it(q: QueueLab) -> None:
    await q.make(item("a", identity=unique("k")))
    await q.store.cancel(b"a", 0)
    assert (await q.store.retry(b"a")).word == "OK"
    assert (await q.state()).identities == {"u k": "a"}
    await q.store.cancel(b"a", 0)
    await q.make(item("b", identity=unique("k")))
    before = await q.state()
    refused = await q.store.retry(b"a")
    assert (refused.word, refused.holder, refused.state) == ("KEY_HELD", b"b", 7)
    assert await q.state() == before
    await q.store.delete(b"b")
    assert (await q.store.retry(b"a")).word == "OK"


async def test_a_long_payload_and_a_key_go_together(q: QueueLab) -> None:
    payload = bytes(5000)
    await q.make(item("a", identity=unique("k"), payload=payload))
    assert await q.make(item("a", identity=unique("k"), payload=payload)) == ["MADE"]
    await q.attach("s")
    ((_, token, record),) = (await q.lease_fully("s", 1)).jobs
    assert codec.sections(record, codec.body_start(record))[codec.TAG_PAYLOAD] == payload
    await q.complete("a", token)
    await q.store.delete(b"a")
    assert await q.redis.keys(q.base + "[jpi]*") == []


# Idempotency ------------------------------------------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_content_finds_the_job_whatever_has_become_of_it(q: QueueLab) -> None:
    first, again = item("a", identity=idempotent("k"), payload=b"x"), item("b", identity=idempotent("k"), payload=b"x")
    assert await q.make(first, again) == ["MADE", "FOUND a"]
    assert await q.state() == QueueState(jobs={"a": view("WAITING", idempotent("k"), frozenset())}, waiting=["a"], identities={"k k": "a"}, ring=FOUND_B)
    await q.attach("s")
    await q.complete("a", (await q.lease("s", 1))["a"])
    assert [await q.make(again), await q.make(first)] == [["FOUND a"], ["MADE"]]
    await q.store.delete(b"a")
    assert [await q.make(again), await q.make(first)] == [["FOUND a"], ["MADE"]]
    for slot in range(5):
        await q.redis.delete(f"{q.base}g{slot}")
    assert [await q.make(again), await q.make(first)] == [["FOUND a"], ["MADE"]]
    assert (await q.state()).jobs == {}


async def test_the_same_key_with_other_content_is_a_conflict(q: QueueLab) -> None:
    await q.make(item("a", identity=idempotent("k"), payload=b"x"))
    before = await q.state()
    (other,) = (await q.store.enqueue([item("b", identity=idempotent("k"), payload=b"y")])).words
    assert other == ("CONFLICT", b"a", b"of x")
    assert await q.state() == before


async def test_an_id_whose_content_the_key_does_not_hold_is_answered_for_itself_each_time(q: QueueLab) -> None:
    await q.make(item("a", identity=idempotent("k"), payload=b"x"))
    assert await q.make(item("b", identity=idempotent("k"), payload=b"y"), item("b", identity=idempotent("k"), payload=b"x")) == ["CONFLICT a", "FOUND a"]


async def test_a_key_is_forgotten_after_its_time(q: QueueLab) -> None:
    await q.make(item("a", identity=idempotent("k", 60_000)), item("t", identity=throttled("k", 30_000)))
    assert 59_000 < await q.redis.pttl(q.base + "ikk") <= 60_000
    assert 29_000 < await q.redis.pttl(q.base + "itk") <= 30_000
    for key in ("ikk", "itk"):
        await q.redis.pexpire(q.base + key, 1)
    while await q.redis.exists(q.base + "ikk", q.base + "itk"):
        await asyncio.sleep(0.001)
    assert await q.make(item("b", identity=idempotent("k"), payload=b"y"), item("u", identity=throttled("k"))) == ["MADE", "MADE"]


# Throttle ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_the_first_call_in_a_window_wins_ended_or_not(q: QueueLab) -> None:
    first, second = item("a", identity=throttled("k")), item("b", identity=throttled("k"), payload=b"other")
    assert await q.make(first, second) == ["MADE", "FOUND a"]
    await q.store.cancel(b"a", 0)
    assert await q.make(second) == ["FOUND a"]
    assert await q.make(first) == ["MADE"]
    state = await q.state()
    assert (state.cancelled, state.identities) == (["a"], {"t k": "a"})


# Debounce ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_later_call_takes_the_place_of_the_one_that_waits(q: QueueLab) -> None:
    await q.make(item("a", identity=debounced("k"), payload=b"1"))
    created = (await q.state()).numbers["a"]
    async with q.heard() as heard:
        assert await q.make(item("b", identity=debounced("k"), payload=b"2", priority=1, attempts=7)) == ["REPLACED a"]
    state = await q.state()
    job = state.jobs["a"]
    assert (job.state, job.priority, job.attempts, state.payloads) == ("DELAYED", 1, 7, {"a": b"2"})
    assert (state.delayed, state.identities) == (["a"], {"d k": "a"})
    assert heard.events == [("a", "DELAYED")]
    numbers = state.numbers["a"]
    assert numbers.order > created.order
    assert (numbers.created, numbers.revision > created.revision) == (created.created, True)


async def test_a_repeated_call_does_not_replace_again(q: QueueLab) -> None:
    first, second, third = (item(name, identity=debounced("k"), payload=name.encode()) for name in "abc")
    assert await q.make(first, second) == ["MADE", "REPLACED a"]
    assert await q.make(third) == ["REPLACED a"]
    before = await q.state()
    assert await q.make(second, first, third) == ["REPLACED a", "MADE", "REPLACED a"]
    after = await q.state()
    assert (after, after.payloads, after.numbers) == (before, {"a": b"c"}, before.numbers)
    await q.attach("s")
    await q.store.promote(b"a")
    await q.complete("a", (await q.lease("s", 1))["a"])
    assert await q.make(third) == ["REPLACED a"]
    assert (await q.state()).delayed == []


@pytest.mark.parametrize("payload", [b"short", bytes(5000)])
async def test_a_repeated_call_finds_its_job_in_the_call_in_which_another_takes_its_place(q: QueueLab, payload: bytes) -> None:
    first, second = item("a", identity=debounced("k"), payload=payload), item("b", identity=debounced("k"), payload=b"2")
    await q.make(first)
    assert await q.make(second, first) == ["REPLACED a", "MADE"]
    state = await q.state()
    assert (state.delayed, state.payloads) == (["a"], {"a": b"2"})


async def test_the_delay_starts_anew_but_for_no_longer_than_the_maximum_wait(q: QueueLab) -> None:
    began = await q.now_ms()
    await q.make(item("a", identity=debounced("k", 60_000, 90_000)))
    first, _ = await q.redis.get(q.base + "idk"), await q.redis.set(q.base + "idk", (began - 50_000).to_bytes(8, "big") + b"a")
    assert int.from_bytes(first[:8], "big") >= began
    await q.make(item("b", identity=debounced("k", 60_000, 90_000)))
    assert (await q.state()).numbers["a"].order // 1000 == began + 40_000
    await q.redis.set(q.base + "idk", (began - 90_000).to_bytes(8, "big") + b"a")
    await q.make(item("c", identity=debounced("k", 60_000, 90_000)))
    assert (await q.state()).waiting == ["a"]


async def test_a_job_that_has_come_due_and_waits_still_is_replaced_and_waits_again(q: QueueLab) -> None:
    await q.make(item("a", identity=debounced("k"), payload=bytes(2000)))
    await q.store.promote(b"a")
    assert await q.make(item("b", identity=debounced("k"), payload=b"short")) == ["REPLACED a"]
    state = await q.state()
    assert (state.delayed, state.waiting, state.payloads) == (["a"], [], {"a": b"short"})
    assert await q.make(item("c", identity=debounced("k"), payload=bytes(3000))) == ["REPLACED a"]
    assert (await q.state()).payloads == {"a": bytes(3000)}


async def test_once_it_has_started_the_next_call_makes_a_new_one(q: QueueLab) -> None:
    await q.make(item("a", identity=debounced("k")))
    await q.store.promote(b"a")
    await q.attach("s")
    token = (await q.lease("s", 1))["a"]
    assert await q.make(item("b", identity=debounced("k"))) == ["MADE"]
    assert await q.fail("a", token) == ("OK", "DELAYED")
    assert await q.make(item("c", identity=debounced("k"))) == ["REPLACED b"]
    await q.store.cancel(b"a", 0)
    assert (await q.state()).identities == {"d k": "b"}
    await q.store.cancel(b"b", 0)
    assert (await q.state()).identities == {}


async def test_many_calls_of_one_batch_leave_one_job(q: QueueLab) -> None:
    calls = [item(f"j{i}", identity=debounced("k"), payload=b"%d" % i * (1 + 1000 * (i % 2))) for i in range(20)]
    assert await q.make(*calls) == ["MADE", *["REPLACED j0"] * 19]
    state = await q.state()
    assert (state.delayed, state.payloads) == (["j0"], {"j0": b"19" * 1001})
    assert await q.make(*calls) == ["MADE", *["REPLACED j0"] * 19]


# From several sides -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [unique("k"), idempotent("k"), throttled("k"), debounced("k")], ids=["unique", "idempotent", "throttled", "debounced"])
async def test_fifty_callers_on_two_connections_make_one_job(product: Store, queue: str, identity: bytes) -> None:
    async with open_lab(product, queue) as one, open_lab(product, queue) as other:
        labs = [one, other]
        words = await asyncio.gather(*(labs[i % 2].make(item(f"j{i}", identity=identity)) for i in range(50)))
        flat = [word for (word,) in words]
        (made,) = (i for i, word in enumerate(flat) if word == "MADE")
        assert set(flat) - {"MADE"} == {f"{'REPLACED' if identity[:1] == b'd' else 'FOUND'} j{made}"}
        assert list((await one.state()).jobs) == [f"j{made}"]


# Depth ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_queue_at_its_depth_takes_what_is_there_already_and_nothing_new(q: QueueLab) -> None:
    await q.redis.hset(q.base + "m", "policy", '{"max_depth": 3}')
    await q.attach("s")
    assert await q.make("a", item("b", due="+60000")) == ["MADE", "MADE"]
    await q.lease("s", 1)
    assert await q.make("c", "d", "a", item("e", identity=unique("k"))) == ["MADE", "FULL", "MADE", "FULL"]
    assert await q.make("d", "b", item("b", due="+60000")) == ["FULL", "EXISTS", "MADE"]
    await q.store.delete(b"c")
    assert await q.make(item("e", identity=debounced("k"))) == ["MADE"]
    assert await q.make(item("f", identity=debounced("k"))) == ["REPLACED e"]
    state = await q.state()
    assert (state.waiting, sorted(state.delayed), list(state.active)) == ([], ["b", "e"], ["a"])


async def test_the_depth_is_exact_with_callers_at_once(product: Store, queue: str) -> None:
    async with open_lab(product, queue) as one, open_lab(product, queue) as other:
        await one.redis.hset(one.base + "m", "policy", '{"max_depth": 70}')
        words = await asyncio.gather(*((one, other)[i % 2].make(f"a{i}", f"b{i}", f"c{i}") for i in range(50)))
        assert [word for each in words for word in each].count("MADE") == 70
        assert len((await one.state()).waiting) == 70
