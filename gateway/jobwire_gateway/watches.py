"""What one reader sees of a topic: where it begins, what it has had, when it ends. Plain objects; `topics.py` drives them.

A reader of one job sees this and nothing else, each revision later than the one before:

    connected  gap?  update  (update | log | gap | degraded)*  final
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from jobwire.v1.job_pb2 import Job, JobState

from jobwire_gateway import frames
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.frames import Frame
from jobwire_gateway.jobs import FINAL_STATES


class Seen:
    """A job as it was at one revision, encoded at most once for all who are shown it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.revision = job.revision
        self.ended = job.state in FINAL_STATES

    @property
    def id(self) -> str:
        """What one who has seen all of it has seen last."""
        return f"{self.revision}.end" if self.ended else str(self.revision)

    @cached_property
    def update(self) -> Frame:
        """As an update."""
        return frames.update(self.job)

    @cached_property
    def final(self) -> Frame:
        """As its end."""
        return frames.final(self.job)

    @cached_property
    def newest(self) -> Frame:
        """As a change that has just happened."""
        return self.final if self.ended else self.update


def removed(name: str, revision: int) -> Seen:
    """A job that was seen at `revision` and is gone."""
    _, queue, _, job_id = name.split("/")
    return Seen(Job(name=name, queue=queue, id=job_id, state=JobState.JOB_STATE_REMOVED, revision=revision))


class Outlet(Protocol):
    """Where a watch puts its frames: a mailbox, or what shares one among many watches."""

    @property
    @abstractmethod
    def behind(self) -> bool:
        """Whether something waits there that its reader has not taken."""

    def put(self, topic: str, frame: Frame) -> None:
        """Show a frame of a topic."""

    def over(self, topic: str) -> None:
        """Nothing more comes of it."""


class JobWatch:
    """A reader of one job.

    With `on_heard` it shows nothing at first, and only keeps what it would begin with; `on_heard` is called as soon as it has that, and `release`
    lets it begin.
    """

    __slots__ = ("_cursor", "_heartbeat_ms", "_on_heard", "ended", "heard", "missing", "newest", "outlet", "started", "topic")

    def __init__(self, topic: str, cursor: Cursor | None, outlet: Outlet, heartbeat_ms: int, on_heard: Callable[[], None] | None = None) -> None:
        self.topic = topic
        self.outlet = outlet
        self.started = False
        self.ended = False
        self.missing = False
        self.heard = False
        self.newest: Seen | None = None
        # The revision that the reader has; 0 for none, -1 for one that nobody knows.
        self._cursor = cursor.revision if cursor else 0
        self._heartbeat_ms = heartbeat_ms
        self._on_heard = on_heard

    def snapshot(self, seen: Seen, reason: str, *, is_truth: bool = False) -> None:
        """Show the job as it is, when the watch begins and whenever changes may have been missed; `reason` is then the gap's.

        `is_truth`: also when it is older than what was shown. The store has lost something then, as a replica may that takes over.
        """
        if self._on_heard is not None:
            self._hear(seen, self._on_heard)
            return
        first = not self.started
        if first:
            self._start(resumed=self._cursor == seen.revision)
        if seen.revision > self._cursor or ((first or is_truth) and seen.revision != self._cursor):
            if self._cursor:
                self._put(frames.gap(self.topic, "resumed" if first else reason))
            self._cursor = seen.revision
            self._put(seen.update)
        if seen.ended and seen.revision == self._cursor:
            self._put(seen.final)
            self._end()

    def change(self, seen: Seen) -> None:
        """Show a change that has just happened."""
        if not self.started:
            if self._on_heard is not None:
                self._hear(seen, self._on_heard)
        elif seen.revision > self._cursor:
            self._cursor = seen.revision
            self.outlet.put(self.topic, seen.newest)
            if seen.ended:
                self._end()

    def gone(self) -> None:
        """There is no such job. One that the reader has seen was removed; any other never was."""
        if self._on_heard is not None:
            self._hear(None, self._on_heard)
        elif self._cursor > 0:
            if not self.started:
                self._start(resumed=True)
            self._put(removed(self.topic, self._cursor).final)
            self._end()
        else:
            self.missing = True
            self._put(frames.error(self.topic, "JOB_NOT_FOUND", "There is no such job, or it is gone."))
            self._end()

    def release(self, *, resumed: bool) -> None:
        """Begin with what was heard, if anything was. `resumed`: the reader has it."""
        self._on_heard = None
        if not self.heard:
            return
        if resumed:
            self._cursor = self.newest.revision if self.newest else 0
            if self.newest is None or self.newest.ended:
                self._end()
                return
        if self.newest is None:
            self.gone()
        else:
            self.snapshot(self.newest, "resumed")
        self.newest = None

    def not_shown(self, *, ended: bool) -> None:
        """Say that there was a change which cannot be shown. Of the end nothing follows, so that ends it."""
        if self.started and not self.ended:
            self._put(frames.gap(self.topic, "not_shown"))
            if ended:
                self._put(frames.error(self.topic, "NOT_SHOWN", "The job has ended, and this gateway cannot show how. Read it."))
                self._end()

    def log(self, frame: Frame) -> None:
        """Show lines that the handler logged."""
        if self.started:
            self._put(frame)

    def _hear(self, newest: Seen | None, on_heard: Callable[[], None]) -> None:
        self.newest = newest
        self.heard = True
        on_heard()

    def _start(self, *, resumed: bool) -> None:
        self.started = True
        self._put(frames.connected(self.topic, resumed=resumed, heartbeat_ms=self._heartbeat_ms))

    def _put(self, frame: Frame) -> None:
        self.outlet.put(self.topic, frame)

    def _end(self) -> None:
        self.ended = True
        self.outlet.over(self.topic)


class QueueWatch:
    """A reader of all changes in one queue. It begins without a snapshot: whoever wants one lists the jobs after `connected`.

    After a `gap` the topic looks at the jobs that were shown before; whoever wants those that are new since then lists them.
    """

    __slots__ = ("_heartbeat_ms", "_resuming", "outlet", "started", "topic")

    ended = False
    missing = False

    def __init__(self, topic: str, outlet: Outlet, heartbeat_ms: int, *, resuming: bool) -> None:
        self.topic = topic
        self.outlet = outlet
        self.started = False
        self._resuming = resuming
        self._heartbeat_ms = heartbeat_ms

    def live(self, reason: str) -> None:
        """The topic is heard from here on, for the first time or again."""
        if self.started:
            self.outlet.put(self.topic, frames.gap(self.topic, reason))
            return
        self.started = True
        self.outlet.put(self.topic, frames.connected(self.topic, resumed=False, heartbeat_ms=self._heartbeat_ms))
        if self._resuming:
            self.outlet.put(self.topic, frames.gap(self.topic, "resumed"))

    def not_shown(self, *, ended: bool) -> None:
        """Say that there was a change which cannot be shown."""
        if self.started:
            self.outlet.put(self.topic, frames.gap(self.topic, "not_shown"))

    def change(self, seen: Seen) -> None:
        """Show a change of one job."""
        if self.started:
            self.outlet.put(self.topic, seen.newest)


class OverviewWatch:
    """A reader of all queues' counts: of each queue the latest waits, already encoded. Bounded by the number of queues.

    The broker says nothing of no queues, and may say all others a little after its confirmation: so while `expecting`, the first update waits
    for either `changed` or `settle`.
    """

    __slots__ = ("_control", "_heartbeat_ms", "_pending", "_snapshot", "ended", "expecting", "on_ready", "started", "topic")

    def __init__(self, topic: str, on_ready: Callable[[], None], heartbeat_ms: int) -> None:
        self.topic = topic
        self.started = False
        self.ended = False
        self.on_ready = on_ready
        self._heartbeat_ms = heartbeat_ms
        self._pending: dict[str, bytes] = {}
        # By kind: of two frames that say how things stand, the later says everything.
        self._control: dict[frames.Kind, bytes] = {}
        self._snapshot = False
        self.expecting = False

    def live(self, fragments: dict[str, bytes]) -> None:
        """Show all queues, when the watch begins and when it is heard again."""
        if not self.started:
            self.started = True
            self.put(self.topic, frames.connected(self.topic, resumed=False, heartbeat_ms=self._heartbeat_ms))
        self.expecting = not fragments
        self._snapshot = bool(fragments)
        self._pending.update(fragments)
        self.on_ready()

    def settle(self) -> None:
        """What is there is all there is: show it, though it be no queue at all."""
        if self.expecting:
            self.expecting, self._snapshot = False, True

    def changed(self, fragments: dict[str, bytes]) -> None:
        """Show queues whose counts have changed."""
        if self.started and not self.ended:
            self.expecting = False
            self._pending.update(fragments)
            self.on_ready()

    @property
    def outlet(self) -> "OverviewWatch":
        """It is its own mailbox."""
        return self

    @property
    def behind(self) -> bool:
        return bool(self._pending or self._control)

    def put(self, topic: str, frame: Frame) -> None:
        """Show a frame that is not of a queue."""
        if not self.ended:
            self._control[frame.kind] = frame.data
            self.on_ready()

    def over(self, topic: str) -> None:
        self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.on_ready()

    def take(self) -> bytes:
        data = b"".join(self._control.values())
        if self._pending or self._snapshot:
            data += frames.overview(list(self._pending.values())).data
        self._control.clear()
        self._pending.clear()
        self._snapshot = False
        return data
