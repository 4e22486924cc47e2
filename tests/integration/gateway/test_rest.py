"""Jobs and queues over REST, and everything that is refused, against a real broker and a real store."""

import asyncio
import json

import httpx
import pytest

from tests.support.api import Api

from .reading import complete, enqueue, fail, lease


async def refused(answer: httpx.Response, status: int, reason: str = "") -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    if reason:
        assert problem["reason"] == reason
    return problem


async def test_an_enqueued_job_is_where_its_answer_says(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "payload": {"big": 12345678901234567890, "text": "ü"}, "priority": "HIGH"})
    body = answer.json()
    assert answer.status_code == 202
    assert body == {
        "name": f"queues/{queue}/jobs/{body['id']}",
        "id": body["id"],
        "verdict": "made",
        "eventsUrl": f"/v1/queues/{queue}/jobs/{body['id']}/events",
    }
    job = (await http.get(answer.headers["location"])).json()
    assert (job["name"], job["state"], job["jobName"], job["priority"], job["attempt"], job["maxAttempts"]) == (body["name"], "waiting", "t", 1, 0, 3)
    assert job["payload"] == {"big": 12345678901234567890, "text": "ü"}


async def test_the_same_id_and_content_is_the_same_job_and_other_content_a_conflict(http: httpx.AsyncClient, queue: str) -> None:
    first = await enqueue(http, queue, id="a:b", payload=1)
    assert (await enqueue(http, queue, id="a:b", payload=1))["name"] == first["name"]
    await refused(await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "thumbnail", "id": "a:b", "payload": 2}), 409, "JOB_EXISTS")
    assert len((await http.get(f"/v1/queues/{queue}/jobs?state=waiting")).json()["jobs"]) == 1


async def test_a_delayed_job_says_when_it_is_due(http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue, delay="3600s", attempts=7, backoff={"base": "1s", "factor": 1})
    read = (await http.get(f"/v1/{job['name']}")).json()
    assert (read["state"], read["maxAttempts"]) == ("delayed", 7)
    assert read["dueTime"] > read["createTime"]


async def test_a_job_can_be_made_durable_before_the_answer(http: httpx.AsyncClient, queue: str) -> None:
    assert (await enqueue(http, queue, durability="disk"))["verdict"] == "made"


async def test_a_list_is_paged_without_payloads(http: httpx.AsyncClient, queue: str) -> None:
    made = [(await enqueue(http, queue, payload=n))["id"] for n in range(5)]
    seen: list[str] = []
    query = "state=waiting&pageSize=2"
    while True:
        page = (await http.get(f"/v1/queues/{queue}/jobs?{query}")).json()
        seen += [job["id"] for job in page["jobs"]]
        assert all("payload" not in job for job in page["jobs"])
        if "nextPageToken" not in page:
            break
        query = str(httpx.QueryParams({"state": "waiting", "pageSize": 2, "pageToken": page["nextPageToken"]}))
    assert seen == made


async def test_a_failed_job_can_be_retried_and_a_completed_one_not(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    await fail(worker, await lease(worker, queue), "no picture")
    assert (await http.post(f"/v1/{job['name']}:retry")).json()["state"] == "waiting"
    await complete(worker, await lease(worker, queue))
    await refused(await http.post(f"/v1/{job['name']}:retry"), 400, "WRONG_STATE")
    await refused(await http.post(f"/v1/{job['name']}:cancel", json={"grace": "1s"}), 400, "WRONG_STATE")


async def test_queues_and_stats_tell_the_counts(http: httpx.AsyncClient, queue: str) -> None:
    await asyncio.gather(*(enqueue(http, queue) for _ in range(3)))
    stats = (await http.get("/v1/stats")).json()["queues"][queue]
    assert (stats["waiting"], stats["active"], stats["total"]) == (3, 0, 3)
    queues = {entry["queue"]: entry for entry in (await http.get("/v1/queues?pageSize=1000")).json()["queues"]}
    assert queues[queue]["name"] == f"queues/{queue}"
    assert queues[queue]["counts"] == stats


async def test_health_names_what_is_needed(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue)
    answer = await http.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"], body["services"]["broker"], body["services"]["store"]) == (200, "ok", "ok", "ok")
    assert body["services"]["queues"][queue] == {"waiting": 1, "active": 0}
    assert body["uptime"] > 0
    assert (await http.get("/livez")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"jobName":"t","jobName":"u"}', "application/json", 400),
        (b'{"jobName":"t"}', "text/plain", 415),
        (b"jobName=t", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 400),
        (b'{"jobName":""}', "application/json", 400),
        (b'{"jobName":"has space"}', "application/json", 400),
        (json.dumps({"jobName": "t" * 129}).encode(), "application/json", 400),
        (b'{"jobName":"t","prority":1}', "application/json", 400),
        (b'{"jobName":"t","delay":"-1s"}', "application/json", 400),
        (b'{"jobName":"t","delay":"999999999s"}', "application/json", 400),
        (b'{"jobName":"t","attempts":5000}', "application/json", 400),
        (b'{"jobName":"t","backoff":{"factor":99}}', "application/json", 400),
        (b'{"jobName":"t","id":"has/slash"}', "application/json", 400),
        (json.dumps({"jobName": "t", "id": "i" * 129}).encode(), "application/json", 400),
        (json.dumps({"jobName": "t", "payload": "x" * 1_100_000}).encode(), "application/json", 413),
        (json.dumps({"jobName": "t", "payload": "x" * 3_000_000}).encode(), "application/json", 413),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_enqueue_is_refused_and_makes_nothing(http: httpx.AsyncClient, queue: str, body: bytes, content_type: str, status: int) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=body, headers={"Content-Type": content_type})
    await refused(answer, status)
    assert queue not in (await http.get("/v1/stats")).json()["queues"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/queues/{queue}/jobs", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=stalled", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=waiting&limit=5", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=waiting&pageSize=0", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=waiting&pageSize=1001", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=waiting&pageSize=ten", 400),
        ("GET", "/v1/queues/{queue}/jobs?state=waiting&pageToken=elsewhere", 400),
        ("GET", "/v1/queues/{queue}/jobs/nope", 404),
        ("GET", "/v1/queues/{queue}/jobs/nope?x=1", 400),
        ("GET", "/v1/queues/{queue}/events?topic=x", 400),
        ("GET", "/v1/stats?verbose=1", 400),
        ("GET", "/v1/queues/-bad/jobs/x", 400),
        ("GET", "/v1/queues/%20/events", 400),
        ("GET", "/v1/queues/" + "q" * 101 + "/jobs/x/events", 400),
        ("GET", "/v1/queues/{queue}/jobs/" + "i" * 129, 400),
        ("GET", "/v1/queues/{queue}/jobs/%00", 400),
        ("GET", "/v1/queues/a%2Fb/jobs/x", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/page/../app.py", 404),
        ("DELETE", "/v1/queues/{queue}/jobs/x", 405),
        ("POST", "/v1/stats", 405),
        ("POST", "/v1/queues/{queue}/jobs/x/events", 405),
        ("POST", "/v1/queues/{queue}/jobs/nope:cancel", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope:retry", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope:explode", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope", 404),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(http: httpx.AsyncClient, queue: str, method: str, path: str, status: int) -> None:
    problem = await refused(await http.request(method, path.replace("{queue}", queue), headers={"Accept": "application/json"}), status)
    assert "?" not in str(problem["instance"])


async def test_405_names_the_methods_that_there_are(http: httpx.AsyncClient, queue: str) -> None:
    allowed = (await http.delete(f"/v1/queues/{queue}/jobs/x")).headers["allow"]
    assert {method.strip() for method in allowed.split(",")} == {"GET", "HEAD", "POST"}


async def test_a_page_token_of_another_list_is_refused(http: httpx.AsyncClient, queue: str) -> None:
    for _ in range(3):
        await enqueue(http, queue)
    token = (await http.get(f"/v1/queues/{queue}/jobs?state=waiting&pageSize=1")).json()["nextPageToken"]
    answer = await http.get(f"/v1/queues/{queue}/jobs", params={"state": "failed", "pageToken": token})
    await refused(answer, 400, "PAGE_TOKEN_INVALID")


async def test_a_huge_header_is_431_and_harms_nobody_else(http: httpx.AsyncClient) -> None:
    await refused(await http.get("/livez", headers={"X-Huge": "a" * 3_000_000}), 431)
    assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
    ],
)
async def test_pages_of_other_origins_can_enqueue_nothing(http: httpx.AsyncClient, queue: str, headers: dict[str, str], status: int) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"}, headers=headers)
    assert answer.status_code == status
    assert (queue in (await http.get("/v1/stats")).json()["queues"]) == (status == 202)


async def test_every_answer_carries_the_headers_that_keep_a_page_safe(http: httpx.AsyncClient) -> None:
    for path in ("/", "/livez", "/v1/nothing", "/page/main.js"):
        headers = (await http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
