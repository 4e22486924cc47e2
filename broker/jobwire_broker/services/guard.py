"""Lets a call through to its handler only when its caller may make it. Put around the handlers when they are registered, and only where authentication is
configured: without it nothing of this runs.

A unary call is checked before its handler sees it. A stream is checked when it opens, at each message that names something new, and once more every
RECHECK_S: when its caller's time is over it gets a few seconds to end in its own way, then it is cut.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

import grpc

from jobwire_broker.auth.authenticator import Authenticator
from jobwire_broker.auth.caller import Caller, not_permitted, set_caller
from jobwire_broker.auth.errors import CredentialsExpired, CredentialsInvalid, Refused
from jobwire_broker.auth.identity import Identity
from jobwire_broker.auth.refusals import Refusals
from jobwire_broker.errors import BrokerError
from jobwire_broker.services.answers import abort
from jobwire_broker.services.verbs import ALL, SPENDS_TICKETS, Reach, Rule, rule_of

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

RECHECK_S = 5.0
END_S = 5.0
SPEAK_S = 1.0


class Guard:
    """Stands before all handlers of one broker."""

    def __init__(self, authenticator: Authenticator, refusals: Refusals) -> None:
        self._authenticator = authenticator
        self._refusals = refusals

    def around(self, server: grpc.aio.Server) -> GuardedServer:
        """The server as handlers are to be added to it."""
        return GuardedServer(server, self)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler behind its check. Raises LookupError for a method that has no rule."""
        rule = rule_of(method)
        if rule.reach is Reach.PUBLIC:
            return handler
        kind = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"][2 * handler.request_streaming + handler.response_streaming]
        inner = getattr(handler, kind)
        guarded = self._unary(method, rule, inner) if kind == "unary_unary" else self._stream(method, rule, inner, reads=handler.request_streaming)
        fields = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(guarded, **fields)
        return made

    def _unary(self, method: str, rule: Rule, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        async def guarded(request: Any, context: Context) -> Any:
            try:
                identity = await self._admit(method, rule, context)
                _check_named(identity, rule, request)
            except BrokerError as error:
                await self._turn_away(method, context, error)
            set_caller(Caller(identity))
            return await inner(request, context)

        return guarded

    def _stream(self, method: str, rule: Rule, inner: Callable[..., Any], *, reads: bool) -> Callable[..., Any]:
        @functools.wraps(inner)
        async def guarded(request: Any, context: Context) -> Any:
            try:
                identity = await self._admit(method, rule, context)
                if not reads:
                    _check_named(identity, rule, request)
            except BrokerError as error:
                if reads:
                    await _let_speak(context)
                await self._turn_away(method, context, error)
            caller = Caller(identity, functools.partial(self._refusals.note, call=method, peer=context.peer(), identity=identity))
            set_caller(caller)
            checked: Any = context
            if reads and rule.reach is Reach.NAMED and not identity.may_everywhere(rule.verb):
                checked = CheckedReads(context, functools.partial(self._check_message, method, rule, identity, context))
            await self._while_valid(method, caller, context, _serve(inner, request, checked))

        # Not what it wraps: a generator is written out here, and the library looks at what it is given.
        del guarded.__wrapped__
        return guarded

    async def _admit(self, method: str, rule: Rule, context: Context) -> Identity:
        """Who calls, when that one may make this kind of call at all. Raises Refused."""
        authorization = _authorization(context)
        names = () if authorization else _certificate_names(context)
        identity = await self._authenticator.identify(authorization, names)
        if identity.ticket:
            if method != SPENDS_TICKETS:
                raise CredentialsInvalid("a ticket opens one stream at the gateway and is good for nothing else", detail="ticket_misused")
            if not identity.is_spent:
                await self._authenticator.tokens.spend(identity)
        if rule.reach is Reach.EVERYWHERE and not identity.may_everywhere(rule.verb):
            raise _refusal(identity, rule.verb)
        if rule.reach is Reach.SOMEWHERE and not any(scope.verb in (rule.verb, "*") for scope in identity.scopes):
            raise _refusal(identity, rule.verb)
        return identity

    def _check_message(self, method: str, rule: Rule, identity: Identity, context: Context, message: Any) -> None:
        try:
            _check_named(identity, rule, message)
        except Refused as error:
            self._refusals.note(error, call=method, peer=context.peer(), identity=identity)
            raise

    async def _turn_away(self, method: str, context: Context, error: BrokerError) -> NoReturn:
        if isinstance(error, Refused):
            self._refusals.note(error, call=method, peer=context.peer(), identity=error.identity)
        await abort(context, error)

    async def _while_valid(self, method: str, caller: Caller, context: Context, work: Coroutine[Any, Any, None]) -> None:
        """Serve a stream for as long as its caller's credentials stand."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                left_s = min(RECHECK_S, (caller.identity.expires_at or float("inf")) - time.time())
                await asyncio.wait([task], timeout=max(0.0, left_s))
                if not task.done() and not self._authenticator.still_stands(caller.identity):
                    await self._end(method, caller, context, task)
                    return
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        task.result()

    async def _end(self, method: str, caller: Caller, context: Context, task: asyncio.Future[None]) -> None:
        error = CredentialsExpired("the credentials ran out while the stream was open")
        self._refusals.note(error, call=method, peer=context.peer(), identity=caller.identity)
        if caller.on_end is not None:
            caller.on_end()
            await asyncio.wait([task], timeout=END_S)
            if task.done():
                task.result()
                return
        task.cancel()
        await asyncio.wait([task])
        await abort(context, error)


class GuardedServer:
    """What generated code takes for a server; every handler that it adds is wrapped."""

    def __init__(self, server: grpc.aio.Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add handlers that know their methods by name."""
        self._server.add_generic_rpc_handlers(tuple(_Guarded(handler, self._guard) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the handlers of one service. Each is wrapped now, so that one without a rule is found when the broker starts."""
        wrapped = {name: self._guard.wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)


class _Guarded(grpc.GenericRpcHandler):
    """A generic handler whose methods are wrapped, each once."""

    def __init__(self, inner: grpc.GenericRpcHandler, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard
        self._wrapped: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method; None when it is another's."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = self._inner.service(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._guard.wrap(method, handler)
        return wrapped


class CheckedReads:
    """A context whose messages are checked before the handler gets them."""

    def __init__(self, context: Context, check: Callable[[Any], None]) -> None:
        self._context = context
        self._check = check

    async def read(self) -> Any:
        """The next message. Raises NotPermitted, and InvalidField for a name that is none."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._check(message)
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def _let_speak(context: Context) -> None:
    """Return when the first message is there, or after a moment.

    A client of grpc.aio that writes to a stream which has ended takes its own failed write for the reason, and never sees ours.
    """
    reading = asyncio.ensure_future(context.read())
    await asyncio.wait([reading], timeout=SPEAK_S)
    reading.cancel()
    # One who is gone meanwhile needs no answer.
    await asyncio.gather(reading, return_exceptions=True)


async def _serve(inner: Callable[..., Any], request: Any, context: Any) -> None:
    """Run a handler of either form: one that writes itself, or a generator of answers."""
    if inspect.isasyncgenfunction(inner):
        async for response in inner(request, context):
            await context.write(response)
    else:
        await inner(request, context)


def _check_named(identity: Identity, rule: Rule, request: Any) -> None:
    """Raises NotPermitted for the first thing that the request names and the caller may not reach."""
    if rule.targets is None or identity.may_everywhere(rule.verb):
        return
    for target in rule.targets(request):
        if target == ALL or not identity.may(rule.verb, target.queue, target.job_id):
            raise _refusal(identity, rule.verb, target.queue)


def _refusal(identity: Identity, verb: str, queue: str = "") -> Refused:
    error = not_permitted(verb, queue)
    error.identity = identity
    return error


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else ""
    return None


def _certificate_names(context: Context) -> list[str]:
    """What a verified client certificate says, the common name first."""
    found = context.auth_context()
    return [value.decode(errors="replace") for key in ("x509_common_name", "x509_subject_alternative_name") for value in found.get(key, ())]
