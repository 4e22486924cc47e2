"""Credentials that were good and are so no longer: what they have opened at a gateway ends, and they open nothing more."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from jobwire.v1 import admin_service_pb2 as admin

from tests.integration.gateway.reading import EVENT_SOURCE, reading
from tests.integration.gateway.sockets import opened
from tests.support import Broker, Store
from tests.support.api import api
from tests.support.credentials import AUDIENCE, ISSUER, Keys, PrivateKey, bearer, claims, public_jwk, signed
from tests.support.hasty import HastyBroker, HastyGateway

from .callers import client, minted, said


async def test_s14_what_a_key_its_tokens_and_its_tickets_have_opened_at_a_gateway_ends_when_the_key_is_taken_away(
    store: Store, tmp_path: Path, queue: str
) -> None:
    gone, left = Keys(gone="*:*"), Keys(gateway="watch:* read:*", stays="*:*")
    file = tmp_path / "keys"
    file.write_text(f"{gone.text}\n{left.text}")
    of_gone, of_stays = said(gone.of["gone"]), said(left.of["stays"])
    async with (
        Broker(store, extra=["--keys", str(file)]) as broker,
        HastyGateway(broker, env={"JOBWIRE_API_KEY": left.of["gateway"]}) as gateway,
        client(gateway) as http,
        AsyncExitStack() as stack,
    ):
        name = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "work"}, headers=of_stays)).json()["name"]
        token, ticket = [await minted(broker, gone.of["gone"], name, single_use=single_use) for single_use in (False, True)]
        of_queue, of_job = f"/v1/queues/{queue}/events", f"/v1/{name}/events"
        requests: list[tuple[str, dict[str, str]]] = [
            *((path, of_gone) for path in (of_queue, of_job, f"/v1/events?topic=queues/{queue}&topic={name}", "/v1/stats/stream", f"/v1/{name}/logs/stream")),
            *((f"{of_job}?{word}={text}", {}) for word, text in (("token", token), ("ticket", ticket))),
        ]
        readers = [await stack.enter_async_context(reading(http, path, **headers)) for path, headers in requests]
        socket = await stack.enter_async_context(opened(gateway, additional_headers=of_gone))
        other_reader = await stack.enter_async_context(reading(http, of_queue, **of_stays))
        other_socket = await stack.enter_async_context(opened(gateway, additional_headers=of_stays))
        for reader in (*readers, other_reader):
            await reader.until("connected")
        for subscriber in (socket, other_socket):
            await subscriber.subscribe(f"queues/{queue}")
            await subscriber.until("connected")

        file.write_text(left.text)
        for (path, headers), reader in zip(requests, readers, strict=True):
            last = (await reader.rest())[-1]
            assert (last["type"], last.get("reason")) == ("error", "CREDENTIALS_EXPIRED"), path
            assert (await http.get(path, headers={**EVENT_SOURCE, **headers})).status_code == 401, path
        assert (await socket.until("error"))["reason"] == "CREDENTIALS_EXPIRED"
        assert await socket.closed() == 4401

        made = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "work"}, headers=of_stays)).json()["name"]
        assert (await other_reader.until("update"))["name"] == (await other_socket.until("update"))["name"] == made


async def test_x11_keys_of_an_identity_provider_rotate_without_a_restart_of_broker_or_gateway(store: Store, queue: str) -> None:
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    published = {"old": old}
    own = Keys(gateway="watch:* read:*")
    path = f"/v1/queues/{queue}/events"
    async with AsyncExitStack() as stack:
        flags = ["--jwt-jwks", await stack.enter_async_context(provider(published)), "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE]
        broker = await stack.enter_async_context(HastyBroker(store, extra=flags, env={"JOBWIRE_KEYS": own.text}))
        gateway = await stack.enter_async_context(HastyGateway(broker, env={"JOBWIRE_API_KEY": own.of["gateway"]}))
        http = await stack.enter_async_context(client(gateway))
        before, early = signed(claims("*:*"), old, "ES256", kid="old"), signed(claims("*:*"), new, "ES256", kid="new")
        assert await answers(http, broker, before) == (200, grpc.StatusCode.OK)
        assert await answers(http, broker, early) == (401, grpc.StatusCode.UNAUTHENTICATED)
        reader = await stack.enter_async_context(reading(http, path, **said(before)))
        await reader.until("connected")

        published.clear()
        published["new"] = new
        after = signed(claims("*:*", sub="another"), new, "ES256", kid="new")
        assert await answers(http, broker, after) == (200, grpc.StatusCode.OK)
        late = signed(claims("*:*", sub="another"), old, "ES256", kid="old")
        assert await answers(http, broker, late) == (401, grpc.StatusCode.UNAUTHENTICATED)
        # Nor is one taken any more that was, and what it has opened ends.
        assert (await reader.rest())[-1]["reason"] == "CREDENTIALS_EXPIRED"
        assert await answers(http, broker, before) == (401, grpc.StatusCode.UNAUTHENTICATED)


async def answers(http: httpx.AsyncClient, broker: Broker, token: str) -> tuple[int, grpc.StatusCode]:
    """What the gateway and the broker say to whoever brings this."""
    async with api(broker) as connected:
        call = connected.admin.GetServerInfo(admin.GetServerInfoRequest(), metadata=bearer(token))
        code = await call.code()
    return (await http.get("/v1/session", headers=said(token))).status_code, code


@asynccontextmanager
async def provider(published: Mapping[str, PrivateKey]) -> AsyncIterator[str]:
    """An identity provider that serves the public halves of these keys, as they are when it is asked. Gives the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"keys": [public_jwk(key, kid) for kid, key in published.items()]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
