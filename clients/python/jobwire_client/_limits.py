"""Groups of a queue, and what they may do."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from jobwire_client._bounds import fitting
from jobwire_client._wire import duration, sendable


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """At most `count` units start in any window of `period`."""

    count: int
    """How many units, from 1 to 1,000,000."""
    period: timedelta
    """In what time, from 1 ms to 30 days."""
    burst: int = 1
    """How many may start at once, after a pause. Default 1; at most `count`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What may be done at once, and how fast. Jobs count by their units."""

    concurrency: int | None = None
    """How many units may run at once. None: no limit."""
    rate: RateLimit | None = None
    """How fast jobs may start. None: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A group of a queue as it was when it was read."""

    name: str
    """Its name alone."""
    waiting: int
    """How many of its jobs wait for a worker."""
    active_units: int
    """How many units of its jobs run."""
    paused: bool
    """Whether its delivery is stopped."""
    weight: float
    """Its share beside other groups'."""
    express: bool
    """Whether it goes before all groups that are not."""
    limit: Limit | None
    """Its own limit. None: that of all groups of the queue."""
    limited_until: datetime | None
    """Until when nothing of it starts, because of a rate or a worker's word."""


def group_from(group: pb.Group) -> Group:
    """From the wire."""
    return Group(
        name=group.group,
        waiting=group.waiting,
        active_units=group.active_units,
        paused=group.paused,
        weight=group.weight,
        express=group.express,
        limit=limit_from(group.limit) if group.HasField("limit") else None,
        limited_until=group.limited_until.ToDatetime(UTC) if group.HasField("limited_until") else None,
    )


def limit_from(limit: policy_pb2.Limit) -> Limit:
    """From the wire."""
    rate = limit.rate
    found = RateLimit(count=rate.count, period=rate.period.ToTimedelta(), burst=rate.burst or 1) if rate != policy_pb2.RateLimit() else None
    return Limit(concurrency=limit.concurrency or None, rate=found)


def limit_to(limit: Limit) -> policy_pb2.Limit:
    """To the wire."""
    made = policy_pb2.Limit(concurrency=fitting(limit.concurrency or 0, "Limit", "concurrency", "concurrency"))
    if limit.rate is not None:
        count, burst = (fitting(getattr(limit.rate, name), "RateLimit", name, f"rate.{name}") for name in ("count", "burst"))
        made.rate.CopyFrom(policy_pb2.RateLimit(count=count, period=duration(limit.rate.period), burst=burst))
    return made


def group_update(name: str, rules: Mapping[str, Any]) -> pb.UpdateGroupRequest:
    """A request that changes those of these rules that are not None. Raises InvalidRequest for a value of the wrong type."""
    group = pb.Group(name=name)
    given = {field: value for field, value in rules.items() if value is not None}
    for field, value in given.items():
        with sendable(field):
            if field != "limit":
                setattr(group, field, value)
            elif value != "default":
                group.limit.CopyFrom(limit_to(value))
                group.limit.SetInParent()
    return pb.UpdateGroupRequest(group=group, update_mask=FieldMask(paths=list(given)))
