"""The page of plain HTML that the README shows, as it stands there, in a real browser and from an origin of its own."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.integration.gateway.reading import complete, enqueue, lease, report
from tests.support import Broker, Gateway
from tests.support.api import api
from tests.support.process import REPOSITORY

from .browser import browser


async def test_the_page_of_the_readme_shows_a_job_from_another_origin(shared_broker: Broker, queue: str, tmp_path: Path) -> None:
    with _served(tmp_path) as origin:
        async with (
            browser() as window,
            Gateway(shared_broker, env={"JOBWIRE_ALLOWED_ORIGINS": origin}) as gateway,
            httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http,
            api(shared_broker) as worker,
        ):
            (tmp_path / "follow.html").write_text(_page().replace("localhost:8080", gateway.address))
            job = await enqueue(http, queue)
            await window.open(f"{origin}/follow.html?job={job['name']}")
            await window.until("#state", lambda text: text == "waiting")
            delivery = await lease(worker, queue)
            await report(worker, delivery, 40)
            await window.until("#state", lambda text: text == "active")
            await complete(worker, delivery)
            await window.until("#state", lambda text: text == "completed")
            assert await window.run("return bar.value") == 100


def _page() -> str:
    """The only HTML in the README."""
    (page,) = re.findall(r"^```html\n(.*?)^```\n", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert isinstance(page, str)
    return page


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """What `python -m http.server` does. Gives the origin."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """The test's output has no use for it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
