"""Backoffs as they are written on the command line: `exponential:2s,factor=2,max=1h,jitter=0`, `fixed:30s`, or the waits one by one, `10s,1m,10m`."""

from datetime import timedelta
from typing import Any

from jobwire_client import Backoff

from jobwire_cli.durations import parse_duration

_FORMS = "write exponential:2s,factor=2,max=1h,jitter=0.1, fixed:30s, or the waits one by one: 10s,1m,10m"
#: What may stand behind the waits, by the form.
_OPTIONS = {"exponential": ("factor", "max", "jitter"), "fixed": ("jitter",), "": ("jitter",)}


def parse_backoff(text: str) -> Backoff:
    """The backoff that `text` says. Raises ValueError."""
    kind, colon, rest = text.rpartition(":")
    if kind not in _OPTIONS or (colon and not kind):
        raise ValueError(f"{text!r} is no backoff; {_FORMS}")
    parts = [part.strip() for part in rest.split(",")]
    waits = [_wait(text, part) for part in parts if "=" not in part]
    options = _options(kind, [part for part in parts if "=" in part])
    if not kind:
        if not waits:
            raise ValueError(f"{text!r} names no wait; {_FORMS}")
        return Backoff(delays=waits, **options)
    if len(waits) != 1:
        raise ValueError(f"{text!r} needs one wait behind {kind}:; {_FORMS}")
    if kind == "fixed":
        options["factor"] = 1.0
    return Backoff(base=waits[0], **options)


def _wait(text: str, part: str) -> timedelta:
    try:
        return parse_duration(part)
    except ValueError as error:
        raise ValueError(f"{text!r} is no backoff: {error}; {_FORMS}") from None


def _options(kind: str, parts: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in _OPTIONS[kind]:
            raise ValueError(f"{part!r} can't stand {f'with {kind}' if kind else 'beside waits one by one'}; {_FORMS}")
        field = "max_delay" if name == "max" else name
        if field in options:
            raise ValueError(f"{name} is given twice")
        options[field] = parse_duration(value) if name == "max" else _number(name, value)
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number; it is {text!r}") from None
