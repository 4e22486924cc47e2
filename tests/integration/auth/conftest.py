"""A broker that asks everybody who they are."""

from collections.abc import Iterator

import pytest

from tests.support import Broker, Gateway, Store
from tests.support.credentials import AUDIENCE, ISSUER, SECRET, Keys

VERBS = ("admin", "control", "enqueue", "manage", "read", "watch", "work")


@pytest.fixture(scope="session")
def keys() -> Keys:
    """A key for each verb, on queues that begin with `mail`; some for special cases."""
    made = Keys(**{f"only_{verb}": f"{verb}:mail*" for verb in VERBS})
    made.add("all", "*:*")
    made.add("mail", "*:mail*")
    made.add("acme", "*:* tenant=acme")
    made.add("expired", "*:* expires=2020-01-01T00:00:00Z")
    made.add("gateway", "watch:* read:*")
    return made


@pytest.fixture(scope="session")
def strict_broker(shared_store: Store, keys: Keys) -> Iterator[Broker]:
    """A broker with these keys, and JWTs with a shared secret."""
    env = {"JOBWIRE_KEYS": keys.text, "JOBWIRE_JWT_SECRET": SECRET}
    with Broker(shared_store, extra=["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE], env=env).started() as broker:
        yield broker


@pytest.fixture(scope="session")
def strict_gateway(strict_broker: Broker, keys: Keys) -> Iterator[Gateway]:
    """A gateway with a key of its own, so that callers must have theirs. Pages of one other origin may use it."""
    env = {"JOBWIRE_API_KEY": keys.of["gateway"]}
    with Gateway(strict_broker, extra=["--allowed-origins", "https://app.example", "--attempt-rate", "1000/second"], env=env).started() as gateway:
        yield gateway
