"""AdminService."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from jobwire.v1 import admin_service_pb2 as pb
from jobwire.v1.admin_service_pb2_grpc import AdminServiceServicer

from jobwire_broker import __version__
from jobwire_broker.auth import caller
from jobwire_broker.auth.authenticator import ANYBODY, Authenticator
from jobwire_broker.auth.identity import Scope
from jobwire_broker.errors import InvalidField, Precondition
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.services.answers import unary
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.services.unserved import unserved
from jobwire_broker.services.verbs import topic_scope

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TOKEN_NAMES = 20
#: How many queues are asked at once.
_AT_ONCE = 50
_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000


class AdminService(AdminServiceServicer):
    """Look at the system itself."""

    DrainWorker = CheckConsistency = unserved

    def __init__(self, registry: Registry, broker_id: str, authenticator: Authenticator) -> None:
        self._registry = registry
        self._broker_id = broker_id
        self._tokens = authenticator.tokens
        self._began = time.monotonic()

    @unary
    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """List the worker sessions of all queues."""
        size = page_size(request.page_size)
        after = read_token("workers", request.page_token).decode(errors="replace")
        workers: dict[str, pb.Worker] = {}
        async for session, held, descriptor in self._sessions():
            worker = workers.get(session.hex())
            if worker is None:
                worker = workers[session.hex()] = pb.Worker.FromString(descriptor)
            worker.active += held
        later = sorted(name for name in workers if name > after)
        token = make_token("workers", later[size - 1].encode()) if len(later) > size else ""
        return pb.ListWorkersResponse(workers=[workers[name] for name in later[:size]], next_page_token=token)

    async def _sessions(self) -> AsyncIterator[tuple[bytes, int, bytes]]:
        """The sessions of all queues, some queues at a time: of all at once, those that come last would wait for longer than a call may take."""
        names = await self._registry.known()
        for start in range(0, len(names), _AT_ONCE):
            for rows in await asyncio.gather(*(self._registry.store(name).sessions() for name in names[start : start + _AT_ONCE])):
                for row in rows:
                    yield row

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

    # Who may do what ----------------------------------------------------------------------------------------------------------------------------------

    @unary
    async def GetIdentity(self, request: pb.GetIdentityRequest, context: Context) -> pb.GetIdentityResponse:
        """Say who calls. A ticket was spent when the call was let in."""
        identity = caller.identity()
        if identity is None:
            return pb.GetIdentityResponse(authenticated=False, name=ANYBODY.name, scopes=["*:*"])
        response = pb.GetIdentityResponse(
            authenticated=True, name=identity.name, tenant=identity.tenant, scopes=map(str, identity.scopes), single_use=bool(identity.ticket)
        )
        expires_at = identity.expires_at
        if identity.ticket and not identity.is_spent:
            response.stream_token, expires_at = await self._tokens.make_stream_token(identity), identity.stream_until
        if expires_at is not None:
            response.expire_time.FromMilliseconds(int(expires_at * 1000))
        return response

    @unary
    async def CreateWatchToken(self, request: pb.CreateWatchTokenRequest, context: Context) -> pb.CreateWatchTokenResponse:
        """Make a token for a page, or a ticket. That the caller may watch all of it was checked when the call was let in."""
        if not 1 <= len(request.names) <= MAX_TOKEN_NAMES:
            raise InvalidField(f"names may hold 1 to {MAX_TOKEN_NAMES}; it holds {len(request.names)}", field="names")
        scopes = [Scope.parse(topic_scope(name, f"names[{i}]")) for i, name in enumerate(request.names)]
        longest_ms, default_ms = (_MINUTE_MS, _MINUTE_MS // 2) if request.single_use else (_HOUR_MS, 5 * _MINUTE_MS)
        ttl_ms = duration_ms(request.ttl, "ttl", low_ms=1_000, high_ms=_HOUR_MS) if request.HasField("ttl") else default_ms
        ttl_ms = min(ttl_ms, longest_ms)
        token, expires = await self._tokens.make(caller.identity() or ANYBODY, scopes, ttl_ms / 1000, single_use=request.single_use)
        response = pb.CreateWatchTokenResponse(token=token)
        response.expire_time.FromSeconds(int(expires))
        return response

    @unary
    async def CreateSessionToken(self, request: pb.CreateSessionTokenRequest, context: Context) -> pb.CreateSessionTokenResponse:
        """Make a token that may do what the caller may."""
        ttl_ms = duration_ms(request.ttl, "ttl", low_ms=_MINUTE_MS, high_ms=24 * _HOUR_MS) if request.HasField("ttl") else 8 * _HOUR_MS
        identity = caller.identity()
        if identity is None:
            raise Precondition("this broker asks nobody who they are: no token is needed", reason="NO_AUTHENTICATION")
        token, expires = await self._tokens.make(identity, identity.scopes, ttl_ms / 1000)
        response = pb.CreateSessionTokenResponse(token=token)
        response.expire_time.FromSeconds(int(expires))
        return response
