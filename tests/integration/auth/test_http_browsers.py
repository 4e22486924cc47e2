"""What browsers are kept from, and what gets into no log and no header."""

import asyncio
import json
import re
import socket

from tests.integration.gateway.reading import EVENT_SOURCE
from tests.integration.gateway.wire import Wire
from tests.support import Broker, Gateway
from tests.support.credentials import Keys, claims, signed

from .callers import HANDSHAKE, client, said


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
    async with await Wire.ask(strict_gateway.address, "/livez", host="evil.example") as second:
        assert second.status == 400
        assert json.loads(await second.rest())["violations"] == [{"field": "Host", "description": "is there twice"}]


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
