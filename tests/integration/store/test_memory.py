"""A store at its memory limit refuses new jobs and nothing else."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from jobwire_broker.errors import StoreFull
from jobwire_broker.store.arguments import TurnItem

from tests.support import Store, StoreKind
from tests.support.queue_lab import SESSION_MS, QueueLab, debounced, idempotent, item, open_lab, unique
from tests.support.queue_state import QueueState, session_bytes


@pytest.fixture(params=list(StoreKind), ids=str)
async def own_queue(request: pytest.FixtureRequest) -> AsyncIterator[QueueLab]:
    """A queue of a store whose memory this test may fill."""
    async with Store(request.param) as store, open_lab(store, "full") as lab:
        yield lab


async def test_a_full_store_refuses_jobs_and_settles_all_else(own_queue: QueueLab) -> None:
    q = own_queue
    tokens = await q.leased("a", "b", "c")
    await q.leased("d", session="lost")
    await q.make("w", "x", item("e", due="+60000"))
    await q.redis.zadd(q.base + "t", {b"S" + session_bytes("lost"): 0}, xx=True)
    before = await q.state()
    await q.redis.config_set("maxmemory", "1mb")
    with pytest.raises(StoreFull):
        await q.make("new")
    with pytest.raises(StoreFull):
        await q.make("a")
    assert await q.state() == before
    assert await q.complete("a", tokens["a"], b"result") == ("OK", "COMPLETED")
    assert await q.turn("P", "b", tokens["b"], 5000, b"note") == ("OK", "ACTIVE")
    assert await q.fail("b", tokens["b"]) == ("OK", "DELAYED")
    assert (await q.store.cancel(b"c", 3000)).word == "OK"
    assert list(await q.lease("s", 1)) == ["w"]
    assert (await q.store.cancel(b"x", 0)).word == "OK"
    assert (await q.store.retry(b"x")).word == "OK"
    assert (await q.store.promote(b"e")).word == "OK"
    assert (await q.store.delete(b"e")).word == "OK"
    assert await q.attach("t") == []
    await q.detach("t")
    await q.store.pause(True)
    await q.store.pulse(SESSION_MS, [])
    assert (await q.store.stats()).waiting == 2
    state = await q.state()
    assert (state.waiting, state.cancelled, state.completed, state.delayed) == (["d", "x"], [], ["a"], ["b"])
    assert state.active == {"c": "s", "w": "s"}
    await q.redis.config_set("maxmemory", "0")
    assert await q.make("new") == ["MADE"]


async def test_a_whole_batch_is_refused_or_none_of_it(own_queue: QueueLab) -> None:
    q = own_queue
    await q.redis.config_set("maxmemory", str((await q.redis.info("memory"))["used_memory"] + 2_000_000))
    made = 0
    with contextlib.suppress(StoreFull):
        while made < 10_000:
            await q.make(*(item(f"a{made + i}", payload=bytes(5000)) for i in range(100)))
            made += 100
    state = await q.state()
    assert (len(state.waiting), 0 < made < 10_000) == (made, True)
    await q.attach("s")
    leased = await q.lease("s", 100)
    await q.store.turn([TurnItem("C", raw_id.encode(), token) for raw_id, token in leased.items()])
    for raw_id in leased:
        await q.store.delete(raw_id.encode())
    assert (await q.state()).completed == QueueState().completed


async def test_a_full_store_says_what_it_has_and_makes_nothing(own_queue: QueueLab) -> None:
    q = own_queue
    await q.leased("a")
    made = [item("b", payload=bytes(5000)), item("u", identity=unique("k")), item("i", identity=idempotent("k")), item("d", identity=debounced("k"))]
    await q.make(*made)
    await q.store.delete(b"u")
    await q.make(item("v", identity=unique("k")))
    # What it takes to apply a new policy is left to a call that may write.
    await q.set_policy(names={"work": {"concurrency": 5}})
    before = await q.state()
    await q.redis.config_set("maxmemory", "1mb")
    asked = [item("a"), *made, item("b"), item("w", identity=unique("k")), item("j", identity=idempotent("k")), item("e", identity=debounced("k")), item("new")]
    words = (await q.store.known(asked)).words
    assert words == ["MADE", "MADE", "MADE", "MADE", "MADE", "EXISTS", ("FOUND", b"v", b""), ("FOUND", b"i", b""), "STORE_FULL", "STORE_FULL"]
    for call in (q.store.update(b"b", ["priority", 1]), q.store.redrive(b"b", b"")):
        with pytest.raises(StoreFull):
            await call
    assert await q.state() == before
    assert (await q.store.purge()).deleted == 1
    assert (await q.store.clean(6, 0)).forgotten == 0
