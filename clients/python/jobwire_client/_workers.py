"""Workers, as an operator sees them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from jobwire.v1 import admin_service_pb2

from jobwire_client._policy import class_word


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Slots that a worker keeps for one queue, or for all queues of a class."""

    queue: str | None
    """The queue."""
    queue_class: str | None
    """Or the class, in lower case."""
    slots: int
    """How many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSession:
    """A worker process that is connected."""

    session: str
    """The session, as 32 hexadecimal digits."""
    instance_id: str
    """The label that it gave itself."""
    queues: tuple[str, ...]
    """Where it takes jobs from."""
    active: int
    """How many jobs it holds."""
    concurrency: int
    """How many it runs at once; 0 when it did not say."""
    sdk: str
    """The name and version of its SDK."""
    broker_id: str
    """The broker that it is connected to."""
    connect_time: datetime | None
    """When it connected."""
    reserved: tuple[Reserve, ...] = ()
    """The slots that it keeps for some of its queues."""


def worker_from(message: admin_service_pb2.Worker) -> WorkerSession:
    """A WorkerSession from its message."""
    return WorkerSession(
        session=message.session,
        instance_id=message.instance_id,
        queues=tuple(message.queues),
        active=message.active,
        concurrency=message.concurrency,
        sdk=message.sdk,
        broker_id=message.broker_id,
        connect_time=message.connect_time.ToDatetime(UTC) if message.HasField("connect_time") else None,
        reserved=tuple(
            Reserve(queue=kept.queue or None, queue_class=class_word(kept.queue_class) if kept.queue_class else None, slots=kept.slots)
            for kept in message.reserved
        ),
    )
