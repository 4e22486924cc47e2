"""Who may do what over HTTP: the table of identity, call and queue.

Lines X01 to X14 of the checklist are named where they are held.
"""

import asyncio
import itertools
import json
from typing import Any

from tests.support import Broker, Gateway, Store
from tests.support.credentials import Keys, claims, signed

from .callers import GONE, client, minted, said
from .test_table import QUEUES, allows, everywhere, somewhere

NO_RUN = "0" * 16

# Method, path with {q} for the queue, body, verb. `lists`: it shows what the caller may see; `all`: it needs all queues.
CALLS: dict[str, tuple[str, str, Any, str | None, str]] = {
    "enqueue": ("POST", "/v1/queues/{q}/jobs", {"jobName": "work"}, "enqueue", ""),
    "get": ("GET", f"/v1/queues/{{q}}/jobs/{GONE}", None, "read", ""),
    "explain": ("GET", f"/v1/queues/{{q}}/jobs/{GONE}/explain", None, "read", ""),
    "list": ("GET", "/v1/queues/{q}/jobs?state=failed", None, "read", ""),
    "cancel": ("POST", f"/v1/queues/{{q}}/jobs/{GONE}:cancel", {}, "control", ""),
    "retry": ("POST", f"/v1/queues/{{q}}/jobs/{GONE}:retry", {}, "control", ""),
    "promote": ("POST", f"/v1/queues/{{q}}/jobs/{GONE}:promote", {}, "control", ""),
    "delete": ("DELETE", f"/v1/queues/{{q}}/jobs/{GONE}", None, "control", ""),
    "update": ("PATCH", f"/v1/queues/{{q}}/jobs/{GONE}", {"priority": 3}, "control", ""),
    "resolve": ("POST", f"/v1/queues/{{q}}/jobs/{GONE}:resolve", {"note": "done"}, "control", ""),
    "bulk": ("POST", "/v1/queues/{q}/jobs:bulk", {"verb": "cancel", "filter": {"labels": {"no": "such"}}}, "control", ""),
    "bulk runs": ("GET", "/v1/queues/{q}/bulkRuns", None, "read", ""),
    "bulk run": ("GET", f"/v1/queues/{{q}}/bulkRuns/{NO_RUN}", None, "read", ""),
    "stop bulk run": ("POST", f"/v1/queues/{{q}}/bulkRuns/{NO_RUN}:stop", {}, "control", ""),
    "failures": ("GET", "/v1/queues/{q}/failures", None, "read", ""),
    "logs": ("GET", f"/v1/queues/{{q}}/jobs/{GONE}/logs", None, "read", ""),
    "queue": ("GET", "/v1/queues/{q}", None, "read", ""),
    "queue stats": ("GET", "/v1/queues/{q}/stats", None, "read", ""),
    "pause": ("POST", "/v1/queues/{q}:pause", {}, "manage", ""),
    "resume": ("POST", "/v1/queues/{q}:resume", {}, "manage", ""),
    "clean": ("POST", "/v1/queues/{q}:clean", {}, "manage", ""),
    "purge": ("POST", "/v1/queues/{q}:purge", {}, "manage", ""),
    "update queue": ("PATCH", "/v1/queues/{q}", {"policy": {"attempts": 3}}, "manage", ""),
    "groups": ("GET", "/v1/queues/{q}/groups", None, "read", ""),
    "update group": ("PATCH", "/v1/queues/{q}/groups/acme", {"weight": 1}, "manage", ""),
    "pause group": ("POST", "/v1/queues/{q}/groups/acme:pause", {}, "manage", ""),
    "resume group": ("POST", "/v1/queues/{q}/groups/acme:resume", {}, "manage", ""),
    "classes": ("GET", "/v1/classes", None, "read", "lists"),
    "pause class": ("POST", "/v1/classes/batch:pause", {}, "manage", "all"),
    "resume class": ("POST", "/v1/classes/batch:resume", {}, "manage", "all"),
    "queues": ("GET", "/v1/queues", None, "read", "lists"),
    "stats": ("GET", "/v1/stats", None, "read", "lists"),
    "workers": ("GET", "/v1/workers", None, "admin", "all"),
    "server": ("GET", "/v1/server", None, None, ""),
    "health": ("GET", "/health", None, None, ""),
    "session": ("GET", "/v1/session", None, None, ""),
    "log in": ("POST", "/v1/session", {}, None, ""),
    "log out": ("DELETE", "/v1/session", None, None, ""),
    "watch token": ("POST", "/v1/tokens:watch", {"topics": ["queues/{q}"]}, "watch", ""),
    "watch job": ("GET", f"/v1/queues/{{q}}/jobs/{GONE}/events", None, "watch", ""),
    "watch queue": ("HEAD", "/v1/queues/{q}/events", None, "watch", ""),
    "watch many": ("HEAD", "/v1/events?topic=queues/{q}", None, "watch", ""),
    "watch many of a body": ("POST", "/v1/events", {"topics": [f"queues/{{q}}/jobs/{GONE}"]}, "watch", ""),
    "watch logs": ("HEAD", f"/v1/queues/{{q}}/jobs/{GONE}/logs/stream", None, "watch", ""),
    "watch stats": ("HEAD", "/v1/stats/stream", None, "watch", "all"),
}
UNKNOWN = {"nobody": "CREDENTIALS_MISSING", "stranger": "CREDENTIALS_INVALID", "forged": "CREDENTIALS_INVALID", "expired": "CREDENTIALS_EXPIRED"}


def wanted(who: str, verb: str | None, kind: str, queue: str) -> int:
    if who in UNKNOWN:
        return 401
    if verb is None:
        return 0
    right = everywhere(who, verb) if kind == "all" else somewhere(who, verb) if kind == "lists" else allows(who, verb, queue)
    return 0 if right else 403


async def test_x09_every_cell_of_identity_by_call_by_queue(strict_gateway: Gateway, strict_broker: Broker, keys: Keys) -> None:
    identities: dict[str, str | None] = {
        **keys.of,
        "nobody": None,
        "stranger": "jobwire_key_" + "A" * 43,
        "jwt_all": signed(claims("*:*")),
        "jwt_mail": signed(claims("*:mail*")),
        "jwt_nothing": signed(claims("openid profile")),
        "forged": signed(claims("*:*"), "another secret, which is long enough for its hash as well: 64 bytes."),
        "watch_token": await minted(strict_broker, keys.of["all"], f"queues/{QUEUES[0]}"),
    }
    wrong: list[str] = []
    limit = asyncio.Semaphore(16)
    async with client(strict_gateway) as http:

        async def check(who: str, name: str, queue: str) -> None:
            method, path, body, verb, kind = CALLS[name]
            content = None if body is None else json.loads(json.dumps(body).replace("{q}", queue))
            async with limit:
                answer = await http.request(method, path.replace("{q}", queue), json=content, headers=said(identities[who]))
            expected = wanted(who, verb, kind, queue)
            status = answer.status_code if answer.status_code in (401, 403, 429) or answer.status_code >= 500 else 0
            if status != expected:
                wrong.append(f"{who} {name} {queue}: {answer.status_code}, not {expected}")
            if status in (401, 403) and method != "HEAD":
                reason = answer.json()["reason"]
                if reason != UNKNOWN.get(who, "NOT_PERMITTED"):
                    wrong.append(f"{who} {name} {queue}: {reason}")
            if status == 401 and "Bearer" not in answer.headers["www-authenticate"]:
                wrong.append(f"{who} {name}: no challenge")

        await asyncio.gather(*(check(*cell) for cell in itertools.product(identities, CALLS, QUEUES)))
        await http.post("/v1/classes/batch:resume", headers=said(keys.of["all"]))
    assert wrong == []


async def test_the_table_has_every_call_of_the_description(strict_gateway: Gateway) -> None:
    async with client(strict_gateway) as http:
        described = (await http.get("/openapi.json")).json()["paths"]
    described_calls = {(method.upper(), path) for path, methods in described.items() for method, call in methods.items() if call.get("security") != []}
    shown = {"{q}": "{queue}", GONE: "{id}", NO_RUN: "{run}", "/groups/acme": "/groups/{group}", "/classes/batch": "/classes/{class}"}
    calls = set()
    for method, path, *_ in CALLS.values():
        for text, parameter in shown.items():
            path = path.replace(text, parameter)
        calls.add(("GET" if method == "HEAD" else method, path.partition("?")[0]))
    assert calls == described_calls


async def test_what_needs_no_caller_holds_no_data(strict_gateway: Gateway) -> None:
    async with client(strict_gateway) as http:
        statuses = {path: (await http.get(path)).status_code for path in ("/", "/docs", "/openapi.json", "/livez", "/readyz", "/health", "/v1/stats")}
    assert statuses == {"/": 200, "/docs": 200, "/openapi.json": 200, "/livez": 200, "/readyz": 200, "/health": 401, "/v1/stats": 401}


async def test_the_description_says_how_callers_say_who_they_are(strict_gateway: Gateway, shared_gateway: Gateway) -> None:
    async with client(strict_gateway) as http:
        document = (await http.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {name for entry in document["security"] for name in entry} == {"key", "token", "session"}
    free = {path for path, methods in document["paths"].items() for operation in methods.values() if operation.get("security") == []}
    assert free == {"/livez", "/readyz"}
    async with client(shared_gateway) as http:
        assert "security" not in (await http.get("/openapi.json")).json()


async def test_x10_what_is_of_another_tenant_is_refused_alike_whether_it_is_there_or_not(strict_gateway: Gateway, keys: Keys, queue: str) -> None:
    there, missing = f"other-{queue}", f"missing-{queue}"
    async with client(strict_gateway) as http:
        job = (await http.post(f"/v1/queues/{there}/jobs", json={"jobName": "work", "id": "job"}, headers=said(keys.of["all"]))).json()
        assert job["name"] == f"queues/{there}/jobs/job"
        for path in ("", "/jobs/job", "/jobs/job/events", "/events", "/stats", "/jobs/job/logs/stream", "/failures", "/groups"):
            answers = [await http.get(f"/v1/queues/{name}{path}", headers=said(keys.of["acme"])) for name in (there, missing)]
            shapes = [(answer.status_code, answer.text.replace(name, "Q")) for answer, name in zip(answers, (there, missing), strict=True)]
            assert (shapes[0], shapes[0][0]) == (shapes[1], 403), path
            assert [name for name in answers[0].headers if name != "content-length"] == [name for name in answers[1].headers if name != "content-length"]
        assert there not in (await http.get("/v1/queues", headers=said(keys.of["acme"]))).text
        assert there not in (await http.get("/v1/stats", headers=said(keys.of["acme"]))).text


async def test_x10_what_is_of_another_tenant_is_refused_without_asking_the_store_so_no_time_tells_whether_it_is_there(keys: Keys) -> None:
    async with (
        Store() as own,
        Broker(own, env={"JOBWIRE_KEYS": keys.text}) as broker,
        Gateway(broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway,
        client(gateway) as http,
    ):
        made = await http.post("/v1/queues/there/jobs", json={"jobName": "work", "id": "job"}, headers=said(keys.of["all"]))
        assert made.status_code == 202
        own.freeze()
        try:
            for path in ("", "/jobs/job", "/jobs/job/events", "/events", "/stats", "/jobs/job/logs/stream", "/failures", "/groups"):
                for queue in ("there", "missing"):
                    answer = await http.get(f"/v1/queues/{queue}{path}", headers=said(keys.of["acme"]))
                    assert answer.status_code == 403, (queue, path)
        finally:
            own.thaw()


async def test_an_enqueue_that_may_not_wait_for_its_job_is_answered_as_without_the_wait(strict_gateway: Gateway, keys: Keys) -> None:
    async with client(strict_gateway, **said(keys.of["only_enqueue"])) as http:
        answer = await http.post("/v1/queues/mail/jobs", json={"jobName": "work"}, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["verdict"], "preference-applied" in answer.headers) == (202, "made", False)


async def test_an_enqueue_that_may_wait_for_its_job_and_not_read_it_is_told_its_end(strict_gateway: Gateway, keys: Keys) -> None:
    async with client(strict_gateway, **said(signed(claims("enqueue:mail* watch:mail*")))) as http, client(strict_gateway, **said(keys.of["all"])) as boss:
        body = {"jobName": "work", "id": "not-to-be-read", "payload": 7}
        asked = asyncio.create_task(http.post("/v1/queues/mail.waits/jobs", json=body, headers={"Prefer": "wait=60"}))
        while (await boss.post("/v1/queues/mail.waits/jobs/not-to-be-read:cancel")).status_code == 404:
            await asyncio.sleep(0.02)
        answer = await asked
        read = await http.get("/v1/queues/mail.waits/jobs/not-to-be-read", headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["verdict"], answer.json()["job"]["state"]) == (200, "made", "cancelled")
    assert read.status_code == 403
