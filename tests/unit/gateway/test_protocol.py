"""The bounds that the HTTP protocol has of us, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from jobwire_gateway import protocol
from jobwire_gateway.protocol import bounded
from jobwire_gateway.ws_protocol import noting
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

refused: list[str] = []


@pytest.fixture(autouse=True)
def _none_yet() -> None:
    refused.clear()


def _note(reason: str, address: str) -> None:
    refused.append(reason)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    if scope["path"] == "/impatient":
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, int]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(hello, http=bounded(8_192, _note), ws=noting(_note), lifespan="off", timeout_keep_alive=1, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await task


async def exchange(*parts: bytes) -> bytes:
    """Send parts, each after the answer to the one before has begun, and read until the peer closes."""
    async with served() as address:
        reader, writer = await asyncio.open_connection(*address)
        try:
            answer = b""
            for part in parts:
                writer.write(part)
                await writer.drain()
                answer += await asyncio.wait_for(reader.read(16), 5)
            return answer + await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


async def test_a_head_within_the_bound_is_served_and_a_large_body_is_not_counted() -> None:
    body = b"x" * 500_000
    answer = await exchange(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-a: %s\r\ncontent-length: %d\r\n\r\n" % (b"a" * 7_000, len(body)) + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(body)


async def test_a_body_over_the_heads_bound_that_comes_at_once_with_its_head_is_served() -> None:
    body = b"x" * 20_000
    answer = await exchange(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(body)


async def test_an_answer_before_the_end_of_the_body_is_not_lost() -> None:
    body = b"x" * 20_000_000
    assert (await exchange(b"POST /impatient HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)).startswith(b"HTTP/1.1 413")


async def test_a_body_that_never_ends_is_given_up_after_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REST_S", 0.1)
    assert (await exchange(b"POST /impatient HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nx")).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 3_000_000,
        b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 2_000 + b"\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["one header", "three megabytes", "many headers", "a long path"],
)
async def test_a_head_over_the_bound_is_431(head: bytes) -> None:
    answer = await exchange(head)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"application/problem+json" in answer
    assert b"8192 bytes" in answer


async def test_a_handshake_over_the_bound_is_431_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    handshake = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    answer = await exchange(b"GET / HTTP/1.1\r\nhost: x\r\n" + handshake + b"x-a: b\r\n" * 2_000 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert not caplog.messages


async def test_a_handshake_that_can_not_be_read_is_noted_as_all_refusals_are() -> None:
    handshake = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    assert (await exchange(b"GET / HTTP/1.1\r\nhost: x\r\n" + handshake + b"content-length: 1\r\n\r\n0")).startswith(b"HTTP/1.1 400")
    assert refused == ["BAD_REQUEST"]


async def test_a_message_that_is_no_text_ends_its_connection_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (host, port), connect(f"ws://{host}:{port}/", proxy=None) as connection:
        connection.protocol.send_text(b"\xff")
        connection.transport.write(b"".join(connection.protocol.data_to_send()))
        with pytest.raises(ConnectionClosedError) as closed:
            await asyncio.wait_for(connection.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_second_request_on_a_connection_has_the_same_bound() -> None:
    answer = await exchange(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 10_000 + b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 431") == 1


async def test_a_head_that_does_not_end_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    assert (await exchange(b"GET / HTTP/1.1\r\nhost:")).startswith(b"HTTP/1.1 408")


async def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    assert await exchange() == b""


async def test_what_is_no_http_is_400_and_noted_as_all_refusals_are(caplog: pytest.LogCaptureFixture) -> None:
    answer = await exchange(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert refused == ["BAD_REQUEST"]
    assert not caplog.messages


@pytest.mark.parametrize("rest", [b"transfer-encoding: what\r\n\r\n", b"transfer-encoding: chunked\r\n\r\nno number\r\n"], ids=["unknown", "no chunks"])
async def test_a_body_that_is_no_http_is_400_too(rest: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert (await exchange(b"POST / HTTP/1.1\r\nhost: x\r\n" + rest)).startswith(b"HTTP/1.1 400")
    assert refused == ["BAD_REQUEST"]
    assert not caplog.messages


async def test_what_is_no_http_behind_a_request_is_not_told_in_the_midst_of_its_answer() -> None:
    assert await exchange(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n\x16\x03\x01\r\n\r\n") == b""
    assert refused == ["BAD_REQUEST"]


async def test_an_upgrade_to_something_else_is_passed_over_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    answer = await exchange(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert not caplog.messages
