"""The endpoint of event streams, against its ASGI surroundings alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.problems import Problem
from jobwire_gateway.sse import EventsEndpoint, watch_job, watch_queue
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import Topics
from starlette.types import Message

from .reading import job, types

NAME = "queues/q/jobs/j"
EVENT_SOURCE = {"accept": "text/event-stream"}


class Client:
    """One request and what it is answered."""

    def __init__(self, endpoint: EventsEndpoint, headers: dict[str, str], *, method: str = "GET", query: str = "", job_id: str = "j") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.reads = asyncio.Event()
        self.reads.set()
        self._changed = asyncio.Condition()
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "method": method,
            "path": f"/v1/{NAME}/events",
            "path_params": {"queue": "q", "id": job_id},
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.request = asyncio.create_task(endpoint(scope, self._receive, self._send))

    async def until(self, text: bytes) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: text in self.body), 5)

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        await self.reads.wait()
        self.complete = not message.get("more_body", False)
        if self.complete:
            self._gone.set()
        async with self._changed:
            self.body += message["body"]
            self._changed.notify_all()


class House:
    """Topics on a feed that the test plays."""

    def __init__(self, *, limit: int = 100, starts_per_s: int = 100, drain_s: float = 0.05, heartbeat_s: float = 15) -> None:
        self.topics = Topics(Bounds(20, 100_000), 15_000)
        self.streams = Streams(limit=limit, starts_per_s=starts_per_s, retry_s=1, drain_s=drain_s, heartbeat_s=heartbeat_s)
        self.jobs = EventsEndpoint(self.topics, self.streams, watch_job, ends=True)
        self.queues = EventsEndpoint(self.topics, self.streams, watch_queue, ends=False)
        list(self.topics.plug())

    def say(self, kind: ChangeType.ValueType, of: Job) -> None:
        add, _ = self.topics.demand()
        list(self.topics.apply(SubscribeResponse(added=add, changes=[JobChange(type=kind, job=of)])))

    @asynccontextmanager
    async def open(self, **headers: str) -> AsyncIterator[Client]:
        client = Client(self.jobs, {**EVENT_SOURCE, **headers})
        await client.until(b"retry: ")
        try:
            yield client
        finally:
            client.leave()
            await client.request


@pytest.fixture
def house() -> House:
    return House()


async def test_the_first_bytes_come_before_anything_is_known(house: House) -> None:
    async with house.open() as client:
        assert client.status == 200
        assert client.headers == {"content-type": "text/event-stream", "cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
        assert types(client.body) == []


async def test_retry_differs_from_stream_to_stream(house: House) -> None:
    assert len({house.streams.retry_line() for _ in range(50)}) > 10


async def test_a_stream_goes_from_connected_to_final_and_closes(house: House) -> None:
    async with house.open() as client:
        house.say(ChangeType.CHANGE_TYPE_SNAPSHOT, job(1))
        await client.until(b'"revision":1')
        house.say(ChangeType.CHANGE_TYPE_FINAL, job(2, JobState.JOB_STATE_COMPLETED))
        await asyncio.wait_for(client.request, 5)
    assert types(client.body) == ["connected", "update", "final"]
    assert client.complete
    assert len(house.streams) == 0
    assert house.topics.demand() == ([], [NAME])


async def test_a_reader_that_goes_away_is_forgotten(house: House) -> None:
    async with house.open():
        house.say(ChangeType.CHANGE_TYPE_SNAPSHOT, job(1))
        assert len(house.streams) == 1
    assert house.topics.demand() == ([], [NAME])
    assert len(house.streams) == 0


async def test_a_reconnect_after_the_end_gets_204(house: House) -> None:
    for headers, query in (({"last-event-id": "7.end"}, ""), ({}, "last_event_id=7.end"), ({}, "lastEventId=0.end")):
        client = Client(house.jobs, {**EVENT_SOURCE, **headers}, query=query)
        await client.request
        assert (client.status, client.body) == (204, b"")


async def test_the_header_wins_over_the_query(house: House) -> None:
    client = Client(house.jobs, {"last-event-id": "7.end", **EVENT_SOURCE}, query="last_event_id=7")
    await client.request
    assert client.status == 204


async def test_the_end_of_a_job_does_not_end_its_queue(house: House) -> None:
    client = Client(house.queues, {"last-event-id": "7.end", **EVENT_SOURCE})
    await client.until(b"retry: ")
    assert client.status == 200
    client.leave()
    await client.request


async def test_an_unknown_job_is_an_error_frame_to_an_event_source_and_404_to_others(house: House) -> None:
    async with house.open() as client:
        house.say(ChangeType.CHANGE_TYPE_NOT_FOUND, Job(name=NAME))
        await asyncio.wait_for(client.request, 5)
        assert types(client.body) == ["error"]
    other = Client(house.jobs, {"accept": "*/*"})
    await asyncio.sleep(0)
    house.say(ChangeType.CHANGE_TYPE_NOT_FOUND, Job(name=NAME))
    with pytest.raises(Problem) as caught:
        await other.request
    assert (caught.value.status, other.status) == (404, 0)
    assert len(house.streams) == 0


async def test_one_who_is_no_event_source_gets_the_same_stream_when_there_is_a_job(house: House) -> None:
    client = Client(house.jobs, {})
    await asyncio.sleep(0)
    house.say(ChangeType.CHANGE_TYPE_FINAL, job(1, JobState.JOB_STATE_FAILED))
    await asyncio.wait_for(client.request, 5)
    assert types(client.body) == ["connected", "update", "final"]


async def test_a_gateway_that_is_cut_off_says_503_unless_it_is_asked_by_an_event_source(house: House) -> None:
    list(house.topics.unplug("broker_unavailable"))
    client = Client(house.jobs, {})
    with pytest.raises(Problem) as caught:
        await client.request
    assert (caught.value.status, caught.value.reason) == (503, "BROKER_UNAVAILABLE")
    async with house.open() as source:
        await source.until(b'"degraded":true')
        assert source.status == 200


async def test_one_stream_too_many_is_told_to_come_back() -> None:
    house = House(limit=1)
    async with house.open():
        turned_away = Client(house.jobs, EVENT_SOURCE)
        await turned_away.request
        assert turned_away.status == 200
        assert turned_away.complete
        assert turned_away.body.startswith(b"retry: ")
        with pytest.raises(Problem) as caught:
            await Client(house.jobs, {}).request
        assert caught.value.status == 503


async def test_a_storm_of_streams_is_let_in_at_a_pace() -> None:
    house = House(starts_per_s=1)
    async with house.open(), house.open():
        turned_away = Client(house.jobs, EVENT_SOURCE)
        await turned_away.request
        assert (turned_away.status, turned_away.body.startswith(b"retry: "), turned_away.complete) == (200, True, True)
        with pytest.raises(Problem) as caught:
            await Client(house.jobs, {}).request
        assert (caught.value.status, caught.value.reason) == (503, "TOO_MANY_AT_ONCE")


async def test_head_gives_the_headers_alone(house: House) -> None:
    client = Client(house.jobs, EVENT_SOURCE, method="HEAD")
    await client.request
    assert (client.status, client.body, client.complete) == (200, b"", True)


@pytest.mark.parametrize(("query", "job_id"), [("cursor=5", "j"), ("", "a b"), ("last_event_id=1&last_event_id=2", "j")])
async def test_what_is_wrong_is_said_before_the_stream_begins(house: House, query: str, job_id: str) -> None:
    client = Client(house.jobs, EVENT_SOURCE, query=query, job_id=job_id)
    with pytest.raises(Problem) as caught:
        await client.request
    assert (caught.value.status, client.status) == (400, 0)
    assert len(house.topics) == 0


async def test_a_reader_that_does_not_read_delays_nobody_and_ends_up_with_the_end(house: House) -> None:
    async with house.open() as slow, house.open() as fast:
        house.say(ChangeType.CHANGE_TYPE_SNAPSHOT, job(1))
        await slow.until(b'"revision":1')
        slow.reads.clear()
        for revision in range(2, 500):
            house.say(ChangeType.CHANGE_TYPE_UPDATE, job(revision, (JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED)[revision % 2]))
            await fast.until(b'"revision":%d,' % revision)
        house.say(ChangeType.CHANGE_TYPE_FINAL, job(500, JobState.JOB_STATE_COMPLETED))
        await asyncio.wait_for(fast.request, 5)
        slow.reads.set()
        await asyncio.wait_for(slow.request, 5)
    assert types(fast.body).count("update") == 499
    assert "gap" in types(slow.body)
    assert types(slow.body)[-1] == "final"
    assert len(slow.body) < len(fast.body) / 4


async def test_draining_says_so_to_each_stream_and_closes_it() -> None:
    house = House()
    async with house.open() as client, house.open() as other:
        await asyncio.wait_for(house.streams.drain(), 5)
        for each in (client, other):
            await asyncio.wait_for(each.request, 5)
            assert types(each.body) == ["drain"]
            assert each.body.count(b"retry: ") == 2
    late = Client(house.jobs, EVENT_SOURCE)
    await late.request
    assert (late.status, types(late.body)) == (200, [])


async def test_a_silent_stream_gets_heartbeats_and_a_busy_one_does_not() -> None:
    house = House(heartbeat_s=1)
    async with house.open() as silent, house.open() as busy:
        await silent.until(b"\n\n")
        now = asyncio.get_running_loop().time() + 1
        for stream in list(house.streams._open):
            stream.last_write = now - 1
        newest = max(house.streams._open, key=id)
        newest.last_write = now
        for _ in range(20):
            house.streams.wheel.turn(now)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(client.body.count(b":\n\n") for client in (silent, busy)) == [0, 1]
