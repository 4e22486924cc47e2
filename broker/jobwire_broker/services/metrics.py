"""What Prometheus reads: the meters of all queues, the counts in the store, the workers here, the store itself.

It is served by a thread of its own, which asks the event loop for all of it at once: a scrape sees one moment, and nothing is locked. What needs the store is
read at most once in CACHE_S, whoever asks how often.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobwire.v1 import policy_pb2
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from jobwire_broker import __version__
from jobwire_broker.errors import BrokerError, StoreFault
from jobwire_broker.rules.meter import Histogram, Meter
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.session import WorkSession
from jobwire_broker.store.answers import Stats
from jobwire_broker.store.policy import Policy, policy_from_text

log = logging.getLogger(__name__)

CACHE_S = 2.0
#: Queues beyond these, by name, are left out of what is read from the store.
MAX_QUEUES = 1000
_AT_ONCE = 50
_SCRAPE_S = 8.0

_STATES = ("waiting", "active", "delayed", "completed", "failed", "cancelled", "expired")


@dataclass
class StoreView:
    """What was read from the store."""

    stats: dict[str, Stats] = field(default_factory=dict)
    lag_s: dict[str, float] = field(default_factory=dict)
    memory: tuple[int, int] | None = None


class BrokerMetrics(Collector):
    """All of it, made anew for each scrape."""

    def __init__(self, registry: Registry, refusals: Mapping[tuple[str, str], int]) -> None:
        self._registry = registry
        self._refusals = refusals
        self._view = StoreView()
        self._viewed_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None

    def start(self, host: str, port: int) -> int:
        """Serve. Returns the port. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        served = CollectorRegistry()
        served.register(self)
        ProcessCollector(registry=served)
        self._server, _ = start_http_server(port, host, served)
        return int(self._server.server_port)

    def stop(self) -> None:
        """Serve no more. Tolerates stop before start, and twice."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: to say it, the registry would collect, and wait for the loop that it runs on."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Ask the loop. Called by the thread that serves."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result(_SCRAPE_S)

    async def _collect(self) -> list[Metric]:
        await self._look()
        meters = {name: queue.partition.meter for name, queue in self._registry.queues.items() if queue.partition.meter is not None}
        return [*_counted(meters), *_measured(meters), *self._starts(), *_stored(self._view), *self._workers(), *self._here()]

    async def _look(self) -> None:
        """Read the store, unless that was just done. What can't be read is left out: an old number would look like a new one."""
        if time.monotonic() - self._viewed_at < CACHE_S:
            return
        self._viewed_at = time.monotonic()
        self._view = StoreView()
        if not self._registry.client.available:
            return
        try:
            self._view = await self._read()
        except (BrokerError, StoreFault) as error:
            log.warning("metrics.store_unread error=%s", error)

    async def _read(self) -> StoreView:
        view = StoreView(memory=await self._registry.client.memory())
        names = (await self._registry.known())[:MAX_QUEUES]
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            view.stats.update(zip(some, await asyncio.gather(*(self._registry.store(name).stats() for name in some)), strict=True))
        view.lag_s = {name: await self._lag_s(name) if stats.waiting else 0.0 for name, stats in view.stats.items()}
        return view

    async def _lag_s(self, name: str) -> float:
        """How long the job has waited that waits longest."""
        oldest = await self._registry.store(name).oldest()
        return max(0, oldest.now_us - oldest.waiting_us) / 1e6 if oldest.waiting_us else 0.0

    def _starts(self) -> Iterable[Metric]:
        """For queues that have a class or a target, as far as this broker knows."""
        labels = ["queue", "class"]
        started = CounterMetricFamily("jobwire_jobs_started", "Jobs that started through this broker.", labels=labels)
        late = CounterMetricFamily("jobwire_jobs_started_late", "Those of them that started later than the target.", labels=labels)
        for name, queue in self._registry.queues.items():
            policy, starts = queue.partition.policy, queue.partition.starts
            if not policy.queue_class and not policy.target_ms:
                continue
            key = [name, _class_word(policy)]
            started.add_metric(key, starts.started)
            if policy.target_ms:
                late.add_metric(key, starts.late)
        return started, late

    def _workers(self) -> Iterable[Metric]:
        streams: dict[bytes, WorkSession] = {}
        credit = GaugeMetricFamily("jobwire_credit_free", "Jobs of the queue that workers at this broker have room for.", labels=["queue"])
        for name, queue in self._registry.queues.items():
            streams.update({session: stream.work for session, stream in queue.partition.streams.items()})
            if queue.partition.streams:
                credit.add_metric([name], sum(max(0, stream.work.free(name, queue.partition.policy.slots)) for stream in queue.partition.streams.values()))
        yield credit
        yield _gauge("jobwire_work_streams", "Worker processes that are connected to this broker.", len(streams))
        yield _gauge("jobwire_worker_slots", "Jobs that they run at once, all together, as they say.", sum(work.hello.concurrency for work in streams.values()))
        yield _gauge("jobwire_worker_slots_busy", "Jobs that they hold.", sum(work.held_count for work in streams.values()))

    def _here(self) -> Iterable[Metric]:
        client = self._registry.client
        yield _gauge("jobwire_store_up", "1 while the store answers this broker.", float(client.available))
        refused = CounterMetricFamily("jobwire_auth_refusals", "Calls that were refused for who made them.", labels=["reason", "detail"])
        for (reason, detail), count in self._refusals.items():
            refused.add_metric([reason, detail], count)
        yield refused
        info = GaugeMetricFamily("jobwire_build_info", "Always 1; the versions of broker and store.", labels=["version", "store"])
        info.add_metric([__version__, client.product], 1)
        yield info


def _counted(meters: Mapping[str, Meter]) -> Iterable[Metric]:
    enqueued = CounterMetricFamily("jobwire_jobs_enqueued", "Jobs made through this broker.", labels=["queue"])
    leased = CounterMetricFamily("jobwire_jobs_leased", "Jobs leased to workers at this broker, repeats counted.", labels=["queue"])
    handed_back = CounterMetricFamily("jobwire_jobs_handed_back", "Jobs that workers gave back without charge: snoozed, released or limited.", labels=["queue"])
    retries = CounterMetricFamily("jobwire_job_retries", "Attempts that failed and will be repeated.", labels=["queue"])
    completions = CounterMetricFamily("jobwire_job_completions", "Jobs completed through this broker.", labels=["queue", "job_name"])
    failures = CounterMetricFamily("jobwire_job_failures", "Jobs that failed for good, as a worker at this broker said.", labels=["queue", "job_name"])
    errors = CounterMetricFamily("jobwire_job_errors", "Attempts that failed, by the type of the error.", labels=["queue", "error_type"])
    for name, meter in meters.items():
        enqueued.add_metric([name], meter.enqueued)
        leased.add_metric([name], meter.leased)
        handed_back.add_metric([name], meter.handed_back)
        retries.add_metric([name], meter.retries)
        for family, counts in ((completions, meter.completions), (failures, meter.failures), (errors, meter.errors)):
            for word, count in counts.items():
                family.add_metric([name, word], count)
    return enqueued, leased, handed_back, retries, completions, failures, errors


def _measured(meters: Mapping[str, Meter]) -> Iterable[Metric]:
    durations = HistogramMetricFamily("jobwire_job_duration_seconds", "From the lease of a job to the end of the attempt.", labels=["queue"])
    waits = HistogramMetricFamily("jobwire_job_wait_seconds", "From the moment when a job could run to its lease.", labels=["queue"])
    for name, meter in meters.items():
        durations.add_metric([name], _buckets(meter.durations), meter.durations.sum)
        waits.add_metric([name], _buckets(meter.waits), meter.waits.sum)
    return durations, waits


def _stored(view: StoreView) -> Iterable[Metric]:
    depth = GaugeMetricFamily("jobwire_queue_depth", "Jobs that wait for a worker.", labels=["queue"])
    jobs = GaugeMetricFamily("jobwire_queue_jobs", "Jobs by state; of ended ones, those that are kept.", labels=["queue", "state"])
    lag = GaugeMetricFamily("jobwire_queue_lag_seconds", "How long the job that runs next has waited.", labels=["queue"])
    paused = GaugeMetricFamily("jobwire_queue_paused", "1 while delivery is stopped.", labels=["queue"])
    workers = GaugeMetricFamily("jobwire_queue_workers", "Worker processes that take jobs from it, at any broker.", labels=["queue"])
    completed = CounterMetricFamily("jobwire_queue_completed", "Jobs completed since the queue was made, through any broker.", labels=["queue"])
    failed = CounterMetricFamily("jobwire_queue_failed", "Jobs failed since the queue was made, for whatever reason.", labels=["queue"])
    target = GaugeMetricFamily("jobwire_queue_start_target_seconds", "Within what time a job of the queue should start.", labels=["queue", "class"])
    for name, stats in view.stats.items():
        policy = policy_from_text(stats.policy)
        if policy.target_ms:
            target.add_metric([name, _class_word(policy)], policy.target_ms / 1000)
        depth.add_metric([name], stats.waiting)
        for state in _STATES:
            jobs.add_metric([name, state], getattr(stats, state))
        lag.add_metric([name], view.lag_s.get(name, 0.0))
        paused.add_metric([name], float(stats.paused))
        workers.add_metric([name], stats.sessions)
        completed.add_metric([name], stats.completed_total)
        failed.add_metric([name], stats.failed_total)
    yield from (depth, jobs, lag, paused, workers, completed, failed, target)
    if view.memory is not None:
        used, limit = view.memory
        yield _gauge("jobwire_store_memory_bytes", "Memory that the store uses.", used)
        yield _gauge("jobwire_store_memory_limit_bytes", "Its maxmemory; 0 for none.", limit)


def _class_word(policy: Policy) -> str:
    return policy_pb2.QueueClass.Name(policy.queue_class).removeprefix("QUEUE_CLASS_").lower() if policy.queue_class else ""


def _gauge(name: str, sentence: str, value: float) -> Metric:
    return GaugeMetricFamily(name, sentence, value=value)


def _buckets(histogram: Histogram) -> Sequence[tuple[str, float]]:
    """The counts as Prometheus has them: each with all that are smaller."""
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
