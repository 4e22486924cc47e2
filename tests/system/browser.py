"""A headless Chromium, driven over plain WebDriver calls. Its profile is empty and it talks to nobody but the page."""

import asyncio
import base64
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support import Process
from tests.support.needs import need

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_WAIT_S = 20.0
_LOOK_EVERY_S = 0.05


class Driver(Process):
    """The chromedriver process."""

    ready_line = r"started successfully on port (\d+)"

    def __init__(self) -> None:
        super().__init__("chromedriver")
        self.port = 0

    def command(self) -> Sequence[str]:
        return [str(need("chromedriver")), "--port=0"]

    def on_ready(self, match: re.Match[str]) -> None:
        self.port = int(match[1])


class Browser:
    """One window."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self._http = http
        self._session = session

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self._call("POST", "url", {"url": url})

    async def run(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page. Gives what it returns."""
        return await self._call("POST", "execute/sync", {"script": script, "args": list(arguments)})

    async def text(self, selector: str = "body") -> str:
        """The text of an element as it is shown; empty when there is none."""
        return str(await self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    async def until(self, selector: str, holds: Callable[[str], bool], *, timeout_s: float = _WAIT_S) -> str:
        """Look until an element's text is as wanted. Gives the text."""
        text = ""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(text := await self.text(selector)):
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise AssertionError(f"{selector} still says {text!r}; the page says {await self.text()!r}, its log {await self.log()}") from None
        return text

    async def click(self, selector: str) -> None:
        """Click on the first element that matches, as a person would."""
        element = await self._call("POST", "element", {"using": "css selector", "value": selector})
        await self._call("POST", f"element/{next(iter(element.values()))}/click", {})

    async def press(self, key: str) -> None:
        """Press a key where the focus is."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        await self._call("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    async def log(self) -> list[str]:
        """What the page has complained about since the last call."""
        return [str(entry["message"]) for entry in await self._call("POST", "se/log", {"type": "browser"})]

    async def forget_cookies(self) -> None:
        """Throw away all cookies of the page's site, those that no script sees included."""
        await self._call("DELETE", "cookie")

    async def resize(self, width: int, height: int) -> None:
        """Make the window's inside so large."""
        await self.devtools("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    async def devtools(self, command: str, parameters: dict[str, object]) -> Any:
        """Send a command of the DevTools protocol."""
        return await self._call("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})

    async def new_tab(self) -> str:
        """Open one more tab and go there. Gives its handle."""
        made = await self._call("POST", "window/new", {"type": "tab"})
        await self.switch(made["handle"])
        return str(made["handle"])

    async def tab(self) -> str:
        """The handle of the tab where we are."""
        return str(await self._call("GET", "window"))

    async def switch(self, handle: str) -> None:
        """Go to a tab."""
        await self._call("POST", "window", {"handle": handle})

    async def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(await self._call("GET", "screenshot"))

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        answer = await self._http.request(method, f"/session/{self._session}/{path}", json=body)
        value = answer.json()["value"]
        assert answer.is_success, value
        return value


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start one, or leave the test out, loudly, where there is no Chromium."""
    chromium = need("chromium")
    need("chromedriver")
    with tempfile.TemporaryDirectory() as profile:
        options = {"binary": str(chromium), "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        async with Driver() as driver, httpx.AsyncClient(base_url=f"http://127.0.0.1:{driver.port}", timeout=60, trust_env=False) as http:
            started = (await http.post("/session", json={"capabilities": {"alwaysMatch": capabilities}})).json()["value"]
            assert "sessionId" in started, started
            try:
                yield Browser(http, started["sessionId"])
            finally:
                await http.delete(f"/session/{started['sessionId']}")
