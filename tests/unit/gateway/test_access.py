"""Who asks, as the gateway finds it out: credentials of a request, addresses behind proxies, what was known before, and topics."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobwire.v1.admin_service_pb2 import GetIdentityResponse
from jobwire_broker.auth.identity import Identity as BrokerIdentity
from jobwire_broker.auth.identity import known_scopes
from jobwire_gateway.access import KEPT_S, STALE_S, Credentials, Identities, take_credentials
from jobwire_gateway.addresses import client_address, networks
from jobwire_gateway.callers import Caller, Identity, Rights, set_caller
from jobwire_gateway.caps import Rate, Shares
from jobwire_gateway.config import ConfigError, GatewayConfig
from jobwire_gateway.credentials import BrokerCredentials
from jobwire_gateway.frames import Frame
from jobwire_gateway.problems import Problem
from jobwire_gateway.rechecks import AT_ONCE, Rechecks
from jobwire_gateway.streams import Streams
from starlette.types import Scope

# Topics --------------------------------------------------------------------------------------------------------------------------------------------------

QUEUES = st.sampled_from(["a", "ab", "b", "acme.a", "acme.ab", "acme", "other.a"])
JOBS = st.sampled_from(["", "j", "j2", "a:b"])
SCOPES = st.lists(
    st.builds(
        lambda verb, queue, star, job: f"{verb}:{queue}*" if star else f"{verb}:{queue}{'/' + job if job else ''}",
        st.sampled_from(["watch", "*", "read", "enqueue"]),
        QUEUES,
        st.booleans(),
        JOBS,
    )
    | st.sampled_from(["watch:*", "*:*", "read:*"]),
    max_size=4,
)


@given(SCOPES, st.sampled_from(["", "acme", "other"]), QUEUES, JOBS)
def test_gateway_and_broker_agree_on_what_may_be_watched(scopes: list[str], tenant: str, queue: str, job: str) -> None:
    """The rule is written in both, since neither may know the other."""
    broker = BrokerIdentity(name="a", scopes=known_scopes(scopes), tenant=tenant)
    gateway = Identity(name="a", scopes=tuple(scopes), tenant=tenant)
    assert gateway.may_watch(f"queues/{queue}/jobs/{job}" if job else f"queues/{queue}") == broker.may("watch", queue, job)
    assert gateway.may_watch("queues") == broker.may_everywhere("watch")


def test_x13_no_scope_and_no_topic_takes_long_to_compare() -> None:
    """The one wildcard is a star at the end, so what is compared is compared once."""
    scopes = (*(f"watch:{'a*' * length}" for length in range(2, 200)), f"watch:{'a' * 100_000}z*")
    topic = "queues/" + "a" * 100_000 + "/labels/" + "a/" * 50_000
    began = time.perf_counter()
    assert not Identity(name="a", scopes=scopes).may_watch(topic)
    assert len(known_scopes([*scopes, "watch:" + "*" * 10_000])) < len(scopes)
    assert time.perf_counter() - began < 1


# Credentials of a request --------------------------------------------------------------------------------------------------------------------------------


def request(query: str = "", *, subprotocols: list[str] | None = None, **headers: str) -> Scope:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/v1/x", "headers": raw, "query_string": query.encode()}
    return {**scope, "type": "websocket", "subprotocols": subprotocols} if subprotocols is not None else scope


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        (request(), None),
        (request(authorization="Bearer k"), Credentials("k")),
        (request(authorization="bearer  k"), Credentials("k")),
        (request("token=k"), Credentials("k", in_url=True)),
        (request("a=1&ticket=k&b=2"), Credentials("k", in_url=True)),
        (request("token=k", authorization="Bearer h"), Credentials("h")),
        (request(cookie="a=b; __Host-jobwire=k; c=d"), Credentials("k", from_cookie=True)),
        (request("token=k", cookie="__Host-jobwire=c"), Credentials("k", in_url=True)),
        (request(cookie="jobwire=k"), None),
        (request(subprotocols=["jobwire.v1", "ticket.k"]), Credentials("k")),
        (request(subprotocols=["jobwire.v1"]), None),
        (request("topic=queues/t&tokens=k"), None),
    ],
)
def test_where_credentials_may_stand(scope: Scope, found: Credentials | None) -> None:
    assert take_credentials(scope) == found


@pytest.mark.parametrize(
    "scope",
    [
        request(authorization="Basic a2V5"),
        request(authorization="Bearer"),
        request(authorization="Bearer a b"),
        request(authorization="Bearer é"),
        request(authorization="Bearer " + "k" * 8193),
        request(f"token={'k' * 8193}"),
    ],
)
def test_credentials_that_are_none_are_a_401(scope: Scope) -> None:
    with pytest.raises(Problem) as caught:
        take_credentials(scope)
    assert (caught.value.status, caught.value.reason) == (401, "CREDENTIALS_INVALID")


def test_what_stood_in_the_query_is_seen_by_nobody_further_in() -> None:
    scope = request("topic=queues/a&token=secret&topic=queues/b&ticket=other")
    take_credentials(scope)
    assert scope["query_string"] == b"topic=queues/a&topic=queues/b"
    scope = request(subprotocols=["ticket.secret", "jobwire.v1"])
    take_credentials(scope)
    assert scope["subprotocols"] == ["jobwire.v1"]


# X05: addresses ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("::1", "198.51.100.1", "::1"),
    ],
)
def test_x05_only_what_a_trusted_proxy_says_is_believed(peer: str, forwarded: str, address: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    assert client_address({"type": "http", "client": (peer, 1), "headers": headers}, networks(["10.0.0.0/8"])) == address


# What was known before -----------------------------------------------------------------------------------------------------------------------------------


class Answers:
    """In the place of the brokers: they are a network away, and what is tested is when they are asked."""

    def __init__(self) -> None:
        self.asked = self.at_once = self.most_at_once = 0
        self.answer: GetIdentityResponse | Problem = GetIdentityResponse(authenticated=True, name="ann", scopes=["read:*"])

    async def call(self, ask: object, request: object, *, credentials: str) -> GetIdentityResponse:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if isinstance(self.answer, Problem):
            raise self.answer
        return self.answer


def identities() -> tuple[Identities, Answers, list[float]]:
    answers, now = Answers(), [0.0]
    return Identities(answers, lambda: now[0]), answers, now  # type: ignore[arg-type]


async def test_a_storm_with_the_same_credentials_is_one_call() -> None:
    known, answers, now = identities()
    found = await asyncio.gather(*(known.of("k") for _ in range(100)))
    assert ({identity.name for identity in found}, answers.asked) == ({"ann"}, 1)
    now[0] = KEPT_S + 1
    await known.of("k")
    assert answers.asked == 2


class OpenStreams:
    """What of open streams is asked for."""

    def __init__(self, *credentials: str) -> None:
        self.open = set(credentials)
        self.expired = asyncio.Event()

    def credentials(self) -> set[str]:
        return set(self.open)

    def expire(self, rights: Mapping[str, Rights | None]) -> None:
        ended = {credentials for credentials, left in rights.items() if left is None}
        self.open -= ended
        if ended:
            self.expired.set()


class OpenStream:
    """A stream that only notes its end."""

    last_write = 0.0

    def __init__(self) -> None:
        self.expired = asyncio.Event()

    def expire(self, frame: Frame) -> None:
        assert b"CREDENTIALS_EXPIRED" in frame.data
        self.expired.set()


async def test_streams_end_when_their_key_is_taken_away_and_not_while_nobody_can_be_asked() -> None:
    known, answers, now = identities()
    await known.of("k")
    streams = OpenStreams("k", "the stream token of a ticket")
    rechecks = Rechecks(streams, known, every_s=0.001)  # type: ignore[arg-type]
    rechecks.start()
    rechecks.start()
    now[0] = KEPT_S + 1
    answers.answer = Problem(503, "away")
    while answers.asked < 3:
        await asyncio.sleep(0)
    assert not streams.expired.is_set()
    answers.answer = Problem(401, "no such key", reason="CREDENTIALS_INVALID")
    await _all_ended(streams)
    await rechecks.stop()
    await rechecks.stop()


async def test_a_key_that_was_taken_away_just_after_it_was_asked_for_is_found_in_the_next_round() -> None:
    known, answers, _ = identities()
    await known.of("k")
    answers.answer = Problem(401, "no such key", reason="CREDENTIALS_INVALID")
    assert (await known.of("k")).name == "ann"
    streams = OpenStreams("k")
    rechecks = Rechecks(streams, known, every_s=0.001)  # type: ignore[arg-type]
    rechecks.start()
    await _all_ended(streams)
    await rechecks.stop()


async def test_streams_end_when_their_key_may_do_less_than_when_they_were_opened() -> None:
    known, answers, now = identities()
    streams = Streams(limit=10, starts_per_s=10, retry_s=1, drain_s=1, heartbeat_s=15)
    stream = OpenStream()
    set_caller(Caller(credentials="k", identity=await known.of("k"), address=""))
    streams.add(stream)  # type: ignore[arg-type]
    rechecks = Rechecks(streams, known, every_s=0.001)
    rechecks.start()
    now[0] = KEPT_S + 1
    answers.answer = GetIdentityResponse(authenticated=True, name="ann", scopes=["read:*"])
    while answers.asked < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not stream.expired.is_set()
    now[0] += KEPT_S + 1
    answers.answer = GetIdentityResponse(authenticated=True, name="ann", scopes=["read:mail"])
    async with asyncio.timeout(10):
        await stream.expired.wait()
    await rechecks.stop()


async def test_many_credentials_are_asked_for_at_once_and_not_all_at_once() -> None:
    known, answers, _ = identities()
    streams = OpenStreams(*map(str, range(3 * AT_ONCE)))
    answers.answer = Problem(401, "no such key", reason="CREDENTIALS_INVALID")
    rechecks = Rechecks(streams, known, every_s=0.001)  # type: ignore[arg-type]
    rechecks.start()
    await _all_ended(streams)
    await rechecks.stop()
    assert answers.most_at_once == AT_ONCE


async def _all_ended(streams: OpenStreams) -> None:
    async with asyncio.timeout(5):
        while streams.open:
            await streams.expired.wait()
            streams.expired.clear()


async def test_while_no_broker_can_be_asked_the_last_word_holds_for_a_while() -> None:
    known, answers, now = identities()
    await known.of("k")
    answers.answer = Problem(503, "away")
    now[0] = STALE_S - 1
    assert (await known.of("k")).name == "ann"
    with pytest.raises(Problem, match="away"):
        await known.of("another")
    now[0] = STALE_S + 1
    with pytest.raises(Problem, match="away"):
        await known.of("k")


async def test_a_refusal_is_remembered_for_a_moment_and_then_asked_again() -> None:
    known, answers, now = identities()
    answers.answer = Problem(401, "unknown", reason="CREDENTIALS_INVALID")
    raised = []
    for _ in range(3):
        with pytest.raises(Problem, match="unknown") as caught:
            await known.of("k")
        raised.append(caught.value)
    assert answers.asked == 1
    # One that is raised again would hold on to the requests that it was raised in.
    assert len({id(problem) for problem in raised}) == 3
    answers.answer = GetIdentityResponse(authenticated=True, name="ann")
    now[0] = 6.0
    assert (await known.of("k")).name == "ann"


async def test_a_key_that_is_taken_away_is_forgotten() -> None:
    known, answers, now = identities()
    await known.of("k")
    answers.answer = Problem(401, "gone", reason="CREDENTIALS_INVALID")
    now[0] = KEPT_S + 1
    with pytest.raises(Problem, match="gone"):
        await known.of("k")


async def test_a_ticket_is_never_remembered() -> None:
    known, answers, _ = identities()
    answers.answer = GetIdentityResponse(authenticated=True, name="ann", single_use=True, stream_token="for the stream")
    results = await asyncio.gather(*(known.of("k") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, Identity) for result in results) == 1
    await known.of("k")
    assert answers.asked == 2


# Caps ----------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_rate_is_counted_for_each_key() -> None:
    rate = Rate("2/minute")
    for key in ("a", "a", "b"):
        await rate.take(key)
    with pytest.raises(Problem) as caught:
        await rate.take("a")
    assert caught.value.status == 429
    assert 0 < (caught.value.retry_after_ms or 0) <= 60_000
    await rate.take("b")


def test_a_share_is_given_back() -> None:
    shares = Shares(per_address=1, per_identity=0)
    with shares.one(address="a", identity="x") as first, shares.one(address="a", identity="y") as second, shares.one(address="b", identity="x") as third:
        assert (first, second, third) == (True, False, True)
    with shares.one(address="a", identity="x") as again:
        assert again


# Settings ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"allowed_origins": ("*",)},
        {"allowed_origins": ("https://app.example/",)},
        {"allowed_origins": ("app.example",)},
        {"trusted_proxies": ("10.0.0.0/33",)},
        {"request_rate": "often"},
        {"attempt_rate": ""},
        {"max_streams_per_address": -1},
    ],
)
def test_a_setting_that_makes_no_sense_is_named(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        GatewayConfig(**setting)  # type: ignore[arg-type]


def test_a_gateway_with_a_key_asks_its_callers_and_may_listen_for_all() -> None:
    with_key = GatewayConfig(http="0.0.0.0:80", credentials=BrokerCredentials(key="k"))
    assert with_key.asks_callers
    assert not GatewayConfig(credentials=BrokerCredentials(key="k"), auth=False).asks_callers
    with pytest.raises(ConfigError, match="insecure"):
        GatewayConfig(http="0.0.0.0:80", credentials=BrokerCredentials(key="k"), auth=False)
