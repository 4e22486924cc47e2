"""A broker of the simulation: all of the real one but gRPC's server and the connections to the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.jobs import JobService
from jobwire_broker.services.queues import QueueService
from jobwire_broker.services.workers import WorkerService

from tests.simulation.network import CallContext, Network, Refused, StreamLink
from tests.simulation.store_line import Line, SharedStore, SimulatedClient, SimulatedListener
from tests.simulation.virtual_time import Process, VirtualLoop

DRAIN_GRACE_S = 5.0


async def _last(answer: Any) -> Any:
    """The answer of a call, the last one of a call that streams them."""
    if not isinstance(answer, AsyncIterator):
        return await answer
    return [response async for response in answer][-1]


class OrderedSet(dict[Any, None]):
    """A set that is gone through in the order in which it was filled."""

    def add(self, item: Any) -> None:
        """Put it in."""
        self[item] = None

    def discard(self, item: Any) -> None:
        """Take it out."""
        self.pop(item, None)


class SimulatedBroker:
    """One process at one address."""

    def __init__(self, loop: VirtualLoop, store: SharedStore, network: Network, address: str, session_s: float) -> None:
        self.address = address
        self.process = Process(loop, f"broker {address}")
        self._loop = loop
        self._network = network
        self._links: dict[StreamLink, None] = {}
        line = Line(store, self.process)
        config = BrokerConfig(store="redis://simulated", namespace=store.namespace, session_time=timedelta(seconds=session_s))
        self.process.context.copy().run(self._build, line, config)
        self.process.cut_links.append(self._cut)
        self.process.run(self._start())

    def _build(self, line: Line, config: BrokerConfig) -> None:
        self.client = SimulatedClient(line, config)
        self.registry = Registry(self.client, int(config.session_time.total_seconds() * 1000))
        self.registry.listener = SimulatedListener(line, self.client)
        self._workers = WorkerService(self.registry, config, self.address)
        self._workers._streams = OrderedSet()  # type: ignore[assignment]  # so that their order is that of the seed, and not of addresses in memory
        self._services = (JobService(self.registry), QueueService(self.registry), self._workers)

    async def _start(self) -> None:
        await self.client.start()
        self.registry.start()
        self._network.brokers[self.address] = self

    async def stop(self) -> None:
        """End in order, as server.py does."""
        await self._workers.go_away()
        self.registry.end_calls()
        try:
            async with asyncio.timeout(DRAIN_GRACE_S):
                await self._workers.all_closed()
        except TimeoutError:
            pass
        self._network.brokers.pop(self.address, None)
        for link in list(self._links):
            link.break_off()
        await self.registry.stop()
        await self.client.stop()

    def _cut(self) -> None:
        if self._network.brokers.get(self.address) is self:
            del self._network.brokers[self.address]
        for link in list(self._links):
            link.break_off()

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    def serve(self, method: str, request: Any, answer: Callable[[Any], None]) -> None:
        """A unary call has come. `answer` takes the response, or Refused."""
        self.process.run(self._serve(method, request, answer))

    async def _serve(self, method: str, request: Any, answer: Callable[[Any], None]) -> None:
        handler = next(getattr(service, method) for service in self._services if hasattr(service, method))
        try:
            result = await _last(handler(request, CallContext()))
        except Refused as refused:
            result = refused
        if not self.process.dead:
            answer(result)

    def serve_stream(self, link: StreamLink) -> None:
        """A Work stream has come."""
        self._links[link] = None
        link.context.task = self.process.run(self._serve_stream(link))

    async def _serve_stream(self, link: StreamLink) -> None:
        status: Refused | None = None
        try:
            await self._workers.Work(None, link.context)  # type: ignore[arg-type]  # as much of a context as is needed
        except Refused as refused:
            status = refused
        except asyncio.CancelledError:
            status = Refused(grpc.StatusCode.CANCELLED)
        finally:
            self._links.pop(link, None)
            link.context.finish(status)
