"""What was given to a flag, read; an error names the flag."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit

_Read = TypeVar("_Read")


def given(flag: str, text: str, read: Callable[[str], _Read]) -> _Read:
    """What `read` makes of the text. Raises CommandFailed where it raises ValueError."""
    try:
        return read(text)
    except ValueError as error:
        raise CommandFailed(f"{flag}: {error}", Exit.USAGE) from None


def word(flag: str, text: str | None, without: str = "to ask for any") -> str | None:
    """A text that is not empty; None when the flag was not given. `without` says what it is good for to leave the flag out.

    Raises CommandFailed: an empty text is a variable of a script that nobody has set.
    """
    if text == "":
        raise CommandFailed(f"{flag} must not be empty; leave it out {without}", Exit.USAGE)
    return text


def priority_of(text: str) -> int | str:
    """A priority's number, or what may be its name: the client knows those."""
    try:
        return int(text)
    except ValueError:
        return text


def span(flag: str, text: str | None) -> timedelta | None:
    """A duration; None when the flag was not given. Raises CommandFailed."""
    return None if text is None else given(flag, text, parse_duration)


def date(flag: str, text: str | None) -> datetime | None:
    """A date; None when the flag was not given. Raises CommandFailed."""
    return None if text is None else given(flag, text, _date)


def moment(flag: str, text: str | None) -> datetime | None:
    """A date, or so long ago; None when the flag was not given. Raises CommandFailed."""
    return None if text is None else given(flag, text, _moment)


def _date(text: str) -> datetime:
    """A date without a zone is one of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not a date; write 2026-11-22, 2026-11-22T16:00 or 2026-11-22T16:00Z") from None


def _moment(text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        return _date(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration (2h, 7d) nor a date (2026-11-22, 2026-11-22T16:00Z)") from None
