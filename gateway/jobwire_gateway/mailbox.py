"""What waits to be written to one reader, of however many topics. A plain object without input or output: frames go in, frames come out.

What holds, however slow the reader is:

1. At most `max_frames` frames and `max_bytes` bytes wait; what is left after a collapse (rule 3), at most three frames of each topic and two of the
   gateway itself, may exceed them.
2. Of updates of one job that differ in progress alone, the latest waits; and of notices of how the gateway is, the latest.
3. A change of state waits in its order, and so does an end. When they do not fit, log lines go first; when they still do not fit, the changes of each
   topic collapse into a `gap` and the newest of them, which says its job's whole state. So the end of a watched job arrives always, and nothing is
   left out in silence. As long as that gap waits, a newer state of the job takes the older one's place.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jobwire_gateway import frames
from jobwire_gateway.frames import Frame, Kind

GATEWAY = ""
"""The topic of what the gateway says of itself: `degraded`, `drain`."""

_CHANGES = (Kind.UPDATE, Kind.FINAL, Kind.ERROR)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait."""

    max_frames: int
    max_bytes: int


class Mailbox:
    """The frames of one reader. `on_ready` is called whenever there is something to take; it may be called without need."""

    __slots__ = ("_alone", "_alone_topic", "_bounds", "_bytes", "_dropped", "_gaps", "_newest", "_next", "_pending", "ended", "on_ready")

    def __init__(self, bounds: Bounds, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready
        self.ended = False
        self._bounds = bounds
        # A frame that waits alone, as most do, stands here and costs no dictionary.
        self._alone: Frame | None = None
        self._alone_topic = GATEWAY
        # By a growing number, so that any frame is found and removed at once and the order stays.
        self._pending: dict[int, tuple[str, Frame]] = {}
        self._newest: dict[str, int] = {}
        self._next = 0
        self._bytes = 0
        # By topic: log frames that were dropped, and gaps of rule 3. There are none as long as the reader keeps up.
        self._dropped: dict[str, int] | None = None
        self._gaps: set[str] | None = None

    def put(self, topic: str, frame: Frame) -> None:
        """Let a frame wait. After `end` nothing is taken in."""
        if self.ended:
            return
        if self._alone is None and not self._pending:
            self._alone, self._alone_topic = frame, topic
        else:
            self._put_behind(topic, frame)
        self.on_ready()

    def over(self, topic: str) -> None:
        """Nothing more comes of the one topic that there is."""
        self.end()

    def end(self) -> None:
        """Nothing comes after what waits."""
        if not self.ended:
            self.ended = True
            self.on_ready()

    def take(self) -> list[Frame]:
        """Take all that waits."""
        if self._alone is not None:
            alone, self._alone = self._alone, None
            return [alone]
        if not self._pending and self._dropped is None:
            return []
        taken = [frame for _, frame in self._pending.values()]
        if self._dropped:
            taken = [frames.logs_dropped(topic, count) for topic, count in self._dropped.items()] + taken
        self._clear()
        return taken

    def forget(self, topic: str) -> None:
        """Let nothing wait that is of a topic."""
        self._join()
        for number in [number for number, (of, _) in self._pending.items() if of == topic]:
            self._remove(number)
        self._newest = {frame.name: number for number, (_, frame) in self._pending.items() if frame.mark is not None or frame.kind is Kind.FINAL}
        if self._dropped is not None:
            self._dropped.pop(topic, None)

    def __len__(self) -> int:
        return len(self._pending) + (self._alone is not None)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        return self._bytes if self._alone is None else len(self._alone.data)

    def _put_behind(self, topic: str, frame: Frame) -> None:
        self._join()
        if frame.mark is not None or frame.kind in _CHANGES:
            self._supersede(topic, frame)
        self._append(topic, frame)
        if len(self._pending) > self._bounds.max_frames or self._bytes > self._bounds.max_bytes:
            self._make_room()

    def _join(self) -> None:
        """Let what waits alone wait with others."""
        if self._alone is not None:
            self._append(self._alone_topic, self._alone)
            self._alone = None

    def _supersede(self, topic: str, frame: Frame) -> None:
        """What says all that the one before it said takes its place."""
        number = self._newest.get(frame.name)
        if number is None or number not in self._pending:
            return
        said = self._gaps is not None and topic in self._gaps
        if said or (frame.mark is not None and self._pending[number][1].mark == frame.mark):
            self._remove(number)

    def _remove(self, number: int) -> None:
        self._bytes -= len(self._pending.pop(number)[1].data)

    def _over(self) -> bool:
        return len(self._pending) > self._bounds.max_frames or (self._bytes > self._bounds.max_bytes and len(self._pending) > 1)

    def _make_room(self) -> None:
        if len(self._pending) == 1:
            return
        for number, topic in [(number, topic) for number, (topic, frame) in self._pending.items() if frame.kind is Kind.LOG]:
            self._remove(number)
            self._dropped = self._dropped or {}
            self._dropped[topic] = self._dropped.get(topic, 0) + 1
        if self._over():
            self._collapse()

    def _collapse(self) -> None:
        of_topics: dict[str, list[Frame]] = {}
        for topic, frame in self._pending.values():
            of_topics.setdefault(topic, []).append(frame)
        of_gateway = of_topics.pop(GATEWAY, [])
        dropped, gaps = self._dropped, self._gaps or set()
        self._clear()
        self._dropped, self._gaps = dropped, gaps
        for topic, waiting in of_topics.items():
            for frame in _essence(topic, waiting, gaps):
                self._append(topic, frame)
        for kind in (Kind.DEGRADED, Kind.DRAIN):
            if (notice := _last(of_gateway, kind)) is not None:
                self._append(GATEWAY, notice)

    def _append(self, topic: str, frame: Frame) -> None:
        number = self._next
        self._next = number + 1
        self._pending[number] = (topic, frame)
        self._bytes += len(frame.data)
        if frame.mark is not None or frame.kind is Kind.FINAL:
            self._newest[frame.name] = number

    def _clear(self) -> None:
        self._pending.clear()
        self._newest.clear()
        self._bytes = 0
        self._dropped = self._gaps = None


def _essence(topic: str, waiting: list[Frame], gaps: set[str]) -> list[Frame]:
    """What of one topic must stay. A gap is said where something is left out, and noted in `gaps`."""
    kept = [_last(waiting, Kind.CONNECTED, Kind.UNSUBSCRIBED), _last(waiting, *_CHANGES)]
    essence = [frame for frame in kept if frame is not None]
    if len(essence) < len(waiting):
        gaps.add(topic)
        essence.insert(0 if kept[0] is None else 1, frames.gap(topic, "slow_reader"))
    return essence


def _last(waiting: list[Frame], *kinds: Kind) -> Frame | None:
    return next((frame for frame in reversed(waiting) if frame.kind in kinds), None)
