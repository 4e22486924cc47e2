"""What waits to be written to one reader, of however many topics. A plain object without input or output: frames go in, frames come out.

What holds, however slow the reader is:

1. At most `max_frames` frames and `max_bytes` bytes wait. What is left after a collapse (rule 3) may exceed them: at most three frames of each topic, two of
   the gateway itself and its answers to the reader, and a quarter of the bounds before the next collapse, so that not every frame brings one. Of jobs
   that are left then nothing long is kept when it does not fit.
2. Of updates of one job that differ in progress alone, the latest waits; and of notices of how the gateway is, the latest.
3. A change of state waits in its order, and so does an end. When they do not fit, log lines go first, the oldest before the others, and are counted; when
   they still do not fit, the changes of each topic collapse into a `gap` and the newest of them, which says its job's whole state. So the end of a watched
   job arrives always, and nothing is left out in silence. As long as that gap waits, a newer state of the job takes the older one's place.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jobwire_gateway import frames
from jobwire_gateway.frames import Frame, Kind

GATEWAY = ""
"""The topic of what the gateway says of itself, `degraded` and `drain`, and of its answers to a reader that no topic has,
such as an `error` of the whole stream."""

_CHANGES = (Kind.UPDATE, Kind.FINAL, Kind.ERROR)
_NOTICES = (Kind.DEGRADED, Kind.DRAIN)
_NOTHING = (0, 0)

_LONG_BYTES = 2 * 1024
"""Of a job that is longer, nothing long is kept where not even the newest of all topics fit."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait."""

    max_frames: int
    max_bytes: int


class Mailbox:
    """The frames of one reader. `on_ready` is called whenever there is something to take; it may be called without need."""

    __slots__ = ("_alone", "_alone_topic", "_bounds", "_bytes", "_dropped", "_gaps", "_left", "_newest", "_next", "_pending", "ended", "on_ready")

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
        # By topic: log lines that were dropped, and gaps of rule 3. There are none as long as the reader keeps up.
        self._dropped: dict[str, int] | None = None
        self._gaps: set[str] | None = None
        # How many frames and bytes the last collapse left, where it left too much.
        self._left = _NOTHING

    def put(self, topic: str, frame: Frame) -> None:
        """Let a frame wait. After `end` nothing is taken in."""
        if self.ended:
            return
        alone = self._alone
        if alone is None and not self._pending and not self._dropped:
            self._alone, self._alone_topic = frame, topic
        elif alone is not None and frame.mark is not None and alone.mark == frame.mark and alone.name == frame.name:
            # So a reader that takes nothing while a job only progresses costs no dictionary either.
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
        if not self._pending and not self._dropped:
            return []
        taken = [frame for _, frame in self._pending.values()]
        if self._dropped:
            taken = [frames.logs_dropped(topic, count) for topic, count in self._dropped.items()] + taken
        self._clear()
        return taken

    def forget(self, topic: str) -> None:
        """Let nothing wait that is of a topic, but for word that it was forgotten before."""
        self._join()
        for number in [number for number, (of, frame) in self._pending.items() if of == topic and frame.kind is not Kind.UNSUBSCRIBED]:
            self._remove(number)
        self._newest = {frame.name: number for number, (_, frame) in self._pending.items() if frame.mark is not None or frame.kind is Kind.FINAL}
        if self._dropped is not None:
            self._dropped.pop(topic, None)

    @property
    def behind(self) -> bool:
        """Whether something waits."""
        return self._alone is not None or bool(self._pending)

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
        if len(self._pending) > 1 and self._is_over():
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
        of, before = self._pending[number]
        said = self._gaps is not None and topic in self._gaps and of == topic
        if said or (frame.mark is not None and before.mark == frame.mark):
            self._remove(number)

    def _remove(self, number: int) -> None:
        self._bytes -= len(self._pending.pop(number)[1].data)

    def _is_over(self, quarters: int = 4) -> bool:
        """Whether more waits than may, or than so many quarters of it."""
        bounds = self._bounds
        frames_left, bytes_left = self._left
        max_frames = max(quarters * bounds.max_frames, 4 * frames_left + bounds.max_frames) // 4
        max_bytes = max(quarters * bounds.max_bytes, 4 * bytes_left + bounds.max_bytes) // 4
        return len(self._pending) > max_frames or self._bytes > max_bytes

    def _make_room(self) -> None:
        self._drop_lines()
        if len(self._pending) > 1 and self._is_over():
            self._collapse()

    def _drop_lines(self) -> None:
        """Drop the oldest until there is some room, so that not every frame that comes has to make its own."""
        for number, topic, lines in [(number, topic, frame.lines) for number, (topic, frame) in self._pending.items() if frame.kind is Kind.LOG]:
            if len(self._pending) == 1 or not self._is_over(3):
                return
            self._remove(number)
            self._dropped = self._dropped or {}
            self._dropped[topic] = self._dropped.get(topic, 0) + lines

    def _collapse(self) -> None:
        of_topics: dict[str, list[Frame]] = {}
        for topic, frame in self._pending.values():
            of_topics.setdefault(topic, []).append(frame)
        of_gateway = of_topics.pop(GATEWAY, [])
        dropped, gaps = self._dropped, self._gaps or set()
        self._clear()
        self._dropped, self._gaps = dropped, gaps
        left = [(topic, frame) for topic, waiting in of_topics.items() for frame in _essence(topic, waiting, gaps)]
        if sum(len(frame.data) for _, frame in left) > self._bounds.max_bytes:
            left = [(topic, _short(frame)) for topic, frame in left]
        left += [(GATEWAY, frame) for frame in of_gateway if frame.kind not in _NOTICES]
        left += [(GATEWAY, notice) for kind in _NOTICES if (notice := _last(of_gateway, kind)) is not None]
        for topic, frame in left:
            self._append(topic, frame)
        if self._is_over():
            self._left = len(self._pending), self._bytes

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
        self._left = _NOTHING


def _essence(topic: str, waiting: list[Frame], gaps: set[str]) -> list[Frame]:
    """What of one topic must stay. A gap is said where something is left out, and noted in `gaps`."""
    begins = [frame for frame in waiting if frame.kind is Kind.UNSUBSCRIBED]
    begins += filter(None, [_last(waiting, Kind.CONNECTED)])
    ends = list(filter(None, [_last(waiting, *_CHANGES)]))
    if len(begins) + len(ends) == len(waiting):
        return waiting
    gaps.add(topic)
    return [*begins, frames.gap(topic, "slow_reader"), *ends]


def _short(frame: Frame) -> Frame:
    return frame.truncated() if frame.kind in (Kind.UPDATE, Kind.FINAL) and len(frame.data) > _LONG_BYTES else frame


def _last(waiting: list[Frame], *kinds: Kind) -> Frame | None:
    return next((frame for frame in reversed(waiting) if frame.kind in kinds), None)
