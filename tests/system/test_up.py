"""`jobwire up` as a user runs it: it starts, survives crashes of its parts, and ends without leaving anything behind."""

import asyncio
import base64
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from jobwire_broker.auth.keys import make_key
from jobwire_client import Client, Credentials

from tests.support import Process, Store
from tests.support.process import python
from tests.support.webhooks import Receiver

pytestmark = pytest.mark.slow


class Up(Process):
    """One `jobwire up`, on free ports."""

    ready_line = r"up\.ready grpc=(\S+) http=(\S+) store=(\S+)"

    def __init__(self, directory: Path, *extra: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__("up")
        self.directory = directory
        self._extra = list(extra)
        self._env = dict(env or {})
        self.grpc = self.http = self.store = ""

    def command(self) -> Sequence[str]:
        return python("-m", "jobwire_cli", "up", "--data-dir", str(self.directory), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *self._extra)

    def environment(self) -> Mapping[str, str]:
        return self._env

    def on_ready(self, match: re.Match[str]) -> None:
        self.grpc, self.http, self.store = match.groups()

    def parts(self) -> dict[str, psutil.Process]:
        """The processes below it, by name."""
        named = {}
        for process in psutil.Process(self.pid).children(recursive=True):
            words = process.cmdline()
            named["store" if "valkey" in words[0] else words[3]] = process
        return named


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    (tmp_path / "queues.yaml").write_text("queues:\n  ruled:\n    attempts: 7\n    groups:\n      acme: {express: true}\n")
    async with Up(tmp_path / "data", "--queues", str(tmp_path / "queues.yaml")) as up:
        yield up


async def gone(processes: Sequence[psutil.Process], within_s: float = 10) -> None:
    """Wait until none of them runs any more. A zombie that waits for the machine's init does not run."""
    async with asyncio.timeout(within_s):
        while [process for process in processes if _runs(process)]:
            await asyncio.sleep(0.02)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def page(up: Up, path: str) -> int:
    """The status of a GET."""
    host, port = up.http.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {up.http}\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def enqueue_on_disk(up: Up, count: int) -> set[str]:
    async with Client(up.grpc, timeout=10) as client:
        made = await asyncio.gather(*(client.enqueue("q", "h", number, durability="disk") for number in range(count)))
    return {job.id for job in made}


async def waiting(up: Up) -> set[str]:
    async with Client(up.grpc, timeout=10) as client:
        return {job.id async for job in client.list_jobs("q", "waiting")}


async def test_everything_serves_and_sigterm_stops_it_in_order(up: Up) -> None:
    made = await enqueue_on_disk(up, 3)
    assert await waiting(up) == made
    await up.line(r"feed\.open", past=True)  # it serves before it is ready, and on a busy machine that shows
    assert await page(up, "/readyz") == 200
    async with Client(up.grpc) as client:
        assert (await client.queue("ruled")).policy.attempts == 7
        assert [(group.name, group.express) for group in await client.groups("ruled")] == [("acme", True)]
    parts = up.parts()
    assert set(parts) == {"store", "broker", "gateway"}
    assert not [connection for connection in parts["store"].net_connections("inet") if connection.status == psutil.CONN_LISTEN]

    assert await up.stop() == 0

    await gone(list(parts.values()))
    said = "\n".join(up.lines())
    ends = [said.index(end) for end in ("gateway.ended", "broker.stopped", "ready to exit")]
    assert ends == sorted(ends)


async def test_what_was_acknowledged_as_on_disk_is_there_after_a_kill_of_everything(up: Up) -> None:
    made = await enqueue_on_disk(up, 200)
    everything = [psutil.Process(up.pid), *up.parts().values()]
    for process in everything:
        process.kill()
    await up.ended()
    await gone(everything)

    await up.restart()

    assert await waiting(up) == made


async def test_a_kill_of_the_supervisor_alone_leaves_no_orphan_and_loses_nothing(up: Up) -> None:
    made = await enqueue_on_disk(up, 200)
    async with Client(up.grpc) as client:
        made |= {(await client.enqueue("q", "h")).id}  # in memory alone: the store still writes it out
    parts = list(up.parts().values())
    await up.kill()
    await up.restart()  # at once: it waits for the old store to be gone
    await gone(parts)
    assert await waiting(up) == made


async def test_a_kill_while_it_starts_leaves_no_orphan(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.spawn()
    try:
        parts: list[psutil.Process] = []
        while len(parts) < 2:  # the store runs, and the broker is on its way
            await asyncio.sleep(0.01)
            parts = psutil.Process(up.pid).children()
        await up.kill()
        await gone(parts)
    finally:
        up.clean()


async def test_a_second_up_on_the_same_directory_says_so_and_harms_nothing(up: Up) -> None:
    made = await enqueue_on_disk(up, 1)
    second = Up(up.directory)
    second.spawn()
    try:
        assert await second.ended() == 7
        assert f"{up.directory} is in use by process {up.pid}" in second.tail()
    finally:
        second.clean()
    assert await waiting(up) == made


async def test_a_part_that_is_killed_comes_back_where_it_was(up: Up) -> None:
    made = await enqueue_on_disk(up, 20)
    for name in ("broker", "gateway", "store"):
        back = asyncio.create_task(up.line(f"{name} serves again"))
        up.parts()[name].kill()

        await back
        assert f"{name} ended by SIGKILL; restarting in 0.25 s" in up.tail()
    async with asyncio.timeout(10):
        while await page(up, "/readyz") != 200:
            await asyncio.sleep(0.05)
    assert await waiting(up) == made


async def test_a_second_signal_stops_everything_at_once(up: Up) -> None:
    parts = up.parts()
    parts["broker"].suspend()  # so it can't drain
    up.send(signal.SIGINT)
    await asyncio.sleep(0.2)
    assert up.running
    up.send(signal.SIGINT)
    await up.ended(timeout=8)
    await gone(list(parts.values()))
    assert "ready to exit" in up.tail()  # the store still made its last write


async def test_webhooks_are_one_more_part_with_a_key_of_its_own(tmp_path: Path) -> None:
    key, line = make_key("shop", "enqueue:orders control:orders")
    (tmp_path / "keys").write_text(line + "\n")
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    async with Receiver.listening() as receiver:
        (tmp_path / "webhooks.yaml").write_text(
            "allow_http: true\nallow_private: [127.0.0.0/8]\n"
            f"endpoints:\n  shop:\n    url: {receiver.url}\n    secrets: [{{file: {tmp_path}/secret}}]\n    queues: [orders]\n"
        )
        async with Up(tmp_path / "data", "--webhooks", str(tmp_path / "webhooks.yaml"), env={"JOBWIRE_KEYS_FILE": str(tmp_path / "keys")}) as up:
            assert set(up.parts()) == {"store", "broker", "gateway", "webhooks"}
            async with Client(up.grpc, credentials=Credentials(key=key)) as client:
                job = await client.enqueue("orders", "order")
                await client.cancel(job.name)
            (request,) = await receiver.next()
    assert json.loads(request.body)["data"]["name"] == job.name


async def test_with_a_store_of_its_own_it_starts_none(store: Store, tmp_path: Path) -> None:
    async with Up(tmp_path / "data", "--store", store.url) as up:
        made = await enqueue_on_disk(up, 1)
        assert set(up.parts()) == {"broker", "gateway"}
        assert not (tmp_path / "data").exists()
        assert await waiting(up) == made
    assert store.running


async def test_a_store_with_a_password_is_never_shown(store: Store, tmp_path: Path) -> None:
    url = store.url.replace("unix://", "unix://:s3cret@")
    up = Up(tmp_path / "data")
    up.environment = lambda: {"JOBWIRE_STORE": url}  # type: ignore[method-assign]
    up.spawn()
    try:
        seen = ""
        while up.running and "broker" not in up.tail():
            await asyncio.sleep(0.05)
            with suppress(psutil.Error):
                seen += " ".join(word for process in psutil.Process(up.pid).children() for word in process.cmdline())
        assert "s3cret" not in seen + up.tail()
        assert "broker" in seen
    finally:
        up.clean()


@pytest.mark.parametrize("flag", ["--grpc", "--http"])
async def test_a_port_that_is_taken_ends_everything_with_a_sentence(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        up = Up(tmp_path, flag, address)
        up.spawn()
        try:
            assert await up.ended(timeout=30) == 1
        finally:
            up.clean()
    last = up.tail().splitlines()[-1]
    assert re.fullmatch(rf"jobwire: \w+ did not start: {flag} {address} can't be listened on: .*end what listens there, or give another address", last)
    assert not (tmp_path / "store.sock").exists()


async def test_a_store_that_does_not_answer_is_told_with_the_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Up(tmp_path / "data", "--store", f"redis://127.0.0.1:{port}") as up:
        await up.line(r"It can't be used yet", past=True)


async def test_a_flag_that_a_part_refuses_is_told_as_a_wrong_flag(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", "--session-time", "0.1s")
    up.spawn()
    try:
        assert await up.ended() == 2
        assert "session_time" in up.tail()
    finally:
        up.clean()


async def test_a_directory_with_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    directory = tmp_path / ("long " * 30) / "höhle"
    async with Up(directory) as up:
        assert await enqueue_on_disk(up, 1) == await waiting(up)
        assert len(os.fsencode(up.store.removeprefix("unix://"))) < 108
        assert (directory / "appendonlydir").is_dir()
