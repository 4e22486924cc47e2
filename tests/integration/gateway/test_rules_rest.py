"""The calls of the rules over REST, against a real broker and a real store."""

import json
from typing import Any

import httpx
import pytest
from jobwire.v1.job_service_pb2 import BulkRun, BulkVerb

from tests.support import Store
from tests.support.api import Api
from tests.support.queue_lab import open_lab

from .reading import enqueue, fail, lease

CALLS = [
    ("PATCH", "/v1/queues/{queue}", {"policy": {"attempts": 5}}),
    ("PATCH", "/v1/queues/{queue}/jobs/{id}", {"priority": 3}),
    ("POST", "/v1/queues/{queue}/jobs/{id}:resolve", {"note": "done"}),
    ("GET", "/v1/queues/{queue}/jobs/{id}/logs", None),
    ("POST", "/v1/queues/{queue}/jobs:bulk", {"verb": "promote"}),
    ("GET", "/v1/queues/{queue}/bulkRuns", None),
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
    assert answer.status_code in (200, 409), answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "/v1/queues/{queue}", {"policy": {"atempts": 5}}, "atempts"),
        ("PATCH", "/v1/queues/{queue}?updateMask=nope", {"paused": True}, "updateMask"),
        ("PATCH", "/v1/queues/{queue}/jobs/a", {}, "body"),
        ("POST", "/v1/queues/{queue}/jobs:bulk", {"verb": "burn"}, "verb"),
        ("GET", "/v1/queues/{queue}/bulkRuns/xyz", None, "run"),
        ("POST", "/v1/queues/{queue}/bulkRuns/0123456789abcdeF:stop", None, "run"),
        ("GET", "/v1/queues/{queue}/bulkRuns?pageSize=1001", None, "pageSize"),
        ("POST", "/v1/queues/{queue}/bulkRuns/0123456789abcdef:stop", {"by": "me"}, "by"),
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


async def changed(http: httpx.AsyncClient, path: str, body: dict[str, object], **query: str) -> dict[str, Any]:
    answer = await http.patch(path, json=body, params=query)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


async def test_the_rules_of_a_queue_are_changed_member_by_member(http: httpx.AsyncClient, queue: str) -> None:
    path = f"/v1/queues/{queue}"
    policy = (await changed(http, path, {"policy": {"attempts": 5, "timeout": "60s", "retention": {"failed": {"count": 3}}}}))["policy"]
    assert (policy["attempts"], policy["timeout"], policy["retention"]) == (5, "60s", {"failed": {"count": 3}})
    policy = (await changed(http, path, {"policy": {"timeout": None, "priority": 0, "retention": {"completed": {"age": "0s"}}}}))["policy"]
    assert ("timeout" in policy, policy["attempts"], policy["priority"]) == (False, 5, 0)
    assert policy["retention"] == {"failed": {"count": 3}, "completed": {"age": "0s"}}
    policy = (await changed(http, path, {"policy": {"attempts": 2, "priority": 7}}, updateMask="policy.attempts,policy.retention"))["policy"]
    assert policy == {"attempts": 2, "priority": 0}
    queue_now = await changed(http, path, {"paused": True, "policy": None})
    assert (queue_now["paused"], queue_now.get("policy", {})) == (True, {})


async def test_a_class_counts_its_queues_and_pauses_them(http: httpx.AsyncClient, queue: str) -> None:
    await changed(http, f"/v1/queues/{queue}", {"policy": {"queueClass": "batch"}})
    await enqueue(http, queue)
    stats = (await http.get("/v1/stats")).json()["classes"]["batch"]
    assert queue in stats["queues"]
    assert stats["counts"]["waiting"] >= 1
    assert queue in (await http.post("/v1/classes/batch:pause")).json()["queues"]
    assert (await http.get(f"/v1/queues/{queue}")).json()["paused"]
    await http.post("/v1/classes/batch:resume")
    assert not (await http.get(f"/v1/queues/{queue}")).json()["paused"]


async def test_a_group_is_paused_and_has_rules(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue, group="acme")
    path = f"/v1/queues/{queue}/groups/acme"
    group = await changed(http, path, {"weight": 2.5, "express": True, "limit": {"concurrency": 3}})
    assert (group["weight"], group["express"], group["limit"], group["paused"]) == (2.5, True, {"concurrency": 3}, False)
    assert (await http.post(f"{path}:pause")).json()["paused"]
    listed = (await http.get(f"/v1/queues/{queue}/groups")).json()["groups"]
    assert [(group["group"], group["waiting"], group["paused"]) for group in listed] == [("acme", 1, True)]
    group = await changed(http, path, {"limit": None, "express": False})
    assert (group.get("limit"), group["express"], group["weight"]) == (None, False, 2.5)


async def test_failures_are_grouped_filtered_resolved_and_retried_with_another_payload(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    await enqueue(http, queue, id="bad", payload={"path": "x"}, labels={"order": "17"})
    await fail(worker, await lease(worker, queue), "disk 7 is full")
    (group,) = (await http.get(f"/v1/queues/{queue}/failures")).json()["groups"]
    assert (group["type"], group["count"], group["resolved"], group["latest"]) == ("ValueError", 1, 0, f"queues/{queue}/jobs/bad")
    jobs = f"/v1/queues/{queue}/jobs"
    for query, found in (({"fingerprint": group["fingerprint"], "resolved": "false"}, 1), ({"label": "order=17"}, 1), ({"label": "order=18"}, 0)):
        page = (await http.get(jobs, params={"state": "failed", **query})).json()
        assert (len(page["jobs"]), page["total"]) == (found, 1)
    resolved = (await http.post(f"{jobs}/bad:resolve", json={"note": "a larger disk"})).json()
    assert (resolved["state"], resolved["resolution"]["note"]) == ("failed", "a larger disk")
    retried = await http.post(f"{jobs}/bad:retry", json={"payload": {"path": "y"}})
    assert (retried.status_code, retried.json()["state"]) == (200, "waiting")
    assert (await http.get(f"{jobs}/bad")).json()["payload"] == {"path": "y"}


async def test_many_jobs_are_counted_first_and_then_acted_on_line_by_line(http: httpx.AsyncClient, queue: str) -> None:
    for number in range(5):
        await enqueue(http, queue, labels={"odd": str(number % 2)})
    path, body = f"/v1/queues/{queue}/jobs:bulk", {"verb": "cancel", "filter": {"labels": {"odd": "1"}}}
    dry = (await http.post(path, json=body)).json()
    assert (dry["matched"], dry["done"]) == (2, 0)
    answer = await http.post(path, json={**body, "token": dry["token"]})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    steps = [json.loads(line) for line in answer.text.splitlines()]
    assert (steps[-1]["done"], steps[-1]["skipped"], steps[-1]["finished"]) == (2, 0, True)
    other = await http.post(path, json={"verb": "delete", "token": dry["token"]})
    assert (other.status_code, other.json()["reason"]) == (400, "BULK_TOKEN_INVALID")
    assert (await http.post(f"/v1/queues/{queue}:purge")).json() == {"deleted": 3}


async def test_a_bulk_run_is_listed_read_and_stopped_by_whoever_did_not_begin_it(http: httpx.AsyncClient, shared_store: Store, queue: str) -> None:
    await enqueue(http, queue, group="acme")
    jobs, body = f"/v1/queues/{queue}/jobs:bulk", {"verb": "cancel", "filter": {"states": ["waiting"], "group": "acme"}, "grace": "1.500s"}
    plans = [(await http.post(jobs, json=body)).json() for _ in range(2)]
    paths = [f"/v1/{plan['run']}" for plan in plans]
    missing = await http.get(paths[0])
    assert (missing.status_code, missing.json()["reason"]) == (404, "BULK_RUN_NOT_FOUND")
    steps = [json.loads(line) for line in (await http.post(jobs, json={**body, "token": plans[0]["token"]})).text.splitlines()]
    assert {step["run"] for step in steps} == {plans[0]["run"]}
    run = (await http.get(paths[0])).json()
    assert run.pop("startTime") <= run.pop("finishTime")
    assert run == {"name": plans[0]["run"], **body, "state": "finished", "matched": 1, "done": 1, "skipped": 0}
    finished = await http.post(f"{paths[0]}:stop")
    assert (finished.status_code, finished.json()["reason"]) == (409, "WRONG_STATE")

    async with open_lab(shared_store, queue) as lab:
        head = BulkRun(verb=BulkVerb.BULK_VERB_CANCEL, matched=1).SerializeToString()
        await lab.store.begin_run(bytes.fromhex(paths[1].rpartition("/")[2]), await lab.store.moment(), head)
    page = (await http.get(f"/v1/queues/{queue}/bulkRuns", params={"pageSize": "1"})).json()
    assert [(run["name"], run["state"]) for run in page["runs"]] == [(plans[1]["run"], "running")]
    page = (await http.get(f"/v1/queues/{queue}/bulkRuns", params={"pageToken": page["nextPageToken"]})).json()
    assert ([run["name"] for run in page["runs"]], "nextPageToken" in page) == ([plans[0]["run"]], False)
    stopped = await http.post(f"{paths[1]}:stop")
    assert (stopped.status_code, stopped.json()["state"], stopped.json()["done"]) == (200, "stopped", 0)
    assert (await http.get(paths[1])).json() == stopped.json()
    told = await http.post(jobs, json={**body, "token": plans[1]["token"]})
    assert (told.status_code, told.json()["reason"], told.json()["metadata"]["done"]) == (409, "BULK_RUN_STOPPED", "0")
    assert (await http.get(f"{paths[1]}:stop")).status_code == 405


async def test_a_job_that_has_not_started_is_changed(http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue, delay="3600s", labels={"a": "b"})
    now = await changed(http, f"/v1/{job['name']}", {"payload": [1], "priority": "HIGH", "dueTime": None, "labels": None})
    assert (now["state"], now["priority"], now.get("labels", {})) == ("waiting", 1, {})
    assert (await http.get(f"/v1/{job['name']}")).json()["payload"] == [1]


async def test_identities_find_and_refuse(http: httpx.AsyncClient, queue: str) -> None:
    path, key = f"/v1/queues/{queue}/jobs", {"key": "order-17"}
    first = await http.post(path, json={"jobName": "t", "payload": 1, "idempotency": key})
    again = await http.post(path, json={"jobName": "t", "payload": 1, "idempotency": key})
    assert (first.json()["verdict"], again.json()["verdict"], again.json()["id"]) == ("made", "found", first.json()["id"])
    other = await http.post(path, json={"jobName": "t", "payload": 2, "idempotency": key})
    assert (other.status_code, other.json()["reason"]) == (409, "IDEMPOTENCY_CONFLICT")


async def test_a_queue_at_its_maximum_depth_is_429_with_a_time_to_come_back(http: httpx.AsyncClient, queue: str) -> None:
    await changed(http, f"/v1/queues/{queue}", {"policy": {"maxDepth": 1}})
    await enqueue(http, queue)
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"})
    assert (answer.status_code, answer.json()["reason"]) == (429, "QUEUE_FULL")
    assert [used["subject"] for used in answer.json()["quota"]] == [f"queues/{queue}"]
    assert int(answer.headers["retry-after"]) >= 1
    (item,) = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobs": [{"jobName": "t"}]})).json()["jobs"]
    assert (item["error"]["reason"], item["error"]["retryAfterMs"]) == ("QUEUE_FULL", 1000)


async def test_a_verb_of_a_queue_that_is_none_is_told_which_there_are(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}:burn")
    assert (answer.status_code, answer.json()["reason"]) == (404, "NO_SUCH_VERB")
    assert ":purge" in answer.json()["detail"]


async def test_the_page_of_another_site_may_change_no_rules(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.patch(f"/v1/queues/{queue}", json={"paused": True}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
