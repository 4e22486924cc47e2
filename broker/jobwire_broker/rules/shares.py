"""Slots of a worker that are kept for some of its queues, so that a worker full of exports still starts a password reset at once.

Slots that their queue does not use stay free: the others get what is left of the worker's credit without them. Jobs of a queue that has slots of its own
take those first, and then those of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jobwire.v1 import admin_service_pb2, policy_pb2
from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.errors import InvalidField

MAX_RESERVES = 100


class Shares:
    """Those of one session."""

    def __init__(self, class_of: Callable[[str], int]) -> None:
        self._class_of = class_of
        self._of_queue: dict[str, int] = {}
        self._of_class: dict[int, int] = {}
        self._queues: Sequence[str] = ()
        self._concurrency = 0

    def __bool__(self) -> bool:
        """Whether any are kept."""
        return bool(self._of_queue or self._of_class)

    def keep(self, hello: pb.Hello | admin_service_pb2.Worker, queues: Sequence[str]) -> None:
        """Take them from `hello`, or from what the store knows of the worker. Raises InvalidField."""
        if len(hello.reserved) > MAX_RESERVES:
            raise InvalidField(f"hello.reserved may hold {MAX_RESERVES}; it holds {len(hello.reserved)}", field="hello.reserved")
        self._queues, self._concurrency = queues, hello.concurrency
        for i, reserve in enumerate(hello.reserved):
            self._add(reserve, f"hello.reserved[{i}]")
        total = sum(self._of_queue.values()) + sum(self._of_class.values())
        if total > hello.concurrency:
            raise InvalidField(f"hello.reserved may keep hello.concurrency ({hello.concurrency}) slots; it keeps {total}", field="hello.reserved")

    def _add(self, reserve: pb.Reserve, path: str) -> None:
        if bool(reserve.queue) == bool(reserve.queue_class):
            raise InvalidField(f"{path} must name either a queue or a class", field=path)
        if reserve.slots < 1:
            raise InvalidField(f"{path}.slots must be at least 1; it is {reserve.slots}", field=f"{path}.slots")
        if reserve.queue:
            if reserve.queue not in self._queues:
                raise InvalidField(f"{path}.queue is {reserve.queue[:100]!r}, which hello.queues does not name", field=f"{path}.queue")
            if reserve.queue in self._of_queue:
                raise InvalidField(f"{path}.queue is {reserve.queue!r} a second time", field=f"{path}.queue")
            self._of_queue[reserve.queue] = reserve.slots
            return
        if reserve.queue_class not in policy_pb2.QueueClass.values() or reserve.queue_class in self._of_class:
            raise InvalidField(f"{path}.queue_class {reserve.queue_class} is not known, or named a second time", field=f"{path}.queue_class")
        self._of_class[reserve.queue_class] = reserve.slots

    def room_of(self, queue: str, room: int, taken: Callable[[str], int]) -> int:
        """What `queue` may have of the free credit `room`. `taken` says how many jobs of a queue the worker runs, and counts each until its finish is here.

        The worker grants credit with a finish or before it, so what is free is also counted from what it runs: else credit for a slot that is kept would
        look like credit for any.
        """
        running = sum(map(taken, self._queues))
        return min(room, self._concurrency - running) - self._kept_from(queue, taken)

    def _kept_from(self, queue: str, taken: Callable[[str], int]) -> int:
        """How many free slots `queue` must leave to others."""
        kept = sum(max(0, slots - taken(other)) for other, slots in self._of_queue.items() if other != queue)
        own = self._class_of(queue) if self._of_class else 0
        for queue_class, slots in self._of_class.items():
            if queue_class != own:
                kept += max(0, slots - self._used_by_class(queue_class, taken))
        return kept

    def _used_by_class(self, queue_class: int, taken: Callable[[str], int]) -> int:
        members = (name for name in self._queues if self._class_of(name) == queue_class)
        return sum(max(0, taken(name) - self._of_queue.get(name, 0)) for name in members)
