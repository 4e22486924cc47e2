"""Slots of a worker that are kept for some of its queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from jobwire.v1 import policy_pb2
from jobwire.v1 import worker_service_pb2 as pb

from .errors import RegistrationError


class QueueClass(Enum):
    """A preset of rules that queues belong to."""

    CRITICAL = policy_pb2.QUEUE_CLASS_CRITICAL
    HIGH = policy_pb2.QUEUE_CLASS_HIGH
    MEDIUM = policy_pb2.QUEUE_CLASS_MEDIUM
    LOW = policy_pb2.QUEUE_CLASS_LOW
    BATCH = policy_pb2.QUEUE_CLASS_BATCH


#: For whom slots are kept, and how many.
Reserved = Mapping[str | QueueClass, int]


def check_reserved(reserved: object, queues: Sequence[str], concurrency: int) -> dict[str | QueueClass, int]:
    """Raises RegistrationError when a worker of these queues cannot keep that."""
    if not isinstance(reserved, Mapping):
        raise RegistrationError(f"reserved must be a mapping of queues or classes to slots, got {reserved!r}")
    for key, slots in reserved.items():
        if not isinstance(key, QueueClass) and key not in queues:
            raise RegistrationError(f"reserved names {key!r}, which is neither one of the worker's queues {list(queues)} nor a QueueClass")
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise RegistrationError(f"the slots reserved for {_shown(key)} must be a whole number from 1, got {slots!r}")
    if sum(reserved.values()) > concurrency:
        raise RegistrationError(f"{sum(reserved.values())} slots are reserved of a worker that runs {concurrency} jobs at once")
    return dict(reserved)


def _shown(key: str | QueueClass) -> str:
    return f"class {key.name}" if isinstance(key, QueueClass) else f"queue {key!r}"


def add_reserved(hello: pb.Hello, reserved: Reserved) -> None:
    """Tell a broker."""
    for key, slots in reserved.items():
        reserve = hello.reserved.add(slots=slots)
        if isinstance(key, QueueClass):
            reserve.queue_class = key.value
        else:
            reserve.queue = key
