"""Where the brokers are, and which of them to try next."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
from collections.abc import Sequence

from .errors import RegistrationError

DEFAULT_TARGET = "localhost:7410"
DEFAULT_PORT = 7410
TARGET_VARIABLE = "JOBWIRE_TARGET"
MAX_ADDRESSES = 256


def parse_targets(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """The addresses in `target`: one, a comma list or a sequence. None means `JOBWIRE_TARGET`, else localhost:7410.

    Raises RegistrationError for one that is none.
    """
    if target is None:
        target = os.environ.get(TARGET_VARIABLE, "").strip() or DEFAULT_TARGET
    parts = [target] if isinstance(target, str) else list(target)
    addresses = [piece.strip() for part in parts for piece in _text(part).split(",") if piece.strip()]
    if not addresses:
        raise RegistrationError(f"target {target!r} names no broker; give one address such as 'localhost:7410', or several with commas between")
    return tuple(dict.fromkeys(_checked(address) for address in addresses))


def _text(part: object) -> str:
    if not isinstance(part, str):
        raise RegistrationError(f"target must be 'host:port', a comma list or a sequence of them, got {part!r}")
    return part


def _checked(address: str) -> str:
    if address.startswith("unix:"):
        return address
    if "://" in address:
        raise RegistrationError(f"target {address!r} has a scheme; a broker's address is 'host:port', for example 'localhost:7410'")
    host, port = _split(address)
    if not host or any(character.isspace() or character == "/" for character in host) or not 0 < port < 65536:
        raise RegistrationError(f"target {address!r} is not 'host:port' with a port from 1 to 65535")
    return f"{host}:{port}"


def _split(address: str) -> tuple[str, int]:
    """Host (an IPv6 address in brackets) and port; 0 for a port that is no number."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        return address, DEFAULT_PORT
    if ":" in host and not host.startswith("["):
        return f"[{address}]", DEFAULT_PORT
    return host, int(port) if port.isascii() and port.isdigit() else 0


class Targets:
    """Hands out addresses in turn, starting at a random one so that workers spread over the brokers.

    A name that resolves to many is resolved again before each try: brokers come and go behind it.
    """

    def __init__(self, addresses: Sequence[str], rng: random.Random | None = None) -> None:
        self._names = tuple(addresses)
        self._rng = rng or random.Random()
        self._addresses: list[str] = []
        self._hosts: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._current: str | None = None

    @property
    def count(self) -> int:
        """How many addresses are known."""
        return len(self._addresses)

    def others(self, now: float) -> bool:
        """Whether an address beside the current one may be tried now."""
        return any(address != self._current and self._not_before.get(address, 0.0) <= now for address in self._addresses)

    async def refresh(self) -> None:
        """Resolve the names. What does not resolve is kept as it is: the connection then tells what is wrong with it."""
        found = {address: name for name in self._names for address in await _resolve(name)}
        fresh = list(found)[:MAX_ADDRESSES]
        self._hosts = {address: _split(name)[0] for address, name in found.items() if address != name}
        if sorted(fresh) != sorted(self._addresses):
            self._rng.shuffle(fresh)
            self._addresses = fresh
            self._not_before = {address: moment for address, moment in self._not_before.items() if address in fresh}

    def next(self, now: float) -> tuple[str, float]:
        """The address to try, and how long to wait first because every broker asked for that. Prefers another than the last one."""
        start = self._addresses.index(self._current) + 1 if self._current in self._addresses else 0
        turn = self._addresses[start:] + self._addresses[:start]
        best = min(turn, key=lambda address: max(now, self._not_before.get(address, 0.0)))
        self._current = best
        return best, max(0.0, self._not_before.pop(best, 0.0) - now)

    def host_of(self, address: str) -> str:
        """The name that led to an address; empty when it was named itself. A certificate is of the name."""
        return self._hosts.get(address, "")

    def avoid(self, address: str, until: float) -> None:
        """A broker asked not to be tried again before `until`."""
        self._not_before[address] = until


async def _resolve(name: str) -> list[str]:
    host, port = _split(name)
    if name.startswith("unix:") or host == "localhost" or _is_literal(host):
        return [name]
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [name]
    return [f"[{info[4][0]}]:{port}" if info[0] == socket.AF_INET6 else f"{info[4][0]}:{port}" for info in infos] or [name]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
