"""The process: its socket, its signals, its end.

The first SIGTERM or SIGINT drains: readiness turns red, open streams are closed over a window, running requests are finished, then the process
ends with 0. A second one ends it at once.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from jobwire_gateway.app import Gateway, application
from jobwire_gateway.config import GatewayConfig, split_address
from jobwire_gateway.metrics import AddressTaken, GatewayMetrics, Measured
from jobwire_gateway.protocol import STALL_S, bounded
from jobwire_gateway.security import ANSWER_HEADERS
from jobwire_gateway.ws_protocol import MAX_MESSAGE_BYTES, PING_S, noting

_log = logging.getLogger("jobwire.gateway")

_FINISH_S = 4.0
"""How long after the window of the drain running requests may take. With the end of all else the process lasts at most a second longer."""

_KEEP_ALIVE_S = 75
"""Longer than the 60 s of most proxies, so that it is the proxy that ends an idle connection."""

_NOT_SENT_BYTES = 16 * 1024
"""What the kernel holds for a reader beyond what is on its way: the rest waits here, where it is conflated."""


_SEND_BUFFER_BYTES = 128 * 1024
"""The most that the kernel holds for one reader that does not read (Linux allows twice that); by itself it would let this grow to megabytes."""


def run(config: GatewayConfig) -> int:
    """Serve until a signal. Returns the process's exit code: 0, or 1 when the address cannot be had."""
    _set_up_logging()
    # Its streams are drained by us, over a window, and not all at once by the library.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    try:
        listener = _listen(config)
    except OSError as error:
        _log.error("gateway.no_address http=%s reason=%s", config.http, error)
        return _complain("--http", config.http, error)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_serve(config, listener))
        except AddressTaken as error:
            _log.error("gateway.no_address metrics=%s reason=%s", config.metrics, error)
            return _complain("--metrics", config.metrics, error)
    _log.info("gateway.ended")
    return 0


def _complain(flag: str, address: str, error: Exception) -> int:
    """End with a sentence for whoever started it by hand."""
    reason = error.strerror if isinstance(error, OSError) else error
    print(f"jobwire gateway: {flag} {address} can't be listened on: {reason}; end what listens there, or give another address", file=sys.stderr)  # noqa: T201 - the process ends with it
    return 1


class GatewayServer(uvicorn.Server):
    """uvicorn with our drain instead of its own."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, address: str) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._address = address
        self._draining: asyncio.Task[None] | None = None
        self._drain_s = gateway.config.drain.total_seconds()
        self._ends_at = 0.0
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets)
        _log.info("gateway.ready http=%s", self._address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. Runs between two instructions of the loop's thread, so it only leaves word."""
        self._loop.call_soon_threadsafe(self._exit)

    def _exit(self) -> None:
        if self._draining is None:
            self._draining = self._loop.create_task(self._drain())
        else:
            self._exit_now()

    async def _drain(self) -> None:
        _log.info("gateway.draining streams=%d", len(self._gateway.streams))
        self._ends_at = self._loop.time() + self._drain_s + _FINISH_S
        await self._gateway.streams.drain()
        self.should_exit = True

    def _exit_now(self) -> None:
        self._silence()
        self._gateway.streams.close_all()
        self.force_exit = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, after the drain."""
        for connection in list(self.server_state.connections):
            # One that does not read would hold up the end; in a hurry, so would any.
            if self.force_exit or connection.stalled:  # type: ignore[union-attr]
                connection.transport.abort()
        left_s = max(1, round(self._ends_at - self._loop.time()))
        self.config.timeout_graceful_shutdown = left_s
        cutting = self._loop.call_later(left_s, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut_off(self) -> None:
        """Say what is about to be cut off. Who asked a broker is told that the gateway ends."""
        _log.warning("gateway.cut_off requests=%d", len(self.server_state.tasks))
        self._gateway.brokers.ending = True
        self._silence()

    def _silence(self) -> None:
        # What is cut off would each leave a traceback, and says nothing that the operator does not know.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


async def _serve(config: GatewayConfig, listener: socket.socket) -> None:
    gateway = Gateway.of(config)
    with _metrics(config, gateway) as measured:
        await _serve_http(config, listener, gateway, measured(application(gateway)))


@contextmanager
def _metrics(config: GatewayConfig, gateway: Gateway) -> Iterator[Callable[[ASGIApp], ASGIApp]]:
    """Serve metrics where they are wanted; gives what counts an application's requests."""
    if not config.metrics:
        yield lambda app: app
        return
    metrics = GatewayMetrics(
        {
            ("jobwire_gateway_streams", "Open event streams, sockets and waits."): lambda: len(gateway.streams),
            ("jobwire_gateway_streams_started", "Streams, sockets and waits that began since this process did."): lambda: gateway.streams.started,
            ("jobwire_gateway_feed_up", "1 while the feed from a broker is there."): lambda: gateway.feed.open,
            ("jobwire_gateway_draining", "1 from the first signal to the end."): lambda: gateway.streams.draining,
        },
        {
            ("jobwire_gateway_refusals", "What was refused for who asked, from where, or how."): gateway.refusals.counts,
            ("jobwire_gateway_streams_turned_away", "Streams that were told to come back later."): gateway.streams.turned_away,
        },
    )
    host, port = split_address(config.metrics, "metrics")
    taken, stop = metrics.serve(host, port)
    _log.info("gateway.metrics http=%s:%d", host, taken)
    try:
        yield lambda app: Measured(app, metrics)
    finally:
        stop()


async def _serve_http(config: GatewayConfig, listener: socket.socket, gateway: Gateway, app: ASGIApp) -> None:
    server_config = uvicorn.Config(
        app,
        loop="none",
        http=bounded(config.max_header_bytes, gateway.refusals.note_head),
        ws=noting(gateway.refusals.note_head),
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=list(ANSWER_HEADERS.items()),
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    await GatewayServer(server_config, gateway, _address_of(listener)).serve([listener])


def _listen(config: GatewayConfig) -> socket.socket:
    host, port = split_address(config.http, "http")
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, number)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_for_streams(listener)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _set_for_streams(listener: socket.socket) -> None:
    """Options that every accepted connection inherits: a peer that is gone, or does not read, is to show here and not to hide in the kernel."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALL_S * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOT_SENT_BYTES)


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop


def _set_up_logging() -> None:
    """To stderr, unless the program that runs us has set up something of its own."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logger = logging.getLogger("jobwire")
    if logger.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn").addHandler(handler)
