"""Queues and classes as a caller sees them."""

from dataclasses import dataclass, field
from datetime import timedelta

from jobwire.v1 import job_pb2, queue_service_pb2

from jobwire_client._policy import QueuePolicy, class_word, policy_from


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """How many jobs of a queue are in each state."""

    waiting: int = 0
    active: int = 0
    delayed: int = 0
    blocked: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    total: int = 0
    """The sum of all above: what `list_jobs` can return."""
    completed_total: int = 0
    """Completed since the queue was made; only grows."""
    failed_total: int = 0
    """Failed since the queue was made; only grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue as it is now."""

    name: str
    """The queue's name alone; its address is `queues/{name}`."""
    paused: bool
    """Whether delivery is stopped."""
    counts: QueueCounts
    """How many jobs are where."""
    workers: int
    """How many worker sessions take jobs from it."""
    oldest_waiting_age: timedelta | None = None
    """How long the job has waited that waits longest; None when none waits. This field and those below are set by `queue` alone."""
    oldest_active_age: timedelta | None = None
    """How long the job has run that runs longest; None when none runs."""
    more_workers_help: bool | None = None
    """Whether one more worker would start a job now."""
    rate_in: float = 0.0
    """Jobs enqueued per second, over the last minute."""
    rate_out: float = 0.0
    """Jobs ended per second, over the last minute."""
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    """What was set of its rules; in `queues` its class alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStats:
    """The queues of a class together."""

    queue_class: str
    """critical, high, medium, low or batch."""
    queues: tuple[str, ...]
    """Its queues, by name."""
    paused: int
    """How many of them are paused."""
    counts: QueueCounts
    """The jobs of all of them."""
    started: int
    """How many jobs started, at any broker, while their queue had a class or a target."""
    started_late: int
    """How many of those started later than their queue's target."""


_COUNTS = frozenset(QueueCounts.__dataclass_fields__)


def queue_from(message: queue_service_pb2.Queue) -> Queue:
    """A Queue from its message."""
    return Queue(
        name=message.queue,
        paused=message.paused,
        counts=_counts(message.counts),
        workers=message.workers,
        oldest_waiting_age=message.oldest_waiting_age.ToTimedelta() if message.HasField("oldest_waiting_age") else None,
        oldest_active_age=message.oldest_active_age.ToTimedelta() if message.HasField("oldest_active_age") else None,
        more_workers_help=message.more_workers_help if message.HasField("more_workers_help") else None,
        rate_in=message.rate_in,
        rate_out=message.rate_out,
        policy=policy_from(message.policy),
    )


def _counts(message: job_pb2.JobCounts) -> QueueCounts:
    return QueueCounts(**{field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields if field.name in _COUNTS})


def class_stats_from(message: queue_service_pb2.ClassStats) -> ClassStats:
    """A ClassStats from its message."""
    return ClassStats(
        queue_class=class_word(message.queue_class),
        queues=tuple(message.queues),
        paused=message.paused,
        counts=_counts(message.counts),
        started=message.started,
        started_late=message.started_late,
    )
