"""What waits to be written to one reader. A plain object without input or output: frames go in, bytes come out.

What holds, however slow the reader is:

1. At most `max_frames` frames and `max_bytes` bytes wait; what is left after a collapse (rule 3), at most five frames, may exceed them.
2. Of updates of one job that differ in progress alone, the latest waits; and of notices of how the gateway is, the latest.
3. A change of state waits in its order, and so does an end. When they do not fit, log lines go first; when they still do not fit, all changes
   collapse into a `gap` and the newest of them, which says its job's whole state. So the end of a watched job arrives always, and nothing is
   left out in silence.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jobwire_gateway import frames
from jobwire_gateway.frames import Frame, Kind


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait."""

    max_frames: int
    max_bytes: int


class Mailbox:
    """The frames of one reader. `on_ready` is called whenever there is something to take; it may be called without need."""

    __slots__ = ("_bounds", "_bytes", "_dropped_logs", "_name", "_newest", "_next", "_pending", "ended", "on_ready")

    def __init__(self, name: str, bounds: Bounds, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready
        self.ended = False
        self._name = name
        self._bounds = bounds
        # By a growing number, so that any frame is found and removed at once and the order stays.
        self._pending: dict[int, Frame] = {}
        self._newest: dict[str, int] = {}
        self._next = 0
        self._bytes = 0
        self._dropped_logs = 0

    def put(self, frame: Frame) -> None:
        """Let a frame wait. After `end` nothing is taken in."""
        if self.ended:
            return
        self._supersede(frame)
        self._append(frame)
        if self._over():
            self._make_room()
        self.on_ready()

    def end(self) -> None:
        """Nothing comes after what waits."""
        if not self.ended:
            self.ended = True
            self.on_ready()

    def take(self) -> bytes:
        """Take all that waits, as one write. Empty when nothing does."""
        data = b"".join(frame.data for frame in self._pending.values())
        if self._dropped_logs:
            data = frames.logs_dropped(self._name, self._dropped_logs).data + data
        self._clear()
        return data

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        return self._bytes

    def _supersede(self, frame: Frame) -> None:
        """What says all that the one before it said takes its place."""
        if frame.mark is None:
            return
        number = self._newest.get(frame.name)
        if number is not None and self._pending[number].mark == frame.mark:
            self._bytes -= len(self._pending.pop(number).data)

    def _append(self, frame: Frame) -> None:
        self._pending[self._next] = frame
        if frame.mark is not None or frame.kind is Kind.FINAL:
            self._newest[frame.name] = self._next
        self._next += 1
        self._bytes += len(frame.data)

    def _over(self) -> bool:
        return len(self._pending) > self._bounds.max_frames or (self._bytes > self._bounds.max_bytes and len(self._pending) > 1)

    def _make_room(self) -> None:
        for number in [n for n, frame in self._pending.items() if frame.kind is Kind.LOG]:
            self._bytes -= len(self._pending.pop(number).data)
            self._dropped_logs += 1
        if self._over():
            self._collapse()

    def _collapse(self) -> None:
        waiting = list(self._pending.values())
        dropped = self._dropped_logs
        self._clear()
        self._dropped_logs = dropped
        for kept in (
            _last(waiting, Kind.CONNECTED),
            frames.gap(self._name, "slow_reader"),
            _last(waiting, Kind.UPDATE, Kind.FINAL),
            _last(waiting, Kind.DEGRADED),
            _last(waiting, Kind.DRAIN, Kind.ERROR),
        ):
            if kept is not None:
                self._append(kept)

    def _clear(self) -> None:
        self._pending.clear()
        self._newest.clear()
        self._bytes = 0
        self._dropped_logs = 0


def _last(waiting: list[Frame], *kinds: Kind) -> Frame | None:
    return next((frame for frame in reversed(waiting) if frame.kind in kinds), None)
