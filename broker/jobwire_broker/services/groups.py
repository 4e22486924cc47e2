"""The groups of a queue: what there is of each, and its rules."""

from __future__ import annotations

from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.names import parse_group, parse_queue
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.services.policies import check_limit
from jobwire_broker.store.answers import Group
from jobwire_broker.store.arguments import MAX_ITEMS, NO_LIMIT, OwnLimit

_MIN_WEIGHT, _MAX_WEIGHT = 0.01, 1000
_FIELDS = ("weight", "express", "limit")
_MAX_PERIOD_MS = 30 * 86_400_000


async def list_groups(registry: Registry, request: pb.ListGroupsRequest) -> pb.ListGroupsResponse:
    """One page."""
    queue = parse_queue(request.parent, "parent")
    size = page_size(request.page_size)
    of = f"groups/{queue}"
    after = read_token(of, request.page_token).decode(errors="replace")
    found: list[Group] = []
    while len(found) <= size:
        step = await registry.store(queue).groups(found[-1].name if found else after, min(MAX_ITEMS, size + 1 - len(found)))
        found += step
        if not step:
            break
    token = make_token(of, found[size - 1].name.encode()) if len(found) > size else ""
    return pb.ListGroupsResponse(groups=[_group_of(queue, group) for group in found[:size]], next_page_token=token)


async def pause_group(registry: Registry, name: str, paused: bool) -> pb.Group:
    """Stop or start delivery; to start it also ends what a worker's word holds."""
    name, group = parse_group(name)
    queue = await registry.register(name)
    found = await queue.store.set_group(group, paused=paused, thaw=not paused)
    queue.partition.wake()
    return _group_of(name, found)


async def update_group(registry: Registry, request: pb.UpdateGroupRequest) -> pb.Group:
    """Change the rules that the mask names."""
    name, group = parse_group(request.group.name, "group.name")
    paths = list(dict.fromkeys(request.update_mask.paths))
    if not paths:
        raise InvalidField("update_mask must name at least one field: weight, express or limit", field="update_mask")
    if unknown := [path for path in paths if path not in _FIELDS]:
        raise InvalidField(f"update_mask may name weight, express and limit; it names {unknown[0][:100]!r}", field="update_mask")
    weight = weight_of(request.group, "group") if "weight" in paths else None
    limit = own_limit(request.group, "group") if "limit" in paths else ""
    queue = await registry.register(name)
    found = await queue.store.set_group(group, express=request.group.express if "express" in paths else None, weight=weight, limit=limit)
    queue.partition.wake()
    return _group_of(name, found)


async def give_rules(registry: Registry, queue: str, group: str, rules: pb.Group, paused: bool | None) -> None:
    """Let a group have this weight, rank and limit, and stop or start delivery. What it has already is left as it is."""
    weight, own = weight_of(rules, "group"), own_limit(rules, "group")
    found = await registry.store(queue).group(group)
    if (found.weight, found.express, found.own or NO_LIMIT) == (weight, rules.express, own) and paused in (None, found.paused):
        return
    await registry.store(queue).set_group(group, paused=paused, express=rules.express, weight=weight, limit=own)


def weight_of(group: pb.Group, path: str) -> float:
    """Raises InvalidField."""
    weight = group.weight or 1.0
    if not _MIN_WEIGHT <= weight <= _MAX_WEIGHT:
        raise InvalidField(f"{path}.weight must be from {_MIN_WEIGHT} to {_MAX_WEIGHT}, or 0 for 1; it is {weight:g}", field=f"{path}.weight")
    return weight


def own_limit(group: pb.Group, path: str) -> OwnLimit | str:
    """The limit that a group has for itself, or NO_LIMIT. Raises InvalidField."""
    if not group.HasField("limit"):
        return NO_LIMIT
    limit = group.limit
    check_limit(limit, f"{path}.limit")
    if not limit.rate.count:
        return OwnLimit(limit.concurrency)
    period_ms = duration_ms(limit.rate.period, f"{path}.limit.rate.period", low_ms=1, high_ms=_MAX_PERIOD_MS)
    return OwnLimit(limit.concurrency, limit.rate.count, period_ms, limit.rate.burst or 1)


def _group_of(queue: str, found: Group) -> pb.Group:
    group = pb.Group(
        name=f"queues/{queue}/groups/{found.name}",
        group=found.name,
        waiting=found.waiting,
        active_units=found.active_units,
        paused=found.paused,
        weight=found.weight,
        express=found.express,
    )
    if found.own is not None:
        group.limit.concurrency = found.own.concurrency
        if found.own.starts:
            group.limit.rate.CopyFrom(policy_pb2.RateLimit(count=found.own.starts, burst=found.own.burst))
            group.limit.rate.period.FromMilliseconds(found.own.period_ms)
        if not found.own.concurrency and not found.own.starts:
            group.limit.SetInParent()
    if found.limited_until_ms:
        group.limited_until.FromMilliseconds(found.limited_until_ms)
    return group
