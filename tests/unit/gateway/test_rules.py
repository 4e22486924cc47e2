"""Changes, filters and verbs are read strictly, and say to the broker exactly what was asked for."""

from collections.abc import Mapping
from typing import Any

import pytest
from jobwire.v1.job_service_pb2 import BULK_VERB_RETRY
from jobwire.v1.policy_pb2 import QUEUE_CLASS_HIGH
from jobwire_gateway import rules
from jobwire_gateway.contract import shown
from jobwire_gateway.operations import Asked
from jobwire_gateway.problems import Problem
from jobwire_gateway.rule_schemas import JOB_CHANGE, QUEUE_CHANGE
from starlette.requests import Request


def asked(
    body: Mapping[str, object] | None = None,
    query: Mapping[str, str] | None = None,
    lists: Mapping[str, list[str]] | None = None,
    *,
    queue_class: str = "high",
    group: str = "acme",
) -> Asked:
    request = Request(
        {"type": "http", "method": "PATCH", "headers": [], "path_params": {"queue": "q", "id": "a", "group": group, "class": queue_class}, "query_string": b""}
    )
    return Asked(request, query or {}, body or {}, lists or {})


def refused(call: Any, *given: Any, match: str, **more: Any) -> None:
    with pytest.raises(Problem, match=match) as caught:
        call(asked(*given, **more))
    assert caught.value.status == 400
    assert caught.value.violations


def test_a_change_of_a_queue_names_what_it_holds() -> None:
    body = {"paused": False, "policy": {"queueClass": "high", "attempts": 5, "retention": {"failed": {"count": 0}}, "jobLimits": {"mail": {"concurrency": 1}}}}
    request = rules.update_queue(asked(body))
    assert list(request.update_mask.paths) == ["paused", "policy.queue_class", "policy.attempts", "policy.job_limits", "policy.retention.failed"]
    assert (request.queue.name, request.queue.policy.queue_class, request.queue.policy.attempts) == ("queues/q", QUEUE_CLASS_HIGH, 5)
    assert request.queue.policy.retention.failed.HasField("count")
    assert request.queue.policy.job_limits["mail"].concurrency == 1


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"policy": None}, ["policy"]),
        ({"policy": {"timeout": None, "limit": None}}, ["policy.timeout", "policy.limit"]),
        ({"policy": {"retention": {"completed": None}}}, ["policy.retention.completed"]),
        ({"policy": {"retention": None}}, ["policy.retention"]),
    ],
)
def test_null_takes_a_rule_away(body: dict[str, object], paths: list[str]) -> None:
    request = rules.update_queue(asked(body))
    assert list(request.update_mask.paths) == paths
    assert shown(request.queue.policy) in ({}, {"retention": {}})


def test_a_mask_in_the_query_says_alone_what_is_changed() -> None:
    request = rules.update_queue(asked({"policy": {"attempts": 5, "priority": 0}}, {"updateMask": "policy.attempts,policy.timeout,policy.retention.failed"}))
    assert list(request.update_mask.paths) == ["policy.attempts", "policy.timeout", "policy.retention.failed"]


@pytest.mark.parametrize(
    ("body", "query", "match"),
    [
        ({}, {}, "something to change"),
        ({"policy": {}}, {}, "something to change"),
        ({"policy": {"atempts": 5}}, {}, "atempts"),
        ({"policy": {"retention": {"waiting": {}}}}, {}, "waiting"),
        ({"policy": {"attempts": 0}}, {}, "policy.attempts must not be 0: leave it out"),
        ({"policy": {"limit": {"rate": {"count": True, "period": "1s"}}}}, {}, "policy.limit.rate.count"),
        ({"policy": {"limit": {"rate": {"count": 1}}}}, {}, "policy.limit.rate.period is required"),
        ({"policy": {"jobLimits": {"t": {"rate": {"period": "1s"}}}}}, {}, "policy.jobLimits.t.rate.count is required"),
        ({"policy": {"limit": {"concurrency": None}}}, {}, "policy.limit.concurrency must be a whole number"),
        ({"policy": {"queueClass": "URGENT"}}, {}, "critical, high"),
        ({"policy": []}, {}, "policy must be an object"),
        ({"paused": "yes"}, {}, "paused must be true or false"),
        ({"paused": None}, {}, "paused must be true or false"),
        ({"paused": True}, {"updateMask": "paused,counts"}, "updateMask names nothing"),
        ({"paused": True}, {"updateMask": ""}, "something to change"),
    ],
)
def test_a_change_of_a_queue_that_makes_no_sense_is_named(body: dict[str, object], query: dict[str, str], match: str) -> None:
    refused(rules.update_queue, body, query, match=match)


def test_what_can_be_changed_stands_in_the_schemas() -> None:
    policy = QUEUE_CHANGE["properties"]["policy"]["anyOf"][0]["properties"]  # type: ignore[index]
    assert {f"policy.{name}" for name in policy} == {path for path in rules.QUEUE_PATHS if path.count(".") == 1}
    assert set(JOB_CHANGE["properties"]) == set(rules.JOB_PATHS)  # type: ignore[call-overload]


def test_half_a_rate_of_a_group_is_refused_also_where_the_mask_passes_it_over() -> None:
    refused(rules.update_group, {"limit": {"rate": {"count": 1}}, "weight": 1}, {"updateMask": "weight"}, match="limit.rate.period is required")


def test_a_change_of_a_group_and_of_a_job_arrive() -> None:
    group = rules.update_group(asked({"weight": 2, "express": False, "limit": None}))
    assert (group.group.name, group.group.weight, list(group.update_mask.paths)) == ("queues/q/groups/acme", 2, ["weight", "express", "limit"])
    job = rules.update_job(asked({"payload": None, "priority": "High", "dueTime": None, "labels": {"a": "b"}}))
    assert (job.job.name, job.job.payload.json, job.job.priority, dict(job.job.labels)) == ("queues/q/jobs/a", "null", 1, {"a": "b"})
    assert list(job.update_mask.paths) == ["payload", "priority", "due_time", "labels"]
    refused(rules.update_job, {"state": "failed"}, match="state names nothing that can be changed")
    refused(rules.update_group, {"weight": "2"}, match="weight must be a number")


def test_a_filter_of_a_query_arrives() -> None:
    query = {"state": "failed", "jobName": "t", "group": "g", "createdAfter": "2030-01-01T00:00:00Z", "fingerprint": "0" * 16, "resolved": "false"}
    found = rules.filter_of(asked(None, query, {"label": ["a=b=c", "d="]}))
    assert found is not None
    assert (found.job_name, found.group, found.created_after.seconds, found.fingerprint) == ("t", "g", 1_893_456_000, "0" * 16)
    assert (found.HasField("resolved"), found.resolved, dict(found.labels)) == (True, False, {"a": "b=c", "d": ""})
    assert rules.filter_of(asked(None, {"state": "failed"})) is None


@pytest.mark.parametrize(
    ("query", "lists", "match"),
    [
        ({"resolved": "yes"}, {}, "resolved must be true or false"),
        ({"createdAfter": "today"}, {}, "createdAfter must be a date"),
        ({}, {"label": ["a"]}, "label must be KEY=VALUE"),
        ({"group": ""}, {}, "group must not be empty"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(query: dict[str, str], lists: dict[str, list[str]], match: str) -> None:
    refused(rules.filter_of, None, query, lists, match=match)


def test_a_bulk_verb_arrives() -> None:
    body = {"verb": "retry", "token": "t", "filter": {"states": ["failed", "expired"], "labels": {"a": "b"}, "resolved": True}}
    request = rules.bulk_request(asked(body))
    assert (request.parent, request.verb, request.token, len(request.filter.states), request.filter.resolved) == ("queues/q", BULK_VERB_RETRY, "t", 2, True)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({}, "verb is required"),
        ({"verb": "explode"}, "verb must be one of cancel"),
        ({"verb": "retry", "filter": {"state": "failed"}}, "state"),
        ({"verb": "retry", "filter": {"states": ["done"]}}, "filter.states must be an array of"),
        ({"verb": "retry", "filter": []}, "filter must be an object"),
        ({"verb": "cancel", "grace": 5}, "grace must be a length of time in seconds"),
    ],
)
def test_a_bulk_verb_that_makes_no_sense_is_named(body: dict[str, object], match: str) -> None:
    refused(rules.bulk_request, body, match=match)


def test_classes_and_groups_are_named_by_the_path() -> None:
    assert rules.pause_class(asked()).queue_class == rules.resume_class(asked()).queue_class == QUEUE_CLASS_HIGH
    assert rules.pause_group(asked()).name == rules.resume_group(asked()).name == "queues/q/groups/acme"
    with pytest.raises(Problem, match="class must be one of"):
        rules.pause_class(asked(queue_class="urgent"))
    with pytest.raises(Problem, match="group"):
        rules.pause_group(asked(group="a b"))


@pytest.mark.parametrize(("text", "number"), [("", 0), ("0", 0), ("17", 17), ("9007199254740992", 2**53)])
def test_a_log_cursor_is_a_number(text: str, number: int) -> None:
    assert rules.cursor_number(text) == number


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "9007199254740993", "\u0661"])
def test_any_other_log_cursor_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="after"):
        rules.cursor_number(text)
