"""Every refusal is counted and logged with its reason, and never with a secret."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from jobwire_gateway.refusals import MAX_LINES_PER_SECOND
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.integration.gateway.reading import EVENT_SOURCE, reading
from tests.support import Broker, Gateway
from tests.support.credentials import Keys

Act = Callable[["Lab"], Awaitable[object]]

UNKNOWN = "jobwire_key_" + "A" * 43


@dataclass(frozen=True)
class Lab:
    """What a refusal is brought about with."""

    gateway: Gateway
    http: httpx.AsyncClient
    keys: Keys

    async def get(self, path: str, who: str = "", **headers: str) -> None:
        await self.http.get(path, headers={**(self.bearer(who) if who else {}), **headers})

    def bearer(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys.of.get(who, who)}"}

    async def say(self, message: str | bytes) -> None:
        """Send one message on a WebSocket, and read to its end or its first answer."""
        try:
            async with connect(f"ws://{self.gateway.address}/v1/ws", proxy=None, additional_headers=self.bearer("only_watch")) as connection:
                await connection.send(message)
                await connection.recv()
        except ConnectionClosed:
            pass

    async def post(self, content: bytes) -> None:
        await self.http.post("/v1/queues/mail/jobs", content=content, headers={**self.bearer("mail"), "Content-Type": "application/json"})

    async def often(self) -> None:
        while (await self.http.get("/v1/server", headers=self.bearer("only_work"))).status_code != 429:
            pass

    async def too_many_of_one(self) -> None:
        own = self.bearer("gateway")
        async with reading(self.http, "/v1/queues/one/events", **own) as one, reading(self.http, "/v1/queues/two/events", **own) as two:
            await one.until("connected")
            await two.until("connected")
            await self.get("/v1/queues/three/events", "gateway", **EVENT_SOURCE)

    async def too_many_of_a_topic(self) -> None:
        async with reading(self.http, "/v1/queues/mail-full/events", **self.bearer("mail")) as reader:
            await reader.until("connected")
            await self.get("/v1/queues/mail-full/events", "all", **EVENT_SOURCE)

    async def long_head(self) -> None:
        def ask() -> None:
            host, _, port = self.gateway.address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(f"GET /v1/stats HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 40_000}\r\n\r\n".encode())
                assert b"431" in connection.recv(100)

        await asyncio.to_thread(ask)


OF_CALLERS: list[tuple[str, Act]] = [
    ("CREDENTIALS_MISSING", lambda lab: lab.get("/v1/stats")),
    ("CREDENTIALS_INVALID", lambda lab: lab.get("/v1/stats", UNKNOWN)),
    ("CREDENTIALS_INVALID", lambda lab: lab.get(f"/v1/queues/mail/events?token={lab.keys.of['all']}")),
    ("CREDENTIALS_EXPIRED", lambda lab: lab.get("/v1/stats", "expired")),
    ("CROSS_ORIGIN", lambda lab: lab.get("/v1/stats", "all", Origin="https://evil.example")),
    ("HOST_NOT_ALLOWED", lambda lab: lab.get("/v1/stats", "all", Host="evil.example")),
    ("NOT_PERMITTED", lambda lab: lab.get("/v1/queues/other", "mail")),
    ("NOT_PERMITTED", lambda lab: lab.get("/v1/queues/other/events", "mail", **EVENT_SOURCE)),
    ("NOT_PERMITTED", lambda lab: lab.get("/v1/events?topic=queues/other", "mail")),
    ("NOT_PERMITTED", lambda lab: lab.get("/v1/queues/other/jobs/j/logs/stream", "mail")),
    ("NOT_PERMITTED", lambda lab: lab.get("/v1/stats/stream", "mail")),
    ("NOT_PERMITTED", lambda lab: lab.say('{"type": "subscribe", "topics": ["queues/other"]}')),
    ("RATE_LIMITED", lambda lab: lab.often()),
    ("TOO_MANY_STREAMS", lambda lab: lab.too_many_of_one()),
]

OF_FORM: list[tuple[str, Act]] = [
    ("NOT_TEXT", lambda lab: lab.say(b"\x00")),
    ("NOT_JSON", lambda lab: lab.say("{")),
    ("BROKEN_RULE", lambda lab: lab.say("[]")),
    ("TOO_LARGE", lambda lab: lab.say("[" * 100_000)),
    ("PAYLOAD_TOO_LARGE", lambda lab: lab.post(b'{"jobName": "' + b"x" * 3_000_000 + b'"}')),
    ("REQUEST_HEADER_FIELDS_TOO_LARGE", lambda lab: lab.long_head()),
]

TURNED_AWAY: list[tuple[str, Act]] = [("TOO_MANY_STREAMS_OF_TOPIC", lambda lab: lab.too_many_of_a_topic())]


@pytest.mark.parametrize(
    ("event", "counter", "kinds"),
    [("refused", "refusals", OF_CALLERS), ("refused", "refusals", OF_FORM), ("turned_away", "streams_turned_away", TURNED_AWAY)],
    ids=["of callers", "of form", "turned away"],
)
async def test_each_kind_of_refusal_is_counted_once_and_logged_with_its_reason_and_without_a_secret(
    strict_broker: Broker, keys: Keys, event: str, counter: str, kinds: list[tuple[str, Act]]
) -> None:
    # Of more in one second only the number is logged.
    assert len(kinds) <= MAX_LINES_PER_SECOND
    flags = ["--metrics", "127.0.0.1:0", "--request-rate", "30/minute", "--max-streams-per-identity", "2", "--max-streams-per-topic", "1"]
    wrong: list[str] = []
    async with (
        Gateway(strict_broker, extra=flags, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as http,
    ):
        lab = Lab(gateway, http, keys)
        for reason, act in kinds:
            counts = await _counts(gateway, http, counter)
            line = asyncio.create_task(gateway.line(rf"gateway\.{event} reason={reason}\b", timeout=15))
            await act(lab)
            await line
            more = {name: count - counts.get(name, 0) for name, count in (await _counts(gateway, http, counter)).items()}
            if {name: count for name, count in more.items() if count} != {reason: 1}:
                wrong.append(f"{reason}: {more}")
        logs = gateway.tail(2_000)
    assert wrong == []
    assert not [secret for secret in (UNKNOWN, *keys.of.values()) if secret in logs]


async def _counts(gateway: Gateway, http: httpx.AsyncClient, counter: str) -> dict[str, float]:
    address = re.findall(r"gateway\.metrics http=(\S+)", gateway.tail(2_000))[0]
    text = (await http.get(f"http://{address}/metrics")).text
    return {reason: float(count) for reason, count in re.findall(rf'^jobwire_gateway_{counter}_total{{reason="(\w+)"}} (\S+)$', text, re.MULTILINE)}
