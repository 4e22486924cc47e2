"""What every request must pass, and what every answer carries.

1. `Host` must be there once, and a name that this gateway goes by: else a page of any site could reach a loopback gateway by pointing its own name here.
2. A request that changes something must not come from a page of another origin, unless that origin is allowed. Browsers say so in `Sec-Fetch-Site`; where
   that is missing (plain HTTP on a name of the local network), `Origin` must be the `Host`. Without both it is no browser, so a cookie alone will not do.
3. A page of another site may not even hold a stream open, nor may a WebSocket come from one.
4. Where callers must say who they are, the broker says whose the credentials are, before anything behind this reads the request. Good credentials pass
   whatever else came from their address; those that are not count against it.
5. An EventSource that could come in later is told so in its own language: 200, a `retry:`, and a close.
"""

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobwire_gateway import frames
from jobwire_gateway.access import TOKEN_PREFIX, Credentials, Identities, is_guarded, take_credentials, unauthenticated
from jobwire_gateway.addresses import Network, client_address, is_forwarded_by_stranger
from jobwire_gateway.callers import Caller, Identity, set_caller
from jobwire_gateway.caps import Rate, Shares
from jobwire_gateway.problems import Problem
from jobwire_gateway.refusals import Refusals
from jobwire_gateway.requests import invalid, wants_events

_log = logging.getLogger("jobwire.gateway")

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

_COME_BACK_MS = 5_000
"""How long an EventSource that is sent away waits at least; each gets up to as much again at random."""

_DOUBTFUL_AT_ONCE = 2
"""How many credentials that nobody knows yet the broker is asked about at once for addresses that have made too many attempts."""

ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""The server itself puts them on every answer, so they cost a stream nothing."""

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "ETag, Location, Preference-Applied, Retry-After"


class Security:
    """ASGI middleware. `hosts` are the names this gateway goes by; empty for any. `identities` None: nobody has to say who they are."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        *,
        refusals: Refusals | None = None,
        origins: Collection[str] = (),
        proxies: Sequence[Network] = (),
        identities: Identities | None = None,
        rate: str = "",
        attempt_rate: str = "20/10second",
        shares: Shares | None = None,
    ) -> None:
        self._refusals = refusals or Refusals()
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower() for origin in origins)
        self._proxies = proxies
        self._identities = identities
        self._rate = Rate(rate) if rate else None
        self._attempts = Rate(attempt_rate)
        self._doubtful = asyncio.Semaphore(_DOUBTFUL_AT_ONCE)
        self._proxy_said = False
        self._shares = shares or Shares()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        address = client_address(scope, self._proxies)
        if not self._proxy_said and is_forwarded_by_stranger(scope, self._proxies):
            self._proxy_said = True
            _log.warning("gateway.proxy_not_trusted peer=%s hint=%r", address, "all behind it count as one address; name it in --trusted-proxies")
        name = ""
        try:
            allowed_origin = self._check(scope)
            if allowed_origin:
                send = _for_origin(send, allowed_origin)
            if _is_preflight(scope):
                await _answer_preflight(send)
                return
            caller = await self._caller(scope, address, cross_origin=bool(allowed_origin))
            name = caller.identity.name if caller is not None else ""
            await self._count(address, name)
        except Problem as problem:
            await self._refuse(problem, scope, receive, send, name)
            return
        if caller is not None:
            set_caller(caller)
        if not (self._shares.are_limited and _is_stream(scope)):
            # Nothing of this middleware is kept for as long as a stream is open but this frame.
            await self._app(scope, receive, send)
            return
        tenant = caller.identity.tenant if caller is not None else ""
        with self._shares.one(address=address, identity=name, tenant=tenant) as has_room:
            if has_room:
                await self._app(scope, receive, send)
            else:
                await self._refuse(_too_many_streams(), scope, receive, send, name)

    def _check(self, scope: Scope) -> str:
        """The allowed other origin that the request comes from; empty when it comes from none. Raises Problem: 400, 403, 421."""
        headers = Headers(scope=scope)
        host, *others = headers.getlist("host") or [""]
        if others:
            # A proxy might have gone by the other one (RFC 9112, 3.2).
            raise invalid("Host", "is there twice")
        if self._hosts and hostname(host) not in self._hosts:
            raise Problem(421, "This gateway does not go by that name.", reason="HOST_NOT_ALLOWED")
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin is not None and origin.lower() in self._origins:
            return "" if site == "same-origin" else origin
        if scope["type"] == "websocket":
            if origin is not None and not _is_own(origin, host):
                raise Problem(403, "Pages of other origins may open nothing here.", reason="CROSS_ORIGIN")
        elif scope["method"] in _SAFE_METHODS:
            foreign = origin is not None and not _is_own(origin, host)
            if scope["path"].startswith("/v1/") and (site == "cross-site" or foreign):
                raise Problem(403, "Pages of other sites may not read here.", reason="CROSS_ORIGIN")
        elif not _same_origin(site, origin, host):
            raise Problem(403, "Pages of other origins may change nothing here.", reason="CROSS_ORIGIN")
        return ""

    async def _caller(self, scope: Scope, address: str, *, cross_origin: bool) -> Caller | None:
        """Who asks; None where nobody has to say. Raises Problem: 401, 403, 429, 503."""
        credentials = take_credentials(scope) if is_guarded(scope["path"]) else None
        if self._identities is None or not is_guarded(scope["path"]):
            return None
        if credentials is None:
            raise unauthenticated("Say who you are: send `Authorization: Bearer KEY`.", "CREDENTIALS_MISSING")
        _check_cookie(credentials, scope, cross_origin=cross_origin)
        if credentials.in_url and not (_is_stream(scope) and credentials.text.startswith(TOKEN_PREFIX)):
            raise _in_url()
        try:
            identity = await self._identify(self._identities, credentials.text, address)
        except Problem as problem:
            if problem.status == 401:
                await self._attempts.take(address)
            raise
        if credentials.in_url and not identity.is_page():
            raise _in_url()
        return Caller(credentials=identity.stream_token or credentials.text, identity=identity, address=address)

    async def _identify(self, identities: Identities, credentials: str, address: str) -> Identity:
        """Whose credentials they are. An address whose attempts are used up may be a proxy with good callers behind it: it is slowed down, not shut out."""
        if identities.knows(credentials) or not await self._attempts.is_used_up(address):
            return await identities.of(credentials)
        async with self._doubtful:
            return await identities.of(credentials)

    async def _count(self, address: str, name: str) -> None:
        if self._rate is not None:
            await self._rate.take(f"identity {name}" if name else f"address {address}")

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        self._refusals.note(problem.reason, scope, name)
        if scope["type"] == "websocket":
            await receive()
        elif problem.status in (429, 503) and _is_event_source(scope):
            await _send_away(problem, send)
            return
        await problem.response(scope["path"])(scope, receive, send)


def hostname(host: str) -> str:
    """The name in a Host header, in lower case and without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_stream(scope: Scope) -> bool:
    return bool(scope["type"] == "websocket" or scope["path"].endswith(("/events", "/stats/stream", "/logs/stream")))


def _is_event_source(scope: Scope) -> bool:
    return _is_stream(scope) and scope["method"] != "HEAD" and wants_events(Headers(scope=scope))


async def _send_away(problem: Problem, send: Send) -> None:
    """Tell an EventSource to come back later: any status but 200 would be its end."""
    least_ms = max(_COME_BACK_MS, problem.retry_after_ms or 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": frames.retry(round(least_ms * random.uniform(1.0, 2.0)))})


def _in_url() -> Problem:
    return unauthenticated(
        "An address may hold a watch token or a ticket, for a stream, and no other credentials: send them as `Authorization: Bearer …`.", "CREDENTIALS_INVALID"
    )


def _too_many_streams() -> Problem:
    return Problem(429, "You have as many streams open as you may.", reason="TOO_MANY_STREAMS", code="resource_exhausted", retry_after_ms=10_000)


def _is_own(origin: str, host: str) -> bool:
    # Anybody may write anything there, so it is compared and not taken apart.
    return origin.lower().partition("://")[2] == host.lower() != ""


def _same_origin(site: str | None, origin: str | None, host: str) -> bool:
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or _is_own(origin, host)


def _check_cookie(credentials: Credentials, scope: Scope, *, cross_origin: bool) -> None:
    """A browser sends a cookie whoever made it ask, so the request must be known to come from our own page. Raises Problem: 403."""
    if not credentials.from_cookie or (scope["type"] == "http" and scope["method"] in _SAFE_METHODS and not cross_origin):
        return
    headers = Headers(scope=scope)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if cross_origin or (site is None and origin is None):
        raise Problem(403, "A cookie is good for our own pages alone.", reason="CROSS_ORIGIN")


def _is_preflight(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return bool(scope["type"] == "http" and scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers)


async def _answer_preflight(send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in _PREFLIGHT.items()]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _for_origin(send: Send, origin: str) -> Send:
    """Let pages of this origin read the answer. Never with cookies: they send a token."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = list(message.get("headers", ()))
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED
            headers.add_vary_header("Origin")
        await send(message)

    return sending
