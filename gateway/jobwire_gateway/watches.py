"""What one reader sees of a topic: where it begins, what it has had, when it ends. Plain objects; `topics.py` drives them.

A reader of one job sees this and nothing else, each revision later than the one before:

    connected  gap?  update  (update | log | gap | degraded)*  final
"""

from collections.abc import Callable
from functools import cached_property

from jobwire.v1.job_pb2 import Job, JobState

from jobwire_gateway import frames
from jobwire_gateway.frames import Cursor, Frame
from jobwire_gateway.jobs import FINAL_STATES
from jobwire_gateway.mailbox import Bounds, Mailbox


class Seen:
    """A job as it was at one revision, encoded at most once for all who are shown it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.revision = job.revision
        self.ended = job.state in FINAL_STATES

    @cached_property
    def update(self) -> Frame:
        """As an update."""
        return frames.update(self.job)

    @cached_property
    def final(self) -> Frame:
        """As its end."""
        return frames.final(self.job)

    @property
    def newest(self) -> Frame:
        """As a change that has just happened."""
        return self.final if self.ended else self.update


class _MailboxWatch:
    """What every reader is to the one who writes to it."""

    __slots__ = ("_connected", "mailbox", "started", "topic")

    def __init__(self, topic: str, bounds: Bounds, on_ready: Callable[[], None], heartbeat_ms: int) -> None:
        self.topic = topic
        self.started = False
        self.mailbox = Mailbox(topic, bounds, on_ready)
        self._connected = heartbeat_ms

    @property
    def ended(self) -> bool:
        """Whether nothing comes after what can be taken now."""
        return self.mailbox.ended

    def take(self) -> bytes:
        """Take all that waits, as one write. Empty when nothing does."""
        return self.mailbox.take()

    def put(self, frame: Frame) -> None:
        """Show a frame, for example one that is not of the topic: `degraded`, `drain`."""
        self.mailbox.put(frame)

    def end(self) -> None:
        """Let nothing more come."""
        self.mailbox.end()

    @property
    def on_ready(self) -> Callable[[], None]:
        """Whom to call when there is something to take."""
        return self.mailbox.on_ready

    @on_ready.setter
    def on_ready(self, on_ready: Callable[[], None]) -> None:
        self.mailbox.on_ready = on_ready

    def _start(self, *, resumed: bool) -> None:
        self.started = True
        self.mailbox.put(frames.connected(self.topic, resumed=resumed, heartbeat_ms=self._connected))


class JobWatch(_MailboxWatch):
    """A reader of one job."""

    __slots__ = ("_cursor", "missing")

    def __init__(self, topic: str, cursor: Cursor | None, bounds: Bounds, on_ready: Callable[[], None], heartbeat_ms: int) -> None:
        super().__init__(topic, bounds, on_ready, heartbeat_ms)
        # The revision that the reader has; 0 for none.
        self._cursor = cursor.revision if cursor else 0
        self.missing = False

    def snapshot(self, seen: Seen, reason: str) -> None:
        """Show the job as it is, when the watch begins and whenever changes may have been missed; `reason` is then the gap's."""
        first = not self.started
        if first:
            self._start(resumed=self._cursor == seen.revision)
        if seen.revision > self._cursor or (first and seen.revision != self._cursor):
            if self._cursor:
                self.put(frames.gap(self.topic, "resumed" if first else reason))
            self._cursor = seen.revision
            self.put(seen.update)
        if seen.ended and seen.revision == self._cursor:
            self.put(seen.final)
            self.end()

    def change(self, seen: Seen) -> None:
        """Show a change that has just happened."""
        if not self.started or seen.revision <= self._cursor:
            return
        self._cursor = seen.revision
        self.put(seen.newest)
        if seen.ended:
            self.end()

    def gone(self) -> None:
        """There is no such job. One that the reader has seen was removed; any other never was."""
        if self._cursor:
            _, queue, _, job_id = self.topic.split("/")
            removed = Seen(Job(name=self.topic, queue=queue, id=job_id, state=JobState.JOB_STATE_REMOVED, revision=self._cursor))
            if not self.started:
                self._start(resumed=True)
            self.put(removed.final)
        else:
            self.missing = True
            self.put(frames.error(self.topic, "JOB_NOT_FOUND", "There is no such job, or it is gone."))
        self.end()

    def log(self, frame: Frame) -> None:
        """Show lines that the handler logged."""
        if self.started:
            self.put(frame)


class QueueWatch(_MailboxWatch):
    """A reader of all changes in one queue. It begins without a snapshot: whoever wants one lists the jobs after `connected` and after every `gap`."""

    __slots__ = ("_resuming",)

    def __init__(self, topic: str, cursor: Cursor | None, bounds: Bounds, on_ready: Callable[[], None], heartbeat_ms: int) -> None:
        super().__init__(topic, bounds, on_ready, heartbeat_ms)
        self._resuming = cursor is not None

    def live(self, reason: str) -> None:
        """The topic is heard from here on, for the first time or again."""
        if not self.started:
            self._start(resumed=False)
            if self._resuming:
                self.put(frames.gap(self.topic, "resumed"))
        else:
            self.put(frames.gap(self.topic, reason))

    def change(self, seen: Seen) -> None:
        """Show a change of one job."""
        if self.started:
            self.put(seen.newest)


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
            self.put(frames.connected(self.topic, resumed=False, heartbeat_ms=self._heartbeat_ms))
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

    def put(self, frame: Frame) -> None:
        if not self.ended:
            self._control[frame.kind] = frame.data
            self.on_ready()

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
