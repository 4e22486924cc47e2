"""Jobs and queues over REST, and everything that is refused, against a real broker and a real store."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

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


@pytest.mark.parametrize("body", [{"jobName": "t"}, {"jobName": "t", "durability": "store"}, {"jobs": [{"jobName": "t"}], "durability": "store"}])
async def test_an_odd_durability_in_the_query_is_refused_whatever_the_body_says(http: httpx.AsyncClient, queue: str, body: dict[str, object]) -> None:
    await refused(await http.post(f"/v1/queues/{queue}/jobs?durability=paper", json=body), 400, "INVALID_FIELD")


@pytest.mark.parametrize("body", [{"jobName": "t"}, {"jobs": [{"jobName": "t"}]}])
async def test_a_durability_in_the_query_holds_where_the_body_says_no_other(http: httpx.AsyncClient, queue: str, body: dict[str, object]) -> None:
    path = f"/v1/queues/{queue}/jobs?durability=disk"
    for same in (body, {**body, "durability": "disk"}):
        assert (await http.post(path, json=same)).status_code == 202
    await refused(await http.post(path, json={**body, "durability": "store"}), 400, "INVALID_FIELD")
    assert (await http.get(f"/v1/queues/{queue}/stats")).json()["waiting"] == 2


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
    await refused(await http.post(f"/v1/{job['name']}:retry"), 409, "WRONG_STATE")
    await refused(await http.post(f"/v1/{job['name']}:cancel", json={"grace": "1s"}), 409, "WRONG_STATE")


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


_TOO_LARGE = 3_000_000
_TOO_DEEP = 501

UNSOUND: dict[str, bytes] = {
    "nested a level too deeply": b'{"jobName":"t","payload":' + b"[" * (_TOO_DEEP - 1) + b"]" * (_TOO_DEEP - 1) + b"}",
    "nested without end": b'{"jobName":"t","payload":' + b"[" * 1_000_000,
    "not a number": b'{"jobName":"t","payload":NaN}',
    "infinite": b'{"jobName":"t","payload":[-Infinity]}',
    "a number too large for what reads it": b'{"jobName":"t","payload":{"n":1e999}}',
    "a number of too many digits": b'{"jobName":"t","payload":' + b"9" * 10_000 + b"}",
    "a member twice": b'{"jobName":"t","payload":1,"payload":2}',
    "a member twice inside": b'{"jobName":"t","payload":[{"a":1,"\\u0061":2}]}',
    "half a surrogate pair": b'{"jobName":"t","payload":"\\ud83d"}',
    "no UTF-8": b'{"jobName":"t","payload":"\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"jobName":"t"}',
}


@pytest.mark.parametrize("body", UNSOUND.values(), ids=UNSOUND.keys())
async def test_x07_a_body_of_unsound_json_is_refused_and_makes_nothing(http: httpx.AsyncClient, queue: str, body: bytes) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=body, headers={"Content-Type": "application/json"})
    await refused(answer, 400, "MALFORMED_JSON")
    assert queue not in (await http.get("/v1/stats")).json()["queues"]


async def test_x07_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not_and_one_at_the_bounds_arrives_as_it_is(
    http: httpx.AsyncClient, queue: str
) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(0, _TOO_LARGE, 50_000):
            yield b" " * 50_000

    for content in (b" " * _TOO_LARGE, unannounced()):
        answer = await http.post(f"/v1/queues/{queue}/jobs", content=content, headers={"Content-Type": "application/json"})
        await refused(answer, 413, "PAYLOAD_TOO_LARGE")
    assert queue not in (await http.get("/v1/stats")).json()["queues"]
    deep: object = 12345678901234567890123
    for _ in range(_TOO_DEEP - 2):
        deep = [deep]
    job = await enqueue(http, queue, payload=deep)
    assert (await http.get(f"/v1/{job['name']}")).json()["payload"] == deep


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
        ("PUT", "/v1/queues/{queue}/jobs/x", 405),
        ("DELETE", "/v1/queues/{queue}/jobs/nope", 404),
        ("GET", "/v1/queues/{queue}", 404),
        ("GET", "/v1/queues/{queue}/stats", 404),
        ("POST", "/v1/queues/-bad:pause", 400),
        ("GET", "/v1/workers?pageSize=0", 400),
        ("POST", "/v1/stats", 405),
        ("POST", "/v1/queues/{queue}/jobs/x/events", 405),
        ("POST", "/v1/queues/{queue}/jobs/nope:cancel", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope:retry", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope:promote", 404),
        ("POST", "/v1/queues/{queue}/jobs/nope:explode", 405),
        ("POST", "/v1/queues/{queue}/jobs/nope", 405),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(http: httpx.AsyncClient, queue: str, method: str, path: str, status: int) -> None:
    problem = await refused(await http.request(method, path.replace("{queue}", queue), headers={"Accept": "application/json"}), status)
    assert "?" not in str(problem["instance"])


async def test_405_names_the_methods_that_there_are(http: httpx.AsyncClient, queue: str) -> None:
    allowed = (await http.put(f"/v1/queues/{queue}/jobs/x")).headers["allow"]
    assert {method.strip() for method in allowed.split(",")} == {"DELETE", "GET", "HEAD", "PATCH"}


async def test_a_verb_that_there_is_not_is_told_those_that_there_are(http: httpx.AsyncClient, queue: str) -> None:
    problem = await refused(await http.post(f"/v1/queues/{queue}/jobs/x:explode"), 405, "NO_SUCH_VERB")
    assert ":cancel, :retry, :promote" in str(problem["detail"])
    problem = await refused(await http.post(f"/v1/queues/{queue}:drain"), 404, "NO_SUCH_VERB")
    assert ":pause, :resume" in str(problem["detail"])


async def test_an_id_that_ends_like_a_verb_is_still_an_id(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue, id="x:cancel")
    assert (await http.get(f"/v1/queues/{queue}/jobs/x:cancel")).json()["id"] == "x:cancel"
    assert (await http.post(f"/v1/queues/{queue}/jobs/x:cancel:cancel")).json()["state"] == "cancelled"


async def test_a_delayed_job_can_be_promoted_and_a_job_deleted(http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue, delay="3600s")
    assert (await http.post(f"/v1/{job['name']}:promote")).json()["state"] == "waiting"
    gone = await http.delete(f"/v1/{job['name']}")
    assert (gone.status_code, gone.content) == (204, b"")
    await refused(await http.get(f"/v1/{job['name']}"), 404, "JOB_NOT_FOUND")
    await refused(await http.delete(f"/v1/{job['name']}"), 404, "JOB_NOT_FOUND")


async def test_a_job_that_does_not_run_is_explained(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue)
    second = await enqueue(http, queue)
    found = (await http.get(f"/v1/{second['name']}/explain")).json()
    assert (found["state"], [hold["reason"] for hold in found["holds"]]) == ("waiting", ["no_worker", "jobs_before"])
    assert found["holds"][1]["jobsBefore"] == 1
    await refused(await http.get(f"/v1/queues/{queue}/jobs/nope/explain"), 404, "JOB_NOT_FOUND")


async def test_a_queue_can_be_read_paused_and_resumed(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue)
    read = (await http.get(f"/v1/queues/{queue}")).json()
    assert (read["name"], read["paused"], read["workers"], read["counts"]["waiting"]) == (f"queues/{queue}", False, 0, 1)
    assert (read["oldestWaitingAge"][-1], "oldestActiveAge" in read, read["moreWorkersHelp"]) == ("s", False, True)
    assert (await http.get(f"/v1/queues/{queue}/stats")).json() == read["counts"]
    assert (await http.post(f"/v1/queues/{queue}:pause")).json()["paused"] is True
    assert (await http.post(f"/v1/queues/{queue}:pause", json={})).json()["paused"] is True
    assert (await http.post(f"/v1/queues/{queue}:resume")).json()["paused"] is False
    await refused(await http.post(f"/v1/queues/{queue}:pause", json={"for": "1h"}), 400, "INVALID_FIELD")


async def test_a_queue_can_be_cleaned(http: httpx.AsyncClient, queue: str) -> None:
    where = f"/v1/queues/{queue}:clean"
    await refused(await http.post(where), 404, "QUEUE_NOT_FOUND")
    job = await enqueue(http, queue)
    await http.post(f"/v1/{job['name']}:cancel")
    assert (await http.post(where)).json() == {"deleted": 0}
    assert (await http.post(where, json={"state": "cancelled", "grace": "60s"})).json() == {"deleted": 0}
    assert (await http.post(where, json={"state": "cancelled", "grace": "0s"})).json() == {"deleted": 1}
    for bad in ({"state": "waiting"}, {"state": "gone"}, {"state": 5}, {"grace": "-1s"}, {"grace": 5}, {"grace": "315360001s"}, {"count": 1}):
        await refused(await http.post(where, json=bad), 400, "INVALID_FIELD")


async def test_workers_and_the_server_can_be_read(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    await enqueue(http, queue)
    await lease(worker, queue)
    (found,) = [entry for entry in (await http.get("/v1/workers?pageSize=1000")).json()["workers"] if queue in entry["queues"]]
    assert (found["instanceId"], found["active"], len(found["session"])) == ("single calls", 1, 32)
    server = (await http.get("/v1/server")).json()
    assert server["storeAvailable"] is True
    assert server["version"] == server["gatewayVersion"]
    assert server["uptime"].endswith("s")


async def test_a_repeat_with_the_same_idempotency_key_makes_no_second_job(http: httpx.AsyncClient, queue: str) -> None:
    key = {"Idempotency-Key": "order-17"}
    first, again = [(await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "payload": 1}, headers=key)).json() for _ in range(2)]
    assert first == again
    await refused(await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "payload": 2}, headers=key), 409, "JOB_EXISTS")
    assert (await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "id": "x"}, headers=key)).json()["id"] == "x"
    many = [(await http.post(f"/v1/queues/{queue}/jobs", json={"jobs": [{"jobName": "t"}] * 3}, headers={"Idempotency-Key": "k2"})).json() for _ in range(2)]
    assert many[0] == many[1]
    assert len({job["id"] for job in many[0]["jobs"]}) == 3
    assert (await http.get("/v1/stats")).json()["queues"][queue]["waiting"] == 5


async def test_many_jobs_in_one_request_each_get_a_verdict(http: httpx.AsyncClient, queue: str) -> None:
    await enqueue(http, queue, id="taken", payload=1)
    jobs: list[object] = [
        {"jobName": "t", "id": "a", "payload": [1]},
        {"jobName": "t", "delay": "-1s"},
        {"jobName": "t", "id": "taken"},
        {"jobName": "t", "backoff": {"maxDelay": "99999999s"}},
        "no object",
        {"jobName": "t", "priority": "LOW"},
    ]
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobs": jobs, "durability": "disk"})
    assert answer.status_code == 202
    body = answer.json()
    assert [job["verdict"] for job in body["jobs"]] == ["made", "refused", "refused", "refused", "refused", "made"]
    assert body["refused"] == 4
    assert [job["error"].get("field") for job in body["jobs"] if job["verdict"] == "refused"] == ["delay", "id", "backoff.maxDelay", "jobs[4]"]
    assert body["jobs"][2]["error"]["reason"] == "JOB_EXISTS"
    # The broker was not sent all of them, and counts otherwise.
    assert not any("jobs[" in job["error"]["detail"] for job in body["jobs"][:4] if job["verdict"] == "refused")
    assert (await http.get(body["jobs"][0]["eventsUrl"].removesuffix("/events"))).json()["payload"] == [1]


@pytest.mark.parametrize("body", [{"jobs": []}, {"jobs": [{"jobName": "t"}] * 1001}, {"jobs": 1}, {"jobs": [{"jobName": "t"}], "jobName": "t"}])
async def test_a_batch_out_of_its_bounds_is_refused_whole(http: httpx.AsyncClient, queue: str, body: object) -> None:
    await refused(await http.post(f"/v1/queues/{queue}/jobs", json=body), 400, "INVALID_FIELD")
    assert queue not in (await http.get("/v1/stats")).json()["queues"]


async def post_lines(http: httpx.AsyncClient, queue: str, lines: list[str], **headers: str) -> list[dict[str, object]]:
    content = "\n".join(lines).encode()
    sent = {"Content-Type": "application/x-ndjson", **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=content, headers=sent)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_very_many_jobs_are_sent_as_lines_and_each_line_is_answered(http: httpx.AsyncClient, queue: str) -> None:
    lines = [json.dumps({"jobName": "t", "payload": n}) for n in range(2_500)]
    lines[3], lines[1_700] = "{", '{"jobName":"t","attempts":0}'
    *verdicts, summary = await post_lines(http, queue, lines)
    assert [verdict["line"] for verdict in verdicts] == list(range(1, 2_501))
    assert [n for n, verdict in enumerate(verdicts) if verdict["verdict"] != "made"] == [3, 1_700]
    assert summary == {"lines": 2_500, "made": 2_498, "found": 0, "replaced": 0, "refused": 2, "complete": True}
    assert (await http.get(f"/v1/queues/{queue}")).json()["counts"]["waiting"] == 2_498


async def test_lines_with_an_idempotency_key_can_be_sent_again(http: httpx.AsyncClient, queue: str) -> None:
    lines = [json.dumps({"jobName": "t", "payload": n}) for n in range(20)]
    first = await post_lines(http, queue, [*lines, ""], idempotency_key="import-1")
    assert await post_lines(http, queue, lines, idempotency_key="import-1") == first
    assert (await http.get(f"/v1/queues/{queue}")).json()["counts"]["waiting"] == 20


async def test_a_line_over_its_bound_ends_the_reading_and_the_answer_says_so(http: httpx.AsyncClient, queue: str) -> None:
    good = json.dumps({"jobName": "t"})
    *verdicts, summary = await post_lines(http, queue, [*[good] * 1_200, json.dumps({"jobName": "t", "payload": "x" * 3_000_000}), good])
    assert (len(verdicts), summary["made"], summary["complete"]) == (1_000, 1_000, False)
    assert isinstance(problem := summary["problem"], dict)
    assert (problem["status"], problem["reason"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_lines_of_which_nothing_could_be_made_are_a_problem(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=b'"' + b"x" * 3_000_000, headers={"Content-Type": "application/x-ndjson"})
    await refused(answer, 413, "PAYLOAD_TOO_LARGE")


async def test_415_says_what_to_send(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=b"jobName=t", headers={"Content-Type": "text/csv"})
    problem = await refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert "application/json or application/x-ndjson, not 'text/csv'" in str(problem["detail"])
    assert answer.headers["accept-post"] == "application/json, application/x-ndjson"


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson"])
async def test_a_compressed_body_is_told_to_come_as_it_is(http: httpx.AsyncClient, queue: str, media_type: str) -> None:
    headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
    answer = await http.post(f"/v1/queues/{queue}/jobs", content=gzip.compress(b'{"jobName":"t"}'), headers=headers)
    problem = await refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert problem["detail"] == "The body must not be compressed: it has the Content-Encoding 'gzip'."
    assert answer.headers["accept-encoding"] == "identity"


async def test_an_enqueue_can_wait_for_the_jobs_end(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    asked = asyncio.create_task(http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t", "payload": 7}, headers={"Prefer": "wait=15"}))
    await complete(worker, await lease(worker, queue), '{"sum":7}')
    answer = await asked
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=15")
    job = answer.json()["job"]
    assert (job["state"], job["result"], job["payload"], job["name"]) == ("completed", {"sum": 7}, 7, answer.json()["name"])


async def test_a_wait_that_is_over_before_the_job_answers_with_what_there_is(http: httpx.AsyncClient, queue: str) -> None:
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"}, headers={"Prefer": "wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"], "job" in answer.json()) == (202, "wait=0", False)
    waited = await http.get(f"/v1/{answer.json()['name']}", headers={"Prefer": "respond-async, wait=1"})
    assert (waited.status_code, waited.json()["state"]) == (200, "waiting")
    assert "preference-applied" not in (await http.get(f"/v1/{answer.json()['name']}")).headers


async def test_a_get_can_wait_for_the_end_of_a_job_and_learns_at_once_that_there_is_none(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    asked = asyncio.create_task(http.get(f"/v1/{job['name']}", headers={"Prefer": "wait=60"}))
    await fail(worker, await lease(worker, queue), "no picture")
    read = (await asked).json()
    assert (read["state"], read["failure"]["message"]) == ("failed", "no picture")
    await refused(await http.get(f"/v1/queues/{queue}/jobs/nope", headers={"Prefer": "wait=60"}), 404, "JOB_NOT_FOUND")


async def test_a_job_that_has_not_changed_is_304(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    first = await http.get(f"/v1/{job['name']}")
    tag = first.headers["etag"]
    assert tag == f'W/"{first.json()["revision"]}"'
    for header in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        same = await http.get(f"/v1/{job['name']}", headers={"If-None-Match": header})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await http.get(f"/v1/{job['name']}", headers=[("If-None-Match", '"other"'), ("If-None-Match", tag)])).status_code == 304
    await complete(worker, await lease(worker, queue))
    changed = await http.get(f"/v1/{job['name']}", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "completed")


async def test_a_change_on_a_condition_is_refused_and_not_made_without_it(http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue)
    path = f"/v1/{job['name']}"
    stale = {"If-Match": 'W/"1"'}
    for answer in (
        await http.patch(path, json={"priority": 3}, headers=stale),
        await http.delete(path, headers=stale),
        await http.post(f"{path}:cancel", headers=stale),
    ):
        await refused(answer, 412, "CONDITION_NOT_KNOWN")
    assert (await http.get(path)).json()["priority"] == 5
    assert (await http.patch(path, json={"priority": 3}, headers={"If-Match": "*"})).json()["priority"] == 3


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
async def test_x03_x04_pages_of_other_origins_can_enqueue_nothing(http: httpx.AsyncClient, queue: str, headers: dict[str, str], status: int) -> None:
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
