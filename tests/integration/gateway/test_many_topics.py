"""Many jobs and queues on one stream, against a real broker and a real store."""

import json
from urllib.parse import quote

import httpx
import pytest

from tests.support import Gateway
from tests.support.api import Api

from .reading import EVENT_SOURCE, complete, enqueue, lease, reading
from .wire import Wire


def path_of(*topics: str) -> str:
    return "/v1/events?" + "&".join(f"topic={topic}" for topic in topics)


async def test_jobs_and_queues_are_followed_on_one_stream(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    other = f"{queue}-other"
    async with reading(http, path_of(job["name"], f"queues/{other}")) as reader:
        opening = [await reader.next() for _ in range(3)]
        assert {(event["type"], event["name"]) for event in opening} == {("connected", job["name"]), ("update", job["name"]), ("connected", f"queues/{other}")}
        second = await enqueue(http, other)
        assert (await reader.until("update", name=second["name"]))["state"] == "waiting"
        await complete(worker, await lease(worker, queue))
        assert (await reader.until("final", name=job["name"]))["state"] == "completed"
        await complete(worker, await lease(worker, other))
        assert (await reader.until("final", name=second["name"]))["state"] == "completed"


async def test_a_stream_of_jobs_ends_when_all_have_and_is_then_over_for_good(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    jobs = [await enqueue(http, queue) for _ in range(3)]
    path = path_of(*(job["name"] for job in jobs))
    async with reading(http, path) as reader:
        for _ in jobs:
            await reader.until("update")
        for _ in jobs:
            await complete(worker, await lease(worker, queue))
        events = await reader.rest()
    assert sorted(event["name"] for event in events if event["type"] == "final") == sorted(job["name"] for job in jobs)
    again = await http.get(path, headers={**EVENT_SOURCE, "Last-Event-ID": reader.last_id})
    assert (again.status_code, again.content) == (204, b"")
    fewer = path_of(*(job["name"] for job in jobs[1:]))
    async with reading(http, fewer, last_event_id=reader.last_id) as another:
        assert sorted(event["type"] for event in await another.rest()) == ["connected", "connected", "final", "final", "gap", "gap", "update", "update"]


async def test_one_who_comes_back_gets_what_it_missed_and_nothing_twice(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    jobs = [await enqueue(http, queue) for _ in range(3)]
    path = path_of(*(job["name"] for job in jobs))
    async with reading(http, path) as reader:
        for _ in jobs:
            await reader.until("update")
    async with reading(http, path, last_event_id=reader.last_id) as back:
        assert [(await back.next())["resumed"] for _ in jobs] == [True] * 3
    delivery = await lease(worker, queue)
    async with reading(http, path, last_event_id=reader.last_id) as late:
        changed = await late.until("update", id=delivery.id)
        assert changed["state"] == "active"
        await complete(worker, delivery)
        await late.until("final", id=delivery.id)


async def test_a_list_that_no_address_can_hold_is_sent_as_a_body(http: httpx.AsyncClient, queue: str) -> None:
    jobs = [await enqueue(http, queue) for _ in range(2)]
    body = {"topics": [job["name"] for job in jobs]}
    async with http.stream("POST", "/v1/events", json=body, headers=EVENT_SOURCE) as response:
        assert response.status_code == 200
        text = ""
        async for part in response.aiter_text():
            text += part
            if text.count('"type":"update"') == 2:
                break


@pytest.mark.parametrize(
    "path",
    [
        "/v1/events",
        "/v1/events?topic=jobs/7",
        "/v1/events?topics=queues/q",
        "/v1/events?topic=queues/q&cursor=1",
        "/v1/events?topic=queues/q%00",
        "/v1/events?topic=queues/q%E2%80%8Bx",
        "/v1/events?topic=labels/user=7",
        "/v1/events?" + "&".join(f"topic=queues/q{number}" for number in range(101)),
    ],
)
async def test_s12_what_is_wrong_is_said_before_the_stream_begins(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, headers=EVENT_SOURCE)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["violations"]


@pytest.mark.parametrize("value", ["v\n", "a\r\ndata: {}\n\nb", "\x00", "\u200b\x1b[2J"])
async def test_s12_a_label_with_control_characters_is_followed_and_breaks_no_frame(
    http: httpx.AsyncClient, shared_gateway: Gateway, queue: str, value: str
) -> None:
    topic = f"queues/{queue}/labels/k={value}"
    async with await Wire.ask(shared_gateway.address, path_of(quote(topic, safe=""))) as wire:
        await wire.until(b'"connected"')
        job = await enqueue(http, queue, labels={"k": value})
        body = await wire.until(b'"state":"waiting"')
    lines = [line for line in body.split(b"\n") if line and not line.startswith((b"retry: ", b"id: ", b":"))]
    connected, update = (json.loads(line.removeprefix(b"data: ")) for line in lines)
    assert (connected["name"], update["name"], update["labels"]) == (topic, job["name"], {"k": value})


async def test_a_job_that_leaves_a_label_or_a_group_is_shown_there_once_more(http: httpx.AsyncClient, queue: str) -> None:
    label, group = f"queues/{queue}/labels/order%3D17", f"queues/{queue}/groups/acme"
    debounce = {"key": "k", "delay": "60s"}
    async with reading(http, path_of(label)) as of_label, reading(http, path_of(group)) as of_group:
        for reader in (of_label, of_group):
            await reader.until("connected")
        job = await enqueue(http, queue, labels={"order": "17", "kept": "1"})
        other = await enqueue(http, queue, labels={"order": "17"}, group="acme", debounce=debounce)
        for name in (job["name"], other["name"]):
            assert (await of_label.next())["name"] == name
        assert (await of_group.next())["name"] == other["name"]
        assert (await http.patch(f"/v1/{job['name']}", json={"labels": {"order": "18", "kept": "1"}})).status_code == 200
        assert (await of_label.next())["labels"] == {"order": "18", "kept": "1"}
        # Nothing more of it, but of others.
        await http.patch(f"/v1/{job['name']}", json={"priority": 1})
        assert (await enqueue(http, queue, labels={"order": "19"}, group="other", debounce=debounce))["verdict"] == "replaced"
        left = await of_label.next()
        assert (left["name"], left["labels"], left["group"]) == (other["name"], {"order": "19"}, "other")
        assert (await of_group.next())["group"] == "other"


async def test_an_end_of_long_ago_that_somebody_asks_for_is_told_to_nobody_else(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    await complete(worker, await lease(worker, queue))
    async with reading(http, f"/v1/queues/{queue}/events") as everything:
        await everything.until("connected")
        async with reading(http, job["eventsUrl"]) as reader:
            assert (await reader.rest())[-1]["type"] == "final"
        later = await enqueue(http, queue)
        assert (await everything.next())["name"] == later["name"]
