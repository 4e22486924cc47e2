"""Policies as callers send them: which fields a mask names, and the bounds of every field."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from jobwire_broker.errors import InvalidField, StoreFault
from jobwire_broker.names import check_job_name
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.store.answers import Word
from jobwire_broker.store.policy import policy_from_text, policy_to_text

_DAY_MS = 86_400_000
MAX_ATTEMPTS = 1000
MAX_PERMANENT_ERRORS, MAX_ERROR_TYPE = 32, 128
MAX_JOB_LIMITS = 100
MAX_KEPT = 10_000_000
MAX_AGE_MS = 3650 * _DAY_MS
MAX_CONCURRENCY = MAX_RATE_COUNT = 1_000_000
MAX_DELAYS = 32
MAX_BASE_MS, MAX_DELAY_MS = 7 * _DAY_MS, 30 * _DAY_MS
MAX_PAYLOAD_BYTES = 1 << 20
MAX_DEPTH = 1_000_000_000
MAX_SLOTS = 10_000
#: Where the limits of job names stand. A path may go one step further, to that of one name.
_OF_NAMES = "job_limits"
#: How often in a row another call may come before one that changes a policy.
_MAX_CHANGES = 100

#: Field, least and most, in ms; 0 is the same as absent.
_DURATIONS = (
    ("timeout", 100, 30 * _DAY_MS),
    ("total_timeout", 100, 365 * _DAY_MS),
    ("expires_in", 100, 365 * _DAY_MS),
    ("ageing", 100, 30 * _DAY_MS),
    ("start_target", 1, 30 * _DAY_MS),
)
#: Field and most; the least is 1, and 0 is the same as absent.
_NUMBERS = (("attempts", MAX_ATTEMPTS), ("max_payload_bytes", MAX_PAYLOAD_BYTES), ("max_depth", MAX_DEPTH), ("worker_slots", MAX_SLOTS))
_RETENTIONS = ("completed", "failed", "cancelled", "expired")


# Bounds ------------------------------------------------------------------------------------------------------------------------------------------------


def check_policy(policy: policy_pb2.QueuePolicy) -> None:
    """Raises InvalidField, whose path begins at the policy."""
    if policy.queue_class not in policy_pb2.QueueClass.values():
        raise InvalidField(f"queue_class {policy.queue_class} is not known", field="queue_class")
    for name, most in _NUMBERS:
        _check_number(getattr(policy, name), name, most)
    for name, low_ms, high_ms in _DURATIONS:
        if _is_given(getattr(policy, name)):
            duration_ms(getattr(policy, name), name, low_ms=low_ms, high_ms=high_ms)
    _check_backoff(policy.backoff)
    _check_errors(policy.permanent_errors)
    for name in _RETENTIONS:
        _check_retention(getattr(policy.retention, name), f"retention.{name}")
    check_limit(policy.limit, "limit")
    check_limit(policy.group_limit, "group_limit")
    if len(policy.job_limits) > MAX_JOB_LIMITS:
        raise InvalidField(f"job_limits may hold {MAX_JOB_LIMITS}; it holds {len(policy.job_limits)}", field="job_limits")
    for job_name in sorted(policy.job_limits):
        check_job_name(job_name, "job_limits")
        check_limit(policy.job_limits[job_name], f"job_limits[{job_name}]")


def _check_number(number: int, field: str, most: int, *, least: int = 0) -> None:
    if not least <= number <= most:
        raise InvalidField(f"{field} must be from 1 to {most}{', or 0 for the default' if not least else ''}; it is {number}", field=field)


def _is_given(duration: Any) -> bool:
    return bool(duration.seconds or duration.nanos)


def _check_backoff(backoff: job_pb2.Backoff) -> None:
    duration_ms(backoff.base, "backoff.base", low_ms=0, high_ms=MAX_BASE_MS)
    duration_ms(backoff.max_delay, "backoff.max_delay", low_ms=0, high_ms=MAX_DELAY_MS)
    if backoff.factor and not 1 <= backoff.factor <= 10:
        raise InvalidField(f"backoff.factor must be from 1 to 10; it is {backoff.factor:g}", field="backoff.factor")
    if not 0 <= backoff.jitter <= 1:
        raise InvalidField(f"backoff.jitter must be from 0 to 1; it is {backoff.jitter:g}", field="backoff.jitter")
    if len(backoff.delays) > MAX_DELAYS:
        raise InvalidField(f"backoff.delays may hold {MAX_DELAYS}; it holds {len(backoff.delays)}", field="backoff.delays")
    for i, delay in enumerate(backoff.delays):
        duration_ms(delay, f"backoff.delays[{i}]", low_ms=0, high_ms=MAX_DELAY_MS)
    if backoff.delays and (backoff.HasField("base") or backoff.factor):
        raise InvalidField("backoff.delays can't stand beside base and factor: give the waits one by one, or how they grow", field="backoff.delays")


def _check_errors(names: Sequence[str]) -> None:
    if len(names) > MAX_PERMANENT_ERRORS:
        raise InvalidField(f"permanent_errors may hold {MAX_PERMANENT_ERRORS}; it holds {len(names)}", field="permanent_errors")
    for i, name in enumerate(names):
        if not 1 <= len(name) <= MAX_ERROR_TYPE or not name.isprintable():
            raise InvalidField(f"permanent_errors[{i}] must be 1 to {MAX_ERROR_TYPE} printable characters", field=f"permanent_errors[{i}]")


def _check_retention(retention: policy_pb2.Retention, path: str) -> None:
    if not 0 <= retention.count <= MAX_KEPT:
        raise InvalidField(f"{path}.count must be from 0 to {MAX_KEPT}; it is {retention.count}", field=f"{path}.count")
    duration_ms(retention.age, f"{path}.age", low_ms=0, high_ms=MAX_AGE_MS)


def check_limit(limit: policy_pb2.Limit, path: str) -> None:
    """Raises InvalidField."""
    _check_number(limit.concurrency, f"{path}.concurrency", MAX_CONCURRENCY)
    rate = limit.rate
    if not limit.HasField("rate") or rate == policy_pb2.RateLimit():
        return
    _check_number(rate.count, f"{path}.rate.count", MAX_RATE_COUNT, least=1)
    duration_ms(rate.period, f"{path}.rate.period", low_ms=1, high_ms=30 * _DAY_MS)
    if not 0 <= rate.burst <= rate.count:
        raise InvalidField(f"{path}.rate.burst must be from 1 to count ({rate.count}), or 0 for 1; it is {rate.burst}", field=f"{path}.rate.burst")


# Masks -------------------------------------------------------------------------------------------------------------------------------------------------


def check_mask(mask: FieldMask) -> list[str]:
    """The paths of a mask for UpdateQueue. Raises InvalidField when there is none, or one that names nothing that can be changed."""
    if not mask.paths:
        raise InvalidField("update_mask must name what to change: `policy`, `policy.attempts`, `paused` …", field="update_mask")
    for i, path in enumerate(mask.paths):
        if path != "paused" and not _names_policy(path):
            raise InvalidField(f"update_mask.paths[{i}] is {path[:100]!r}, which is no field of a queue that can be changed", field=f"update_mask.paths[{i}]")
    return list(mask.paths)


def _names_policy(path: str) -> bool:
    head, *names = _split(path)
    return head == "policy" and (not names or names[0] == _OF_NAMES or _leads_to_a_field(policy_pb2.QueuePolicy.DESCRIPTOR, names))


def _split(path: str) -> list[str]:
    """The names in a path. A job name may have dots itself, so all behind `job_limits` is one."""
    if path.startswith(f"policy.{_OF_NAMES}."):
        return ["policy", _OF_NAMES, path.removeprefix(f"policy.{_OF_NAMES}.")]
    return path.split(".")


def _leads_to_a_field(within: Descriptor, names: Sequence[str]) -> bool:
    """Whether each name is a field of the message before it. What is not ours, and what is a list, is one field as a whole."""
    name, *deeper = names
    field = within.fields_by_name.get(name)
    if field is None or not deeper:
        return field is not None
    inner = field.message_type
    return inner is not None and inner.file.package == within.file.package and not field.is_repeated and _leads_to_a_field(inner, deeper)


def merged(current: policy_pb2.QueuePolicy, wanted: policy_pb2.QueuePolicy, paths: Iterable[str]) -> policy_pb2.QueuePolicy:
    """`current` with what `paths` name taken from `wanted`. Raises InvalidField for a limit that neither has."""
    result = policy_pb2.QueuePolicy()
    result.CopyFrom(current)
    for i, path in enumerate(paths):
        if path == "policy":
            result.CopyFrom(wanted)
        elif path != "paused":
            _, *names = _split(path)
            if names[0] == _OF_NAMES and len(names) > 1:
                _take_limit(result, wanted, names[1], f"update_mask.paths[{i}]")
            else:
                _take(result, wanted, names)
    return result


def _take_limit(result: policy_pb2.QueuePolicy, wanted: policy_pb2.QueuePolicy, job_name: str, field: str) -> None:
    if job_name in wanted.job_limits:
        result.job_limits[job_name].CopyFrom(wanted.job_limits[job_name])
    elif job_name in result.job_limits:
        del result.job_limits[job_name]
    else:
        raise InvalidField(f"{field} names the limit of {job_name[:100]!r}, which is neither given nor there", field=field)


def _take(result: Any, wanted: Any, names: Sequence[str]) -> None:
    name, *deeper = names
    if deeper:
        _take(getattr(result, name), getattr(wanted, name), deeper)
        return
    # By way of a message with this field alone: that is the same for all kinds of fields.
    only = type(wanted)()
    only.CopyFrom(wanted)
    for field, _ in wanted.ListFields():
        if field.name != name:
            only.ClearField(field.name)
    result.ClearField(name)
    result.MergeFrom(only)


def update_of(request: pb.UpdateQueueRequest, current: policy_pb2.QueuePolicy, paths: Iterable[str]) -> policy_pb2.QueuePolicy:
    """The policy after an update. Raises InvalidField, whose path begins at the request."""
    rules = merged(current, request.queue.policy, paths)
    try:
        check_policy(rules)
    except InvalidField as error:
        raise error.under("queue.policy") from None
    return rules


async def change_policy(registry: Registry, name: str, change: Callable[[policy_pb2.QueuePolicy], policy_pb2.QueuePolicy], paused: bool | None = None) -> None:
    """Give a queue the policy that `change` makes of the one that it has, and stop or start delivery. The queue is made when there is none.

    Raises StoreUnavailable, and what `change` raises: then nothing was done.
    """
    for _ in range(_MAX_CHANGES):
        stats = await registry.store(name).stats()
        before = policy_from_text(stats.policy)
        rules = change(before.rules)
        queue = await registry.register(name)
        if rules == before.rules and paused in (None, stats.paused):
            return
        text = policy_to_text(rules, max(before.version + 1, int(time.time() * 1000)), before)
        word, now = await queue.store.set_policy(before.version, text, paused)
        if word == Word.OK:
            queue.partition.learn_policy(now)
            queue.partition.wake()
            return
    raise StoreFault(f"the policy of {name} was changed {_MAX_CHANGES} times by others while this call tried to")
