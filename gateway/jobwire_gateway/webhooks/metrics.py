"""What Prometheus reads of a process that delivers webhooks."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from jobwire_gateway.metrics import BUCKETS


class WebhookMetrics:
    """All of it. Endpoints are the operator's, so they are few."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._enqueued = Counter("jobwire_webhooks_enqueued", "Deliveries that this process made.", ["endpoint"], registry=self.registry)
        self._attempts = Counter("jobwire_webhooks_attempts", "Attempts to deliver, by how they went.", ["endpoint", "outcome"], registry=self.registry)
        self._seconds = Histogram(
            "jobwire_webhooks_attempt_seconds",
            "From the beginning of a request to its end.",
            ["endpoint"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._feed_up = Gauge("jobwire_webhooks_feed_up", "1 while the feed from a broker is there.", registry=self.registry)

    def watch_feed(self, is_open: Callable[[], bool]) -> None:
        """Ask this whether the feed is there."""
        self._feed_up.set_function(lambda: float(is_open()))

    def enqueued(self, endpoint: str) -> None:
        """Count a delivery that was made."""
        self._enqueued.labels(endpoint).inc()

    def attempted(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count an attempt."""
        self._attempts.labels(endpoint, outcome).inc()
        self._seconds.labels(endpoint).observe(seconds)
