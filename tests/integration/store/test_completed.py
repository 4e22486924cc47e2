"""The list of COMPLETED jobs: what is deleted from its middle, and what everything else makes of the holes."""

import random

from jobwire.v1 import job_pb2
from jobwire_broker.store.arguments import TurnItem

from tests.support.queue_lab import QueueLab, item

COMPLETED = job_pb2.JOB_STATE_COMPLETED


async def keep(q: QueueLab, count: int = 5000) -> None:
    await q.set_policy(keep={str(COMPLETED): {"count": count}})


async def complete(q: QueueLab, *ids: str, retention_ms: int | None = None) -> None:
    """Let jobs complete in one call."""
    await q.attach("s")
    await q.make(*(item(raw_id, retention_ms=retention_ms) for raw_id in ids))
    leases = await q.lease("s", len(ids))
    await q.store.turn([TurnItem("C", raw_id.encode(), token) for raw_id, token in leases.items()])


async def delete(q: QueueLab, *ids: str) -> None:
    """In one step of a bulk verb."""
    newest = await q.store.moment()
    await q.store.begin_run(b"run-----", newest, b"")
    step = await q.store.bulk("delete", "", newest, b"run-----", 0, [raw_id.encode() for raw_id in ids])
    assert step.skipped == 0


async def listed(q: QueueLab, limit: int = 100, *, upward: bool = False) -> list[str]:
    found, cursor = [], b""
    while True:
        cursor, page = await q.store.page("c", cursor, limit, upward=upward)
        found += [raw_id.decode() for raw_id, _ in page]
        if not cursor:
            return found


async def check(q: QueueLab, *ids: str) -> None:
    """Every way of looking shows these jobs, the oldest first."""
    assert (await q.state()).completed == list(ids)
    assert (await q.store.stats()).completed == len(ids)
    for limit in (1, 2, 3, 100):
        assert await listed(q, limit) == list(reversed(ids))
        assert await listed(q, limit, upward=True) == list(ids)


async def test_a_deleted_job_is_nowhere_and_the_others_are_where_they_were(q: QueueLab) -> None:
    await complete(q, "a", "b", "c", "d", "e")
    await q.store.delete(b"c")
    await check(q, "a", "b", "d", "e")
    await delete(q, "d", "b")
    await check(q, "a", "e")
    assert await q.redis.llen(q.base + "c") == 5
    await complete(q, "f")
    await check(q, "a", "e", "f")
    # What was a hole goes when it comes to the old end.
    await q.store.delete(b"a")
    await check(q, "e", "f")
    assert await q.redis.llen(q.base + "c") == 2
    await delete(q, "f", "e")
    await check(q)
    assert await q.redis.exists(q.base + "c") == 0


async def test_a_count_is_that_of_the_jobs_that_are_there(q: QueueLab) -> None:
    await keep(q, 3)
    await complete(q, "a", "b", "c")
    await q.store.delete(b"b")
    await complete(q, "d")
    await check(q, "a", "c", "d")
    await complete(q, "e", "f")
    await check(q, "d", "e", "f")
    await keep(q, 1)
    await q.store.delete(b"e")
    await q.pulse()
    await check(q, "f")


async def test_a_count_with_jobs_of_their_own_retention_lets_the_oldest_go(q: QueueLab) -> None:
    await complete(q, "a", "b", "c")
    await complete(q, "own", retention_ms=60_000)
    await complete(q, "d", "e")
    await q.store.delete(b"b")
    await keep(q, 4)
    await q.pulse()
    assert await listed(q) == ["e", "d", "own", "c"]
    await keep(q, 2)
    await q.pulse()
    assert await listed(q) == ["e", "d"]
    await q.state()


async def test_a_clean_counts_jobs_and_goes_on_over_holes(q: QueueLab) -> None:
    await keep(q)
    for batch in range(6):
        await complete(q, *(f"{batch}-{i}" for i in range(100)))
    for batch in range(1, 5):
        await delete(q, *(f"{batch}-{i}" for i in range(100)))
    cleaned = [await q.store.clean(COMPLETED, 0)]
    while cleaned[-1].more:
        cleaned.append(await q.store.clean(COMPLETED, 0, cleaned[-1].newest))
    assert sum(step.forgotten for step in cleaned) == 200
    await check(q)


async def test_what_is_left_between_many_holes_is_kept_within_its_count(q: QueueLab) -> None:
    await keep(q)
    for batch in range(10):
        await complete(q, *(f"{batch}-{i}" for i in range(100)))
        await delete(q, *(f"{batch}-{i}" for i in range(100) if i % 10))
    assert await listed(q, 7) == [f"{batch}-{i}" for batch in range(9, -1, -1) for i in range(90, -1, -10)]
    await keep(q, 5)
    await q.pulse()
    await check(q, "9-50", "9-60", "9-70", "9-80", "9-90")


async def test_whatever_is_deleted_and_completed_the_list_is_that_of_a_plain_list(q: QueueLab) -> None:
    chance = random.Random(7)
    await keep(q, 40)
    expected: list[str] = []
    for step in range(40):
        ids = [f"{step}-{i}" for i in range(chance.randrange(1, 12))]
        await complete(q, *ids)
        expected = [*expected, *ids][-40:]
        gone = chance.sample(expected, chance.randrange(min(len(expected), 12)))
        await delete(q, *gone)
        expected = [raw_id for raw_id in expected if raw_id not in gone]
        assert (await q.state()).completed == expected
        assert await listed(q, 3) == expected[::-1]
    assert (await q.store.stats()).completed == len(expected)
