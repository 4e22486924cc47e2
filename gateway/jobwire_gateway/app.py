"""The routes, and the parts that they share."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.config import GatewayConfig
from jobwire_gateway.feed import Feed
from jobwire_gateway.health import Health
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.problems import Problem
from jobwire_gateway.rest import Rest
from jobwire_gateway.security import Security
from jobwire_gateway.sse import EventsEndpoint, watch_job, watch_queue
from jobwire_gateway.stats import Stats
from jobwire_gateway.streams import Streams
from jobwire_gateway.topics import Topics

PAGE = Path(__file__).parent / "page"

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The parts of one gateway process. Made inside its event loop."""

    config: GatewayConfig
    brokers: Brokers
    topics: Topics
    feed: Feed
    streams: Streams

    @classmethod
    def of(cls, config: GatewayConfig) -> "Gateway":
        """Put the parts together; nothing runs yet."""
        heartbeat_s = config.heartbeat.total_seconds()
        streams = Streams(limit=config.max_streams, retry_s=config.retry.total_seconds(), drain_s=config.drain.total_seconds(), heartbeat_s=heartbeat_s)
        topics = Topics(Bounds(config.mailbox_frames, config.mailbox_bytes), streams.heartbeat_ms)
        brokers = Brokers(config.brokers, config.call_timeout.total_seconds())
        return cls(config=config, brokers=brokers, topics=topics, feed=Feed(brokers, topics), streams=streams)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The long-running roles, from the first to the last request."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.brokers.close)
            self.feed.start()
            stack.push_async_callback(self.feed.stop)
            self.streams.wheel.start()
            stack.push_async_callback(self.streams.wheel.stop)
            # What is there now stays; the collector need not walk it with every stream that comes and goes.
            gc.freeze()
            yield


def application(gateway: Gateway) -> ASGIApp:
    """The whole ASGI application."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    handlers = {Problem: _show_problem, HTTPException: _show_http_exception, Exception: _show_bug}
    app = Starlette(routes=routes(gateway), lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return Security(app, gateway.config.hosts)


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Which path leads where."""
    rest = Rest(gateway.config, gateway.brokers)
    stats = Stats(gateway.brokers, gateway.topics, gateway.streams)
    health = Health(gateway.brokers, gateway.feed, gateway.streams)
    job_events = EventsEndpoint(gateway.topics, gateway.streams, watch_job, ends=True)
    queue_events = EventsEndpoint(gateway.topics, gateway.streams, watch_queue, ends=False)
    return [
        Route("/v1/queues/{queue}/jobs/{id}/events", job_events, methods=["GET"]),
        Route("/v1/queues/{queue}/events", queue_events, methods=["GET"]),
        Route("/v1/queues/{queue}/jobs/{id}", _by_method(get=rest.get, post=rest.act), methods=["GET", "POST"]),
        Route("/v1/queues/{queue}/jobs", _by_method(get=rest.list_jobs, post=rest.enqueue), methods=["GET", "POST"]),
        Route("/v1/queues", rest.list_queues),
        Route("/v1/stats/stream", stats.stream),
        Route("/v1/stats", stats.once),
        Route("/livez", health.live),
        Route("/readyz", health.ready),
        Route("/health", health.health),
        Route("/", _page),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def _show_problem(request: Request, problem: Problem) -> Response:
    return problem.response(request.url.path)


async def _show_http_exception(request: Request, error: HTTPException) -> Response:
    problem = Problem(error.status_code, _SENTENCES.get(error.status_code, error.detail), headers=dict(error.headers or {}))
    return problem.response(request.url.path)


async def _show_bug(request: Request, error: Exception) -> Response:
    # Starlette raises it again behind this answer, and the server logs it.
    return Problem(500, "Something went wrong inside.").response(request.url.path)


def _by_method(*, get: Handler, post: Handler) -> Handler:
    """One path with two methods, so that a third is answered with both in `Allow`."""

    async def endpoint(request: Request) -> Response:
        return await (post if request.method == "POST" else get)(request)

    return endpoint


_SENTENCES = {404: "There is nothing at this path.", 405: "This path does not know that method."}
