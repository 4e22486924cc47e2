"""B03, B08: however much is told to however many, whoever else has something to do here gets a turn in time, and whoever keeps up the first one."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import JobState
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire.v1.queue_service_pb2 import Queue
from jobwire_gateway.feed import drive
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.many import ManyReader
from jobwire_gateway.readers import OneReader, Reader
from jobwire_gateway.sse import EventStream
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import OverviewWatch
from starlette.types import Message

from .reading import job

NAME = "queues/q/jobs/j"
ACTIVE, DELAYED = JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED
LATE_S = 0.05


async def longest_turn(work: Awaitable[None]) -> float:
    """The most CPU time between two turns of one who asks for one after the other, as a health check would. Not the time of day: other programs run, too."""
    longest = 0.0
    task = asyncio.ensure_future(work)
    last = time.thread_time()
    left = 3
    while left := left - task.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.thread_time() - last), time.thread_time()
    await task
    return longest


@pytest.mark.parametrize(("readers", "changes", "size"), [(5_000, 3, 10), (1, 400, 60_000), (100, 200, 1_000)])
async def test_b03_a_broadcast_keeps_nobody_waiting(readers: int, changes: int, size: int) -> None:
    written = 0

    async def send(message: Message) -> None:
        nonlocal written
        written += 1

    topics = Topics(Bounds(256, 256 * 1024), 15_000)
    await drive(topics.plug())
    for _ in range(readers):
        stream = EventStream(send)
        stream.reader = OneReader.of_queue(topics, "queues/q", None, stream.wake)
    topics.demand()
    await drive(topics.apply(SubscribeResponse(added=["queues/q"])))
    jobs = [job(revision, (ACTIVE, DELAYED)[revision % 2], job_id=str(revision)) for revision in range(changes)]
    for of in jobs:
        of.progress.message = "x" * size
    response = SubscribeResponse(changes=[JobChange(type=ChangeType.CHANGE_TYPE_UPDATE, job=of) for of in jobs])
    await asyncio.sleep(0)
    written = 0
    assert await longest_turn(drive(topics.apply(response))) < LATE_S
    assert written >= readers


def watch_overview(topics: Topics) -> OverviewWatch:
    reader = OverviewWatch("queues", do_nothing, 15_000)
    topics.join(reader)
    return reader


def do_nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("topic", "watch"),
    [
        (NAME, lambda topics: OneReader.of_job(topics, NAME, None, do_nothing)),
        ("queues/q", lambda topics: OneReader.of_queue(topics, "queues/q", None, do_nothing)),
        ("queues/q", lambda topics: ManyReader(topics, ["queues/q"], None, do_nothing)),
        ("queues", watch_overview),
    ],
    ids=["a job", "a queue", "many topics", "all queues"],
)
async def test_b08_whoever_keeps_up_is_shown_a_change_before_those_who_read_nothing(topic: str, watch: Callable[[Topics], Reader | OverviewWatch]) -> None:
    topics = Topics(Bounds(256, 256 * 1024), 15_000)
    await drive(topics.plug())
    shown: list[str] = []
    for number in range(20):
        note_when_shown(watch(topics), "slow" if number % 2 else "quick", shown)
    topics.demand()
    await drive(topics.apply(SubscribeResponse(added=[topic], changes=[changed(1)], queues=[Queue(name="queues/q")])))
    for revision in range(2, 5):
        shown.clear()
        await drive(topics.apply(SubscribeResponse(changes=[changed(revision)], queues=[Queue(name="queues/q")])))
        assert shown == ["quick"] * 10 + ["slow"] * 10


def changed(revision: int) -> JobChange:
    of = job(revision, (ACTIVE, DELAYED)[revision % 2])
    return JobChange(type=ChangeType.CHANGE_TYPE_SNAPSHOT if revision == 1 else ChangeType.CHANGE_TYPE_UPDATE, job=of)


def note_when_shown(reader: Reader | OverviewWatch, name: str, shown: list[str]) -> None:
    """One that is slow takes nothing, any other at once what there is."""

    def ready() -> None:
        shown.append(name)
        if name == "quick":
            reader.take()

    reader.on_ready = ready
