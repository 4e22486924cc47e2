"""The store's address: what is wrong with it is said without any part of it, since that may be a part of the password."""

import pytest
from jobwire_broker.config import BrokerConfig
from jobwire_broker.server import serve
from jobwire_broker.store.client import check_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%2Fa%3Ass@10.0.0.5:6380/3",
        "redis://user:a:b@host",
        "rediss://host:6380?ssl_ca_certs=/etc/ca.pem",
        "redis://[::1]:6379/0",
        "unix:///run/a@b/store.sock?db=1",
        "unix://:secret@/run/store.sock",
    ],
)
def test_a_good_address_is_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("redis://:hush/frag@host:6379", "%2F"),
        ("redis://:123/frag@host:6379", "%2F"),
        ("redis://user:hush?frag@host", "%3F"),
        ("redis://:hush#frag@host", "%23"),
        ("redis://:hush@frag#host", "%23"),
        ("redis://:hush:frag/x@host", "%3A"),
        ("redis://:hush[frag@host", "%5B"),
        ("redis://:hush\u2100frag@host", "can't be read"),
        ("redis://:hush@host:frag", "number"),
        ("hush://frag@host", "must begin with"),
        ("hush-frag", "must begin with"),
        ("redis://host?hush=frag", "parameter"),
        ("redis://:hush@host?socket_timeout=frag", "parameter"),
    ],
)
async def test_a_bad_address_is_told_without_any_part_of_it(url: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await serve(BrokerConfig(store=url)) == 2
    said = capsys.readouterr()
    assert hint in said.err
    assert "hush" not in said.out + said.err
    assert "frag" not in said.out + said.err
    assert len(said.err.splitlines()) == 1
