r"""What a reader has seen, as its `Last-Event-ID` says it. Ids mean the same to every gateway, before and after a restart.

Of one topic it is `{revision}`, or `{revision}.end` where nothing comes after. Of many topics it is `{count}-{digest}`: how many frames the reader was
shown, and what the last one of each of its jobs was, folded into 64 bits. A gateway that finds the same digest in the jobs as they are now knows
that nothing was missed, however many they are; with any other it shows them all. `{count}-{digest}.end` says that nothing comes after, and its digest is
of the topics themselves: with another list of them it says nothing. So ids stay short, and are digits, letters, a hyphen and
a full stop alone: no browser drops them, and a reconnect across origins needs no preflight.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

_ONE = re.compile(r"(\d{1,19})(\.end)?", re.ASCII)
_MANY = re.compile(r"(\d{1,15})-([0-9a-f]{16})(\.end)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a reader of one topic saw last."""

    revision: int
    """-1 for an id that no gateway sent: it saw something, and nobody knows what."""
    end: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader of many topics is."""

    count: int
    digest: int
    """-1 for an id that no gateway sent."""
    end: bool = False

    def ends(self, topics: Iterable[str]) -> bool:
        """Whether nothing more comes of these topics."""
        return self.end and self.digest == _end_of(topics)


UNKNOWN = Cursor(-1)
UNKNOWN_PLACE = Place(0, -1)


def cursor_of(text: str) -> Cursor | None:
    """Read the id of a stream of one topic. None for none."""
    match = _ONE.fullmatch(text)
    return Cursor(int(match[1]), match[2] is not None) if match else UNKNOWN if text else None


def place_of(text: str) -> Place | None:
    """Read the id of a stream of many topics. None for none."""
    match = _MANY.fullmatch(text)
    return Place(int(match[1]), int(match[2], 16), match[3] is not None) if match else UNKNOWN_PLACE if text else None


def digest_of(shown: Iterable[tuple[str, str]]) -> int:
    """Fold pairs of a job's name and the id that was shown of it last. The order does not matter."""
    digest = 0
    for name, event_id in shown:
        digest ^= _fold(name, event_id)
    return digest


class Trail:
    """Writes the ids of one stream of many topics. `place` is where an earlier stream of the same reader ended."""

    __slots__ = ("_count", "_digest", "_last")

    def __init__(self, place: Place | None) -> None:
        self._count = place.count if place else 0
        self._digest = 0
        self._last: dict[str, str] = {}

    def know(self, name: str, event_id: str) -> None:
        """The reader has this of a job already."""
        self._digest ^= _fold(name, event_id)
        if (before := self._last.get(name)) is not None:
            self._digest ^= _fold(name, before)
        self._last[name] = event_id

    def step(self) -> str:
        """One more frame is shown. Gives its id."""
        self._count += 1
        return self.cursor()

    def cursor(self) -> str:
        """The id now."""
        return f"{self._count}-{self._digest:016x}"

    def end(self, topics: Iterable[str]) -> str:
        """The id when nothing more comes of these topics."""
        return f"{self._count}-{_end_of(topics):016x}.end"


def _end_of(topics: Iterable[str]) -> int:
    return digest_of((topic, "end") for topic in frozenset(topics))


def _fold(name: str, event_id: str) -> int:
    return int.from_bytes(blake2b(f"{name} {event_id}".encode(), digest_size=8).digest())
