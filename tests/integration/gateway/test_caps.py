"""B06: how many streams and topics there may be, of whom and of what, over real sockets. One too many is sent back softly, and all others stay."""

import asyncio
import re
from contextlib import AsyncExitStack

import httpx

from tests.support import Broker, Gateway

from .reading import EVENT_SOURCE, Reader, reading
from .sockets import opened


async def refusal(http: httpx.AsyncClient, path: str) -> tuple[int, str]:
    """What one who is no EventSource is told; an EventSource is told to come back."""
    soft = await http.get(path, headers=EVENT_SOURCE)
    assert (soft.status_code, bool(re.fullmatch(r"retry: \d{4,5}\n\n", soft.text))) == (200, True), soft.text
    plain = await http.get(path)
    assert int(plain.headers["retry-after"]) >= 1
    return plain.status_code, plain.json()["reason"]


async def test_b06_streams_of_one_topic_are_bounded(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker, extra=["--max-streams-per-topic", "2"]) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        path = f"/v1/queues/{queue}/events"
        readers: list[Reader] = []
        async with AsyncExitStack() as stack:
            for each in (path, f"/v1/events?topic=queues/{queue}&topic=queues/other"):
                readers.append(await stack.enter_async_context(reading(http, each)))
                await readers[-1].until("connected")
            for each in (path, f"/v1/events?topic=queues/{queue}&topic=queues/more"):
                assert await refusal(http, each) == (503, "TOO_MANY_STREAMS_OF_TOPIC")
            async with opened(gateway) as socket:
                await socket.subscribe(f"queues/{queue}", "queues/other")
                frames = [await socket.next() for _ in range(2)]
                assert {frame["name"]: frame.get("reason", frame["type"]) for frame in frames} == {
                    f"queues/{queue}": "TOO_MANY_STREAMS_OF_TOPIC",
                    "queues/other": "connected",
                }
            async with reading(http, "/v1/queues/other/events") as other:
                await other.until("connected")


async def test_b06_topics_of_a_process_are_bounded_and_what_is_watched_goes_on(shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker, extra=["--max-topics-total", "10"]) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        first = "&".join(f"topic=queues/{queue}/groups/{number}" for number in range(9))
        more = "&".join(f"topic=queues/more/groups/{number}" for number in range(9))
        async with reading(http, f"/v1/events?topic=queues/{queue}&{first}") as reader:
            await reader.until("connected")
            assert await refusal(http, f"/v1/events?{more}") == (503, "TOO_MANY_TOPICS")
            assert await refusal(http, f"/v1/events?{more}&topic=queues/{queue}") == (503, "TOO_MANY_TOPICS")
            async with reading(http, f"/v1/queues/{queue}/events") as known:
                await known.until("connected")
                made = (await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "work"})).json()
                for each in (reader, known):
                    await each.until("update", name=made["name"])
        async with asyncio.timeout(10), opened(gateway) as socket:
            await socket.subscribe(*(f"queues/new/groups/{number}" for number in range(11)))
            kinds = [(await socket.next()).get("reason", "connected") for _ in range(11)]
            assert kinds.count("TOO_MANY_TOPICS") >= 1


async def test_b06_names_in_one_message_are_bounded(shared_gateway: Gateway) -> None:
    for kind in ("subscribe", "unsubscribe"):
        async with opened(shared_gateway) as socket:
            await socket.say(type=kind, topics=[f"queues/q{number}" for number in range(101)])
            assert await socket.closed() == 1008


async def test_b06_streams_of_one_address_are_bounded(shared_broker: Broker, queue: str) -> None:
    extra = ["--max-streams-per-address", "2", "--trusted-proxies", "127.0.0.0/8"]
    async with Gateway(shared_broker, extra=extra) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        path = f"/v1/queues/{queue}/events"
        async with reading(http, path) as one, reading(http, "/v1/stats/stream") as two:
            await one.until("connected")
            await two.until("connected")
            assert await refusal(http, path) == (429, "TOO_MANY_STREAMS")
            async with reading(http, path, X_Forwarded_For="198.51.100.7") as elsewhere:
                await elsewhere.until("connected")


async def test_b06_starts_in_a_second_are_bounded(shared_broker: Broker, queue: str) -> None:
    starts = 2
    extra = ["--max-stream-starts", str(starts)]
    async with Gateway(shared_broker, extra=extra) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        answers = await asyncio.gather(*(http.get(f"/v1/queues/{queue}/jobs/none/events", headers=EVENT_SOURCE) for _ in range(40)))
        turned_away = [answer for answer in answers if "data:" not in answer.text]
        assert {answer.status_code for answer in answers} == {200}
        assert len(turned_away) >= 40 - 10 * starts
        assert all(re.fullmatch(r"retry: \d{4,5}\n\n", answer.text) for answer in turned_away)
        async with asyncio.timeout(10):
            while "data:" not in (await http.get(f"/v1/queues/{queue}/jobs/none/events", headers=EVENT_SOURCE)).text:
                await asyncio.sleep(0.1)
