"""Who begins to follow a queue is told of what happens from then on, and of no gap where none is."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.rules.mailbox import Mailbox
from jobwire_broker.rules.watching import LAG_S, Feed
from jobwire_broker.store.listener import Handler, Listener

from tests.support.queue_lab import QueueLab, item


class HeldListener(Listener):
    """Messages go on when the test says so."""

    def __init__(self, q: QueueLab) -> None:
        super().__init__(q.client)
        self._held: list[bytes] = []
        self._handler: Handler | None = None
        self._is_holding = False

    async def add(self, channel: str, handler: Handler) -> None:
        self._handler = handler
        await super().add(channel, self._take)

    def hold(self) -> None:
        """From now on nothing goes on."""
        self._is_holding = True

    async def let_go(self, count: int) -> None:
        """All goes on that came, once it is so much."""
        async with asyncio.timeout(10):
            while len(self._held) < count:
                await asyncio.sleep(0.01)
        self._is_holding = False
        for message in self._held:
            self._hand_on(message)

    def _take(self, message: bytes | None) -> None:
        if self._is_holding and message is not None:
            self._held.append(message)
        else:
            self._hand_on(message)

    def _hand_on(self, message: bytes | None) -> None:
        assert self._handler is not None
        self._handler(message)


@pytest.fixture
async def listener(q: QueueLab) -> AsyncIterator[HeldListener]:
    listening = HeldListener(q)
    listening.start()
    yield listening
    await listening.stop()


async def test_a_pulse_of_a_quiet_queue_tells_its_followers_of_no_gap(q: QueueLab, listener: HeldListener) -> None:
    await q.store.enqueue([item("before")])
    feed, mailbox = Feed(q.store, listener), Mailbox()
    await feed.watch_all(mailbox)
    feed.pulse_saw((await q.store.stats()).seq)
    await asyncio.sleep(2 * LAG_S)
    await q.store.enqueue([item("after")])
    assert await _changes(mailbox) == [(pb.CHANGE_TYPE_UPDATE, "after")]


async def test_events_that_are_under_way_when_a_queue_is_followed_are_no_gap(q: QueueLab, listener: HeldListener) -> None:
    await q.store.enqueue([item("before")])
    feed, mailbox = Feed(q.store, listener), Mailbox()
    await feed.watch_counts(lambda: None)
    listener.hold()
    await q.store.enqueue([item("a")])
    await q.store.enqueue([item("b")])
    await feed.watch_all(mailbox)
    await listener.let_go(2)
    await q.store.enqueue([item("c")])
    assert await _changes(mailbox, 3) == [(pb.CHANGE_TYPE_UPDATE, "a"), (pb.CHANGE_TYPE_UPDATE, "b"), (pb.CHANGE_TYPE_UPDATE, "c")]


async def test_a_pulse_that_is_ahead_tells_of_a_gap(q: QueueLab, listener: HeldListener) -> None:
    feed, mailbox = Feed(q.store, listener), Mailbox()
    await feed.watch_all(mailbox)
    listener.hold()
    await q.store.enqueue([item("lost")])
    feed.pulse_saw((await q.store.stats()).seq)
    assert await _changes(mailbox) == [(pb.CHANGE_TYPE_GAP, "")]


async def test_who_watches_a_job_already_learns_its_end_that_was_lost_before_the_queue_is_followed(q: QueueLab, listener: HeldListener) -> None:
    await q.store.enqueue([item("job")])
    feed, of_job, of_all = Feed(q.store, listener), Mailbox(), Mailbox()
    await feed.watch_job(b"job", of_job)
    listener.hold()
    await q.store.cancel(b"job", 0)
    await feed.watch_all(of_all)
    feed.pulse_saw((await q.store.stats()).seq)
    assert await _changes(of_job, 2) == [(pb.CHANGE_TYPE_SNAPSHOT, "job"), (pb.CHANGE_TYPE_FINAL, "job")]


async def test_who_follows_a_queue_already_is_told_of_what_was_lost_before_the_next_one(q: QueueLab, listener: HeldListener) -> None:
    feed, first, second = Feed(q.store, listener), Mailbox(), Mailbox()
    await feed.watch_all(first)
    listener.hold()
    await q.store.enqueue([item("lost")])
    await feed.watch_all(second)
    feed.pulse_saw((await q.store.stats()).seq)
    assert await _changes(first) == await _changes(second) == [(pb.CHANGE_TYPE_GAP, "")]


async def _changes(mailbox: Mailbox, count: int = 1) -> list[tuple["pb.ChangeType.ValueType", str]]:
    found: list[pb.JobChange] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            await mailbox.wait()
            found += mailbox.take()
    return [(change.type, change.job.id) for change in found]
