"""Files of queue policies: what they may say, and the line of each mistake."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2, queue_service_pb2
from jobwire_broker.services.queues_file import MAX_FILE_BYTES, load_queues_file, parse_queues
from jobwire_broker.store.policy import policy_from_text, policy_to_text

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "queues"


def loaded(name: str) -> dict[str, policy_pb2.QueuePolicy]:
    return {queue: rules for queue, rules, *_ in load_queues_file(EXAMPLES / name)}


def s(seconds: int) -> Duration:
    return Duration(seconds=seconds)


def test_every_example_is_tried_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {"classes.yaml", "services.yaml", "levels.yaml", "exchange.yaml"}


def test_the_example_of_the_five_classes() -> None:
    policies = {queue: policy_from_text(policy_to_text(rules, 1)) for queue, rules in loaded("classes.yaml").items()}
    found = [(p.priority, p.attempts, p.target_ms, p.slots) for p in policies.values()]
    assert found == [(0, 5, 1000, 20), (1, 3, 5000, 10), (5, 2, 30_000, 5), (10, 1, 300_000, 2), (20, 1, 0, 1)]


def test_the_example_of_attempts_and_timeouts() -> None:
    found = {queue: (rules.attempts, rules.timeout.seconds) for queue, rules in loaded("services.yaml").items()}
    assert found == {"verification": (3, 60), "images": (3, 30), "email": (5, 30), "notification": (3, 30), "analytics": (2, 60)}


def test_the_example_of_waits_between_attempts() -> None:
    found = {queue: (rules.priority, rules.attempts, rules.backoff.base.seconds, rules.backoff.factor) for queue, rules in loaded("levels.yaml").items()}
    assert found == {"critical": (0, 5, 10, 2), "high": (1, 3, 60, 2), "normal": (5, 3, 120, 1), "low": (10, 2, 300, 1)}


def test_the_example_of_limits() -> None:
    found = {queue: (rules.limit.concurrency, rules.worker_slots, rules.attempts) for queue, rules in loaded("exchange.yaml").items()}
    assert found == {"reconciliation": (10, 5, 0), "webhooks": (10, 0, 5), "exports": (3, 0, 2)}


def test_a_file_can_say_everything_that_a_policy_can() -> None:
    text = """
queues:
  all:
    class: HIGH
    priority: -3
    attempts: 7
    backoff: {delays: [500ms, 2h], jitter: 0}
    permanentErrors: [KeyError, "a: b"]
    timeout: 30s
    totalTimeout: 1d
    expiresIn: 5m
    retention:
      completed: {count: 0}
      failed: {age: 7d}
    limit: {concurrency: 3, rate: {count: 100, period: 1s, burst: 5}}
    jobLimits:
      mail: {concurrency: 1}
      "a/b": {rate: {count: 1, period: 10s}}
    groupLimit: {concurrency: 2}
    ageing: 1m
    startTarget: 5s
    maxPayloadBytes: 1024
    maxDepth: 1_000
    workerSlots: 4
    paused: true
    groups:
      acme: {weight: 2.5, express: true, limit: {concurrency: 2, rate: {count: 10, period: 1s}}, paused: false}
      beta: {limit: {}}
      gamma:
  nothing:
"""
    (found, nothing) = parse_queues(text, "f")
    assert (found.queue, found.paused) == ("all", True)
    expected: dict[str, Any] = {
        "queue_class": policy_pb2.QUEUE_CLASS_HIGH,
        "priority": -3,
        "attempts": 7,
        "backoff": job_pb2.Backoff(delays=[Duration(nanos=500_000_000), s(7200)], jitter=0),
        "permanent_errors": ["KeyError", "a: b"],
        "timeout": s(30),
        "total_timeout": s(86400),
        "expires_in": s(300),
        "retention": policy_pb2.RetentionPolicy(completed=policy_pb2.Retention(count=0), failed=policy_pb2.Retention(age=s(7 * 86400))),
        "limit": policy_pb2.Limit(concurrency=3, rate=policy_pb2.RateLimit(count=100, period=s(1), burst=5)),
        "job_limits": {"mail": policy_pb2.Limit(concurrency=1), "a/b": policy_pb2.Limit(rate=policy_pb2.RateLimit(count=1, period=s(10)))},
        "group_limit": policy_pb2.Limit(concurrency=2),
        "ageing": s(60),
        "start_target": s(5),
        "max_payload_bytes": 1024,
        "max_depth": 1000,
        "worker_slots": 4,
    }
    assert found.rules == policy_pb2.QueuePolicy(**expected)
    assert nothing == ("nothing", policy_pb2.QueuePolicy(), None, ())
    limit = policy_pb2.Limit(concurrency=2, rate=policy_pb2.RateLimit(count=10, period=s(1)))
    assert found.groups == (
        ("acme", queue_service_pb2.Group(weight=2.5, express=True, limit=limit), False),
        ("beta", queue_service_pb2.Group(limit=policy_pb2.Limit()), None),
        ("gamma", queue_service_pb2.Group(), None),
    )
    assert {field.name for field, _ in found.rules.ListFields()} == {field.name for field in policy_pb2.QueuePolicy.DESCRIPTOR.fields}


@pytest.mark.parametrize("text", ["", "# nothing", "queues:", "queues: {}"])
def test_a_file_may_say_nothing(text: str) -> None:
    assert parse_queues(text, "f") == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("queues: [", "f:1: "),
        ("queues:\n  a: {attempts: 1\n  b: 2", "f:3: "),
        ("- a", "f:1: the file must hold `queues:`"),
        ("queue:\n  a:", "f:1: 'queue' is not known here"),
        ("queues: [a]", "f:1: queues must hold a queue per key"),
        ("queues:\n  a/b: {}", "f:2: a queue's name must be"),
        ("queues:\n  a: 5", "f:2: a must hold the fields of a policy"),
        (
            "queues:\n  a:\n    attemps: 3",
            "f:3: 'attemps' is no field; there are ageing, attempts, backoff, class, expiresIn, groupLimit, groups, jobLimits, limit, maxDepth",
        ),
        ("queues:\n  a:\n    max_depth: 3", "f:3: 'max_depth' is no field"),
        ("queues:\n  a:\n    attempts: 3\n    attempts: 4", "f:4: 'attempts' stands here a second time"),
        ("queues:\n  a:\n  b:\n  a:", "f:4: 'a' stands here a second time"),
        ("queues:\n  a:\n    attempts: many", "f:3: attempts must be a whole number; it is 'many'"),
        ("queues:\n  a:\n    priority: urgent", "f:3: priority must be a whole number or one of critical, high, normal, medium, low, batch; it is 'urgent'"),
        ("queues:\n  a:\n    attempts: 1.5", "f:3: attempts must be a whole number; it is '1.5'"),
        ("queues:\n  a:\n    attempts: true", "f:3: attempts must be a whole number; it is 'true'"),
        ("queues:\n  a:\n    attempts:", "f:3: a value must stand here"),
        ("queues:\n  a:\n    attempts: [1]", "f:3: a value must stand here"),
        ("queues:\n  a:\n    attempts: 99999999999999999999", "f:3: attempts is out of its bounds"),
        ("queues:\n  a:\n    timeout: 3s\n\n    attempts: 2000", "f:5: a: attempts must be from 1 to 1000"),
        ("queues:\n  a:\n    timeout: 30", "f:3: '30' is no duration; write 500ms, 30s, 5m, 2h or 7d"),
        ("queues:\n  a:\n    timeout: 1ms", "f:3: a: timeout must be from 100 ms to 30 days"),
        ("queues:\n  a:\n    timeout: 99999999999999999d", "f:3: 99999999999999999d is too long"),
        ("queues:\n  a:\n    class: urgent", "f:3: 'urgent' is no class; there are critical"),
        ("queues:\n  a:\n    paused: 1", "f:3: paused must be true or false"),
        ("queues:\n  a:\n    permanentErrors: KeyError", "f:3: permanentErrors must be a list"),
        ("queues:\n  a:\n    permanentErrors:\n      - A\n      - ''", "f:5: a: permanent_errors[1] must be"),
        ("queues:\n  a:\n    limit:\n      rate:\n        count: 5", "f:4: a: limit.rate.period"),
        ("queues:\n  a:\n    limit:\n      rates: 5", "f:4: 'rates' is no field; there are concurrency, rate"),
        ("queues:\n  a:\n    limit: 5", "f:3: limit must hold some of concurrency, rate"),
        ("queues:\n  a:\n    limit: {rate: 5/s}", "f:3: rate must hold some of count, period, burst"),
        ("queues:\n  a:\n    jobLimits:\n      mail: 5", "f:4: job_limits[mail] must hold some of concurrency, rate"),
        ("queues:\n  a:\n    jobLimits:\n      mail:\n        concurrency: -1", "f:5: a: job_limits[mail].concurrency"),
        ("queues:\n  a:\n    backoff:\n      delays: [1s, 40d]", "f:4: a: backoff.delays[1]"),
        ("queues:\n  a:\n    groups: 5", "f:3: groups must hold a group per key"),
        ("queues:\n  a:\n    groups:\n      b: 5", "f:4: b must hold some of express, limit, paused, weight"),
        ("queues:\n  a:\n    groups:\n      '': {}", "f:4: a group's name must"),
        ("queues:\n  a:\n    groups:\n      b:\n        waiting: 5", "f:5: 'waiting' is no field of a group; there are express, limit, paused, weight"),
        ("queues:\n  a:\n    groups:\n      b:\n        express: 1", "f:5: express must be true or false"),
        ("queues:\n  a:\n    groups:\n      b:\n        weight: 5000", "f:5: a: groups[b].weight must be from 0.01 to 1000"),
        ("queues:\n  a:\n    groups:\n      b:\n        limit:\n          rate: {count: 5}", "f:6: a: groups[b].limit.rate.period"),
        ("queues:\n  a: {? [x] : 1}", "f:2: a key must be a word"),
    ],
)
def test_each_mistake_is_told_with_its_line(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^f:") as caught:
        parse_queues(text, "f")
    assert str(caught.value).startswith(sentence)


def test_all_queues_with_a_mistake_are_told_of() -> None:
    with pytest.raises(ValueError, match=r"^f:") as caught:
        parse_queues("queues:\n  a: {attempts: -1}\n  b: {attempts: 1}\n  c: {timeout: x}", "f")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "4"]


def test_a_file_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.yaml can't be read"):
        load_queues_file(tmp_path / "missing.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ValueError, match="more than"):
        load_queues_file(tmp_path / "large.yaml")


def test_all_mistakes_of_one_queue_are_told_at_once() -> None:
    text = "queues:\n  a:\n    class: URGENT\n    attempts: 5000\n    colour: red\n    timeout: 1ms\n    paused: 3\n"
    with pytest.raises(ValueError, match="f:3: ") as raised:
        parse_queues(text, "f")
    assert sorted(line.split(": ")[0] for line in str(raised.value).splitlines()) == ["f:3", "f:4", "f:5", "f:6", "f:7"]
