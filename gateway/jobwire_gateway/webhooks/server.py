"""The process: it follows the watched queues, makes deliveries, and works their queue.

The first SIGTERM or SIGINT drains: nothing new is heard, what was heard is enqueued, requests under way may end; then the process ends with 0. A second one
ends it at once. What is cut off is done again: by another such process, or by the next one, which looks back.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import httpcore
from jobwire.v1.queue_service_pb2 import ListQueuesRequest, ListQueuesResponse, PauseGroupRequest
from jobwire_worker import Credentials, Job, Worker

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.config import split_address
from jobwire_gateway.credentials import BrokerCredentials
from jobwire_gateway.feed import Feed
from jobwire_gateway.metrics import AddressTaken, serve_metrics
from jobwire_gateway.names import group_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.webhooks.config import WebhookConfig, WebhookSettings
from jobwire_gateway.webhooks.deliveries import Deliveries
from jobwire_gateway.webhooks.endpoints import JOB_NAME, Endpoints
from jobwire_gateway.webhooks.ends import Ends
from jobwire_gateway.webhooks.look_back import LookBack
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.network import CheckedNetwork, Resolve, resolve_by_system
from jobwire_gateway.webhooks.sending import Sender

_log = logging.getLogger("jobwire.webhooks")

_CALL_S = 5.0
_DRAIN_S = 10.0
"""How long requests under way may take at the end; what does not end is handed back and sent again, under the same id."""
_LAST_ENQUEUES_S = 3.0
_NEW_QUEUES_S = 5.0
"""How often queues are looked for that fit a prefix. What ended in one before it was found is looked back for."""
_QUEUES_PAGE = 1_000


def run(config: WebhookConfig) -> int:
    """Deliver until a signal. Returns the process's exit code: 0, or 1 when the address for metrics cannot be had."""
    with asyncio.Runner() as runner:
        try:
            runner.run(_serve(config))
        except AddressTaken as error:
            _log.error("webhooks.no_address metrics=%s reason=%s", config.metrics, error)
            return 1
    _log.info("webhooks.ended")
    return 0


async def _serve(config: WebhookConfig) -> None:
    metrics = WebhookMetrics()
    stop = asyncio.Event()
    with _signals(stop), _metrics(config, metrics):
        webhooks = Webhooks(config, metrics)
        async with webhooks.running():
            _log.info("webhooks.ready queue=%s endpoints=%d", config.settings.queue, len(config.settings.endpoints))
            await webhooks.run_until(stop)
            _log.info("webhooks.draining")


class Webhooks:
    """All of it. Made inside the event loop that uses it. `resolve` and `tls` stand in for the system's, for tests."""

    def __init__(self, config: WebhookConfig, metrics: WebhookMetrics, *, resolve: Resolve = resolve_by_system, tls: ssl.SSLContext | None = None) -> None:
        settings = config.settings
        self._settings = settings
        self._config = config
        self._brokers = Brokers(config.brokers, _CALL_S, config.credentials)
        self._endpoints = Endpoints(settings.endpoints, settings.queue)
        self._deliveries = Deliveries(self._brokers, self._endpoints, settings.queue, settings.look_back, metrics)
        self._look_back = LookBack(self._brokers, self._endpoints, self._deliveries, settings.look_back)
        self._deliveries.on_doubt = self._look_back.doubt
        self._deliveries.on_lost = self._look_back.lose
        self._ends = Ends(self._deliveries.hear, self._look_back.doubt, self._look_back.lose)
        self._feed = Feed(self._brokers, self._ends)
        metrics.watch_feed(lambda: self._feed.open)
        self._pool = _pool(settings, resolve, tls or ssl.create_default_context())
        self._tasks: list[asyncio.Task[None]] = []
        self._sender = Sender(self._endpoints, self._pool, settings.timeout, self._pause, metrics)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow, enqueue and send, and end in order."""
        tasks = self._tasks = [asyncio.create_task(work) for work in (self._deliveries.run(), self._look_back.run())]
        for queue in self._endpoints.queues:
            self._ends.follow(queue)
        if self._endpoints.has_prefixes:
            tasks.append(asyncio.create_task(self._find_queues()))
        self._feed.start()
        worker = self._worker()
        try:
            async with worker:
                yield
                # Nothing new is heard.
                await self._feed.stop()
                # What was heard is enqueued; without a broker, the next process finds it.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_ENQUEUES_S):
                        await self._deliveries.idle.wait()
                # Then the worker drains.
        finally:
            await self._feed.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pool.aclose()
            await self._brokers.close()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set. A part that fails by a mistake of ours ends the process, with its error, so that whoever supervises it begins anew."""
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    async def caught_up(self) -> None:
        """Wait until all queues that are known are followed, and what ended in them before has its deliveries."""
        await self._ends.live.wait()
        await self._look_back.idle.wait()
        await self._deliveries.idle.wait()

    def _worker(self) -> Worker:
        settings = self._settings
        worker = Worker(
            list(self._config.brokers),
            queues={settings.queue: settings.concurrency},
            credentials=_worker_credentials(self._config.credentials),
            drain_grace=timedelta(seconds=_DRAIN_S),
        )

        @worker.handler(JOB_NAME)
        async def deliver(job: Job[bytes]) -> dict[str, object]:
            return await self._sender.deliver(job)

        return worker

    async def _pause(self, endpoint: str) -> bool:
        """Stop an endpoint's deliveries, at all processes, until somebody starts them again. Says whether it could."""
        name = group_name(self._settings.queue, endpoint)
        try:
            await self._brokers.call(lambda broker: broker.queues.PauseGroup, PauseGroupRequest(name=name))
        except (Problem, ValueError) as error:
            _log.error("webhooks.not_paused endpoint=%s error=%s", endpoint, error)
            return False
        _log.error("webhooks.endpoint_gone endpoint=%s status=410 undo=%s", endpoint, f"jobwire queues groups resume {self._settings.queue} {endpoint}")
        return True

    async def _find_queues(self) -> None:
        """Follow what fits the prefixes, for ever."""
        said = ""
        while True:
            try:
                async for queue in self._all_queues():
                    if self._endpoints.events_of(queue):
                        self._ends.follow(queue)
                said = ""
            except (Problem, ValueError) as error:
                # Where it is a right that is missing, each try says the same.
                if str(error) != said:
                    _log.warning("webhooks.queues_not_read error=%s", error)
                said = str(error)
            await asyncio.sleep(random.uniform(0.8, 1.2) * _NEW_QUEUES_S)

    async def _all_queues(self) -> AsyncIterator[str]:
        token = ""
        while True:
            request = ListQueuesRequest(page_size=_QUEUES_PAGE, page_token=token)
            response: ListQueuesResponse = await self._brokers.call(lambda broker: broker.queues.ListQueues, request)
            for queue in response.queues:
                yield queue.queue
            token = response.next_page_token
            if not token:
                return


def _pool(settings: WebhookSettings, resolve: Resolve, tls: ssl.SSLContext) -> httpcore.AsyncConnectionPool:
    """Each request has a connection of its own: so each is checked, follows a name that has moved, and never meets one that was closed meanwhile."""
    return httpcore.AsyncConnectionPool(
        ssl_context=tls,
        max_connections=settings.concurrency,
        max_keepalive_connections=0,
        retries=0,
        network_backend=CheckedNetwork(settings.allow_private, resolve),
    )


def _worker_credentials(ours: BrokerCredentials) -> Credentials:
    return Credentials(key=ours.key, key_file=ours.key_file, ca=ours.ca, certificate=ours.certificate, certificate_key=ours.certificate_key)


@contextmanager
def _metrics(config: WebhookConfig, metrics: WebhookMetrics) -> Iterator[None]:
    if not config.metrics:
        yield
        return
    host, port = split_address(config.metrics, "metrics")
    taken, stop = serve_metrics(metrics.registry, host, port)
    _log.info("webhooks.metrics http=%s:%d", host, taken)
    try:
        yield
    finally:
        stop()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`, the second ends the process with the signal's usual exit code."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
