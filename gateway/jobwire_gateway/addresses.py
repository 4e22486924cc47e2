"""Which address a request came from, when proxies stand between: only what a trusted proxy says is believed, else anybody could pass for anybody."""

import ipaddress
from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_HOPS = 20


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read networks such as `10.0.0.0/8`. Raises ValueError."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts if text.strip())


def client_address(scope: Scope, proxies: Sequence[Network]) -> str:
    """The peer; behind trusted proxies, the last address in `X-Forwarded-For` that is none of theirs."""
    peer: str = (scope.get("client") or ("", 0))[0]
    if not proxies or not _is_in(peer, proxies):
        return peer
    hops = [hop.strip() for value in Headers(scope=scope).getlist("x-forwarded-for") for hop in value.split(",")]
    for hop in reversed(hops[-_MAX_HOPS:]):
        if not _is_in(hop, proxies):
            return hop if _is_address(hop) else peer
        peer = hop
    return peer


def is_forwarded_by_stranger(scope: Scope, proxies: Sequence[Network]) -> bool:
    """Whether a peer that is no trusted proxy names another address: it is one that nobody told us of, or somebody who passes for one."""
    return "x-forwarded-for" in Headers(scope=scope) and not _is_in((scope.get("client") or ("", 0))[0], proxies)


def _is_in(text: str, nets: Sequence[Network]) -> bool:
    if not _is_address(text):
        return False
    address = ipaddress.ip_address(text)
    return any(address in net for net in nets)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
