"""The workers of a queue, and whether each has room for one more of its jobs.

A worker's credit is known exactly to the broker that it is connected to. Of one that is connected elsewhere this broker knows what the store does: its
concurrency, the slots that it keeps, and what it holds in all of its queues; where it did not say its concurrency, it counts as full while it holds anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobwire.v1 import admin_service_pb2

from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.shares import Shares
from jobwire_broker.store.answers import Crew

#: What stands for an SDK in a session that LeaseJobs made: it takes nothing beyond what it was made for.
SINGLE_CALLS = "LeaseJobs"
MAX_QUEUES_READ = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Hand:
    """A worker of the queue. `held` counts the jobs of the queue, `active` those of all queues."""

    session: bytes
    worker: str
    held: int
    active: int
    concurrency: int
    alone: bool
    room: bool
    takes_more: bool


async def hands_of(registry: Registry, queue: str, crew: Sequence[Crew]) -> list[Hand]:
    """The workers, those with most jobs first. Raises StoreUnavailable."""
    workers = [admin_service_pb2.Worker.FromString(member.descriptor) for member in crew]
    others = sorted({name for worker in workers for name in worker.queues} - {queue})[:MAX_QUEUES_READ]
    held = {member.session: Counter({queue: member.held}) for member in crew}
    for name, rows in zip(others, await asyncio.gather(*(registry.store(name).sessions() for name in others)), strict=True):
        for session, count, _ in rows:
            if session in held:
                held[session][name] = count
    hands = [_hand(registry, queue, member, worker, held[member.session]) for member, worker in zip(crew, workers, strict=True)]
    return sorted(hands, key=lambda hand: (-hand.active, hand.session))


def is_short(hands: Sequence[Hand]) -> bool:
    """Whether none of them has room."""
    return not any(hand.room for hand in hands)


def _hand(registry: Registry, queue: str, member: Crew, worker: admin_service_pb2.Worker, held: Counter[str]) -> Hand:
    takes_more = worker.sdk != SINGLE_CALLS
    return Hand(
        session=member.session,
        worker=worker.instance_id,
        held=member.held,
        active=held.total(),
        concurrency=worker.concurrency,
        alone=member.alone,
        room=takes_more and not member.alone and _has_room(registry, queue, member, worker, held),
        takes_more=takes_more,
    )


def _has_room(registry: Registry, queue: str, member: Crew, worker: admin_service_pb2.Worker, held: Counter[str]) -> bool:
    partition = registry.get(queue).partition
    slots = partition.policy.slots
    stream = partition.streams.get(member.session)
    if stream is not None:
        return stream.work.free(queue, slots) > 0
    if slots and member.held >= slots:
        return False
    room = max(1, worker.concurrency) - held.total()
    if worker.reserved:
        shares = Shares(lambda name: _class_of(registry, name))
        shares.keep(worker, worker.queues)
        room = shares.room_of(queue, room, held.__getitem__)
    return room > 0


def _class_of(registry: Registry, name: str) -> int:
    """The class of a queue as far as this broker knows it: a question makes no queue known."""
    queue = registry.queues.get(name)
    return queue.partition.policy.queue_class if queue is not None else 0
