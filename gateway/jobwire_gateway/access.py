"""Finds out who asks: takes the credentials out of a request, and asks the broker, which decides, whose they are.

What the broker said is kept for a while, so that a storm of reconnections costs it one call for each credentials; a key that was taken away is noticed within
KEPT_S. When no broker can be asked, what was known last holds for STALE_S, so that streams can be opened while brokers restart.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote_plus

from jobwire.v1.admin_service_pb2 import GetIdentityRequest, GetIdentityResponse
from starlette.datastructures import Headers
from starlette.types import Scope

from jobwire_gateway.brokers import Broker, Brokers
from jobwire_gateway.callers import Identity, Rights
from jobwire_gateway.problems import Problem

COOKIE = "__Host-jobwire"
"""The prefix makes browsers insist on `Secure`, on the path `/`, and on this very host."""

TICKET_PROTOCOL = "ticket."
"""In front of a token among the subprotocols of a WebSocket: the one header that a page can set there."""

TOKEN_PREFIX = "jobwire_token_"
"""Of the broker's own tokens."""

MAX_CREDENTIALS = 8192
KEPT_S = 15.0
STALE_S = 300.0
_REFUSED_S = 5.0
_MAX_KEPT = 20_000
_IN_QUERY = ("token", "ticket")


@dataclass(frozen=True)
class Credentials:
    """What a request brought."""

    text: str
    from_cookie: bool = False
    """A browser sends it by itself, so the request may be a forged one."""
    in_url: bool = False
    """They stood in the address, which proxies log and browsers keep."""


@dataclass(frozen=True)
class _Known:
    at: float
    identity: Identity | None = None
    reason: str = ""
    detail: str = ""
    """Why the broker does not take them. Kept as words: a problem that is raised again holds on to all requests that it was raised in."""


class Identities:
    """Whose credentials are whose."""

    def __init__(self, brokers: Brokers, clock: Callable[[], float] = time.monotonic) -> None:
        self._brokers = brokers
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}

    async def of(self, credentials: str) -> Identity:
        """Whose they are.

        Raises:
            Problem: 401, the broker does not take them; 503, it can't be asked and they were not known before.
        """
        digest = _digest(credentials)
        known = self._known.get(digest)
        if known is None or self._clock() - known.at > (KEPT_S if known.identity else _REFUSED_S):
            known = await self._ask_once(digest, credentials)
        return _good(known)

    def knows(self, credentials: str) -> bool:
        """Whether they were good when they came last."""
        known = self._known.get(_digest(credentials))
        return known is not None and known.identity is not None

    async def rights_of(self, credentials: str) -> Rights | None:
        """What credentials that were good, or the stream token of a ticket, are good for now; None: for nothing any more.

        Raises:
            Problem: nobody can be asked.
        """
        try:
            if (digest := _digest(credentials)) in self._known:
                # What is kept is no answer here: it would be up to KEPT_S old, and is asked for that often.
                return _good(await self._ask_once(digest, credentials)).rights
            return _identity_of(await self._brokers.call(_get_identity, GetIdentityRequest(), credentials=credentials)).rights
        except Problem as problem:
            if problem.status not in (401, 403):
                raise
            return None

    async def _ask_once(self, digest: bytes, credentials: str) -> _Known:
        """One call for all who come with the same credentials at once; each but the first would spend a ticket again."""
        task = self._asking.get(digest)
        is_first = task is None
        if task is None:
            task = self._asking[digest] = asyncio.get_running_loop().create_task(self._ask(digest, credentials))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        known = await asyncio.shield(task)
        if not is_first and digest not in self._known:
            raise unauthenticated("The ticket has been used.", "CREDENTIALS_EXPIRED")
        return known

    async def _ask(self, digest: bytes, credentials: str) -> _Known:
        try:
            answer = await self._brokers.call(_get_identity, GetIdentityRequest(), credentials=credentials)
        except Problem as problem:
            if problem.status not in (401, 403):
                return self._stale(digest, problem)
            return self._keep(digest, _Known(self._clock(), reason=problem.reason, detail=problem.detail))
        if not answer.authenticated:
            # Else whoever sends anything at all would be let in.
            raise Problem(503, "The broker asks nobody who they are, so this gateway can let nobody in.", reason="NO_AUTHENTICATION")
        if answer.single_use and not answer.stream_token:
            raise unauthenticated("The stream of a ticket is open already.", "CREDENTIALS_INVALID")
        known = _Known(self._clock(), _identity_of(answer))
        return known if answer.single_use else self._keep(digest, known)

    def _stale(self, digest: bytes, problem: Problem) -> _Known:
        known = self._known.get(digest)
        if known is None or known.identity is None or self._clock() - known.at > STALE_S:
            raise problem
        return known

    def _keep(self, digest: bytes, known: _Known) -> _Known:
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > _MAX_KEPT:
            self._known.popitem(last=False)
        return known


def _good(known: _Known) -> Identity:
    """Raise Problem, 401, unless they are."""
    if known.identity is None:
        raise unauthenticated(known.detail, known.reason)
    if known.identity.has_expired():
        raise unauthenticated("The credentials have expired.", "CREDENTIALS_EXPIRED")
    return known.identity


def _digest(credentials: str) -> bytes:
    return hashlib.sha256(credentials.encode()).digest()


def is_guarded(path: str) -> bool:
    """Whether a caller is needed: for all data. The page itself, its description and the probes are everybody's."""
    return path.startswith("/v1/") or path == "/health"


def take_credentials(scope: Scope) -> Credentials | None:
    """What the request brought, the header before the query before the cookie. What stood in the query is taken out of it: nothing further in can show it.

    Raises:
        Problem: 401, the header is malformed, or the credentials are too long.
    """
    headers = Headers(scope=scope)
    in_query = _take_from_query(scope)
    if (authorization := headers.get("authorization")) is not None:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise unauthenticated("The Authorization header must be `Bearer KEY`.", "CREDENTIALS_INVALID")
        return Credentials(_checked(text.strip()))
    if in_query:
        return Credentials(_checked(in_query), in_url=True)
    for protocol in scope.get("subprotocols") or ():
        if protocol.startswith(TICKET_PROTOCOL):
            scope["subprotocols"] = [other for other in scope["subprotocols"] if other != protocol]
            return Credentials(_checked(protocol.removeprefix(TICKET_PROTOCOL)))
    if (cookie := _cookie(headers)) is not None:
        return Credentials(_checked(cookie), from_cookie=True)
    return None


def unauthenticated(detail: str, reason: str) -> Problem:
    """401, with what RFC 6750 wants beside it."""
    error = ', error="invalid_token"' if reason != "CREDENTIALS_MISSING" else ""
    return Problem(401, detail, reason=reason, code="unauthenticated", headers={"WWW-Authenticate": f'Bearer realm="jobwire"{error}'})


def _take_from_query(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    if b"t" not in query:
        return ""
    found, kept = "", []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name.decode("latin-1") in _IN_QUERY:
            found = found or unquote_plus(value.decode("latin-1"))
        else:
            kept.append(part)
    if found:
        scope["query_string"] = b"&".join(kept)
    return found


def _cookie(headers: Headers) -> str | None:
    raw = headers.get("cookie", "")
    if COOKIE not in raw:
        return None
    try:
        morsel = SimpleCookie(raw).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None


def _checked(text: str) -> str:
    if not 1 <= len(text) <= MAX_CREDENTIALS or not text.isascii() or not text.isprintable() or " " in text:
        raise unauthenticated("The credentials are malformed.", "CREDENTIALS_INVALID")
    return text


def _identity_of(answer: GetIdentityResponse) -> Identity:
    expires_at = answer.expire_time.ToMilliseconds() / 1000 if answer.HasField("expire_time") else None
    return Identity(name=answer.name, tenant=answer.tenant, scopes=tuple(answer.scopes), expires_at=expires_at, stream_token=answer.stream_token)


def _get_identity(broker: Broker) -> Callable[..., Awaitable[GetIdentityResponse]]:
    return broker.admin.GetIdentity
