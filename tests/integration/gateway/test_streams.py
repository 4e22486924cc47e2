"""A job watched over HTTP, against a real broker and a real store."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from jobwire.v1.job_service_pb2 import DeleteJobRequest

from tests.support.api import Api

from .reading import EVENT_SOURCE, complete, enqueue, fail, lease, reading, report


async def test_a_job_is_seen_from_waiting_to_its_result(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue, payload={"photo": "a.jpg"})
    async with reading(http, job["eventsUrl"]) as reader:
        assert reader.status == 200
        assert reader.headers["content-type"] == "text/event-stream"
        assert reader.headers["cache-control"] == "no-store, no-transform"
        assert reader.headers["x-accel-buffering"] == "no"
        assert "content-length" not in reader.headers
        assert await reader.next() == {"type": "connected", "name": job["name"], "resumed": False, "heartbeatMs": 15_000}
        snapshot = await reader.next()
        assert (snapshot["type"], snapshot["state"], snapshot["jobName"], snapshot["name"]) == ("update", "waiting", "thumbnail", job["name"])
        delivery = await lease(worker, queue)
        assert (await reader.until("update", state="active"))["attempt"] == 1
        await report(worker, delivery, 40, "resizing")
        assert (await reader.until("update"))["progress"] == {"percent": 40.0, "message": "resizing"}
        await complete(worker, delivery, '{"sizes":[128,256]}')
        final = await reader.until("final")
        assert (final["state"], final["result"], final["progress"]["percent"]) == ("completed", {"sizes": [128, 256]}, 100.0)
        assert await reader.rest() == []
        assert reader.last_id == f"{final['revision']}.end"
    again = await http.get(job["eventsUrl"], headers={**EVENT_SOURCE, "Last-Event-ID": reader.last_id})
    assert (again.status_code, again.content) == (204, b"")


async def test_one_who_comes_after_the_end_sees_the_snapshot_and_the_end(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    await fail(worker, await lease(worker, queue), "no picture")
    async with reading(http, job["eventsUrl"]) as reader:
        events = await reader.rest()
    assert [event["type"] for event in events] == ["connected", "update", "final"]
    assert events[-1]["failure"] == {"type": "ValueError", "message": "no picture"}


async def test_a_reconnect_goes_on_from_what_was_seen(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.until("update")
    async with reading(http, job["eventsUrl"], last_event_id=reader.last_id) as same:
        assert (await same.next())["resumed"] is True
        delivery = await lease(worker, queue)
        await same.until("update", state="active")
    await complete(worker, delivery)
    async with reading(http, job["eventsUrl"], last_event_id=same.last_id) as late:
        assert [event["type"] for event in await late.rest()] == ["connected", "gap", "update", "final"]


@pytest.mark.parametrize("last_event_id", ["garbage", "1", "9999999999999999", "01J:x"])
async def test_an_id_from_elsewhere_is_replaced_by_a_snapshot(http: httpx.AsyncClient, queue: str, last_event_id: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"], last_event_id=last_event_id) as reader:
        assert (await reader.until("update"))["state"] == "waiting"


async def test_an_unknown_job_ends_the_stream_with_an_error_and_the_reconnect_with_204(http: httpx.AsyncClient, queue: str) -> None:
    path = f"/v1/queues/{queue}/jobs/nope/events"
    async with reading(http, path) as reader:
        (error,) = await reader.rest()
    assert (reader.status, error["type"], error["reason"]) == (200, "error", "JOB_NOT_FOUND")
    assert (await http.get(path, headers={**EVENT_SOURCE, "Last-Event-ID": reader.last_id})).status_code == 204
    plain = await http.get(path)
    assert (plain.status_code, plain.headers["content-type"], plain.json()["reason"]) == (404, "application/problem+json", "JOB_NOT_FOUND")


async def test_a_job_that_is_deleted_ends_as_removed(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.until("update")
        await worker.jobs.DeleteJob(DeleteJobRequest(name=job["name"]))
        assert (await reader.until("final"))["state"] == "removed"
        assert await reader.rest() == []


async def test_a_cancelled_job_ends_the_streams_of_all_who_watch_it(http: httpx.AsyncClient, queue: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"]) as one, reading(http, job["eventsUrl"]) as other:
        for reader in (one, other):
            await reader.until("update")
        assert (await http.post(f"/v1/{job['name']}:cancel")).json()["state"] == "cancelled"
        for reader in (one, other):
            assert (await reader.until("final"))["state"] == "cancelled"


async def test_progress_is_seen_within_a_quarter_of_a_second(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    delivery = await lease(worker, queue)
    delays = []
    async with reading(http, job["eventsUrl"]) as reader:
        await reader.until("update")
        for percent in range(10, 60, 10):
            began = time.monotonic()
            await report(worker, delivery, percent)
            while (await reader.until("update"))["progress"]["percent"] < percent:
                pass
            delays.append(time.monotonic() - began)
    assert sorted(delays)[len(delays) // 2] < 0.25


async def test_half_of_a_surrogate_pair_in_a_result_ends_nobodys_stream(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    job = await enqueue(http, queue)
    async with reading(http, job["eventsUrl"]) as reader, reading(http, f"/v1/queues/{queue}/events") as everything:
        await reader.until("update")
        await everything.until("connected")
        await complete(worker, await lease(worker, queue), r'{"text":"cut \ud83d","more":"\u00fc"}')
        for events in (await reader.rest(), [await everything.until("final")]):
            assert events[-1]["result"] == {"text": "cut \ud83d", "more": "ü"}
            assert not [event for event in events if event["type"] in ("degraded", "gap")]
    assert (await http.get(f"/v1/{job['name']}")).json()["result"]["text"] == "cut \ud83d"


async def test_a_queues_stream_tells_of_every_job_in_it(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    async with reading(http, f"/v1/queues/{queue}/events") as reader:
        assert (await reader.next())["name"] == f"queues/{queue}"
        first = await enqueue(http, queue)
        assert (await reader.until("update", id=first["id"]))["state"] == "waiting"
        await complete(worker, await lease(worker, queue))
        assert (await reader.until("final", id=first["id"]))["state"] == "completed"
        second = await enqueue(http, queue)
        assert (await reader.until("update", id=second["id"]))["jobName"] == "thumbnail"
        last_id = reader.last_id
    async with reading(http, f"/v1/queues/{queue}/events", last_event_id=last_id) as again:
        assert [(await again.next())["type"] for _ in range(2)] == ["connected", "gap"]


async def test_the_overview_begins_with_all_queues_and_follows_their_counts(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    async def counts_when(field: str, value: int) -> dict[str, Any]:
        """Those of the queue, once one of them is so."""
        while True:
            for entry in (await reader.until("update"))["queues"]:
                if entry["queue"] == queue and entry["counts"][field] == value:
                    return dict(entry["counts"])

    await enqueue(http, queue)
    async with reading(http, "/v1/stats/stream") as reader:
        assert (await reader.next())["type"] == "connected"
        await counts_when("waiting", 1)
        await complete(worker, await lease(worker, queue))
        counts = await counts_when("completedTotal", 1)
        assert (counts["waiting"], counts["completed"], counts["total"]) == (0, 1, 1)


async def test_a_hundred_readers_of_a_hundred_jobs_all_see_the_end(http: httpx.AsyncClient, worker: Api, queue: str) -> None:
    jobs = await asyncio.gather(*(enqueue(http, queue) for _ in range(100)))

    async def watch(path: str, live: asyncio.Semaphore) -> str:
        async with reading(http, path) as reader:
            await reader.until("update")
            live.release()
            return str((await reader.until("final"))["state"])

    live = asyncio.Semaphore(0)
    async with httpx.AsyncClient(base_url=http.base_url, limits=httpx.Limits(max_connections=None), timeout=60, trust_env=False) as many:
        http = many
        watching = [asyncio.create_task(watch(job["eventsUrl"], live)) for job in jobs]
        for _ in jobs:
            await live.acquire()
        for _ in jobs:
            await complete(worker, await lease(worker, queue))
        assert await asyncio.gather(*watching) == ["completed"] * 100
