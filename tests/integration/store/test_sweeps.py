"""Going through all jobs that wait: none is missed and none counted twice, though some are parked and others go back to their lines between two steps."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from jobwire.v1 import job_pb2
from jobwire_broker.rules.filters import Filter
from jobwire_broker.rules.sweeps import MAX_LOOKS, Numbers, purge, sweep
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Purged
from jobwire_broker.store.queue_store import QueueStore

from tests.support.queue_lab import QueueLab, item

WAITING = Filter(frozenset((job_pb2.JOB_STATE_WAITING,)))


class Between(QueueStore):
    """The store of a queue in which something happens between two steps: `happenings` are called in turn, each behind a step in the index that it names."""

    def __init__(self, q: QueueLab, *happenings: tuple[str, Callable[[], Awaitable[Any]]]) -> None:
        super().__init__(q.client, q.store.queue)
        self.happenings = list(happenings)
        self.looks: list[str] = []

    async def page(self, index: str | bytes, *args: Any, **rest: Any) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        answer = await super().page(index, *args, **rest)
        await self._passed(index if isinstance(index, str) else index[:1].decode())
        return answer

    async def purge(self, at: Purged | None = None) -> Purged:
        answer = await super().purge(at)
        await self._passed((at.next_index.decode() if at else "") or "d")
        return answer

    async def _passed(self, index: str) -> None:
        self.looks.append(index)
        if self.happenings and self.happenings[0][0] == index:
            await self.happenings.pop(0)[1]()


async def seen(store: Between) -> tuple[int, list[str]]:
    """How many a count finds, and each job as often as it is seen."""
    numbers, ids = Numbers(), []
    async for entries in sweep(store, WAITING, numbers.count):
        for raw_id, record in entries:
            numbers.add(codec.created_of(record))
            ids.append(raw_id.decode())
    return numbers.count(), ids


async def behind_a_limit(q: QueueLab) -> int:
    """One job runs, four wait, of which three are parked. Answers the token of the one that runs."""
    await q.set_policy(names={"work": {"concurrency": 1}})
    await q.make("a", "b", "c", "d", item("e", priority=9))
    await q.attach("s")
    leased = await q.lease("s", 4)
    assert list(leased) == ["a"]
    assert "nwork" in (await q.state()).lines
    return leased["a"]


async def test_a_job_that_goes_back_to_its_line_behind_the_look_at_it_is_not_missed(q: QueueLab) -> None:
    token = await behind_a_limit(q)
    store = Between(q, ("w", lambda: q.complete("a", token)))
    waiting = (await q.state()).waiting
    count, ids = await seen(store)
    assert not store.happenings
    assert (count, set(ids)) == (4, {"b", "c", "d", "e"}), waiting


async def test_a_job_that_is_parked_behind_the_look_at_its_line_is_counted_once(q: QueueLab) -> None:
    await q.set_policy(names={"work": {"concurrency": 1}})
    await q.make("a", "b", "c")
    await q.attach("s")

    async def lease() -> None:
        await q.lease("s", 3)

    store = Between(q, ("w", lease))
    count, ids = await seen(store)
    assert "nwork" in (await q.state()).lines
    assert (count, set(ids)) == (3, {"a", "b", "c"})
    assert len(ids) > 3


async def test_where_nothing_is_parked_each_line_is_looked_at_once(q: QueueLab) -> None:
    await q.make("a", "b", "c")
    store = Between(q)
    assert await seen(store) == (3, ["a", "b", "c"])
    assert store.looks.count("w") == 1


async def test_the_looks_end_also_where_each_finds_more(q: QueueLab) -> None:
    await behind_a_limit(q)
    store = Between(q)
    grows = iter(range(100))
    async for _ in sweep(store, WAITING, lambda: next(grows)):
        pass
    assert store.looks.count("w") == MAX_LOOKS


async def test_a_purge_misses_no_job_that_goes_back_to_its_line(q: QueueLab) -> None:
    token = await behind_a_limit(q)
    assert await purge(Between(q, ("w", lambda: q.complete("a", token)))) == 4
    state = await q.state()
    assert (state.waiting, state.lines) == ([], {})


async def test_a_purge_leaves_what_comes_meanwhile(q: QueueLab) -> None:
    await behind_a_limit(q)
    assert await purge(Between(q, ("d", lambda: q.make("later")))) == 4
    assert (await q.state()).waiting == ["later"]


def test_numbers_count_each_once() -> None:
    chance = random.Random(1)
    added = [chance.randrange(300) + (1 << 50) for _ in range(1000)]
    numbers = Numbers()
    for number in added[:500]:
        numbers.add(number)
    assert numbers.count() == len(set(added[:500]))
    for number in added[500:]:
        numbers.add(number)
    assert numbers.count() == len(set(added))
