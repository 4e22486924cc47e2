"""The policy of a queue, as the store keeps it: JSON in the queue's meta hash, with short keys and all durations in ms, which the functions read as it is.

The text holds what was set, and beside it what the queue's class gives, so that no function knows of classes. Key `given` names what is the class's, `v` is
a version that grows with each change, and `was` are the priorities that the queue had before, of which the function that enqueues must know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2

DEFAULT_PRIORITY = 5
DEFAULT_ATTEMPTS = 3
#: How many earlier priorities are remembered. A call is repeated for a minute.
MAX_WAS = 8

#: What each class gives, in the form of the text. The waits between attempts begin at 2 s in all of them, as everywhere.
PRESETS: Mapping[int, Mapping[str, int]] = {
    policy_pb2.QUEUE_CLASS_CRITICAL: {"priority": 0, "attempts": 5, "target": 1_000, "slots": 20},
    policy_pb2.QUEUE_CLASS_HIGH: {"priority": 1, "attempts": 3, "target": 5_000, "slots": 10},
    policy_pb2.QUEUE_CLASS_MEDIUM: {"priority": 5, "attempts": 2, "target": 30_000, "slots": 5},
    policy_pb2.QUEUE_CLASS_LOW: {"priority": 10, "attempts": 1, "target": 300_000, "slots": 2},
    policy_pb2.QUEUE_CLASS_BATCH: {"priority": 20, "attempts": 1, "slots": 1},
}

#: Key in the text, and field of QueuePolicy.
_NUMBERS = (("class", "queue_class"), ("attempts", "attempts"), ("max_payload", "max_payload_bytes"), ("max_depth", "max_depth"), ("slots", "worker_slots"))
_DURATIONS = (("timeout", "timeout"), ("total_timeout", "total_timeout"), ("expires", "expires_in"), ("ageing", "ageing"), ("target", "start_target"))
_KEPT = (
    (str(job_pb2.JOB_STATE_COMPLETED), "completed"),
    (str(job_pb2.JOB_STATE_FAILED), "failed"),
    (str(job_pb2.JOB_STATE_CANCELLED), "cancelled"),
    (str(job_pb2.JOB_STATE_EXPIRED), "expired"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the broker itself needs of a policy. The class's values are in it."""

    version: int = 0
    """0: the queue has no policy."""
    queue_class: policy_pb2.QueueClass.ValueType = policy_pb2.QUEUE_CLASS_UNSPECIFIED
    priority: int = DEFAULT_PRIORITY
    attempts: int = DEFAULT_ATTEMPTS
    slots: int = 0
    """How many of its jobs one session may hold; 0: as many as it takes."""
    timeout_ms: int = 0
    """How long an attempt may take; 0: no limit."""
    target_ms: int = 0
    """Within what time a job should start; 0: no target."""
    was: tuple[int, ...] = ()
    """The priorities that the queue had before, the latest first."""
    rules: policy_pb2.QueuePolicy = field(default_factory=policy_pb2.QueuePolicy)
    """What was set. Not to be changed."""


NO_POLICY = Policy()


# To the text -------------------------------------------------------------------------------------------------------------------------------------------


def policy_to_text(rules: policy_pb2.QueuePolicy, version: int, before: Policy | None = None) -> str:
    """The text for rules that were checked. `before` is the policy whose place they take."""
    own = _own(rules)
    preset = PRESETS.get(rules.queue_class, {})
    given = [key for key in preset if key not in own]
    out = {"v": version, "given": given, **{key: preset[key] for key in given}, **own}
    if before is not None:
        out["was"] = _was(before, out.get("priority", DEFAULT_PRIORITY))
    return json.dumps(_filled(out), ensure_ascii=False, separators=(",", ":"))


def _was(before: Policy, priority: int) -> list[int]:
    return [earlier for earlier in dict.fromkeys((before.priority, *before.was)) if earlier != priority][:MAX_WAS]


def _own(rules: policy_pb2.QueuePolicy) -> dict[str, Any]:
    out: dict[str, Any] = {key: getattr(rules, name) for key, name in _NUMBERS if getattr(rules, name)}
    if rules.HasField("priority"):
        out["priority"] = rules.priority
    out |= {key: _ms(getattr(rules, name)) for key, name in _DURATIONS if _ms(getattr(rules, name))}
    out["backoff"] = _backoff(rules.backoff)
    out["permanent"] = list(dict.fromkeys(rules.permanent_errors))
    out["keep"] = _filled({state: _retention(getattr(rules.retention, name)) for state, name in _KEPT})
    out["limit"], out["group_limit"] = _limit(rules.limit), _limit(rules.group_limit)
    out["names"] = _filled({name: _limit(rules.job_limits[name]) for name in sorted(rules.job_limits)})
    # What is empty says nothing: an empty message is the same as none.
    return _filled(out)


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in ({}, [])}


def _ms(duration: Duration) -> int:
    return -(-duration.ToNanoseconds() // 1_000_000)


def _backoff(backoff: job_pb2.Backoff) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if backoff.HasField("base"):
        out["base"] = _ms(backoff.base)
    if backoff.factor:
        out["factor"] = round(backoff.factor * 1000)
    if backoff.HasField("max_delay"):
        out["max"] = _ms(backoff.max_delay)
    if backoff.HasField("jitter"):
        out["jitter"] = round(backoff.jitter * 10_000)
    if backoff.delays:
        out["delays"] = [_ms(delay) for delay in backoff.delays]
    return out


def _retention(retention: policy_pb2.Retention) -> dict[str, int]:
    out = {}
    if retention.HasField("count"):
        out["count"] = retention.count
    if retention.HasField("age"):
        out["age"] = _ms(retention.age)
    return out


def _limit(limit: policy_pb2.Limit) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if limit.concurrency:
        out["concurrency"] = limit.concurrency
    if limit.rate.count:
        out["rate"] = {"count": limit.rate.count, "period": _ms(limit.rate.period), "burst": limit.rate.burst or 1}
    return out


# And back ----------------------------------------------------------------------------------------------------------------------------------------------


@lru_cache(1000)
def policy_from_text(text: str) -> Policy:
    """The policy; empty: none. Keys of a later version are passed over."""
    if not text:
        return NO_POLICY
    found = json.loads(text)
    own = {key: value for key, value in found.items() if key not in found.get("given", ())}
    return Policy(
        version=found.get("v", 0),
        queue_class=found.get("class", 0),
        priority=found.get("priority", DEFAULT_PRIORITY),
        attempts=found.get("attempts", DEFAULT_ATTEMPTS),
        slots=found.get("slots", 0),
        timeout_ms=found.get("timeout", 0),
        target_ms=found.get("target", 0),
        was=tuple(found.get("was", ())),
        rules=_rules(own),
    )


def _rules(own: Mapping[str, Any]) -> policy_pb2.QueuePolicy:
    rules = policy_pb2.QueuePolicy(**{name: own[key] for key, name in (*_NUMBERS, ("priority", "priority")) if key in own})
    for key, name in _DURATIONS:
        if key in own:
            getattr(rules, name).FromMilliseconds(own[key])
    rules.permanent_errors.extend(own.get("permanent", ()))
    _if_there(own, "backoff", rules.backoff, _set_backoff)
    for state, name in _KEPT:
        _if_there(own.get("keep", {}), state, getattr(rules.retention, name), _set_retention)
    _if_there(own, "limit", rules.limit, _set_limit)
    _if_there(own, "group_limit", rules.group_limit, _set_limit)
    for name, limit in own.get("names", {}).items():
        _set_limit(limit, rules.job_limits[name])
    return rules


def _if_there(values: Mapping[str, Any], key: str, message: Any, fill: Callable[[Mapping[str, Any], Any], None]) -> None:
    # To look at a message that is not there does not make it; to fill it does.
    if key in values:
        fill(values[key], message)


def _set_backoff(found: Mapping[str, Any], backoff: job_pb2.Backoff) -> None:
    if "base" in found:
        backoff.base.FromMilliseconds(found["base"])
    if "factor" in found:
        backoff.factor = found["factor"] / 1000
    if "max" in found:
        backoff.max_delay.FromMilliseconds(found["max"])
    if "jitter" in found:
        backoff.jitter = found["jitter"] / 10_000
    for delay in found.get("delays", ()):
        backoff.delays.add().FromMilliseconds(delay)


def _set_retention(found: Mapping[str, Any], retention: policy_pb2.Retention) -> None:
    if "count" in found:
        retention.count = found["count"]
    if "age" in found:
        retention.age.FromMilliseconds(found["age"])


def _set_limit(found: Mapping[str, Any], limit: policy_pb2.Limit) -> None:
    limit.concurrency = found.get("concurrency", 0)
    if "rate" in found:
        rate = found["rate"]
        limit.rate.count, limit.rate.burst = rate["count"], rate["burst"]
        limit.rate.period.FromMilliseconds(rate["period"])
