"""A policy as text and back."""

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from jobwire.v1 import job_pb2, policy_pb2
from jobwire_broker.services.policies import check_policy
from jobwire_broker.store.policy import MAX_WAS, NO_POLICY, PRESETS, policy_from_text, policy_to_text

ms = st.integers(100, 6 * 10**8)


def duration(milliseconds: int) -> Duration:
    found = Duration()
    found.FromMilliseconds(milliseconds)
    return found


spans = ms.map(duration)
limits = st.builds(
    policy_pb2.Limit,
    concurrency=st.integers(1, 1000),
    rate=st.none() | st.builds(policy_pb2.RateLimit, count=st.integers(5, 10**6), period=spans, burst=st.integers(1, 5)),
)
retentions = st.builds(policy_pb2.Retention, count=st.integers(0, 10**7), age=spans)
backoffs = st.builds(
    job_pb2.Backoff, base=st.none() | spans, factor=st.integers(1, 10), max_delay=st.none() | spans, jitter=st.none() | st.sampled_from([0.0, 0.25, 1.0])
) | st.builds(job_pb2.Backoff, delays=st.lists(spans, min_size=1, max_size=32))
policies = st.builds(
    policy_pb2.QueuePolicy,
    queue_class=st.sampled_from(policy_pb2.QueueClass.values()),
    priority=st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
    attempts=st.integers(0, 1000),
    backoff=st.none() | backoffs,
    permanent_errors=st.lists(st.text('aé"\\', min_size=1), max_size=3, unique=True),
    timeout=st.none() | spans,
    total_timeout=st.none() | spans,
    expires_in=st.none() | spans,
    retention=st.none() | st.builds(policy_pb2.RetentionPolicy, completed=retentions, expired=retentions),
    limit=st.none() | limits,
    job_limits=st.dictionaries(st.sampled_from(["mail", "push"]), limits),
    group_limit=st.none() | limits,
    ageing=st.none() | spans,
    start_target=st.none() | spans,
    max_payload_bytes=st.integers(0, 1 << 20),
    max_depth=st.integers(0, 10**9),
    worker_slots=st.integers(0, 10**4),
)


@given(rules=policies, version=st.integers(1, 1 << 53))
def test_what_was_set_comes_back_as_it_was(rules: policy_pb2.QueuePolicy, version: int) -> None:
    check_policy(rules)
    found = policy_from_text(policy_to_text(rules, version))
    assert (found.rules, found.version, found.queue_class) == (rules, version, rules.queue_class)
    preset = PRESETS.get(rules.queue_class, {})
    assert found.priority == (rules.priority if rules.HasField("priority") else preset.get("priority", 5))
    assert found.attempts == (rules.attempts or preset.get("attempts", 3))
    assert found.slots == (rules.worker_slots or preset.get("slots", 0))
    assert found.target_ms == (rules.start_target.ToMilliseconds() or preset.get("target", 0))


def text_of(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(policy_to_text(policy_pb2.QueuePolicy(**fields), 1))
    return found


def test_the_text_of_an_empty_policy_has_nothing_but_its_version() -> None:
    empty = {
        "backoff": job_pb2.Backoff(),
        "limit": policy_pb2.Limit(),
        "retention": {"failed": policy_pb2.Retention()},
        "job_limits": {"a": policy_pb2.Limit()},
    }
    assert text_of() == text_of(**empty) == {"v": 1}
    assert policy_from_text("") is NO_POLICY


def test_the_text_is_what_functions_read() -> None:
    assert text_of(
        queue_class=policy_pb2.QUEUE_CLASS_LOW,
        attempts=4,
        backoff=job_pb2.Backoff(base=duration(1500), factor=1.5, jitter=0.1),
        retention={"failed": policy_pb2.Retention(count=0)},
        limit=policy_pb2.Limit(concurrency=7, rate=policy_pb2.RateLimit(count=100, period=duration(1000))),
    ) == {
        "v": 1,
        "given": ["priority", "target", "slots"],
        "class": 4,
        "priority": 10,
        "target": 300_000,
        "slots": 2,
        "attempts": 4,
        "backoff": {"base": 1500, "factor": 1500, "jitter": 1000},
        "keep": {"6": {"count": 0}},
        "limit": {"concurrency": 7, "rate": {"count": 100, "period": 1000, "burst": 1}},
    }


def test_the_priorities_that_a_queue_had_are_remembered_as_long_as_calls_are_repeated() -> None:
    policy = NO_POLICY
    for version, priority in enumerate([5, 1, 2, 1, *range(20, 40)], 1):
        policy = policy_from_text(policy_to_text(policy_pb2.QueuePolicy(priority=priority), version, policy))
        if version == 4:
            assert (policy.priority, policy.was) == (1, (2, 5))
    assert policy.was == tuple(range(38, 38 - MAX_WAS, -1))


def test_keys_of_a_later_version_are_passed_over() -> None:
    assert policy_from_text('{"v":3,"attempts":4,"new":{"a":1}}').rules == policy_pb2.QueuePolicy(attempts=4)
