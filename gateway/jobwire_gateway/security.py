"""What every request must pass, and what every answer carries, before there are credentials.

1. `Host` must be a name that this gateway goes by: else a page of any site could reach a loopback gateway by pointing its own name here.
2. A request that changes something must not come from a page of another origin. Browsers say so in `Sec-Fetch-Site`; where that is missing
   (plain HTTP on a name of the local network), `Origin` must be the `Host`. Without both it is no browser.
3. A page of another site may not even hold a stream open. A WebSocket is opened from any page without being asked, so 2 holds for it, too.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jobwire_gateway.problems import Problem

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""The server itself puts them on every answer, so they cost a stream nothing."""


class Security:
    """ASGI middleware. `hosts` are the names this gateway goes by; empty for any."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and hostname(host) not in self._hosts:
            raise Problem(421, "This gateway does not go by that name.", reason="HOST_NOT_ALLOWED")
        site = headers.get("sec-fetch-site")
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            if site == "cross-site" and scope["path"].startswith("/v1/"):
                raise Problem(403, "Pages of other sites may not read here.", reason="CROSS_ORIGIN")
        elif not _same_origin(site, headers.get("origin"), host):
            raise Problem(403, "Pages of other origins may change nothing and connect to nothing here.", reason="CROSS_ORIGIN")


def hostname(host: str) -> str:
    """The name in a Host header, in lower case and without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same_origin(site: str | None, origin: str | None, host: str) -> bool:
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()
