"""Which addresses webhooks may be sent to."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network

import httpcore
import pytest
from jobwire_gateway.webhooks import network
from jobwire_gateway.webhooks.network import AddressRefused, CheckedNetwork, is_allowed, resolve_by_system

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.255.255",
    "192.169.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "169.253.255.255",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:830::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b::808:808",
]

NOT_PUBLIC = [
    # this host, and this network
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "::",
    "::1",
    # private
    "10.0.0.0",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "fc00::1",
    "fd12:3456:789a::1",
    # link-local, and what clouds keep there
    "169.254.0.1",
    "169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "fd00:ec2::254",
    # site-local, long deprecated
    "fec0::1",
    # behind a provider's NAT, and what clouds keep there
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    # for protocols, documentation and measurements
    "192.0.0.1",
    "192.0.0.9",
    "192.0.0.10",
    "192.0.0.170",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    # multicast, broadcast and reserved
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "ff0e::1",
    "4000::1",
    "e000::1",
    # IPv4 in IPv6: mapped, compatible, translated, 6to4, Teredo, local NAT64
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:0",
    "::127.0.0.1",
    "::8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::e000:1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    # no addresses
    "",
    "localhost",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "1.1.1.1.",
    " 1.1.1.1",
    "1.1.1.1/32",
    "[::1]",
    "\uff11.1.1.1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_sent_to(address: str) -> None:
    assert is_allowed(address, ())


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_others_may_not(address: str) -> None:
    assert not is_allowed(address, ())


@pytest.mark.parametrize(
    ("address", "allowed", "is_in"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("::ffff:127.0.0.1", "127.0.0.0/8", True),
        ("::1", "127.0.0.0/8", False),
        ("::1", "::1/128", True),
        ("fd00::7", "fd00::/8", True),
        ("10.1.2.3", "fd00::/8", False),
        ("64:ff9b::10.1.2.3", "10.1.0.0/16", False),
        ("64:ff9b::10.1.2.3", "64:ff9b::/96", True),
        ("0x0a.1.2.3", "10.0.0.0/8", False),
    ],
)
def test_what_the_operator_allows_may_be_sent_to_and_nothing_else(address: str, allowed: str, is_in: bool) -> None:
    assert is_allowed(address, [ip_network(allowed)]) is is_in


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "::1"], ["fe80::1%eth0"], ["no address"]])
async def test_one_address_that_is_not_allowed_refuses_all(addresses: list[str]) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    with pytest.raises(AddressRefused, match=r"hooks\.example leads to .* allow_private"):
        await CheckedNetwork((), resolve).connect_tcp("hooks.example", 443)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"])
async def test_odd_forms_of_an_address_are_judged_by_what_the_system_makes_of_them(host: str) -> None:
    with pytest.raises((AddressRefused, httpcore.ConnectError)):
        await CheckedNetwork((), resolve_by_system).connect_tcp(host, 9)


async def test_a_name_that_leads_nowhere_is_no_refusal() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        return []

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    for resolve in (nowhere, unknown):
        with pytest.raises(httpcore.ConnectError, match=r"hooks\.example"):
            await CheckedNetwork((), resolve).connect_tcp("hooks.example", 443)


async def test_the_next_address_is_tried_where_one_cannot_be_reached() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]  # the first has nobody who listens

    try:
        stream = await CheckedNetwork([ip_network("127.0.0.0/8")], resolve).connect_tcp("hooks.example", port)
        await stream.aclose()
    finally:
        server.close()


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "EACH_S", 0.05)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    try:
        with silent("127.0.0.2", port):
            async with asyncio.timeout(60):
                stream = await CheckedNetwork([ip_network("127.0.0.0/8")], resolve).connect_tcp("hooks.example", port)
            await stream.aclose()
    finally:
        server.close()


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that answers nobody who connects: its queue of connections is full, so the kernel drops what comes."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, port))
        yield
