"""How this process and what it needs are: `/livez`, `/readyz`, `/health`.

`/livez` says that the process answers, and fails late; `/readyz` says whether new requests should come here, and fails at once when the broker
is away, or does not answer, or the process is about to end; `/health` is for people and monitors:

    ok        all is well
    degraded  the broker answers and its store does not; open streams live on, nothing can be enqueued
    down      no broker answers, or the process is about to end; 503
"""

import asyncio
import time

from jobwire.v1.admin_service_pb2 import GetServerInfoRequest
from jobwire.v1.queue_service_pb2 import Queue
from starlette.requests import Request
from starlette.responses import Response

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.feed import Feed
from jobwire_gateway.json_text import JsonAnswer
from jobwire_gateway.problems import Problem
from jobwire_gateway.stats import all_queues
from jobwire_gateway.streams import Streams

_ASK_S = 2.0

_READY_S = 0.8
"""A broker that takes longer to answer is away: probes themselves often wait no longer than a second."""


class Health:
    """The three endpoints."""

    def __init__(self, brokers: Brokers, feed: Feed, streams: Streams) -> None:
        self._brokers = brokers
        self._feed = feed
        self._streams = streams
        self._began = time.monotonic()
        self._asking: asyncio.Task[bool] | None = None

    async def live(self, request: Request) -> Response:
        """`GET /livez`."""
        return _answer({"status": "ok"}, ok=True)

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`."""
        if self._streams.draining:
            return _answer({"status": "down", "reason": "SHUTTING_DOWN"}, ok=False)
        if not self._feed.open or not await self._broker_answers():
            return _answer({"status": "down", "reason": "BROKER_UNAVAILABLE"}, ok=False)
        return _answer({"status": "ok"}, ok=True)

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        broker, store, queues = await self._services()
        status = "down" if broker == "down" or self._streams.draining else "ok" if store == "ok" else "degraded"
        services = {
            "broker": broker,
            "store": store,
            "queues": {queue.queue: {"waiting": queue.counts.waiting, "active": queue.counts.active} for queue in queues},
        }
        body = {"status": status, "uptime": round(time.monotonic() - self._began, 3), "services": services, "streams": len(self._streams)}
        return _answer(body, ok=status != "down")

    async def _broker_answers(self) -> bool:
        """Whether a broker answers now; a process that hangs keeps its connections open. One question at a time, however many ask us."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="readiness")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            await self._brokers.call(lambda broker: broker.admin.GetServerInfo, GetServerInfoRequest(), timeout_s=_READY_S, as_itself=True)
        except Problem as problem:
            return problem.status not in (503, 504)
        return True

    async def _services(self) -> tuple[str, str, list[Queue]]:
        try:
            info = await self._brokers.call(lambda broker: broker.admin.GetServerInfo, GetServerInfoRequest(), timeout_s=_ASK_S)
        except Problem:
            return "down", "unknown", []
        if not info.store_available:
            return "ok", "down", []
        try:
            return "ok", "ok", await all_queues(self._brokers, timeout_s=_ASK_S)
        except Problem:
            return "ok", "down", []


def _answer(body: dict[str, object], *, ok: bool) -> Response:
    return JsonAnswer(body, 200 if ok else 503, {"Cache-Control": "no-store"})
