"""Start store, broker, gateway and webhooks in this order, keep them running, stop them in the reverse order.

Only this process hears the terminal's Ctrl-C: each part has a process group of its own. When this process dies without a word, the kernel ends the parts.
"""

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobwire_cli.up.own_keys import OwnKeys
from jobwire_cli.up.process import Ending, LineSink, PartFailed
from jobwire_cli.up.server import Server
from jobwire_cli.up.store import EmbeddedStore

_CRASHES_ALLOWED = 5
_CRASH_WINDOW_S = 60.0
_BACKOFF_BASE_S = 0.25
_BACKOFF_MAX_S = 4.0
_HURRIED_STORE_GRACE_S = 3.0


@dataclass(frozen=True, kw_only=True)
class UpConfig:
    """What to run."""

    data_dir: Path
    """Where the embedded store keeps its file. Not touched when `store` is given."""
    store: str | None = None
    """The URL of a store that is there already. None starts one."""
    grpc: str = "127.0.0.1:7410"
    """Where the broker listens; port 0 picks one."""
    http: str = "127.0.0.1:8080"
    """Where the gateway listens; port 0 picks one."""
    broker_arguments: tuple[str, ...] = ()
    """Further flags for `jobwire broker`, without secrets."""
    gateway_arguments: tuple[str, ...] = ()
    """Further flags for `jobwire gateway`, without secrets."""
    webhooks_arguments: tuple[str, ...] = ()
    """Further flags for `jobwire webhooks`."""
    webhooks_queue: str = ""
    """The queue of webhooks' deliveries. Empty: there are no webhooks."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Everything serves."""

    grpc: str
    """Where the broker listens."""
    http: str
    """Where the gateway listens."""
    store: str
    """The store's URL, as it was given."""


class Part(Protocol):
    """What is kept running."""

    name: str

    async def start(self) -> None:
        """Start it and wait until it serves."""

    async def wait(self) -> Ending:
        """Wait for its end, and say how it came."""
        ...

    async def stop(self, grace_s: float = ...) -> None:
        """End it in order."""

    def kill(self) -> None:
        """End it at once."""


class Supervisor:
    """Runs the parts until it is told to stop, or until one of them can't be kept running."""

    def __init__(self, config: UpConfig, *, sink: LineSink, on_ready: Callable[[Ready], None]) -> None:
        """Prepare; `run` does it all.

        Args:
            config: what to run.
            sink: takes (part, line) for each line that a part writes, and our own lines under the name `up`.
            on_ready: called once, when everything serves.
        """
        self._config = config
        self._sink = sink
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._parts: list[Part] = []

    def request_stop(self) -> None:
        """The first call drains and stops everything in order; a second one stops it at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Start, keep and stop everything.

        Raises:
            PartFailed: a part did not start, or crashed more than 5 times within a minute. Everything is stopped by then.
            DirectoryInUse: the data directory belongs to another process. Nothing was started.
            DirectoryUnusable: it can't be made or written to. Nothing was started.
            StoreBinaryMissing: there is no store to start.
        """
        with _signals(self.request_stop):
            async with self._store() as url:
                try:
                    await self._unless_stopped(self._serve(url))
                finally:
                    await self._wind_down()

    @contextlib.asynccontextmanager
    async def _store(self) -> AsyncIterator[str]:
        if self._config.store is not None:
            yield self._config.store
            return
        store = EmbeddedStore(self._config.data_dir, sink=self._sink)
        await store.open()
        self._parts.append(store)
        try:
            yield store.url
        finally:
            await store.close()

    async def _serve(self, store_url: str) -> None:
        """Start what is not there yet, one after the other, then keep all of it running. Returns only by an error."""
        for part in self._parts:
            await part.start()
        keys = OwnKeys.made(webhooks_queue=self._config.webhooks_queue)
        broker = Server(
            "broker",
            address_flag="grpc",
            address=self._config.grpc,
            arguments=self._config.broker_arguments,
            secrets={"JOBWIRE_STORE": store_url, **keys.for_broker},
            sink=self._sink,
        )
        await self._add(broker)
        gateway = Server(
            "gateway",
            address_flag="http",
            address=self._config.http,
            arguments=["--broker", broker.address, *self._config.gateway_arguments],
            secrets=keys.for_gateway,
            sink=self._sink,
        )
        await self._add(gateway)
        if self._config.webhooks_queue:
            arguments = ["--broker", broker.address, *self._config.webhooks_arguments]
            await self._add(Server("webhooks", arguments=arguments, secrets=keys.for_webhooks, sink=self._sink))
        self._on_ready(Ready(grpc=broker.address, http=gateway.address, store=store_url))
        await self._keep_all()

    async def _add(self, part: Part) -> None:
        self._parts.append(part)
        await part.start()

    async def _keep_all(self) -> None:
        keepers = [asyncio.create_task(self._keep(part), name=f"{part.name}.keep") for part in self._parts]
        try:
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()

    async def _keep(self, part: Part) -> None:
        """Restart a part whenever it ends, each time within a minute after a longer wait."""
        crashes: deque[float] = deque()
        clock = asyncio.get_running_loop().time
        while True:
            ending = await part.wait()
            crashes.append(clock())
            while crashes[0] < clock() - _CRASH_WINDOW_S:
                crashes.popleft()
            if len(crashes) > _CRASHES_ALLOWED:
                raise PartFailed(f"{part.name} crashed {len(crashes)} times within {_CRASH_WINDOW_S:g} s; {ending}")
            delay_s = min(_BACKOFF_BASE_S * 2 ** (len(crashes) - 1), _BACKOFF_MAX_S)
            self._sink("up", f"{ending.sentence}; restarting in {delay_s:g} s (crash {len(crashes)} of {_CRASHES_ALLOWED})")
            await asyncio.sleep(delay_s)
            await self._restart(part)

    async def _restart(self, part: Part) -> None:
        # A part that ends while it starts is one more crash, and is counted by the next round of _keep.
        try:
            await part.start()
        except PartFailed:
            part.kill()
        else:
            self._sink("up", f"{part.name} serves again")

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _wind_down(self) -> None:
        """Stop webhooks, gateway, broker and store, one after the other; all at once when the second signal comes."""
        orderly = asyncio.create_task(self._stop_in_order())
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait({orderly, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if not orderly.done():
                orderly.cancel()
                await asyncio.gather(orderly, return_exceptions=True)
                await self._stop_at_once()
        finally:
            hurry.cancel()

    async def _stop_in_order(self) -> None:
        for part in reversed(self._parts):  # those that need the broker first, so that browsers are sent off while it still answers
            await part.stop()

    async def _stop_at_once(self) -> None:
        for part in self._parts:
            if not isinstance(part, EmbeddedStore):
                part.kill()
        for part in reversed(self._parts):  # the store gets a moment for its last write
            await part.stop(_HURRIED_STORE_GRACE_S)


@contextlib.contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
