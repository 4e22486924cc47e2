"""A broker process, started as a user starts it."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from tests.support.process import Process, python
from tests.support.store import Store

_CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]


class Broker(Process):
    """One `jobwire broker` on a port of its own. After `kill()`, `restart()` brings it back at the same address.

    `store` is a Store or a URL, so that a proxy may stand between. `session_time` is a duration as the command line takes it, for example
    `2s`; without it the default of 10 s holds. `env` are variables, for what has no flag.
    """

    ready_line = r"broker\.ready.*?grpc=(\S+)"

    def __init__(self, store: Store | str, *, session_time: str | None = None, extra: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        super().__init__("broker")
        self._env = dict(env or {})
        self.store_url = store if isinstance(store, str) else store.url
        self.address = "127.0.0.1:0"
        self._options = [*(["--session-time", session_time] if session_time else []), *extra]

    def command(self) -> list[str]:
        return python("-m", "jobwire_cli.main", "broker", "--store", self.store_url, "--grpc", self.address, *self._options)

    def environment(self) -> Mapping[str, str]:
        return self._env

    def on_ready(self, match: re.Match[str]) -> None:
        self.address = match[1].strip("\"',")
        self.label = f"broker {self.address}"

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A connection to this broker and no other."""
        async with connect(self.address) as channel:
            yield channel


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection that shares nothing with others to the same address, and finds a broker that came back at once."""
    options: list[tuple[str, int]] = [*_CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel
