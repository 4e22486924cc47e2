"""How much a caller may ask for, where a gateway listens, and what it says while nobody can be asked who a caller is."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.integration.gateway.reading import EVENT_SOURCE, Reader, reading
from tests.support import Broker, Gateway
from tests.support.credentials import Keys, claims, signed
from tests.support.process import ProcessEnded

from .callers import client, said


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
