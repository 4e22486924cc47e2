"""Who may do what over HTTP: the table of identity, call and queue, and what browsers are kept from.

Lines X01 to X14 of the checklist are named where they are held.
"""

import asyncio
import itertools
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from jobwire.v1 import admin_service_pb2 as admin

from tests.integration.gateway.reading import EVENT_SOURCE, Reader, reading
from tests.support import Broker, Gateway, Store
from tests.support.api import api, refusal
from tests.support.credentials import AUDIENCE, ISSUER, SECRET, Keys, bearer, claims, forged, signed
from tests.support.process import ProcessEnded

from .test_table import QUEUES, allows, everywhere, somewhere

GONE = "no-such-job"
NO_RUN = "0" * 16

HANDSHAKE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}

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


@asynccontextmanager
async def client(gateway: Gateway, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False, headers=headers, limits=httpx.Limits(max_connections=16)) as http:
        yield http


def said(credentials: str | None) -> dict[str, str]:
    return {} if credentials is None else {"Authorization": f"Bearer {credentials}"}


async def minted(broker: Broker, key: str, *names: str, single_use: bool = False, ttl_s: int = 0) -> str:
    request = admin.CreateWatchTokenRequest(names=names, single_use=single_use)
    if ttl_s:
        request.ttl.FromSeconds(ttl_s)
    async with api(broker) as connected:
        return (await connected.admin.CreateWatchToken(request, metadata=bearer(key))).token


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


async def test_guesses_of_one_address_are_answered_with_429_after_a_while_and_good_credentials_all_the_same(strict_broker: Broker, keys: Keys) -> None:
    async with Gateway(strict_broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway, client(gateway) as http:
        assert (await http.get("/v1/session", headers=said(keys.of["mail"]))).status_code == 200
        answers = [await http.get("/v1/stats", headers=said(f"guess-number-{number}-of-a-key")) for number in range(30)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:20] == [401] * 20
        assert statuses[20:] == [429] * 10
        assert int(answers[-1].headers["retry-after"]) >= 1
        # One that was known before, and one that was not: others sit behind the same proxy.
        assert (await http.get("/v1/session", headers=said(keys.of["mail"]))).status_code == 200
        assert (await http.get("/v1/session", headers=said(keys.of["all"]))).status_code == 200
        assert (await http.get("/livez")).status_code == 200


async def test_a_proxy_that_is_not_trusted_is_said_once(strict_broker: Broker, keys: Keys) -> None:
    async with Gateway(strict_broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway, client(gateway, **{"X-Forwarded-For": "198.51.100.1"}) as http:
        for _ in range(3):
            await http.get("/livez")
        await gateway.line(r"proxy_not_trusted peer=127\.0\.0\.1", past=True)
        assert gateway.tail(200).count("proxy_not_trusted") == 1
    trusting = Gateway(strict_broker, extra=["--trusted-proxies", "127.0.0.0/8"], env={"JOBWIRE_API_KEY": keys.of["gateway"]})
    async with trusting, client(trusting, **{"X-Forwarded-For": "198.51.100.1"}) as http:
        assert (await http.get("/v1/stats")).status_code == 401
        await trusting.line(r"gateway\.refused .*address=198\.51\.100\.1", past=True)
        assert "proxy_not_trusted" not in trusting.tail(200)


# X11: JWTs over HTTP. The cases by kind are in tests/unit/broker/auth/test_jwts.py; here, that each gets out as a 401 and nothing leaks. -------------------


@pytest.mark.parametrize(
    "token",
    [
        signed(claims("*:*", exp=1)),
        signed(claims("*:*", nbf=int(time.time()) + 600)),
        signed(claims("*:*", aud="others")),
        signed(claims("*:*", iss="https://evil.example")),
        forged({"alg": "none"}, claims("*:*")),
        forged({"alg": "HS256"}, claims("*:*"), b"x" * 32),
        "a.b.c",
        "x" * 8_193,
        "ü",
        "two words",
    ],
    ids=["expired", "not yet valid", "for others", "by others", "alg none", "wrong signature", "malformed", "over-long", "not ASCII", "two words"],
)
async def test_x11_a_token_that_is_not_good_is_a_401_that_does_not_repeat_it(strict_gateway: Gateway, strict_broker: Broker, token: str) -> None:
    async with client(strict_gateway) as http:
        answer = await http.get("/v1/stats", headers={b"Authorization": b"Bearer " + token.encode()})
    assert answer.status_code == 401
    assert token not in answer.text
    assert token not in strict_gateway.tail(2_000)
    assert token not in strict_broker.tail(2_000)


async def test_x11_a_good_jwt_is_let_in(strict_gateway: Gateway) -> None:
    async with client(strict_gateway, Authorization=f"Bearer {signed(claims('read:*'))}") as http:
        assert (await http.get("/v1/stats")).status_code == 200
    assert (ISSUER, AUDIENCE) != ("", "")
    assert SECRET not in strict_gateway.tail(2_000)


# Watch tokens, tickets, the end of a token ---------------------------------------------------------------------------------------------------------------


async def test_a_watch_token_opens_its_stream_from_the_query_and_no_other(strict_gateway: Gateway, keys: Keys, queue: str) -> None:
    mail = f"mail-{queue}"
    async with client(strict_gateway) as http:
        made = await http.post(f"/v1/queues/{mail}/jobs", json={"jobName": "work"}, headers=said(keys.of["mail"]))
        job = made.json()
        answer = await http.post("/v1/tokens:watch", json={"topics": [job["name"]], "ttl": "60s"}, headers=said(keys.of["only_watch"]))
        token = answer.json()["token"]
        async with reading(http, f"{job['eventsUrl']}?token={token}") as reader:
            assert reader.status == 200
            assert (await reader.until("update"))["state"] == "waiting"
        for path in (f"/v1/queues/{mail}/jobs/other/events", f"/v1/queues/{mail}/events", "/v1/stats/stream"):
            assert (await http.get(f"{path}?token={token}")).status_code == 403
        assert (await http.get(f"/v1/queues/{mail}/jobs/{job['id']}", headers=said(token))).status_code == 403
        assert (await http.post("/v1/tokens:watch", json={"topics": [f"queues/{mail}"]}, headers=said(token))).status_code == 403
    assert token not in strict_gateway.tail(2_000)


@pytest.mark.parametrize("part", ["groups/acme", "labels/customer=a b/c"])
async def test_a_watch_token_may_be_bound_to_a_group_or_a_label(strict_gateway: Gateway, keys: Keys, queue: str, part: str) -> None:
    mail = f"mail-{queue}"
    topic = f"queues/{mail}/{part}"
    async with client(strict_gateway) as http:
        answer = await http.post("/v1/tokens:watch", json={"topics": [topic], "ttl": "60s"}, headers=said(keys.of["only_watch"]))
        token = answer.json()["token"]
        async with reading(http, f"/v1/events?topic={quote(topic)}&token={token}") as reader:
            await reader.until("connected")
            body = {"jobName": "work", "group": "acme", "labels": {"customer": "a b/c"}}
            job = (await http.post(f"/v1/queues/{mail}/jobs", json=body, headers=said(keys.of["mail"]))).json()
            assert (await reader.until("update"))["name"] == job["name"]
        for other in (f"queues/{mail}", job["name"], f"{topic}x", f"queues/other/{part}"):
            assert (await http.get(f"/v1/events?topic={quote(other)}&token={token}")).status_code == 403
        assert (await http.get(f"{job['eventsUrl']}?token={token}")).status_code == 403


async def test_the_description_says_how_callers_say_who_they_are(strict_gateway: Gateway, shared_gateway: Gateway) -> None:
    async with client(strict_gateway) as http:
        document = (await http.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {name for entry in document["security"] for name in entry} == {"key", "token", "session"}
    free = {path for path, methods in document["paths"].items() for operation in methods.values() if operation.get("security") == []}
    assert free == {"/livez", "/readyz"}
    async with client(shared_gateway) as http:
        assert "security" not in (await http.get("/openapi.json")).json()


async def test_a_ticket_opens_one_stream_once(strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str) -> None:
    ticket = await minted(strict_broker, keys.of["all"], f"queues/{queue}", single_use=True)
    async with client(strict_gateway) as http:
        async with reading(http, f"/v1/queues/{queue}/events?ticket={ticket}") as reader:
            await reader.until("connected")
        again = await http.get(f"/v1/queues/{queue}/events?ticket={ticket}", headers=EVENT_SOURCE)
        assert (again.status_code, again.json()["reason"]) == (401, "CREDENTIALS_EXPIRED")


async def test_of_many_who_bring_one_ticket_at_once_one_is_let_in(strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str) -> None:
    ticket = await minted(strict_broker, keys.of["all"], f"queues/{queue}", single_use=True)
    async with client(strict_gateway) as http:
        answers = await asyncio.gather(*(http.head(f"/v1/queues/{queue}/events?ticket={ticket}") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_s14_x14_a_stream_says_that_its_token_ends_and_ends_a_little_earlier_and_coming_back_is_refused_for_good(
    strict_gateway: Gateway, keys: Keys, queue: str
) -> None:
    async with client(strict_gateway) as http:
        job = (await http.post(f"/v1/queues/mail-{queue}/jobs", json={"jobName": "work"}, headers=said(keys.of["mail"]))).json()
        expires = int(time.time()) + 3
        token = signed(claims("watch:*", exp=expires))
        shown_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
        many = f"/v1/events?topic=queues/{queue}&topic={job['name']}"
        paths = [job["eventsUrl"], f"/v1/queues/{queue}/events", many, "/v1/stats/stream", f"/v1/{job['name']}/logs/stream"]

        async def follow(path: str, accept: str) -> None:
            async with reading(http, path, authorization=f"Bearer {token}", accept=accept) as reader:
                warned = await reader.until("error")
                assert (warned["reason"], warned["expiresAt"], time.time() < expires - 1) == ("CREDENTIALS_EXPIRING", shown_at, True), path
                last = (await reader.rest())[-1]
                assert (last["type"], last["reason"], "name" in last) == ("error", "CREDENTIALS_EXPIRED", False), path
                assert time.time() <= expires, path
                assert len(reader.retries) == 2, path
                assert not reader.last_id.endswith(".end"), path
            await asyncio.sleep(expires - time.time())
            assert (await http.get(path, headers={**EVENT_SOURCE, **said(token)})).status_code == 401

        await asyncio.gather(*(follow(path, accept) for path in paths for accept in (EVENT_SOURCE["Accept"], "*/*")))


async def test_a_stream_that_a_ticket_opened_lives_on_until_its_makers_credentials_end(strict_gateway: Gateway, strict_broker: Broker, queue: str) -> None:
    expires = int(time.time()) + 5
    maker = signed(claims("watch:*", exp=expires))
    ticket = await minted(strict_broker, maker, f"queues/{queue}", single_use=True, ttl_s=1)
    async with client(strict_gateway) as http, reading(http, f"/v1/queues/{queue}/events?ticket={ticket}") as reader:
        warned = await reader.until("error")
        assert (warned["reason"], warned["expiresAt"][-4:-1]) == ("CREDENTIALS_EXPIRING", time.strftime(":%S", time.gmtime(expires)))
        assert (await reader.rest())[-1]["reason"] == "CREDENTIALS_EXPIRED"
        # The ticket itself was over three seconds ago.
        assert expires - 1 < time.time() <= expires
        assert (await http.get(f"/v1/queues/{queue}/events?ticket={ticket}", headers=EVENT_SOURCE)).status_code == 401


async def test_the_stream_token_of_a_ticket_tells_whose_the_stream_is_and_opens_nothing(
    strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str
) -> None:
    ticket = await minted(strict_broker, keys.of["only_watch"], f"queues/mail-{queue}", single_use=True)
    async with api(strict_broker) as connected, client(strict_gateway) as http:
        spent = await connected.admin.GetIdentity(admin.GetIdentityRequest(), metadata=bearer(ticket))
        assert (spent.single_use, spent.expire_time.seconds > time.time() + 23 * 3600) == (True, True)
        for _ in range(2):
            again = await connected.admin.GetIdentity(admin.GetIdentityRequest(), metadata=bearer(spent.stream_token))
            assert (again.name, list(again.scopes), again.stream_token) == ("only-watch", [f"watch:mail-{queue}"], "")
            assert again.expire_time == spent.expire_time
        watching = connected.admin.CreateWatchToken(admin.CreateWatchTokenRequest(names=[f"queues/mail-{queue}"]), metadata=bearer(spent.stream_token))
        assert (await refusal(watching)).reason == "CREDENTIALS_INVALID"
        for headers, query in ((said(spent.stream_token), ""), ({}, f"?token={spent.stream_token}")):
            assert (await http.get(f"/v1/queues/mail-{queue}/events{query}", headers=headers)).status_code == 401


async def test_x01_an_address_may_hold_a_watch_token_or_a_ticket_for_a_stream_and_nothing_else(
    strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str
) -> None:
    mail = f"mail-{queue}"
    async with client(strict_gateway) as http:
        cookie = (await http.post("/v1/session", headers=said(keys.of["only_watch"]))).headers["set-cookie"]
        session = cookie.partition("=")[2].partition(";")[0]
        wrong = {"key": keys.of["only_watch"], "jwt": signed(claims("watch:*")), "session": session}
        for kind, credentials in wrong.items():
            assert (await http.head(f"/v1/queues/{mail}/events", headers=said(credentials))).status_code == 200
            for name in ("token", "ticket"):
                answer = await http.get(f"/v1/queues/{mail}/events?{name}={credentials}", headers=EVENT_SOURCE)
                assert (answer.status_code, answer.json()["reason"]) == (401, "CREDENTIALS_INVALID"), kind
        token = await minted(strict_broker, keys.of["all"], f"queues/{mail}")
        for path in (f"/v1/queues/{mail}/events", f"/v1/events?topic=queues/{mail}", f"/v1/queues/{mail}/jobs/j/logs/stream"):
            assert (await http.head(f"{path}{'&' if '?' in path else '?'}token={token}")).status_code == 200, path
        for path in (f"/v1/queues/{mail}", f"/v1/queues/{mail}/jobs/j", "/v1/stats", "/v1/session", "/health"):
            answer = await http.get(f"{path}?token={token}")
            assert (answer.status_code, "Bearer" in answer.json()["detail"]) == (401, True), path


# Browsers ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_x02_the_cookie_of_a_session_is_for_our_own_pages_alone(strict_gateway: Gateway, keys: Keys) -> None:
    async with client(strict_gateway) as http:
        made = await http.post("/v1/session", headers=said(keys.of["mail"]))
        assert made.status_code == 204
        cookie = made.headers["set-cookie"]
        assert cookie.startswith("__Host-jobwire=jobwire_token_")
        for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
            assert word in cookie.split("; ")
        assert "Domain" not in cookie
        assert keys.of["mail"] not in cookie
        sent = {"Cookie": cookie.partition(";")[0]}
        who = (await http.get("/v1/session", headers=sent)).json()
        assert (who["name"], who["scopes"]) == ("mail", ["*:mail*"])
        # X03: what changes something needs a sign that our own page sent it.
        path = "/v1/queues/mail-cookie:pause"
        own = f"http://{strict_gateway.address}"
        for headers, status in (
            ({}, 403),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Origin": own}, 200),
        ):
            answer = await http.post(path, json={}, headers={**sent, **headers})
            assert answer.status_code == status, headers


async def test_x02_a_page_of_another_site_is_refused_before_anything_is_registered(strict_gateway: Gateway, keys: Keys, queue: str) -> None:
    async with client(strict_gateway, **said(keys.of["all"])) as http:
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
            answer = await http.get(f"/v1/queues/{queue}/events", headers={**EVENT_SOURCE, **headers})
            assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)
            assert (await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "a"}, headers=headers)).status_code == 403


async def test_x02_an_allowed_origin_may_use_tokens_and_is_told_so(strict_gateway: Gateway, keys: Keys, queue: str) -> None:
    cross = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    async with client(strict_gateway) as http:
        wishes = {**cross, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await http.request("OPTIONS", f"/v1/queues/{queue}/jobs", headers=wishes)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        refused = await http.request("OPTIONS", f"/v1/queues/{queue}/jobs", headers={**wishes, "Origin": "https://evil.example"})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
        answer = await http.get("/v1/session", headers={**cross, **said(keys.of["all"])})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]


async def test_x04_a_name_that_was_pointed_here_is_not_served(strict_gateway: Gateway, keys: Keys) -> None:
    """DNS rebinding."""
    async with client(strict_gateway, **said(keys.of["all"])) as http:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "evil.example:80", ""):
            answer = await http.get("/v1/stats", headers={"Host": host})
            assert answer.status_code == 421, host


async def test_x08_every_answer_carries_the_headers_that_keep_pages_apart(strict_gateway: Gateway, keys: Keys) -> None:
    known, long = said(keys.of["all"]), {"X-Long": "x" * 40_000}
    async with client(strict_gateway) as http:
        answers = {path: await http.get(path) for path in ("/", "/docs", "/page/icon.svg", "/v1/stats", "/nothing", "/livez")}
        answers["stream"] = await http.head("/v1/queues/q/events", headers={**EVENT_SOURCE, **known})
        answers["method"] = await http.put("/livez", headers=known)
        answers["media type"] = await http.post("/v1/queues/mail/jobs", content=b"x", headers=known)
        answers["host"] = await http.get("/v1/stats", headers={"Host": "evil.example"})
        answers["origin"] = await http.get("/v1/stats", headers={"Origin": "https://evil.example"})
        answers["preflight"] = await http.request(
            "OPTIONS", "/v1/stats", headers={"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site", "Access-Control-Request-Method": "GET"}
        )
        answers["long head"] = await http.get("/v1/stats", headers=long)
        answers["socket"] = await http.get("/v1/ws", headers=HANDSHAKE)
        answers["no socket"] = await http.get("/v1/ws", headers={**HANDSHAKE, "Sec-WebSocket-Version": "8"})
    malformed = (await asyncio.to_thread(_raw, strict_gateway.address, b"\x16\x03\x01\r\n\r\n")).decode().lower()
    assert malformed.startswith("http/1.1 400")
    assert "\r\nx-content-type-options: nosniff\r\n" in malformed
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {
        **dict.fromkeys(("/", "/docs", "/page/icon.svg", "/livez", "stream"), 200),
        "/v1/stats": 401,
        "/nothing": 404,
        "method": 405,
        "media type": 415,
        "host": 421,
        "origin": 403,
        "preflight": 204,
        "long head": 431,
        "socket": 401,
        "no socket": 400,
    }
    for name, answer in answers.items():
        policy = answer.headers.get("content-security-policy", "")
        assert "default-src 'none'" in policy, name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer"), name
        assert len(answer.headers.get_list("date")) <= 1, name


# Logs and headers ----------------------------------------------------------------------------------------------------------------------------------------


async def test_x01_no_secret_and_no_query_stands_in_any_log(strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str) -> None:
    secret = "jobwire_key_thisisasecretthatisnotthere"
    async with client(strict_gateway) as http:
        for path in (f"/v1/queues/{queue}/events", "/v1/stats/stream", "/v1/queues", "/nothing", "/v1/events"):
            await http.get(f"{path}?token={secret}&topic=queues/x", headers=EVENT_SOURCE)
            answer = await http.get(f"{path}?topic=queues/x&ticket={secret}")
            assert secret not in answer.text
        await http.get("/v1/stats", headers={"Cookie": f"__Host-jobwire={secret}"})
    logs = strict_gateway.tail(2_000) + strict_broker.tail(2_000)
    assert "gateway.refused" in logs
    for credentials in (secret, *keys.of.values()):
        assert credentials not in logs


async def test_a_name_with_a_line_break_begins_no_line_of_its_own(strict_gateway: Gateway, strict_broker: Broker) -> None:
    token = signed(claims("read:mail", sub="ann\r\n2026-01-01 ERROR forged"))
    async with client(strict_gateway, **said(token)) as http:
        answer = await http.get("/v1/queues/other")
        assert answer.status_code == 403
        await http.get("/v1/queues/%0d%0aX-Evil:1/jobs/a%0d%0ab/events")
    assert not [line for line in (*strict_gateway.lines(), *strict_broker.lines()) if re.match(r"(2026-01-01 ERROR forged|X-Evil)", line)]


async def test_header_injection_gets_nowhere(strict_gateway: Gateway, keys: Keys) -> None:
    """Through names, ids and keys that come back in headers such as Location."""
    for text in ("a%0d%0aX-Evil:%201", "a%0aX-Evil:1", "%E5%98%8A%E5%98%8DX-Evil:1"):
        request = (
            f"POST /v1/queues/{text}/jobs HTTP/1.1\r\nHost: {strict_gateway.address}\r\nAuthorization: Bearer {keys.of['all']}\r\n"
            'Content-Type: application/json\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"jobName": "ab"}'
        )
        head = (await asyncio.to_thread(_raw, strict_gateway.address, request.encode())).partition(b"\r\n\r\n")[0]
        assert b" 400 " in head.splitlines()[0] + b" "
        assert b"x-evil" not in head.lower()


def _raw(address: str, request: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


# The process ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_gateway_with_a_key_listens_beyond_loopback_and_one_without_does_not(strict_broker: Broker, keys: Keys) -> None:
    open_to_all = Gateway(strict_broker)
    open_to_all.address = "0.0.0.0:0"
    with pytest.raises(ProcessEnded, match="nobody has to say who they are"):
        await open_to_all.start()
    guarded = Gateway(strict_broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]})
    guarded.address = "0.0.0.0:0"
    async with guarded:
        port = guarded.address.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            assert (await http.get("/v1/stats")).status_code == 401


async def test_a_gateway_that_asks_before_a_broker_that_does_not_lets_nobody_in(shared_broker: Broker) -> None:
    """Else any word at all would be good enough."""
    async with Gateway(shared_broker, extra=["--auth"]) as gateway, client(gateway, Authorization="Bearer anything") as http:
        answer = await http.get("/v1/stats")
    assert (answer.status_code, answer.json()["reason"]) == (503, "NO_AUTHENTICATION")


async def test_a_rate_holds_for_each_identity_apart(strict_broker: Broker, keys: Keys) -> None:
    env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    async with Gateway(strict_broker, extra=["--request-rate", "5/minute"], env=env) as gateway, client(gateway) as http:
        statuses = [(await http.get("/v1/session", headers=said(keys.of["mail"]))).status_code for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
        assert (await http.get("/v1/session", headers=said(keys.of["all"]))).status_code == 200


async def test_one_identity_has_only_so_many_streams(strict_broker: Broker, keys: Keys, queue: str) -> None:
    env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    path = f"/v1/queues/{queue}/events"
    async with Gateway(strict_broker, extra=["--max-streams-per-identity", "1"], env=env) as gateway, client(gateway, **said(keys.of["all"])) as http:
        async with reading(http, path) as first:
            await first.until("connected")
            soft = await http.get(path, headers=EVENT_SOURCE)
            assert (soft.status_code, soft.headers["content-type"]) == (200, "text/event-stream")
            assert re.fullmatch(r"retry: 1\d{4}\n\n", soft.text)
            assert (await http.get(path)).status_code == 429
            async with reading(http, path, authorization=f"Bearer {keys.of['gateway']}") as other:
                await other.until("connected")
        async with asyncio.timeout(5):
            while (await http.head(path)).status_code != 200:
                await asyncio.sleep(0.05)


async def test_b06_streams_of_all_identities_of_a_tenant_are_bounded_together(strict_broker: Broker, keys: Keys) -> None:
    env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    path = "/v1/queues/acme.mail/events"
    async with Gateway(strict_broker, extra=["--max-streams-per-tenant", "2"], env=env) as gateway, client(gateway) as http:
        names = [signed(claims("watch:*", sub=name, tenant="acme")) for name in ("ann", "bob", "cid")]
        async with reading(http, path, **said(names[0])) as one, reading(http, path, **said(names[1])) as two:
            await one.until("connected")
            await two.until("connected")
            assert (await http.get(path, headers=said(names[2]))).json()["reason"] == "TOO_MANY_STREAMS"
            async with reading(http, path, **said(keys.of["all"])) as other:
                await other.until("connected")


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


async def test_streams_open_for_known_callers_while_the_broker_is_away(strict_broker: Broker, keys: Keys, store: Any) -> None:
    env = {"JOBWIRE_KEYS": keys.text}
    gateway_env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    async with Broker(store, env=env) as broker, Gateway(broker, env=gateway_env) as gateway, client(gateway, **said(keys.of["all"])) as http:
        assert (await http.get("/v1/session")).status_code == 200
        await broker.kill()
        async with reading(http, "/v1/queues/q/events") as reader:
            assert reader.status == 200
            assert (await reader.until("degraded"))["degraded"] is True


async def test_s10_an_event_source_is_told_to_come_back_where_nobody_can_be_asked_who_it_is(strict_broker: Broker, keys: Keys, store: Any) -> None:
    """A gateway that was replaced while the broker restarts knows nobody."""
    env = {"JOBWIRE_KEYS": keys.text}
    async with Broker(store, env=env) as broker, Gateway(broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway, client(gateway) as http:
        await broker.kill()
        paths = ("/v1/queues/q/events", "/v1/queues/q/jobs/j/events", "/v1/events?topic=queues/q", "/v1/stats/stream", "/v1/queues/q/jobs/j/logs/stream")
        waits = []
        for path in paths:
            answer = await http.get(path, headers={**EVENT_SOURCE, **said(keys.of["all"])})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream"), path
            waits.append(re.fullmatch(r"retry: (\d{4,5})\n\n", answer.text)[1])  # type: ignore[index]
            plain = await http.get(path, headers=said(keys.of["all"]))
            assert (plain.status_code, plain.json()["reason"]) == (503, "BROKER_UNAVAILABLE")
        assert len(set(waits)) > 1
        assert (await http.get("/v1/queues/q", headers={**EVENT_SOURCE, **said(keys.of["all"])})).status_code == 503
        await broker.restart()
        assert await _came_in(http, paths[0], keys.of["all"])


async def _came_in(http: httpx.AsyncClient, path: str, key: str) -> bool:
    """Come back until there is a stream."""
    async with asyncio.timeout(15):
        while True:
            async with reading(http, path, authorization=f"Bearer {key}") as reader:
                if reader.status != 200 or await anext(_events(reader), None) is not None:
                    return reader.status == 200
            await asyncio.sleep(0.1)


async def _events(reader: Reader) -> AsyncIterator[dict[str, Any]]:
    with suppress(StopAsyncIteration):
        yield await reader.next()


async def test_s10_an_event_source_that_asks_too_often_is_told_to_come_back(strict_broker: Broker, keys: Keys) -> None:
    env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    async with Gateway(strict_broker, extra=["--request-rate", "1/minute"], env=env) as gateway, client(gateway, **said(keys.of["all"])) as http:
        assert (await http.get("/v1/session")).status_code == 200
        soft = await http.get("/v1/queues/q/events", headers=EVENT_SOURCE)
        assert (soft.status_code, soft.text.startswith("retry: ")) == (200, True)
        assert (await http.get("/v1/queues/q/events")).status_code == 429
        await gateway.line(r"gateway\.refused reason=RATE_LIMITED .*events", past=True)
