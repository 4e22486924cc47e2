"""Requests whose bytes are no message are refused as what they are: INVALID_ARGUMENT, and not the library's UNKNOWN with a traceback in the log.

The library decodes the request of a unary call before its handler runs, and what that raises is out of our hands: so the handler is given the bytes.
A stream is read by its handler, which gets to see the error.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from jobwire_broker.errors import InvalidField
from jobwire_broker.services.answers import abort

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class DecodingHandlers(grpc.GenericRpcHandler):
    """The same handlers, decoding by themselves. Each is made when it is first called."""

    def __init__(self, handlers: grpc.GenericRpcHandler) -> None:
        self._handlers = handlers
        self._known: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method, or None."""
        method = handler_call_details.method
        known = self._known.get(method)
        if known is None:
            handler = self._handlers.service(handler_call_details)
            if handler is None:
                return None
            known = self._known[method] = _decoding(handler)
        return known


def _decoding(handler: Handler) -> Handler:
    decode = handler.request_deserializer
    if decode is None:
        return handler
    kind = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"][2 * handler.request_streaming + handler.response_streaming]
    inner = getattr(handler, kind)
    if handler.request_streaming:
        serve, deserializer = inner, _strictly(decode)
    else:
        serve, deserializer = _after_decoding(_strictly(decode), inner), None
    made: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(serve, request_deserializer=deserializer, response_serializer=handler.response_serializer)
    return made


def _strictly(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Raises InvalidField."""

    def strict(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError:
            raise InvalidField("the message can't be read: its bytes are not in the form of the contract", field="") from None

    return strict


def _after_decoding(decode: Callable[[bytes], Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    """The library tells generators and coroutines apart by their functions, so there is one of each."""

    async def answer(raw: bytes, context: Context) -> Any:
        try:
            request = decode(raw)
        except InvalidField as error:
            await abort(context, error)
        return await inner(request, context)

    async def stream(raw: bytes, context: Context) -> AsyncIterator[Any]:
        try:
            request = decode(raw)
        except InvalidField as error:
            await abort(context, error)
        async for response in inner(request, context):
            yield response

    return stream if inspect.isasyncgenfunction(inner) else answer
