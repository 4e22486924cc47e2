"""Durations as people write them: `500ms`, `10s`, `5m`, `2h`, `1d`, or a plain number of seconds."""

import math
import re
from datetime import timedelta

_UNITS_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|m|h|d|)")


def parse_duration(text: str) -> timedelta:
    """The duration that `text` says.

    Raises:
        ValueError: it says none.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 500ms, 10s, 5m, 2h or 1d")
    try:
        return timedelta(seconds=float(match["number"]) * _UNITS_S[match["unit"]])
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def short(seconds: float) -> str:
    """A duration for a table: `0.4s`, `12s`, `3m 5s`, `2h 10m`, `4d 3h`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller_size}{smaller}"
    return f"{whole}s"
