"""WebSockets where callers must say who they are (W01, W02), and requests that are too slow (X06)."""

import asyncio
import json
import time
from typing import Any

import pytest
from jobwire.v1 import admin_service_pb2 as admin
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.support import Broker, Gateway
from tests.support.api import api
from tests.support.credentials import Keys, bearer


async def minted(broker: Broker, keys: Keys, name: str, *, single_use: bool) -> str:
    async with api(broker) as connected:
        request = admin.CreateWatchTokenRequest(names=[name], single_use=single_use)
        return (await connected.admin.CreateWatchToken(request, metadata=bearer(keys.of["all"]))).token


def address(gateway: Gateway, query: str = "") -> str:
    return f"ws://{gateway.address}/v1/ws{query}"


async def refused(gateway: Gateway, query: str = "", **options: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(address(gateway, query), proxy=None, **options):
            pass
    return caught.value.response.status_code


async def test_w01_w02_who_may_open_one(strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str) -> None:
    token = await minted(strict_broker, keys, f"queues/{queue}", single_use=False)
    own = {"Authorization": f"Bearer {keys.of['all']}"}
    assert await refused(strict_gateway) == 401
    assert await refused(strict_gateway, additional_headers={"Authorization": "Bearer wrong"}) == 401
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        assert await refused(strict_gateway, additional_headers=own, origin=origin) == 403
    # A cookie is sent by any page that a browser shows: without an origin, or with a foreign one, it opens nothing.
    assert await refused(strict_gateway, additional_headers={"Cookie": f"__Host-jobwire={token}"}) == 403
    assert await refused(strict_gateway, additional_headers={"Cookie": f"__Host-jobwire={token}"}, origin="https://app.example") == 403
    async with connect(
        address(strict_gateway), proxy=None, additional_headers={"Cookie": f"__Host-jobwire={token}"}, origin=Origin(f"http://{strict_gateway.address}")
    ):
        pass
    async with connect(address(strict_gateway, f"?token={token}"), proxy=None, origin=Origin("https://app.example")):
        pass
    assert token not in strict_gateway.tail(2_000) + strict_broker.tail(2_000)


async def test_s14_a_connection_says_that_its_token_ends_and_ends_a_little_earlier_with_a_close_code_of_its_own(
    strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str
) -> None:
    async with api(strict_broker) as connected:
        request = admin.CreateWatchTokenRequest(names=[f"queues/{queue}"])
        request.ttl.FromSeconds(2)
        made = await connected.admin.CreateWatchToken(request, metadata=bearer(keys.of["all"]))
    seen: list[str] = []
    async with connect(address(strict_gateway, f"?token={made.token}"), proxy=None) as connection:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(_read_into(seen, connection), 10)
    assert time.time() <= made.expire_time.seconds
    assert seen == ["CREDENTIALS_EXPIRING", "CREDENTIALS_EXPIRED"]
    assert (connection.close_code, connection.close_reason) == (4401, "the credentials have ended")


async def test_w02_a_ticket_among_the_subprotocols_opens_one_once_for_what_it_names(
    strict_gateway: Gateway, strict_broker: Broker, keys: Keys, queue: str
) -> None:
    ticket = await minted(strict_broker, keys, f"queues/{queue}", single_use=True)
    protocols = [Subprotocol("jobwire.v1"), Subprotocol(f"ticket.{ticket}")]
    async with connect(address(strict_gateway), proxy=None, subprotocols=protocols, compression=None) as connection:
        assert connection.subprotocol == "jobwire.v1"
        await connection.send(json.dumps({"type": "subscribe", "topics": [f"queues/{queue}", "queues/another"]}))
        frames = [json.loads(await asyncio.wait_for(connection.recv(), 15)) for _ in range(2)]
    assert {frame["name"]: frame.get("reason", frame["type"]) for frame in frames} == {f"queues/{queue}": "connected", "queues/another": "NOT_PERMITTED"}
    assert await refused(strict_gateway, subprotocols=protocols) == 401
    assert ticket not in strict_gateway.tail(2_000) + strict_broker.tail(2_000)


async def test_x06_slow_heads_and_slow_bodies_are_given_up(strict_gateway: Gateway, keys: Keys) -> None:
    head = (
        f"POST /v1/queues/mail/jobs HTTP/1.1\r\nHost: {strict_gateway.address}\r\nAuthorization: Bearer {keys.of['all']}\r\nContent-Type: application/json\r\n"
    )
    slow_head, slow_body, silent, huge = await asyncio.gather(
        _drip(strict_gateway, head[:20].encode()),
        _drip(strict_gateway, f"{head}Content-Length: 100\r\n\r\n{{".encode()),
        _drip(strict_gateway, b""),
        _drip(strict_gateway, f"{head}X-Long: {'x' * 40_000}\r\n\r\n".encode(), drip=False),
    )
    assert slow_head.startswith(b"HTTP/1.1 408")
    assert slow_body.startswith(b"HTTP/1.1 408")
    assert silent == b""
    assert huge.startswith(b"HTTP/1.1 431")
    for told in ("TIMEOUT address=", "TIMEOUT method=POST", "HEADER_FIELDS_TOO_LARGE address="):
        await strict_gateway.line(f"gateway.refused reason=REQUEST_{told}", past=True)
    assert strict_gateway.tail(2_000).count("gateway.refused reason=REQUEST_TIMEOUT") == 2


async def _read_into(seen: list[str], connection: ClientConnection) -> None:
    while True:
        seen.append(json.loads(await connection.recv())["reason"])


async def _drip(gateway: Gateway, begin: bytes, *, drip: bool = True) -> bytes:
    """Send the beginning, then a byte every second; give what is answered until the gateway has had enough."""
    host, _, port = gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(begin)
    answer = asyncio.ensure_future(reader.read(4096))
    async with asyncio.timeout(30):
        while not answer.done():
            await asyncio.wait([answer], timeout=1)
            if drip and begin and not answer.done():
                writer.write(b"x")
    writer.close()
    return answer.result()
