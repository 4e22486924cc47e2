"""The calls of the rules over REST, against a real broker and a real store."""

import httpx
import pytest

from .reading import enqueue

# What the broker does not do yet is answered with 501, and nothing worse.
CALLS = [
    ("PATCH", "/v1/queues/{queue}", {"policy": {"attempts": 5}}),
    ("PATCH", "/v1/queues/{queue}/jobs/{id}", {"priority": 3}),
    ("POST", "/v1/queues/{queue}/jobs/{id}:resolve", {"note": "done"}),
    ("GET", "/v1/queues/{queue}/jobs/{id}/logs", None),
    ("POST", "/v1/queues/{queue}/jobs:bulk", {"verb": "promote"}),
    ("GET", "/v1/queues/{queue}/failures", None),
    ("POST", "/v1/queues/{queue}:purge", None),
    ("GET", "/v1/queues/{queue}/groups", None),
    ("PATCH", "/v1/queues/{queue}/groups/acme:x", {"weight": 2}),
    ("POST", "/v1/queues/{queue}/groups/acme:x:pause", None),
    ("POST", "/v1/queues/{queue}/groups/acme:x:resume", None),
    ("GET", "/v1/classes", None),
    ("POST", "/v1/classes/batch:pause", None),
    ("POST", "/v1/classes/batch:resume", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=[f"{method} {path.rpartition('}')[2] or path}" for method, path, _ in CALLS])
async def test_every_call_of_the_rules_reaches_the_broker(http: httpx.AsyncClient, queue: str, method: str, path: str, body: dict[str, object] | None) -> None:
    job = await enqueue(http, queue)
    answer = await http.request(method, path.format(queue=queue, id=job["id"]), json=body)
    assert answer.status_code in (200, 409, 501), answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "/v1/queues/{queue}", {"policy": {"atempts": 5}}, "atempts"),
        ("PATCH", "/v1/queues/{queue}?updateMask=nope", {"paused": True}, "updateMask"),
        ("PATCH", "/v1/queues/{queue}/jobs/a", {}, "body"),
        ("POST", "/v1/queues/{queue}/jobs:bulk", {"verb": "burn"}, "verb"),
        ("POST", "/v1/classes/urgent:pause", {}, "class"),
        ("POST", "/v1/queues/{queue}/groups/.a:pause", {}, "group"),
        ("GET", "/v1/queues/{queue}/jobs?state=failed&label=x", None, "label"),
        ("GET", "/v1/queues/{queue}/jobs/a/logs?after=-1", None, "after"),
    ],
)
async def test_a_call_that_makes_no_sense_is_400_and_names_what(
    http: httpx.AsyncClient, queue: str, method: str, path: str, body: dict[str, object] | None, field: str
) -> None:
    answer = await http.request(method, path.format(queue=queue), json=body)
    assert answer.status_code == 400, answer.text
    assert [violation["field"] for violation in answer.json()["violations"]] == [field]


async def test_a_verb_of_a_queue_that_is_none_is_told_which_there_are(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}:burn")
    assert (answer.status_code, answer.json()["reason"]) == (404, "NO_SUCH_VERB")
    assert ":purge" in answer.json()["detail"]


async def test_the_page_of_another_site_may_change_no_rules(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.patch(f"/v1/queues/{queue}", json={"paused": True}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
