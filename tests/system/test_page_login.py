"""The live page where callers must say who they are, in a real browser."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support import Broker, Gateway, Store
from tests.support.credentials import Keys

from .browser import Browser, browser


@pytest.fixture
async def window() -> AsyncIterator[Browser]:
    async with browser() as window:
        yield window


async def test_the_page_asks_for_a_key_and_then_works_with_a_cookie_that_no_script_sees(window: Browser, store: Store) -> None:
    keys = Keys(gateway="watch:* read:*", ann="*:*")
    async with Broker(store, env={"JOBWIRE_KEYS": keys.text}) as broker, Gateway(broker, env={"JOBWIRE_API_KEY": keys.of["gateway"]}) as gateway:
        await window.open(gateway.url + "/")
        await _is_at(window, "/page/login.html")
        await _sign_in(window, "jobwire_key_" + "x" * 43)
        await window.until("#said", lambda said: "unknown" in said)
        await _sign_in(window, keys.of["ann"])
        await _is_at(window, "/")
        await window.until("#status", lambda status: status == "live")
        assert await window.run("return document.cookie") == ""
        assert keys.of["ann"] not in gateway.tail(200) + broker.tail(200)
        # X14: a session that has ended is not tried again for ever.
        await window.forget_cookies()
        await gateway.kill()
        await gateway.restart()
        await _is_at(window, "/page/login.html")


async def _sign_in(window: Browser, key: str) -> None:
    await window.run("const key = document.getElementById('key'); key.value = arguments[0]; key.form.requestSubmit();", key)


async def _is_at(window: Browser, path: str) -> None:
    async with asyncio.timeout(20):
        while await window.run("return location.pathname + (document.readyState === 'complete' ? '' : '…')") != path:
            await asyncio.sleep(0.05)
