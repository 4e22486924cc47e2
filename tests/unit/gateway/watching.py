"""Topics on a feed that a test plays, and their readers."""

from collections.abc import Iterator

from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire.v1.queue_service_pb2 import Queue
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.readers import OneReader
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import OverviewWatch

from .reading import job

WAITING, ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_WAITING, JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
SNAPSHOT, UPDATE, FINAL = ChangeType.CHANGE_TYPE_SNAPSHOT, ChangeType.CHANGE_TYPE_UPDATE, ChangeType.CHANGE_TYPE_FINAL
NOT_FOUND, GAP, LOG = ChangeType.CHANGE_TYPE_NOT_FOUND, ChangeType.CHANGE_TYPE_GAP, ChangeType.CHANGE_TYPE_LOG
NAME = "queues/q/jobs/j"


def drive(work: Iterator[None]) -> None:
    for _ in work:
        pass


def topics_on_a_feed() -> Topics:
    topics = Topics(Bounds(100, 1_000_000), 15_000)
    drive(topics.plug())
    return topics


def watch(topics: Topics, cursor: Cursor | None = None) -> OneReader:
    return OneReader.of_job(topics, NAME, cursor, lambda: None)


def watch_queue(topics: Topics, cursor: Cursor | None = None) -> OneReader:
    return OneReader.of_queue(topics, "queues/q", cursor, lambda: None)


def watch_overview(topics: Topics) -> OverviewWatch:
    reader = OverviewWatch("queues", lambda: None, 15_000)
    topics.join(reader)
    return reader


def say(topics: Topics, *changes: JobChange, added: tuple[str, ...] = (), queues: tuple[Queue, ...] = ()) -> None:
    drive(topics.apply(SubscribeResponse(added=added, changes=changes, queues=queues)))


def change(kind: ChangeType.ValueType, of: Job) -> JobChange:
    return JobChange(type=kind, job=of)


LABEL_A, LABEL_B = "queues/q/labels/order=17", "queues/q/labels/order=18"


def labelled(revision: int, order: str) -> Job:
    # Of two states in turn, so that no update is taken for the progress of the one before.
    made = job(revision, DELAYED if revision % 2 else ACTIVE)
    made.labels["order"] = order
    return made
