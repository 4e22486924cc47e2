"""Identities as they are written on the command line: `KEY:DELAY`, `KEY:DELAY:MOST`, `KEY:PERIOD`."""

from typing import Any

from jobwire_client import Debounce, Throttle

from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit


def identity_fields(
    idempotency_key: str | None, ttl: str | None, unique: bool, unique_key: str | None, debounce: str | None, throttle: str | None
) -> dict[str, Any]:
    """The fields of a JobSpec. Raises CommandFailed."""
    try:
        return {
            "idempotency_key": idempotency_key,
            "idempotency_ttl": None if ttl is None else parse_duration(ttl),
            "unique": unique_key if unique_key is not None else unique,
            "debounce": None if debounce is None else _debounce(debounce),
            "throttle": None if throttle is None else _throttle(throttle),
        }
    except ValueError as error:
        raise CommandFailed(str(error), Exit.USAGE) from None


def _debounce(text: str) -> Debounce:
    parts = text.split(":")
    if len(parts) == 2:
        return Debounce(parts[0], parse_duration(parts[1]))
    if len(parts) == 3:
        return Debounce(parts[0], parse_duration(parts[1]), parse_duration(parts[2]))
    raise ValueError(f"{text!r} is no debounce; write KEY:DELAY or KEY:DELAY:MOST, for example cart-7:5s:1m")


def _throttle(text: str) -> Throttle:
    key, colon, period = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is no throttle; write KEY:PERIOD, for example report:1h")
    return Throttle(key, parse_duration(period))
