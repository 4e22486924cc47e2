"""Which addresses a webhook may be sent to, and a connection to the very address that was checked.

A name is resolved once. Unless all that it leads to may be connected to, nothing is; then the connection goes to one of these addresses and the name is not
asked for again, so that an answer which changes between check and use (DNS rebinding) changes nothing. Odd forms of addresses, such as 0x7f.1, are a matter of
the resolver: what comes out of it is what is checked.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, cast

import httpcore

from jobwire_gateway.addresses import Network

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses that a name leads to. Raises OSError."""

_MAX_ADDRESSES = 64
EACH_S = 5.0
"""How long an address may take to be connected to, where there is another: it must not use up the time of that one."""

_PUBLIC_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
"""An IPv4 address for networks that have IPv6 alone stands in its last 4 bytes."""

_NOT_PUBLIC: tuple[Network, ...] = (
    # What is_global of older Pythons takes for public.
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv6Network("2001::/23"),  # Teredo and other tunnels: they lead to an IPv4 address
    IPv6Network("2002::/16"),  # 6to4: likewise
    IPv6Network("3fff::/20"),  # documentation
)


class AddressRefused(Exception):
    """Raised when a host leads to an address that is not public and not allowed. The message names both."""

    def __init__(self, host: str, address: str) -> None:
        shown = host if host == address else f"{host} leads to {address}, which"
        super().__init__(f"{shown} is no public address; a network that is meant must stand in allow_private")


def is_public(address: Address) -> bool:
    """Whether anybody's traffic may go there: no private, loopback, link-local, multicast or reserved address, and none that hides one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[12:]))
        if address not in _PUBLIC_V6:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not any(address in network for network in _NOT_PUBLIC)


def is_allowed(text: str, allowed: Iterable[Network]) -> bool:
    """Whether an address may be connected to: it is public, or in a network that the operator allows."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return is_public(address) or any(address in network for network in allowed)


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects where it may, and nowhere else."""

    def __init__(self, allowed: Sequence[Network], resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        # Without anyio it would be a class of another kind, which is what a checker sees.
        self._backend = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Connect to one of the addresses of a host. Raises AddressRefused, and what httpcore raises."""
        error: Exception = httpcore.ConnectError(f"{host} leads to no address")
        addresses = await self._checked(host, port)
        for address in addresses:
            within = timeout if address == addresses[-1] else EACH_S
            try:
                return await self._backend.connect_tcp(address, port, within, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    async def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = list(dict.fromkeys(await self._resolve(host, port)))[:_MAX_ADDRESSES]
        except OSError as error:
            raise httpcore.ConnectError(f"{host} can't be resolved: {error.strerror or type(error).__name__}") from error
        for address in addresses:
            if not is_allowed(address, self._allowed):
                raise AddressRefused(host, address)
        return addresses

    async def sleep(self, seconds: float) -> None:
        """Wait; httpcore does between tries of its own, of which there are none."""
        await asyncio.sleep(seconds)


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, in a thread of its own: a name server that does not answer takes nobody else's, and holds up no end of the process."""
    answer: Future[Sequence[str]] = Future()
    threading.Thread(target=_look_up, args=(answer, host, port), name="resolve", daemon=True).start()
    return await asyncio.wrap_future(answer)


def _look_up(answer: "Future[Sequence[str]]", host: str, port: int) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result([str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
    except Exception as error:
        answer.set_exception(error)
