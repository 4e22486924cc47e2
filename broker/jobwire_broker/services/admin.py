"""AdminService."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from jobwire.v1 import admin_service_pb2 as pb
from jobwire.v1.admin_service_pb2_grpc import AdminServiceServicer

from jobwire_broker import __version__
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.answers import unary
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.services.unserved import unserved

Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(AdminServiceServicer):
    """Look at the system itself."""

    DrainWorker = CheckConsistency = unserved

    def __init__(self, registry: Registry, broker_id: str) -> None:
        self._registry = registry
        self._broker_id = broker_id
        self._began = time.monotonic()

    @unary
    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """List the worker sessions of all queues."""
        size = page_size(request.page_size)
        after = read_token("workers", request.page_token).decode(errors="replace")
        names = await self._registry.known()
        found = await asyncio.gather(*(self._registry.get(name).store.sessions() for name in names))
        workers: dict[str, pb.Worker] = {}
        for session, held, descriptor in (row for rows in found for row in rows):
            worker = workers.get(session.hex())
            if worker is None:
                worker = workers[session.hex()] = pb.Worker.FromString(descriptor)
            worker.active += held
        later = sorted(name for name in workers if name > after)
        token = make_token("workers", later[size - 1].encode()) if len(later) > size else ""
        return pb.ListWorkersResponse(workers=[workers[name] for name in later[:size]], next_page_token=token)

    @unary
    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Say which broker this is."""
        client = self._registry.client
        info = pb.GetServerInfoResponse(
            broker_id=self._broker_id,
            version=__version__,
            store_available=client.available,
            store_version=client.product,
            disk_durability=client.disk_durability,
        )
        info.uptime.FromSeconds(int(time.monotonic() - self._began))
        return info
