"""Adds handlers to a server so that the first one that knows a method serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from jobwire_broker.services.decoding import DecodingHandlers


class HandlersInOrder:
    """What generated code takes for a server. Handlers are looked up by the order in which they were added, and in no other way.

    Generated code adds its handlers twice: as generic ones, and as registered methods. Up to grpcio 1.76 an asyncio server passes over the second;
    later ones let a registered method win over every generic handler, and spend more time on each call the more of them there are.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add handlers that know their methods by name."""
        self._server.add_generic_rpc_handlers([DecodingHandlers(known) for known in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[object, object]]) -> None:
        """Do nothing: the same handlers were added as generic ones."""
