"""The event-stream reader against a server that says what the test wants, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from jobwire_cli import sse

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


def frame(number: int, **members: object) -> bytes:
    return f"retry: 1\nid: {number}\ndata: {json.dumps({'type': 'update', 'n': number} | members)}\n\n".encode()


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@asynccontextmanager
async def server(*answers: bytes | Sequence[bytes]) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers the first request with the first answer, and so on, then 204; keeps what was asked. An answer in pieces is sent piece by piece."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        answer = answers[len(asked) - 1] if len(asked) <= len(answers) else b"HTTP/1.1 204 No Content\r\n\r\n"
        with suppress(OSError):  # a reader that has seen enough goes
            for piece in [answer] if isinstance(answer, bytes) else answer:
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    async with listening:
        yield f"http://{host}:{port}/v1/queues/q/jobs/a/events?x=1", asked


async def numbers(url: str) -> list[int]:
    return [event["n"] async for event in sse.follow(url)]


async def test_events_are_read_from_a_plain_body() -> None:
    async with server(OK + b"\r\n" + b":\n\n" + frame(1) + frame(2)) as (url, asked):
        assert await numbers(url) == [1, 2]
    assert asked[0].startswith("GET /v1/queues/q/jobs/a/events?x=1 HTTP/1.1\r\n")
    assert "Accept: text/event-stream" in asked[0]


async def test_events_are_read_from_a_chunked_body() -> None:
    async with server(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(frame(1), frame(2))) as (url, _):
        assert await numbers(url) == [1, 2]


async def test_events_may_be_cut_anywhere() -> None:
    body = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(frame(1, text="höhe"), frame(2))
    async with server([bytes([byte]) for byte in body]) as (url, _):
        assert await numbers(url) == [1, 2]


async def test_a_reconnect_says_what_was_seen_last() -> None:
    async with server(OK + b"\r\n" + frame(1), OK + b"\r\n" + frame(2)) as (url, asked):
        assert await numbers(url) == [1, 2]
    assert "Last-Event-ID" not in asked[0]
    assert "Last-Event-ID: 1\r\n" in asked[1]
    assert "Last-Event-ID: 2\r\n" in asked[2]


async def test_a_break_in_the_middle_of_a_frame_loses_nothing() -> None:
    cut = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(frame(1))[:-5] + b"50\r\ndata: {"
    async with server(cut, OK + b"\r\n" + frame(2)) as (url, _):
        assert await numbers(url) == [1, 2]


@pytest.mark.parametrize("status", ["404 Not Found", "400 Bad Request", "500 Oops", "302 Found"])
async def test_a_stream_that_is_refused_is_not_asked_for_again(status: str) -> None:
    async with server(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode()) as (url, asked):
        with pytest.raises(sse.StreamRefused) as caught:
            await numbers(url)
    assert caught.value.status == int(status[:3])
    assert len(asked) == 1


async def test_an_answer_that_is_no_http_is_unavailable() -> None:
    async with server(b"hello\r\n\r\n", b"hello\r\n\r\n") as (url, _):
        with pytest.raises(sse.StreamUnavailable):
            await numbers(url)


async def test_an_address_without_a_server_is_given_up_soon() -> None:
    async with server() as (url, _):
        pass
    with pytest.raises(sse.StreamUnavailable, match="can't be reached"):
        await asyncio.wait_for(numbers(url), 10)


@pytest.mark.parametrize("url", ["", "x", "ftp://host/", "http://", "/v1/x"])
async def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no http or https URL"):
        await numbers(url)
