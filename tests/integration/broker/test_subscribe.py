"""EventService.Subscribe: topics come and go on one stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from jobwire.v1 import event_service_pb2 as pb
from jobwire.v1 import job_pb2, job_service_pb2, queue_service_pb2

from tests.integration.broker.asking import completed, enqueue, enqueue_all, finish, job_name_of, lease, spec
from tests.support import Broker
from tests.support.api import Api, Refusal
from tests.support.api import api as connected

State = job_pb2.JobState
SNAPSHOT, UPDATE, FINAL = job_service_pb2.CHANGE_TYPE_SNAPSHOT, job_service_pb2.CHANGE_TYPE_UPDATE, job_service_pb2.CHANGE_TYPE_FINAL
NOT_FOUND = job_service_pb2.CHANGE_TYPE_NOT_FOUND


class Subscription:
    """One stream, read frame by frame; each wait lasts 30 s at the most, and only a busy machine needs any of it."""

    def __init__(self, api: Api) -> None:
        self._call = api.events.Subscribe()
        self._changes: list[job_service_pb2.JobChange] = []
        self._added: list[str] = []
        self._queues: list[queue_service_pb2.Queue] = []
        self.frames: list[tuple[float, pb.SubscribeResponse]] = []

    async def send(self, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
        """Ask for topics and let go of others."""
        await self._call.write(pb.SubscribeRequest(add=add, remove=remove))

    async def added(self, topic: str) -> None:
        """Wait until a topic is confirmed."""
        while topic not in self._added:
            await self._read()
        self._added.remove(topic)

    async def change(self) -> job_service_pb2.JobChange:
        """The next change."""
        while not self._changes:
            await self._read()
        return self._changes.pop(0)

    async def queue(self, name: str, waiting: int) -> queue_service_pb2.Queue:
        """Wait until a queue is said to have so many jobs that wait."""
        while True:
            for found in self._queues:
                if found.queue == name and found.counts.waiting == waiting:
                    return found
            self._queues.clear()
            await self._read()

    async def fence(self, queue: str) -> None:
        """Return when all that was sent before has been handled, and what happened before has been told."""
        topic = job_name_of(queue, "fence")
        await self.send(add=(topic,))
        await self.added(topic)
        while not any(c.job.name == topic for c in self._changes):
            await self._read()
        self._changes = [c for c in self._changes if c.job.name != topic]
        await self.send(remove=(topic,))

    async def none(self, queue: str) -> None:
        """No change is on its way."""
        await self.fence(queue)
        assert self._changes == []

    async def _read(self) -> None:
        async with asyncio.timeout(30):
            frame = await self._call.read()
        if not isinstance(frame, pb.SubscribeResponse):
            raise grpc.aio.AioRpcError(
                await self._call.code(), await self._call.initial_metadata(), await self._call.trailing_metadata(), await self._call.details()
            )
        self.frames.append((asyncio.get_running_loop().time(), frame))
        self._added += frame.added
        self._changes += frame.changes
        self._queues += frame.queues

    def close(self) -> None:
        """Leave."""
        self._call.cancel()


@asynccontextmanager
async def subscribed(api: Api, *topics: str) -> AsyncIterator[Subscription]:
    """A subscription with these topics confirmed."""
    made = Subscription(api)
    await made.send(add=topics)
    for topic in topics:
        await made.added(topic)
    yield made
    made.close()


@pytest.fixture
async def other_api(second_broker: Broker) -> AsyncIterator[Api]:
    """The services of another broker on the same store."""
    async with connected(second_broker) as api:
        yield api


async def test_the_first_frame_says_whether_the_store_is_there(api: Api, queue: str) -> None:
    async with subscribed(api, job_name_of(queue, "none")) as stream:
        assert stream.frames[0][1].store_available is True


async def test_a_topic_is_confirmed_then_comes_its_snapshot_then_what_happens(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    async with subscribed(api, name) as stream:
        order = [word for _, frame in stream.frames for word in (["added"] if frame.added else []) + ["change"] * len(frame.changes)]
        assert order[0] == "added"
        snapshot = await stream.change()
        assert (snapshot.type, snapshot.job.state, snapshot.job.name) == (SNAPSHOT, State.JOB_STATE_WAITING, name)
        (job,) = await lease(api, queue)
        active = await stream.change()
        assert (active.type, active.job.state) == (UPDATE, State.JOB_STATE_ACTIVE)
        await finish(api, completed(job))
        final = await stream.change()
        assert (final.type, final.job.state) == (FINAL, State.JOB_STATE_COMPLETED)
        assert snapshot.job.revision < active.job.revision < final.job.revision


async def test_a_topic_of_an_ended_job_brings_its_end_and_one_of_no_job_says_so(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    await api.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name))
    async with subscribed(api, name, job_name_of(queue, "none")) as stream:
        found = {change.job.id: change.type for change in (await stream.change(), await stream.change())}
        assert found == {"one": FINAL, "none": NOT_FOUND}


async def test_topics_come_and_go_on_one_stream(api: Api, queue: str) -> None:
    a, b = await enqueue(api, queue, "a"), await enqueue(api, queue, "b")
    async with subscribed(api, a) as stream:
        await stream.change()
        await stream.send(add=(b,), remove=(a,))
        await stream.added(b)
        assert (await stream.change()).job.id == "b"
        await api.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=a))
        await api.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=b))
        assert (await stream.change()).job.id == "b"
        await stream.none(queue)


async def test_topics_are_counted_by_name_and_each_adding_brings_a_snapshot(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    async with subscribed(api, name) as stream:
        assert (await stream.change()).type == SNAPSHOT
        for _ in range(2):
            await stream.send(add=(name,))
            await stream.added(name)
            assert (await stream.change()).type == SNAPSHOT
        await stream.send(remove=(name, name))
        await stream.fence(queue)
        await lease(api, queue)
        assert (await stream.change()).job.state == State.JOB_STATE_ACTIVE
        await stream.send(remove=(name,))
        await stream.fence(queue)
        await api.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=name))
        await stream.none(queue)


async def test_removing_what_was_never_added_is_ignored(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    async with subscribed(api, name) as stream:
        await stream.change()
        await stream.send(remove=(job_name_of(queue, "other"), "queues", "nonsense"))
        await stream.fence(queue)
        await lease(api, queue)
        assert (await stream.change()).job.state == State.JOB_STATE_ACTIVE


async def test_a_change_is_sent_once_however_many_topics_it_belongs_to(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    async with subscribed(api, f"queues/{queue}", name) as stream:
        assert (await stream.change()).type == SNAPSHOT
        await lease(api, queue)
        assert (await stream.change()).job.state == State.JOB_STATE_ACTIVE
        await stream.none(queue)


async def test_the_topic_of_a_queue_has_no_snapshot_and_tells_all_changes_in_it(api: Api, other_api: Api, queue: str) -> None:
    await enqueue(api, queue, "before")
    async with subscribed(api, f"queues/{queue}") as stream:
        await stream.none(queue)
        # Through another broker.
        await enqueue(other_api, queue, "after")
        made = await stream.change()
        assert (made.type, made.job.id, made.job.state) == (UPDATE, "after", State.JOB_STATE_WAITING)


async def test_the_topics_of_a_group_and_of_a_label_tell_the_changes_of_their_jobs_alone(api: Api, other_api: Api, queue: str) -> None:
    group, label, odd = f"queues/{queue}/groups/acme", f"queues/{queue}/labels/order=17", f"queues/{queue}/labels/a/b=/jobs/x y=ü"
    async with subscribed(api, group, label, odd) as subscription:
        await enqueue(other_api, queue, "none")
        await enqueue(other_api, queue, "other", group="other", labels={"order": "18"})
        await enqueue(other_api, queue, "grouped", group="acme", labels={"order": "17"})
        await enqueue(other_api, queue, "labelled", labels={"order": "17", "more": ""})
        await enqueue(other_api, queue, "odd", labels={"a/b": "/jobs/x y=ü"})
        seen = [await subscription.change() for _ in range(3)]
        assert [(change.job.id, change.job.group, dict(change.job.labels)) for change in seen] == [
            ("grouped", "acme", {"order": "17"}),
            ("labelled", "", {"order": "17", "more": ""}),
            ("odd", "", {"a/b": "/jobs/x y=ü"}),
        ]
        await subscription.send(remove=(group, odd))
        await subscription.fence(queue)
        for job in ("odd", "labelled", "grouped"):
            await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=job_name_of(queue, job)))
        removed = [await subscription.change() for _ in range(2)]
        assert [(change.job.id, change.job.state) for change in removed] == [("labelled", State.JOB_STATE_REMOVED), ("grouped", State.JOB_STATE_REMOVED)]


async def test_a_deleted_job_is_told_as_removed(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "one")
    async with subscribed(api, name) as stream:
        await stream.change()
        await api.jobs.DeleteJob(job_service_pb2.DeleteJobRequest(name=name))
        removed = await stream.change()
        assert (removed.type, removed.job.state) == (FINAL, State.JOB_STATE_REMOVED)


async def test_the_topic_queues_begins_with_all_counts_and_new_queues_appear(api: Api, other_api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(3)])
    async with subscribed(api, "queues") as stream:
        known = await stream.queue(queue, 3)
        assert (known.name, known.counts.total, known.paused) == (f"queues/{queue}", 3, False)
        await enqueue(api, f"{queue}.new")
        assert (await stream.queue(f"{queue}.new", 1)).counts.total == 1
        await enqueue(other_api, queue, "elsewhere")
        await stream.queue(queue, 4)
        await api.queues.PauseQueue(queue_service_pb2.PauseQueueRequest(name=f"queues/{queue}"))
        while not (await stream.queue(queue, 4)).paused:
            stream._queues.clear()


async def test_counts_of_a_busy_queue_come_at_most_every_250_ms(api: Api, queue: str) -> None:
    await enqueue(api, queue, "first")
    async with subscribed(api, "queues") as stream:
        await stream.queue(queue, 1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        made = 1
        while loop.time() - began < 1.2:
            await enqueue(api, queue)
            made += 1
        await stream.queue(queue, made)
        times = [at for at, frame in stream.frames if any(q.queue == queue for q in frame.queues)]
        assert made > 20
        assert 3 <= len(times) <= 9


async def test_a_new_queue_of_another_broker_appears_in_the_topic_queues(api: Api, other_api: Api, queue: str) -> None:
    await enqueue(api, queue, "first")
    async with subscribed(api, "queues") as stream:
        await stream.queue(queue, 1)
        await enqueue(other_api, f"{queue}.new")
        # The brokers look for each other's queues every 4 s.
        assert (await stream.queue(f"{queue}.new", 1)).counts.total == 1


@pytest.mark.parametrize("topic", ["", "queue", "queues/", "queues/a/jobs", "queues/a/jobs/", "queues/ä", "queues/a/jobs/b/c", "queues/a/states/b"])
async def test_a_topic_that_is_none_ends_the_stream_and_says_which_whatever_is_being_written(api: Api, queue: str, topic: str) -> None:
    stream = Subscription(api)
    await stream.send(add=tuple(job_name_of(queue, f"none{i}") for i in range(100)))
    await stream.send(add=("queues/fine", topic))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.added("never")
    refused = Refusal.of(error.value)
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ("add[1]",))


async def test_many_large_ends_come_in_frames_of_3_mib_or_one_change(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(24)])
    for job in await lease(api, queue, 24):
        end = completed(job)
        end.complete.result.data = bytes(1 << 20)
        await finish(api, end)
    names = tuple(job_name_of(queue, f"j{i}") for i in range(24))
    async with subscribed(api) as subscription:
        await subscription.send(add=names)
        ends = [await subscription.change() for _ in names]
    assert {(end.type, end.job.name, len(end.job.result.data)) for end in ends} == {(FINAL, name, 1 << 20) for name in names}
    assert max(frame.ByteSize() for _, frame in subscription.frames) < 3 << 20


async def test_thousands_of_topics_are_confirmed_before_anything_is_said_of_them(api: Api, queue: str) -> None:
    names = tuple(job_name_of(queue, f"j{i}") for i in range(5000))
    async with subscribed(api) as subscription:
        await subscription.send(add=names)
        for _ in names:
            await subscription.change()
    confirmed: set[str] = set()
    for _, frame in subscription.frames:
        confirmed.update(frame.added)
        assert {change.job.name for change in frame.changes} <= confirmed
        assert len(frame.added) <= 2000
    assert confirmed == set(names)
