"""What Prometheus reads of a gateway: requests by route and status, open streams, the feed.

It is served by a thread of its own, so it is there also when every request slot is taken; what it reads there are plain numbers. Streams are not
timed: their length is their readers' choice.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_STREAM_PATHS = ("/events", "/stream")
_OTHER = "other"
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
"""All that any path knows."""


class AddressTaken(Exception):
    """Raised when the address for metrics can't be listened on."""


class GatewayMetrics:
    """All of it. `gauges` and `counters` are asked at each scrape: name and sentence, and what gives the number, for counters by reason."""

    def __init__(self, gauges: dict[tuple[str, str], Callable[[], float]], counters: dict[tuple[str, str], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Asked(gauges, counters))
        ProcessCollector(registry=self._registry)
        labels = ["method", "route", "status"]
        self._requests = Counter("jobwire_gateway_requests", "Requests by route and status, without streams.", labels, registry=self._registry)
        self._seconds = Histogram(
            "jobwire_gateway_request_seconds", "From the head of a request to the end of its answer.", ["route"], buckets=BUCKETS, registry=self._registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Begin to serve. Gives the port, and what ends it. Raises AddressTaken."""
        return serve_metrics(self._registry, host, port)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Begin to serve what a registry holds. Gives the port, and what ends it. Raises AddressTaken."""
    # A series beside each other that says when it was begun: twice as many, for nobody.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise AddressTaken(error.strerror or str(error)) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return int(server.server_port), stop


class Measured:
    """ASGI middleware that counts every request but those of streams, those that were refused before any route included."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].endswith(_STREAM_PATHS):
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # The router leaves word of the route in the scope. A path that is none must not become a series of its own, nor a method.
            route = getattr(scope.get("endpoint"), "route_path", _OTHER)
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            self._metrics.observe(method, route, status, time.perf_counter() - began)


class _Asked(Collector):
    def __init__(self, gauges: dict[tuple[str, str], Callable[[], float]], counters: dict[tuple[str, str], Mapping[str, int]]) -> None:
        self._gauges = gauges
        self._counters = counters

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for (name, sentence), ask in self._gauges.items():
            yield GaugeMetricFamily(name, sentence, value=float(ask()))
        for (name, sentence), counts in self._counters.items():
            family = CounterMetricFamily(name, sentence, labels=["reason"])
            for reason, count in list(counts.items()):
                family.add_metric([reason], count)
            yield family
