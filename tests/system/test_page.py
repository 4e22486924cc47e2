"""The live page and EventSource itself, in a real browser, before the real system."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jobwire_gateway
import pytest

from tests.integration.gateway.reading import complete, enqueue, fail, lease, report
from tests.support import Broker, Gateway
from tests.support.api import api

from .browser import Browser, browser

PAGE = Path(jobwire_gateway.__file__).parent / "page"


@pytest.fixture
async def window() -> AsyncIterator[Browser]:
    async with browser() as window:
        yield window


@pytest.fixture
async def http(shared_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=shared_gateway.url, timeout=20, trust_env=False) as http:
        yield http


async def test_an_event_source_sees_the_whole_life_and_then_stops(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    job = await enqueue(http, queue)
    await window.open(shared_gateway.url + "/page/icon.svg")
    await window.run(
        """
        window.seen = [];
        window.source = new EventSource(arguments[0]);
        source.onmessage = (event) => seen.push([JSON.parse(event.data).type, event.lastEventId]);
        source.onerror = () => { if (source.readyState === EventSource.CLOSED) seen.push(["stopped", ""]); };
        """,
        job["eventsUrl"],
    )

    async def seen(kind: str) -> list[list[str]]:
        events: list[list[str]] = []
        async with asyncio.timeout(20):
            while not any(event[0] == kind for event in events):
                await asyncio.sleep(0.05)
                events = await window.run("return seen")
        return events

    await seen("update")
    async with api(shared_broker) as worker:
        delivery = await lease(worker, queue)
        await report(worker, delivery, 50)
        await complete(worker, delivery)
    assert (await seen("final"))[0][0] == "connected"
    # The browser reconnects with the last id, gets 204, and gives up: so it says itself.
    events = await seen("stopped")
    assert [kind for kind, _ in events].count("final") == 1
    assert events[-2][1].endswith(".end")


async def test_the_overview_counts_without_being_asked_again(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    await enqueue(http, queue)
    await window.open(shared_gateway.url)
    card = f"a[href='#/queues/{queue}']"
    await window.until(card, lambda text: re.search(r"1\s+waiting|waiting\s+1", text) is not None)
    await window.until("#status", lambda text: text == "live")
    async with api(shared_broker) as worker:
        await complete(worker, await lease(worker, queue))
    await window.until(card, lambda text: re.search(r"1\s+completed|completed\s+1", text) is not None)
    assert await window.log() == []


async def test_rows_come_move_and_go_as_jobs_do(window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str) -> None:
    await window.open(f"{shared_gateway.url}/#/queues/{queue}?state=active")
    await window.until("main", lambda text: "No active job." in text)
    await enqueue(http, queue)
    async with api(shared_broker) as worker:
        delivery = await lease(worker, queue)
        row = f"tr[data-id='{delivery.id}']"
        await window.until(row, lambda text: "0 %" in text and "1 of 3" in text)
        await report(worker, delivery, 40, "resizing")
        await window.until(row, lambda text: "40 %" in text and "resizing" in text)
        await fail(worker, delivery, "no picture")
    await window.until("main", lambda text: "No active job." in text)
    await window.open(f"{shared_gateway.url}/#/queues/{queue}?state=failed")
    await window.until(row, lambda text: "no picture" in text and "Retry" in text)
    await window.click(f"{row} button")
    await window.until("main", lambda text: "No failed job." in text)
    assert await window.log() == []


async def test_a_job_is_followed_to_its_end_and_can_be_cancelled_by_keyboard(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    job = await enqueue(http, queue, payload={"photo": "a.jpg"})
    await window.open(f"{shared_gateway.url}/#/{job['name']}")
    await window.until("main", lambda text: "waiting" in text and "a.jpg" in text)
    async with api(shared_broker) as worker:
        delivery = await lease(worker, queue)
        await report(worker, delivery, 70, "half way and more")
        await window.until("main", lambda text: "70 %" in text and "half way and more" in text)
        await complete(worker, delivery, '{"sizes":[128]}')
        await window.until("main", lambda text: "completed" in text and "100 %" in text and '"sizes"' in text)
    other = await enqueue(http, queue)
    await window.open(f"{shared_gateway.url}/#/{other['name']}")
    await window.until(".actions", lambda text: text == "Cancel")
    await window.run("document.querySelector('.actions button').focus()")
    await window.press("\ue007")
    await window.until(".actions", lambda text: text == "Really cancel")
    await window.press("\ue007")
    await window.until(".state", lambda text: text == "cancelled")
    assert (await http.get(f"/v1/{other['name']}")).json()["state"] == "cancelled"


async def test_what_a_job_carries_is_shown_as_text_and_never_run(
    window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, shared_broker: Broker, queue: str
) -> None:
    attack = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    job = await enqueue(http, queue, payload=attack)
    async with api(shared_broker) as worker:
        delivery = await lease(worker, queue)
        await report(worker, delivery, 10, attack)
        await fail(worker, delivery, attack)
    await window.open(f"{shared_gateway.url}/#/{job['name']}")
    await window.until("main", lambda text: text.count("<script>") >= 2)
    await window.open(f"{shared_gateway.url}/#/queues/{queue}?state=failed")
    await window.until("main", lambda text: "<img" in text)
    assert await window.run("return [document.title, document.querySelectorAll('main script, main img').length]") == [f"{queue} · Jobwire", 0]


async def test_the_page_survives_a_gateway_that_is_restarted(window: Browser, shared_broker: Broker, queue: str) -> None:
    async with Gateway(shared_broker) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http, api(shared_broker) as worker:
        job = await enqueue(http, queue)
        await window.open(f"{gateway.url}/#/{job['name']}")
        await window.until("main", lambda text: "waiting" in text)
        await gateway.kill()
        await window.until("#status", lambda text: text == "reconnecting")
        await complete(worker, await lease(worker, queue))
        await gateway.restart()
        await window.until(".state", lambda text: text == "completed")


async def test_a_phone_needs_no_sideways_scrolling(window: Browser, http: httpx.AsyncClient, shared_gateway: Gateway, queue: str) -> None:
    job = await enqueue(http, queue, payload={"text": "x" * 300})
    await window.resize(360, 740)
    for address in ("/", f"/#/queues/{queue}?state=waiting", f"/#/{job['name']}"):
        await window.open(shared_gateway.url + address)
        await window.until("main", lambda text: queue in text or "thumbnail" in text)
        wide = "return [...document.querySelectorAll('body, body *:not(.tabs *)')].filter((e) => e.getBoundingClientRect().right > 361).map((e) => e.outerHTML)"
        assert await window.run("return document.documentElement.scrollWidth") <= 360, (address, await window.run(wide))


def test_the_page_names_no_outside_address_and_has_no_inline_script() -> None:
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert "innerHTML" not in text, path
        assert "setInterval(() => ask" not in text, path
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", (PAGE / "index.html").read_text())
