"""The broker's process: wiring, signals, and the phases of its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from jobwire.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

from jobwire_broker.auth.authenticator import Authenticator
from jobwire_broker.auth.refusals import Refusals
from jobwire_broker.config import BrokerConfig, is_loopback
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.admin import AdminService
from jobwire_broker.services.events import EventService
from jobwire_broker.services.guard import Guard
from jobwire_broker.services.handlers import HandlersInOrder
from jobwire_broker.services.jobs import JobService, enqueue_handler
from jobwire_broker.services.metrics import BrokerMetrics
from jobwire_broker.services.queues import QueueService
from jobwire_broker.services.queues_file import apply_policies
from jobwire_broker.services.reflection import add_reflection
from jobwire_broker.services.workers import WorkerService, work_handler
from jobwire_broker.store.client import StoreClient, StoreRefused
from jobwire_broker.store.tokens import SharedTokens
from jobwire_broker.tls import server_credentials

log = logging.getLogger(__name__)

_SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
    queue_service_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name,
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
MAX_RECEIVE_BYTES = 16 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    # Two processes on one port would both seem to work (RULES 8).
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_metadata_size", 16384),
)

#: How long a broker waits at its start for its queues to have their policies; after that it goes on while it serves.
_APPLY_S = 10.0


class AddressTaken(Exception):
    """Raised when the address can't be listened on."""


class Broker:
    """One broker process. `start` returns when it serves; `stop` may be called twice, and before start."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.broker_id = f"{os.getpid()}-{os.urandom(3).hex()}"
        self.address = config.grpc
        self._client = StoreClient(config)
        self._shared_tokens = SharedTokens(self._client, config)
        self._authenticator = Authenticator(config.auth, self._shared_tokens)
        self.refusals = Refusals()
        self._registry = Registry(self._client, int(config.session_time.total_seconds() * 1000))
        self._metrics = BrokerMetrics(self._registry, self.refusals.counts)
        self._jobs = JobService(self._registry)
        self._workers = WorkerService(self._registry, config, self.broker_id)
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]  # the module sets it at run time
        self._server: grpc.aio.Server | None = None
        self._health_tasks: set[asyncio.Task[None]] = set()
        self._queues_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve. Raises StoreRefused and AddressTaken; a store that is away is no hindrance."""
        server = self._build()
        host = self.config.grpc.rpartition(":")[0]
        try:
            if self.config.tls is None:
                port = server.add_insecure_port(self.config.grpc)
            else:
                port = server.add_secure_port(self.config.grpc, server_credentials(self.config.tls))
        except RuntimeError as error:
            raise AddressTaken(f"--grpc {self.config.grpc} can't be listened on: end what listens there, or give another address") from error
        self.address = f"{host}:{port}"
        self._client.on_change.append(self._tell_health)
        await self._client.start()
        self._tell_health(self._client.available)
        self._serve_metrics()
        self._registry.start()
        self._authenticator.start()
        await self._apply_queues()
        await server.start()
        self._server = server

    async def _apply_queues(self) -> None:
        """Before the first call is served; when the store is away, as soon as it is back."""
        if not self.config.queues:
            return
        self._queues_task = asyncio.create_task(apply_policies(self._registry, self.config.queues))
        if self._client.available:
            await asyncio.wait([self._queues_task], timeout=_APPLY_S)

    def _serve_metrics(self) -> None:
        if not self.config.metrics:
            return
        host, _, port = self.config.metrics.rpartition(":")
        self._registry.measure()
        try:
            taken = self._metrics.start(host.strip("[]"), int(port))
        except OSError as error:
            sentence = f"--metrics {self.config.metrics} can't be listened on: {error.strerror}; end what listens there, or give another address"
            raise AddressTaken(sentence) from error
        log.info("broker.metrics http=%s:%d", host, taken)

    def _build(self) -> grpc.aio.Server:
        listening = grpc.aio.server(options=_OPTIONS)
        in_order: Any = HandlersInOrder(listening)
        # Without authentication the handlers are added as they are, and no call pays for it.
        server: Any = Guard(self._authenticator, self.refusals).around(in_order) if self.config.auth.is_on else in_order
        # Before the generated handlers, whose serializers take messages alone: the first that knows a method serves it.
        server.add_generic_rpc_handlers((enqueue_handler(self._jobs), work_handler(self._workers)))
        job_service_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self._workers, server)
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(QueueService(self._registry), server)
        event_service_pb2_grpc.add_EventServiceServicer_to_server(EventService(self._registry), server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(self._registry, self.broker_id, self._authenticator), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection(server, (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
        return listening

    def _tell_health(self, available: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if available else health_pb2.HealthCheckResponse.NOT_SERVING
        task = asyncio.create_task(self._set_health(status))
        self._health_tasks.add(task)
        task.add_done_callback(self._health_tasks.discard)

    async def _set_health(self, status: Any) -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """End in order: say that we are ending, send workers elsewhere, let calls end, write what is gathered, let go of the store."""
        if self._server is not None:
            # Load balancers and clients look elsewhere from here on.
            await self._health.enter_graceful_shutdown()
            # Workers close their streams, connect elsewhere and keep their jobs.
            await self._workers.go_away()
            # Who waits or watches does so elsewhere.
            self._registry.end_calls()
            # Callers get their answers, and enqueue elsewhere.
            self._jobs.streams.go_away()
            await self._wait_for_streams(grace_s)
            # What still runs may end within the rest of the grace.
            await self._server.stop(min(grace_s, 1.0))
            self._server = None
        # What the partitions have gathered is written, then they stop.
        await asyncio.to_thread(self._metrics.stop)
        if self._queues_task is not None:
            self._queues_task.cancel()
        await self._registry.stop()
        await self._authenticator.stop()
        await self._shared_tokens.stop()
        await self._client.stop()

    async def _wait_for_streams(self, grace_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._workers.all_closed()
                await self._jobs.streams.all_closed()


async def serve(config: BrokerConfig) -> int:
    """Run a broker until SIGTERM or SIGINT; the second signal ends it at once. Returns the exit code."""
    try:
        broker = Broker(config)
    except ValueError as error:
        print(f"jobwire broker: {error}", file=sys.stderr)  # noqa: T201 - the process ends with it
        return 2
    loop = asyncio.get_running_loop()
    ending, at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (at_once if ending.is_set() else ending).set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, on_signal)
    try:
        await broker.start()
    except (StoreRefused, AddressTaken, ValueError) as error:
        print(f"jobwire broker: {error}", file=sys.stderr)  # noqa: T201 - the process ends with it
        await broker.stop(0)
        return 1
    if config.auth.is_on and config.tls is None and not is_loopback(config.grpc.rpartition(":")[0]):
        log.warning("broker.keys_in_plain_text grpc=%s advice=%s", broker.address, "give --tls-cert and --tls-key, unless a proxy before this port ends TLS")
    log.info("broker.ready grpc=%s id=%s", broker.address, broker.broker_id)
    await ending.wait()
    log.info("broker.stopping grace_s=%.1f", config.drain_grace.total_seconds())
    stopping = asyncio.create_task(broker.stop(config.drain_grace.total_seconds()))
    second = asyncio.create_task(at_once.wait())
    await asyncio.wait([stopping, second], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        return 130
    stopping.result()
    second.cancel()
    log.info("broker.stopped")
    return 0


def run(config: BrokerConfig) -> int:
    """Run a broker in this process, on uvloop where there is one. Logs to stderr. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # Frames and batches are made and dropped by the thousand and hold no cycles: looking for some at every 700 objects costs a tenth of all CPU.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        import uvloop
    except ImportError:
        code = asyncio.run(serve(config))
    else:
        code = uvloop.run(serve(config))
    if code == 130:
        os._exit(code)
    return code
