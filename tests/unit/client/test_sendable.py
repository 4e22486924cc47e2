"""A value of the wrong type is told by the name of its field, before anything is sent."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from jobwire.v1 import policy_pb2
from jobwire_broker.errors import InvalidField
from jobwire_broker.services import policies, specs
from jobwire_client import Client, InvalidRequest, JobFilter, Limit, QueuePolicy, RateLimit, Retention, _bounds


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda c: c.cancel("queues/q/jobs/a", grace="soon"), "grace"),
        (lambda c: c.clean_queue("q", grace="soon"), "grace"),
        (lambda c: c.plan_bulk("q", "cancel", grace="soon"), "grace"),
        (lambda c: c.plan_bulk("q", "resolve", note=5), "note"),
        (lambda c: c.resolve("queues/q/jobs/a", 5), "note"),
        (lambda c: c.resolve("queues/q/jobs/a", "\ud800"), "note"),
        (lambda c: c.update_group("q", "g", weight="much"), "weight"),
        (lambda c: c.update_group("q", "g", express="yes"), "express"),
        (lambda c: c.update_group("q", "g", limit=Limit(concurrency=cast(int, 1.5))), "limit"),
        (lambda c: c.update_group("q", "g", limit=5), "limit"),
        (lambda c: c.update("queues/q/jobs/a", labels={"order": 17}), "labels"),
        (lambda c: c.enqueue("q", "h", labels={"order": 17}), "labels"),
        (lambda c: c.enqueue("q", "h", required_labels=["gpu"]), "required_labels"),
        (lambda c: c.enqueue("q", "h", group=17), "group"),
        (lambda c: c.enqueue("q", "h", units=0), "units"),
    ],
    ids=range(15),
)
async def test_an_argument_of_the_wrong_type_is_told_by_its_name(call: Callable[[Client | Any], Awaitable[Any]], field: str) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=f"^{field} can't be sent: "):
            await call(client)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"attempts": "x"}, "attempts"),
        ({"max_depth": 1.5}, "max_depth"),
        ({"priority": 2**31}, "priority"),
        ({"backoff": 5}, "backoff"),
        ({"timeout": "x"}, "timeout"),
        ({"ageing": []}, "ageing"),
        ({"permanent_errors": [5]}, "permanent_errors"),
        ({"retention": 5}, "retention"),
        ({"retention": {"failed": 5}}, "retention"),
        ({"retention": {"failed": Retention(count=cast(int, "x"))}}, "retention"),
        ({"limit": Limit(concurrency=2**40)}, "limit"),
        ({"group_limit": 5}, "group_limit"),
        ({"job_limits": {"mail": 5}}, "job_limits"),
    ],
    ids=str,
)
def test_a_field_of_a_policy_of_the_wrong_type_is_told_by_its_name(policy: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} can't be sent: "):
        QueuePolicy(**policy).message()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda c: c.enqueue("q", "h", units=2**40), "units can't be sent: it must be from 1 to 1000, not 1099511627776"),
        (lambda c: c.enqueue("q", "h", attempts=2**40), "job 'h' can't be sent: attempts must be from 1 to 1000, not 1099511627776"),
        (lambda c: c.enqueue("q", "h", priority=2**40), "job 'h' can't be sent: priority must be a whole number of 32 bits; it is 1099511627776"),
        (lambda c: c.update_queue("q", QueuePolicy(worker_slots=2**40)), "worker_slots can't be sent: it must be from 1 to 10000, not 1099511627776"),
        (lambda c: c.update_queue("q", QueuePolicy(max_depth=-(2**64))), f"max_depth can't be sent: it must be from 1 to 1000000000, not -{2**64}"),
        (
            lambda c: c.update_queue("q", QueuePolicy(retention={"failed": Retention(count=2**64)})),
            f"retention can't be sent: failed.count must be from 0 to 10000000, not {2**64}",
        ),
        (lambda c: c.update_group("q", "g", limit=Limit(concurrency=2**31)), "limit can't be sent: concurrency must be from 1 to 1000000, not 2147483648"),
        (
            lambda c: c.update_group("q", "g", limit=Limit(rate=RateLimit(count=1, period=timedelta(1), burst=2**31))),
            "limit can't be sent: rate.burst must be from 1 to 1000000, not 2147483648",
        ),
    ],
    ids=range(8),
)
async def test_a_number_that_has_no_room_is_told_with_its_bounds(call: Callable[[Client | Any], Awaitable[Any]], sentence: str) -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest) as caught:
            await call(client)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"attempts": 2**31}, "attempts must be from 1 to 1000, not 2147483648"),
        ({"priority": 2**31}, "priority must be from -2147483648 to 2147483647, not 2147483648"),
        ({"limit": {"rate": {"count": 2**31}}}, "limit.rate.count must be from 1 to 1000000, not 2147483648"),
        ({"jobLimits": {"mail": {"concurrency": 2**31}}}, "jobLimits.mail.concurrency must be from 1 to 1000000, not 2147483648"),
        ({"jobLimits": {"mail": 5}}, "jobLimits.mail is made of concurrency, rate; it can't be 5"),
    ],
    ids=str,
)
def test_a_number_in_json_that_can_not_be_sent_is_told_with_its_path(members: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        QueuePolicy.from_json(members)
    assert str(caught.value) == sentence


def test_the_bounds_that_are_told_are_those_of_the_broker() -> None:
    for name, (least, most) in _bounds.BOUNDS.items():
        if name.startswith("QueuePolicy.") and name != "QueuePolicy.priority":
            field = name.removeprefix("QueuePolicy.")
            policies.check_policy(policy_pb2.QueuePolicy(**cast(Any, {field: most})))
            with pytest.raises(InvalidField, match=f"{field} must be from {least} to {most}"):
                policies.check_policy(policy_pb2.QueuePolicy(**cast(Any, {field: most + 1})))
    assert _bounds.BOUNDS["Limit.concurrency"][1] == policies.MAX_CONCURRENCY
    assert _bounds.BOUNDS["RateLimit.count"][1] == _bounds.BOUNDS["RateLimit.burst"][1] == policies.MAX_RATE_COUNT
    assert _bounds.BOUNDS["Retention.count"][1] == policies.MAX_KEPT
    assert (_bounds.BOUNDS["JobSpec.attempts"][1], _bounds.BOUNDS["JobSpec.units"][1]) == (specs.MAX_ATTEMPTS, specs.MAX_UNITS)


@pytest.mark.parametrize(
    "wanted",
    [{"job_name": 5}, {"group": b"acme\xff"}, {"fingerprint": 5}, {"resolved": "yes"}, {"labels": {"plan": 5}}, {"labels": ["plan"]}, {"created_after": "now"}],
    ids=str,
)
def test_a_field_of_a_filter_of_the_wrong_type_is_told_by_its_name(wanted: dict[str, Any]) -> None:
    [field] = wanted
    with pytest.raises(InvalidRequest, match=f"^{field} can't be sent: "):
        JobFilter(**wanted).message()


@pytest.mark.parametrize("field", ["job_name", "group", "fingerprint"])
def test_an_empty_text_in_a_filter_does_not_find_all_jobs(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} must not be empty; None asks for any$"):
        JobFilter(**cast(Any, {field: ""})).message()
