"""What is written behind a flag, and what it means."""

from datetime import UTC, datetime, timedelta

import pytest
from jobwire_cli.backoffs import parse_backoff
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import date, moment
from jobwire_cli.identities import identity_fields
from jobwire_client import Backoff, Debounce

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("exponential:2s", Backoff(base=2 * SECOND)),
        ("exponential:2s,factor=3,max=1h,jitter=0", Backoff(base=2 * SECOND, factor=3.0, max_delay=HOUR, jitter=0.0)),
        ("exponential:0, jitter=0.5", Backoff(base=timedelta(), jitter=0.5)),
        ("fixed:30s", Backoff(base=30 * SECOND, factor=1.0)),
        ("fixed:1m,jitter=0", Backoff(base=MINUTE, factor=1.0, jitter=0.0)),
        ("10s,1m", Backoff(delays=[10 * SECOND, MINUTE])),
        ("10s,jitter=0", Backoff(delays=[10 * SECOND], jitter=0.0)),
    ],
)
def test_a_backoff_is_what_it_says(text: str, meant: Backoff) -> None:
    assert parse_backoff(text) == meant


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a duration"),
        (":2s", "no backoff"),
        ("linear:2s", "no backoff"),
        ("exponential:", "not a duration"),
        ("exponential:factor=2", "needs one wait"),
        ("exponential:2s,4s", "needs one wait"),
        ("exponential:2s,base=3", "'base=3' can't stand with exponential"),
        ("exponential:2s,factor=two", "factor must be a number; it is 'two'"),
        ("exponential:2s,max=long", "'long' is not a duration"),
        ("exponential:2s,jitter=0,jitter=1", "jitter is given twice"),
        ("fixed:2s,factor=2", "'factor=2' can't stand with fixed"),
        ("10s,max=1h", "'max=1h' can't stand beside waits one by one"),
        ("jitter=0", "names no wait"),
    ],
)
def test_what_is_no_backoff_says_what_would_be_one(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^.*{why}"):
        parse_backoff(text)


def debounce(text: str | None, max_wait: str | None = None) -> object:
    return identity_fields(None, None, False, None, text, max_wait, None)["debounce"]


def test_the_key_of_a_debounce_is_all_before_the_last_colon() -> None:
    assert debounce("cart:7:50s") == Debounce("cart:7", 50 * SECOND)
    assert debounce("cart-7:5s", "1m") == Debounce("cart-7", 5 * SECOND, MINUTE)
    assert debounce("5s:1m-x:2") == Debounce("5s:1m-x", 2 * SECOND)


@pytest.mark.parametrize(
    ("text", "max_wait", "why"),
    [
        ("cart-7:5s:1m", None, "--debounce: 'cart-7:5s:1m' has two durations"),
        ("cart", None, "--debounce: 'cart' is no debounce"),
        ("cart:soon", None, "--debounce: 'soon' is not a duration"),
        ("cart:5s", "long", "--max-wait: 'long' is not a duration"),
        (None, "1m", "--max-wait can only stand with --debounce"),
    ],
)
def test_a_debounce_that_could_be_read_in_two_ways_is_refused(text: str | None, max_wait: str | None, why: str) -> None:
    with pytest.raises(CommandFailed, match=why) as failed:
        debounce(text, max_wait)
    assert failed.value.code == Exit.USAGE


def test_a_date_is_one_of_this_machine_unless_it_names_a_zone() -> None:
    assert date("--at", "2026-11-22T16:00Z") == datetime(2026, 11, 22, 16, tzinfo=UTC)
    assert date("--at", "2026-11-22") == datetime(2026, 11, 22).astimezone()
    assert date("--at", None) is None
    ago = moment("--since", "2h")
    assert ago is not None
    assert abs(datetime.now(UTC) - ago - 2 * HOUR) < MINUTE


@pytest.mark.parametrize("text", ["soon", "2h", "0000-00-00"])
def test_what_is_no_date_names_its_flag(text: str) -> None:
    with pytest.raises(CommandFailed, match=r"^--at: .* is not a date"):
        date("--at", text)
    with pytest.raises(CommandFailed, match=r"^--since: .* is neither"):
        moment("--since", "99999999999999d" if text == "2h" else text)
