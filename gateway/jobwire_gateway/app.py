"""The routes, and the parts that they share."""

import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from jobwire_gateway.access import Identities
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.bulk import Bulk
from jobwire_gateway.caps import Shares
from jobwire_gateway.config import GatewayConfig
from jobwire_gateway.docs_page import page as docs_page
from jobwire_gateway.feed import Feed
from jobwire_gateway.health import Health
from jobwire_gateway.logs import Logs
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.openapi import document
from jobwire_gateway.operations import Operation, verbs_of
from jobwire_gateway.operations import routes as operation_routes
from jobwire_gateway.problems import Problem
from jobwire_gateway.rechecks import Rechecks
from jobwire_gateway.refusals import Refusals
from jobwire_gateway.rest import Rest
from jobwire_gateway.security import Security
from jobwire_gateway.sse import EventsEndpoint, ManyEventsEndpoint, Shortcut, watch_job, watch_queue
from jobwire_gateway.stats import Stats
from jobwire_gateway.streams import Streams
from jobwire_gateway.table import operations
from jobwire_gateway.tokens import operations as token_operations
from jobwire_gateway.topics import Topics
from jobwire_gateway.waits import Waits
from jobwire_gateway.ws import SocketsEndpoint

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The parts of one gateway process. Made inside its event loop."""

    config: GatewayConfig
    brokers: Brokers
    topics: Topics
    feed: Feed
    streams: Streams
    refusals: Refusals
    identities: Identities | None
    """None: nobody has to say who they are."""

    @classmethod
    def of(cls, config: GatewayConfig) -> "Gateway":
        """Put the parts together; nothing runs yet."""
        heartbeat_s = config.heartbeat.total_seconds()
        refusals = Refusals(config.proxies)
        streams = Streams(
            limit=config.max_streams,
            starts_per_s=config.max_stream_starts,
            retry_s=config.retry.total_seconds(),
            drain_s=config.drain.total_seconds(),
            heartbeat_s=heartbeat_s,
            on_turned_away=refusals.note_turned_away,
        )
        topics = Topics(
            Bounds(config.mailbox_frames, config.mailbox_bytes),
            streams.heartbeat_ms,
            max_topics=config.max_topics_total,
            max_watches=config.max_streams_per_topic,
        )
        brokers = Brokers(config.brokers, config.call_timeout.total_seconds(), config.credentials)
        identities = Identities(brokers) if config.asks_callers else None
        return cls(config=config, brokers=brokers, topics=topics, feed=Feed(brokers, topics), streams=streams, refusals=refusals, identities=identities)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The long-running roles, from the first to the last request."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.brokers.close)
            self.feed.start()
            stack.push_async_callback(self.feed.stop)
            self.streams.wheel.start()
            stack.push_async_callback(self.streams.wheel.stop)
            if self.identities is not None:
                rechecks = Rechecks(self.streams, self.identities)
                rechecks.start()
                stack.push_async_callback(rechecks.stop)
            # What is there now stays; the collector need not walk it with every stream that comes and goes.
            gc.freeze()
            yield


def application(gateway: Gateway) -> ASGIApp:
    """The whole ASGI application."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    calls = table(gateway)
    handlers = {Problem: _problems(gateway.refusals), HTTPException: _http_exceptions(calls), Exception: _show_bug}
    all_routes = [*routes(calls, gateway.config.max_body_bytes, asks_callers=gateway.config.asks_callers), _sockets(gateway)]
    app = Starlette(routes=all_routes, lifespan=lifespan, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return _secured(Shortcut(app, all_routes, gateway.refusals), gateway)


def _secured(app: ASGIApp, gateway: Gateway) -> Security:
    config = gateway.config
    return Security(
        app,
        config.hosts,
        refusals=gateway.refusals,
        origins=config.allowed_origins,
        proxies=config.proxies,
        identities=gateway.identities,
        rate=config.request_rate,
        attempt_rate=config.attempt_rate,
        shares=Shares(per_address=config.max_streams_per_address, per_identity=config.max_streams_per_identity, per_tenant=config.max_streams_per_tenant),
    )


def table(gateway: Gateway) -> Sequence[Operation]:
    """Every call, with the parts that answer it."""
    config, brokers = gateway.config, gateway.brokers
    calls = operations(
        brokers,
        Rest(config, brokers, Waits(brokers, gateway.streams, config.max_wait.total_seconds())),
        Stats(brokers, gateway.topics, gateway.streams),
        Health(brokers, gateway.feed, gateway.streams),
        Bulk(brokers, gateway.streams, 5 * config.call_timeout.total_seconds()),
        Logs(brokers, gateway.topics, gateway.streams),
        job_events=EventsEndpoint(gateway.topics, gateway.streams, watch_job, ends=True),
        queue_events=EventsEndpoint(gateway.topics, gateway.streams, watch_queue, ends=False),
        many_events=ManyEventsEndpoint(gateway.topics, gateway.streams, config.max_topics),
    )
    return [*calls, *token_operations(brokers)]


def routes(calls: Sequence[Operation], max_body: int, *, asks_callers: bool = False) -> list[BaseRoute]:
    """Which path leads where."""
    return [
        *operation_routes(calls, max_body),
        Route("/openapi.json", _fixed(json.dumps(document(calls, asks_callers=asks_callers)).encode(), "application/json")),
        Route("/docs", _fixed(docs_page(calls), "text/html; charset=utf-8")),
        Route("/", _page),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]


def _sockets(gateway: Gateway) -> BaseRoute:
    return WebSocketRoute("/v1/ws", SocketsEndpoint(gateway.topics, gateway.streams, gateway.refusals, gateway.config.max_topics))


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


def _problems(refusals: Refusals) -> Callable[[Request, Problem], Awaitable[Response]]:
    async def show(request: Request, problem: Problem) -> Response:
        refusals.note_problem(problem, request.scope)
        return problem.response(request.url.path)

    return show


def _http_exceptions(calls: Sequence[Operation]) -> Callable[[Request, HTTPException], Awaitable[Response]]:
    async def show(request: Request, error: HTTPException) -> Response:
        detail, reason = _SENTENCES.get(error.status_code, error.detail), ""
        if error.status_code in (404, 405) and request.method == "POST" and (verbs := verbs_of(calls, request.url.path)):
            detail, reason = f"There is no such verb here; there are {', '.join(verbs)}.", "NO_SUCH_VERB"
        return Problem(error.status_code, detail, reason=reason, headers=dict(error.headers or {})).response(request.url.path)

    return show


async def _show_bug(request: Request, error: Exception) -> Response:
    # Starlette raises it again behind this answer, and the server logs it.
    return Problem(500, "Something went wrong inside.").response(request.url.path)


def _fixed(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that always answers the same."""

    async def endpoint(request: Request) -> Response:
        return Response(content, headers={"Cache-Control": "no-cache"}, media_type=media_type)

    return endpoint


_SENTENCES = {404: "There is nothing at this path.", 405: "This path does not know that method."}
