"""Identities as they are written on the command line: `KEY:DELAY` and `KEY:PERIOD`. The key is all before the last colon."""

from datetime import timedelta
from typing import Any

from jobwire_client import Debounce, Throttle

from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import given, span, word


def identity_fields(
    idempotency_key: str | None, ttl: str | None, unique: bool, unique_key: str | None, debounce: str | None, max_wait: str | None, throttle: str | None
) -> dict[str, Any]:
    """The fields of a JobSpec. Raises CommandFailed."""
    if max_wait is not None and debounce is None:
        raise CommandFailed("--max-wait can only stand with --debounce", Exit.USAGE)
    most = span("--max-wait", max_wait)
    return {
        "idempotency_key": word("--idempotency-key", idempotency_key, "for a job without one"),
        "idempotency_ttl": span("--ttl", ttl),
        "unique": unique if word("--unique-key", unique_key, "for a job without one") is None else unique_key,
        "debounce": None if debounce is None else given("--debounce", debounce, lambda text: _debounce(text, most)),
        "throttle": None if throttle is None else given("--throttle", throttle, _throttle),
    }


def _debounce(text: str, most: timedelta | None) -> Debounce:
    key, colon, delay = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is no debounce; write KEY:DELAY, for example cart-7:5s")
    if _is_span_with_unit(key.rpartition(":")[2]):
        raise ValueError(f"{text!r} has two durations; write KEY:DELAY, for example cart-7:5s, and the longest wait as --max-wait 1m")
    return Debounce(key, parse_duration(delay), most)


def _throttle(text: str) -> Throttle:
    key, colon, period = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is no throttle; write KEY:PERIOD, for example report:1h")
    return Throttle(key, parse_duration(period))


def _is_span_with_unit(text: str) -> bool:
    """Whether a text can hardly be anything but a duration."""
    try:
        parse_duration(text)
    except ValueError:
        return False
    return text.strip()[-1].isalpha()
