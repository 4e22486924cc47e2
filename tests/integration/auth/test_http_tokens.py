"""JWTs, watch tokens and tickets over HTTP: what they open, when they end, and where they may stand."""

import asyncio
import time
from datetime import datetime
from urllib.parse import quote

import pytest
from jobwire.v1 import admin_service_pb2 as admin

from tests.integration.gateway.reading import EVENT_SOURCE, reading
from tests.support import Broker, Gateway
from tests.support.api import api, refusal
from tests.support.credentials import AUDIENCE, ISSUER, SECRET, Keys, bearer, claims, forged, signed

from .callers import client, minted, said


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


async def test_a_topic_that_no_token_can_be_for_is_named_as_the_body_names_it(strict_gateway: Gateway, keys: Keys) -> None:
    async with client(strict_gateway) as http:
        answer = await http.post("/v1/tokens:watch", json={"topics": ["queues/mail-q", "queues/mail-q/x/y"]}, headers=said(keys.of["only_watch"]))
        assert answer.status_code == 400
        assert [violation["field"] for violation in answer.json()["violations"]] == ["topics[1]"]
        assert "topics[1]" in answer.json()["detail"]
        assert "names" not in answer.text


async def test_a_ticket_is_good_for_a_minute_at_most_and_says_so(strict_gateway: Gateway, keys: Keys) -> None:
    async with client(strict_gateway) as http:
        body = {"topics": ["queues/mail-q"], "ttl": "600s", "singleUse": True}
        made = (await http.post("/v1/tokens:watch", json=body, headers=said(keys.of["only_watch"]))).json()
        assert datetime.fromisoformat(made["expiresAt"]).timestamp() <= time.time() + 60


@pytest.mark.parametrize("part", ["groups/acme", "labels/customer=a b/c", "labels/customer=a\n\x00\xa0b"])
async def test_a_watch_token_may_be_bound_to_a_group_or_a_label(strict_gateway: Gateway, keys: Keys, queue: str, part: str) -> None:
    mail = f"mail-{queue}"
    topic = f"queues/{mail}/{part}"
    async with client(strict_gateway) as http:
        answer = await http.post("/v1/tokens:watch", json={"topics": [topic], "ttl": "60s"}, headers=said(keys.of["only_watch"]))
        token = answer.json()["token"]
        async with reading(http, f"/v1/events?topic={quote(topic)}&token={token}") as reader:
            await reader.until("connected")
            body = {"jobName": "work", "group": "acme", "labels": {"customer": part.partition("=")[2]}}
            job = (await http.post(f"/v1/queues/{mail}/jobs", json=body, headers=said(keys.of["mail"]))).json()
            assert (await reader.until("update"))["name"] == job["name"]
        for other in (f"queues/{mail}", job["name"], f"{topic}x", f"queues/other/{part}"):
            assert (await http.get(f"/v1/events?topic={quote(other)}&token={token}")).status_code == 403
        assert (await http.get(f"{job['eventsUrl']}?token={token}")).status_code == 403


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
        expires = int(time.time()) + 4
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
