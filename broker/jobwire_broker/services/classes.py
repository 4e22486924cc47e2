"""Queues by their class."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.answers import counts_of
from jobwire_broker.store.answers import Stats
from jobwire_broker.store.policy import policy_from_text

#: So many queues are asked for, or paused, at once.
_AT_ONCE = 50


class Member(NamedTuple):
    """A queue of a class."""

    name: str
    stats: Stats


def check_class(queue_class: int) -> int:
    """Raises InvalidField when it is none."""
    if queue_class not in policy_pb2.QueueClass.values() or not queue_class:
        raise InvalidField(f"queue_class must be CRITICAL, HIGH, MEDIUM, LOW or BATCH; it is {queue_class}", field="queue_class")
    return queue_class


async def members_by_class(registry: Registry, names: Iterable[str]) -> dict[int, list[Member]]:
    """Those of `names` that have a class, by class, the most urgent first."""
    found: dict[int, list[Member]] = {}
    rest = sorted(names)
    while rest:
        some, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
        for name, stats in zip(some, await asyncio.gather(*(registry.store(name).stats() for name in some)), strict=True):
            if queue_class := policy_from_text(stats.policy).queue_class:
                found.setdefault(queue_class, []).append(Member(name, stats))
    return dict(sorted(found.items()))


async def pause_class(registry: Registry, queue_class: int, paused: bool) -> list[str]:
    """Stop or start delivery in all queues of a class. Answers their names."""
    names = [member.name for member in (await members_by_class(registry, await registry.known())).get(queue_class, ())]
    for start in range(0, len(names), _AT_ONCE):
        queues = [registry.get(name) for name in names[start : start + _AT_ONCE]]
        await asyncio.gather(*(queue.store.pause(paused) for queue in queues))
        for queue in queues:
            if not paused:
                queue.partition.wake()
    return names


def stats_of(queue_class: int, members: Iterable[Member]) -> pb.ClassStats:
    """The queues of a class together."""
    total = pb.ClassStats(queue_class=policy_pb2.QueueClass.ValueType(queue_class))
    for name, stats in members:
        total.queues.append(name)
        total.paused += stats.paused
        counts = counts_of(stats)
        for field, value in counts.ListFields():
            setattr(total.counts, field.name, getattr(total.counts, field.name) + value)
        total.started += stats.started
        total.started_late += stats.started_late
    return total
