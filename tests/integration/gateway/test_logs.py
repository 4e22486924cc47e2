"""Logs over REST and as a stream, and the topics of groups and labels, against a real broker and a real store."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support import Broker, Gateway

from .reading import EVENT_SOURCE, Reader, enqueue, reading
from .talking import Talker, messages, talking, until_line
from .wire import events_in, stalled_stream


@pytest.fixture
async def talker(http: httpx.AsyncClient, shared_broker: Broker, queue: str) -> AsyncIterator[Talker]:
    async with talking(http, shared_broker, queue) as talker:
        yield talker


async def page(http: httpx.AsyncClient, queue: str, lines: int, **query: int) -> dict[str, Any]:
    """The log, once it has so many lines: what a worker says is not acked."""
    async with asyncio.timeout(10):
        while True:
            answer = await http.get(f"/v1/queues/{queue}/jobs/a/logs", params=query)
            assert answer.status_code == 200, answer.text
            read: dict[str, Any] = answer.json()
            if len(read["lines"]) >= lines:
                return read
            await asyncio.sleep(0.02)


async def test_a_log_is_read_page_by_page(http: httpx.AsyncClient, talker: Talker, queue: str) -> None:
    assert await page(http, queue, 0) == {"lines": [], "nextAfter": 0, "dropped": 0}
    await talker.say("one", "two", "three")
    read = await page(http, queue, 3)
    line = {"sequence": 1, "level": "info", "message": "one", "timeMs": 5, "cursor": 1, "attempt": 1}
    assert (read["lines"][0], read["nextAfter"], read["dropped"]) == (line, 3, 0)
    rest = await page(http, queue, 1, after=1, pageSize=1)
    assert ([line["message"] for line in rest["lines"]], rest["nextAfter"]) == (["two"], 2)
    first = await http.get(f"/v1/queues/{queue}/jobs/a")
    await talker.say("four")
    await page(http, queue, 4)
    job = await http.get(f"/v1/queues/{queue}/jobs/a", headers={"If-None-Match": first.headers["etag"]})
    assert (job.status_code, job.json()["logLines"]) == (200, 4)
    assert (await http.get(f"/v1/queues/{queue}/jobs/nope/logs")).json()["reason"] == "JOB_NOT_FOUND"


async def test_a_log_is_followed_from_its_first_line_to_the_jobs_end_and_then_over(http: httpx.AsyncClient, talker: Talker, queue: str) -> None:
    await talker.say("one", "two")
    await page(http, queue, 2)
    path = f"/v1/queues/{queue}/jobs/a/logs/stream"
    async with reading(http, path) as reader:
        assert (await reader.next())["type"] == "connected"
        assert await until_line(reader, "two") == ["one", "two"]
        assert reader.last_id == "2"
        await talker.say("three")
        assert await until_line(reader, "three") == ["three"]
        await talker.say("four")
        await talker.end()
        events = await reader.rest()
    assert (messages(events), events[-1]["type"], events[-1]["state"], reader.last_id) == (["four"], "final", "completed", "4.end")
    again = await http.get(path, headers={**EVENT_SOURCE, "Last-Event-ID": reader.last_id})
    assert (again.status_code, again.content) == (204, b"")
    async with reading(http, path, last_event_id="1") as late:
        events = await late.rest()
    assert (messages(events), events[-1]["type"]) == (["two", "three", "four"], "final")


async def test_a_line_is_the_same_on_every_stream_of_its_job(http: httpx.AsyncClient, talker: Talker, queue: str) -> None:
    job = f"/v1/queues/{queue}/jobs/a"
    async with reading(http, f"{job}/events") as lean, reading(http, f"{job}/logs/stream") as log:
        await lean.until("update")
        await log.until("connected")
        await talker.say("one")
        assert await lean.until("log") == await log.until("log")


async def test_b01_of_what_is_too_much_for_a_reader_log_lines_are_dropped_first_the_oldest_first_and_counted(
    http: httpx.AsyncClient, shared_gateway: Gateway, talker: Talker, queue: str
) -> None:
    path, said, at_once = f"/v1/queues/{queue}/jobs/a/events", 1_200, 50
    with stalled_stream(shared_gateway.address, path) as stalled:
        assert stalled.recv(1)
        async with reading(http, path) as quick:
            await quick.until("update")
            # Twice what the kernel and the gateway hold for one reader. The other one has them all, so no line is lost on its way to the gateway.
            for first in range(0, said, at_once):
                lines = [f"{number} {'x' * 1_000}" for number in range(first, first + at_once)]
                await talker.say(*lines)
                assert await until_line(quick, lines[-1]) == lines
            await talker.end()
            await quick.until("final")
        stalled.settimeout(10)
        body = b""
        while not body.endswith(b"\r\n0\r\n\r\n"):
            part = stalled.recv(1 << 16)
            assert part, body[-1_000:]
            body += part
    events = events_in(body)
    counts = [(place, event["dropped"]) for place, event in enumerate(events) if "dropped" in event]
    assert len(counts) == 1, counts
    place, dropped = counts[0]
    before, after = ([int(message.partition(" ")[0]) for message in messages(some)] for some in (events[:place], events[place:]))
    assert dropped > 0
    assert before == list(range(len(before)))
    assert after == list(range(len(before) + dropped, said))
    assert [event["type"] for event in events if event["type"] != "log"] == ["connected", "update", "final"]


async def test_the_log_of_no_job_is_404_and_an_error_frame_to_an_event_source(http: httpx.AsyncClient, queue: str) -> None:
    path = f"/v1/queues/{queue}/jobs/nope/logs/stream"
    assert (await http.get(path)).json()["reason"] == "JOB_NOT_FOUND"
    async with reading(http, path) as reader:
        assert [event["type"] for event in await reader.rest()] == ["error"]
    assert (await http.get(path.replace("nope", "a b"))).status_code == 400


async def test_groups_and_labels_are_followed(http: httpx.AsyncClient, talker: Talker, queue: str) -> None:
    group, label = f"queues/{queue}/groups/acme", f"queues/{queue}/labels/order%3D17"
    async with reading(http, f"/v1/events?topic={group}") as by_group, reading(http, f"/v1/events?topic={label}") as by_label:
        for reader in (by_group, by_label):
            await reader.until("connected")
        await enqueue(http, queue, id="other", group="other", labels={"order": "18"})
        await talker.end()
        for reader in (by_group, by_label):
            event = await reader.next()
            assert (event["type"], event["id"], event["group"], event["labels"]) == ("final", "a", "acme", {"order": "17"})


async def test_a_body_may_name_labels_that_hold_anything(http: httpx.AsyncClient, queue: str) -> None:
    name = f"queues/{queue}/labels/a/b=/jobs/x y=\u00fc"
    async with http.stream("POST", "/v1/events", json={"topics": [name]}, headers=EVENT_SOURCE, timeout=60) as response:
        reader = Reader(response)
        assert (await reader.until("connected"))["name"] == name
        await enqueue(http, queue, labels={"a/b": "/jobs/x y=\u00fc"})
        assert (await reader.until("update"))["labels"] == {"a/b": "/jobs/x y=\u00fc"}
