"""Who may ask for what, before there are credentials; and what a gateway refuses to be told."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jobwire_gateway.addresses import networks
from jobwire_gateway.config import ConfigError, GatewayConfig
from jobwire_gateway.security import Security
from starlette.types import Message, Receive, Scope, Send

LOOPBACK = GatewayConfig().hosts


async def status_to(scope: Scope, *, hosts: tuple[str, ...] = LOOPBACK, **options: Any) -> int:
    """The status with which an app behind Security answers; it says 200 to whatever reaches it."""
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        seen.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await Security(app, hosts, **options)(scope, receive, send)
    return int(seen[0]["status"])


async def status_of(method: str, path: str, *, hosts: tuple[str, ...] = LOOPBACK, **headers: str) -> int:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await status_to({"type": "http", "method": method, "path": path, "headers": raw}, hosts=hosts)


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"])
async def test_a_loopback_gateway_answers_to_its_own_names(host: str) -> None:
    assert await status_of("GET", "/", host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "0.0.0.0:8080", "localhost@evil.example"])
async def test_any_other_name_is_misdirected(host: str) -> None:
    assert await status_of("GET", "/", host=host) == 421


async def test_without_a_list_any_name_is_good() -> None:
    assert await status_of("GET", "/", hosts=(), host="jobs.example") == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("hosts", [LOOPBACK, ()])
@pytest.mark.parametrize("second", [b"localhost", b"evil.example"])
async def test_a_request_names_its_host_once(kind: str, hosts: tuple[str, ...], second: bytes) -> None:
    headers = [(b"host", b"localhost"), (b"host", second)]
    assert await status_to({"type": kind, "method": "GET", "path": "/v1/ws", "headers": headers}, hosts=hosts) == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"origin": "http://localhost:8080"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "http://[::1]:x]"}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost:8080"}, 403),
        ({}, 200),
    ],
)
async def test_only_a_page_of_the_same_origin_may_change_something(headers: Any, status: int) -> None:
    assert await status_of("POST", "/v1/queues/q/jobs", host="localhost:8080", **headers) == status


WORDS = st.sampled_from(
    (
        b"http:// [ ] [::1 % %ff :// localhost :8080 null same-origin cross-site Bearer __Host-jobwire= ; ticket. jobwire_token_ a.b.c , token= & "
        b"10.0.0.1 fe80::1% \xff \xed\xa0\x80 \x85 \xd9\xa3"
    ).split(b" ")
)
ANYTHING = st.lists(WORDS | st.binary(max_size=8), max_size=5).map(b"".join)
HEADERS = st.sampled_from([b"origin", b"host", b"cookie", b"authorization", b"sec-fetch-site", b"x-forwarded-for", b"accept", b"sec-websocket-protocol"])


@given(st.sampled_from(["GET", "POST"]), st.sampled_from(["/", "/v1/events", "/v1/queues"]), ANYTHING, st.lists(st.tuples(HEADERS, ANYTHING), max_size=4))
@example("GET", "/v1/events", b"", [(b"host", b"localhost"), (b"origin", b"http://[")])
async def test_whatever_stands_in_a_request_it_is_served_or_refused(method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers, "client": ("10.0.0.1", 1)}
    status = await status_to(scope, origins=["https://app.example"], proxies=networks(["10.0.0.0/8"]))
    assert status in (200, 400, 401, 403, 421)


async def test_a_page_of_another_site_may_not_hold_a_stream_but_may_link_to_ours() -> None:
    assert await status_of("GET", "/v1/stats/stream", host="localhost", sec_fetch_site="cross-site") == 403
    assert await status_of("GET", "/", host="localhost", sec_fetch_site="cross-site") == 200


def test_another_address_than_loopback_needs_insecure() -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        GatewayConfig(http="0.0.0.0:8080")
    assert GatewayConfig(http="0.0.0.0:8080", insecure=True).hosts == ()
    assert GatewayConfig(http="[::1]:0").hosts == LOOPBACK


@pytest.mark.parametrize(
    "setting",
    [
        {"http": "8080"},
        {"http": ":8080"},
        {"http": "localhost:"},
        {"http": "localhost:99999"},
        {"broker": ""},
        {"broker": "a:1,"},
        {"broker": "a"},
        {"heartbeat": timedelta(0)},
        {"drain": timedelta(seconds=-1)},
        {"max_streams": 0},
        {"mailbox_frames": 0},
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        GatewayConfig(**setting)  # type: ignore[arg-type]


def test_several_brokers_stand_with_commas_between() -> None:
    assert GatewayConfig(broker="a:1, b:2").brokers == ("a:1", "b:2")
