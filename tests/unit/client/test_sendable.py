"""A value of the wrong type is told by the name of its field, before anything is sent."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from jobwire_client import Client, InvalidRequest, JobFilter, Limit, QueuePolicy, Retention


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
