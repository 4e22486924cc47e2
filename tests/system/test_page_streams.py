"""What only a browser does with an event stream: it comes back by itself, gives up by itself, has several tabs, and may ask before it crosses origins."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.gateway.reading import complete, enqueue, lease, report
from tests.support import Broker, Gateway, Store
from tests.support.api import api
from tests.support.relay import Link, Relay

from .browser import Browser, browser

FOLLOW = """
window.seen = [];
window.source = new EventSource(arguments[0]);
source.onmessage = (event) => seen.push([JSON.parse(event.data).type, JSON.parse(event.data).state ?? "", event.lastEventId]);
source.onerror = () => seen.push([source.readyState === EventSource.CLOSED ? "stopped" : "broken", "", ""]);
"""


class Recorder(Relay):
    """Notes the methods and paths that come through, in their order."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.requests: list[tuple[str, str]] = []
        self.resumed: list[str] = []

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 << 16):
            if up:
                self.requests += re.findall(r"^([A-Z]+) (\S+) HTTP/1.1\r$", data.decode("latin-1"), re.MULTILINE)
                self.resumed += re.findall(r"^Last-Event-ID: (\S+)\r$", data.decode("latin-1"), re.MULTILINE | re.IGNORECASE)
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def window() -> AsyncIterator[Browser]:
    async with browser() as window:
        yield window


@pytest.fixture
async def http(shared_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shared_gateway.url, timeout=20, trust_env=False) as http:
        yield http


async def seen(window: Browser, kind: str, *, times: int = 1) -> list[list[str]]:
    """What the page has seen, once it has seen this so often."""
    events: list[list[str]] = []
    try:
        async with asyncio.timeout(30):
            while [event[0] for event in events].count(kind) < times:
                await asyncio.sleep(0.05)
                events = await window.run("return seen")
    except TimeoutError:
        raise AssertionError(f"no {kind}, but {events}") from None
    return events


async def test_a_page_that_was_offline_catches_up_and_sees_the_end_once(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    job = await enqueue(http, queue)
    async with Recorder(shared_gateway.address) as network, api(shared_broker) as worker:
        await window.open(f"http://{network.address}/page/icon.svg")
        await window.run(FOLLOW, job["eventsUrl"])
        last = (await seen(window, "update"))[-1][2]
        network.refuse()
        network.cut_all()
        await seen(window, "broken")
        delivery = await lease(worker, queue)
        await report(worker, delivery, 50)
        network.refuse(False)
        await seen(window, "gap")
        assert network.resumed[0] == last
        await complete(worker, delivery)
        events = await seen(window, "stopped")
    assert [event[0] for event in events].count("final") == 1
    assert events[-1][0] == "stopped"
    assert [event[1] for event in events if event[0] in ("update", "final")][-1] == "completed"


async def test_a_browser_whose_gateway_is_killed_and_replaced_goes_on_by_itself(window: Browser, store: Store, queue: str) -> None:
    async with Broker(store) as broker, Gateway(broker) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http, api(broker) as worker:
        jobs = [await enqueue(http, queue) for _ in range(2)]
        await window.open(f"{gateway.url}/page/icon.svg")
        await window.run(FOLLOW, "/v1/events?" + "&".join(f"topic={job['name']}" for job in jobs))
        await seen(window, "update", times=2)
        await gateway.kill()
        await seen(window, "broken")
        await complete(worker, await lease(worker, queue))
        await gateway.restart()
        await seen(window, "final")
        await complete(worker, await lease(worker, queue))
        events = await seen(window, "stopped")
    # What was missed is shown again from its snapshot; an end is shown twice only if the first time was before the break.
    assert [event[0] for event in events].count("final") == 2
    assert next(event[2] for event in reversed(events) if event[2]).partition("-")[0].isdigit()


async def test_two_tabs_follow_the_same_job_and_both_see_its_end(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    job = await enqueue(http, queue)
    first = await window.tab()
    await window.open(f"{shared_gateway.url}/#/{job['name']}")
    await window.until("main", lambda text: "waiting" in text)
    await window.new_tab()
    await window.open(f"{shared_gateway.url}/#/{job['name']}")
    await window.until("main", lambda text: "waiting" in text)
    async with api(shared_broker) as worker:
        await complete(worker, await lease(worker, queue))
    await window.until(".state", lambda text: text == "completed")
    await window.switch(first)
    await window.until(".state", lambda text: text == "completed")


async def test_a_page_in_the_background_gives_its_streams_back_and_catches_up_when_it_is_seen_again(window: Browser, shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http, api(shared_broker) as worker:
        job = await enqueue(http, queue)
        await window.open(f"{gateway.url}/#/{job['name']}")
        await window.until("main", lambda text: "waiting" in text)
        hide = """
            const wait = window.setTimeout;
            window.setTimeout = (act, ms) => wait(act, ms === 60000 ? 0 : ms);
            window.hide = (hidden) => {
              Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            };
            hide(true);
        """
        await window.run(hide)
        async with asyncio.timeout(10):
            while (await http.get("/health")).json()["streams"]:
                await asyncio.sleep(0.05)
        await complete(worker, await lease(worker, queue))
        assert await window.text(".state") == "waiting"
        await window.run("hide(false)")
        await window.until(".state", lambda text: text == "completed")


async def test_a_page_of_another_origin_reconnects_without_asking_first(window: Browser, shared_broker: Broker, queue: str) -> None:
    async with Recorder("127.0.0.1:1") as network:
        page = Gateway(shared_broker)
        async with page, Gateway(shared_broker, extra=["--allowed-origins", page.url]) as gateway, api(shared_broker) as worker:
            network.target = gateway.address
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
                job = await enqueue(http, queue)
            await window.open(f"{page.url}/page/icon.svg")
            # The page's own policy lets it connect to its own origin alone.
            await window.devtools("Page.setBypassCSP", {"enabled": True})
            await window.open(f"{page.url}/page/icon.svg")
            await window.run(FOLLOW, f"http://{network.address}{job['eventsUrl']}")
            last = (await seen(window, "update"))[-1][2]
            network.cut_all()
            await seen(window, "connected", times=2)
            await complete(worker, await lease(worker, queue))
            await seen(window, "stopped")
            assert network.resumed[0] == last
            assert {method for method, _ in network.requests} == {"GET"}
            assert len(network.requests) == 3
