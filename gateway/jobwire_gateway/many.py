"""A reader of many topics, with one mailbox for all of them. Topics may come and go.

A job that is watched by name, and whose queue is watched, too, is shown once: by name, as long as it has not ended. So is one of a queue, a group and a label
that are all watched: by the first of them that hears of a change.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from jobwire_gateway import frames
from jobwire_gateway.cursors import UNKNOWN, UNKNOWN_PLACE, Cursor, Place, Trail, digest_of
from jobwire_gateway.frames import MISSING, Frame
from jobwire_gateway.mailbox import GATEWAY, Mailbox
from jobwire_gateway.names import is_job
from jobwire_gateway.problems import Problem
from jobwire_gateway.readers import cut_off
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import JobWatch, QueueWatch

_RECENT = 1024
"""Jobs whose last change is remembered, so that no overlapping topic shows it again."""


def _nothing() -> None:
    return


class Subscriptions:
    """The topics of one reader. `on_over` is called when a job among them has ended."""

    def __init__(self, topics: Topics, on_ready: Callable[[], None], on_over: Callable[[], None] = _nothing) -> None:
        self.mailbox = Mailbox(topics.bounds, on_ready)
        self.watches: dict[str, JobWatch | QueueWatch] = {}
        self._topics = topics
        self._on_over = on_over
        # What was shown last of jobs, where topics of many jobs may overlap.
        self._many = 0
        self._shown: OrderedDict[str, str] = OrderedDict()

    def add(self, topic: str, cursor: Cursor | None, on_heard: Callable[[], None] | None = None) -> None:
        """Watch one more, after what `cursor` says has been seen. One that is watched already goes on as it is."""
        if topic in self.watches:
            return
        watch: JobWatch | QueueWatch
        if is_job(topic):
            watch = JobWatch(topic, cursor, self, self._topics.heartbeat_ms, on_heard)
        else:
            watch = QueueWatch(topic, self, self._topics.heartbeat_ms, resuming=cursor is not None)
            self._many += 1
        self.watches[topic] = watch
        self._topics.join(watch)

    def remove(self, topic: str) -> bool:
        """Watch one no more; nothing of it is shown after this. Says whether it was watched."""
        watch = self.watches.pop(topic, None)
        if watch is None:
            return False
        self._topics.leave(watch)
        self._many -= isinstance(watch, QueueWatch)
        self.mailbox.forget(topic)
        return True

    def leave(self) -> None:
        """Watch none any more."""
        self.mailbox.end()
        for watch in self.watches.values():
            self._topics.leave(watch)
        self.watches.clear()

    @property
    def behind(self) -> bool:
        return self.mailbox.behind

    def put(self, topic: str, frame: Frame) -> None:
        if frame.name == topic or (frame.name not in self.watches and not self._is_known(frame)):
            self.mailbox.put(topic, frame)

    def _is_known(self, frame: Frame) -> bool:
        """Whether another topic has shown it already."""
        if self._many < 2 or not frame.id:
            return False
        if self._shown.get(frame.name) == frame.id:
            return True
        self._shown[frame.name] = frame.id
        self._shown.move_to_end(frame.name)
        if len(self._shown) > _RECENT:
            self._shown.popitem(last=False)
        return False

    def over(self, topic: str) -> None:
        watch = self.watches.pop(topic, None)
        if watch is not None:
            self._topics.leave(watch)
            self._on_over()


class ManyReader:
    """Many topics as one event stream.

    One that comes back is held until all its jobs are heard of: if they are as it saw them last, it gets nothing twice; else all of them. The stream ends
    when it was of jobs alone, and all of them have.
    """

    def __init__(self, topics: Topics, names: Collection[str], place: Place | None, on_ready: Callable[[], None]) -> None:
        self._topics = topics
        self._place = place
        self._trail = Trail(place)
        self._jobs = frozenset(filter(is_job, names))
        self._ends = len(self._jobs) == len(names)
        self._over = False
        self._begun = False
        self._held: dict[str, JobWatch] = {}
        self._subscriptions = Subscriptions(topics, on_ready, self._look)
        self.holding = False
        self._begin(names)

    @property
    def on_ready(self) -> Callable[[], None]:
        return self._subscriptions.mailbox.on_ready

    @on_ready.setter
    def on_ready(self, on_ready: Callable[[], None]) -> None:
        self._subscriptions.mailbox.on_ready = on_ready

    @property
    def ended(self) -> bool:
        return self._subscriptions.mailbox.ended

    def settle(self) -> None:
        """Take it that something was missed."""
        if self.holding:
            self._release(resumed=False)

    def take(self) -> bytes:
        parts = [self._with_id(frame) for frame in self._subscriptions.mailbox.take()]
        if self._over:
            self._over = False
            parts.append(frames.cursor(self._trail.end(self._jobs)))
        return b"".join(parts)

    def cursor(self) -> bytes:
        return b"" if self.holding or self.ended else frames.cursor(self._trail.cursor())

    def put(self, frame: Frame) -> None:
        self._subscriptions.mailbox.put(GATEWAY, frame)

    def end(self) -> None:
        self._subscriptions.mailbox.end()

    def leave(self) -> None:
        self._subscriptions.leave()

    def problem(self) -> Problem | None:
        return cut_off(self._topics) if self._topics.trouble is not None else None

    def _begin(self, names: Collection[str]) -> None:
        # Of an id that no gateway sent nothing can be made, so there is nothing to wait for.
        self.holding = self._place is not None and self._place != UNKNOWN_PLACE and bool(self._jobs)
        for name in names:
            self._subscriptions.add(name, None if self._place is None else UNKNOWN, self._look if self.holding else None)
        if self.holding:
            self._held = {name: watch for name, watch in self._subscriptions.watches.items() if isinstance(watch, JobWatch)}
        self._begun = True
        self._look()

    def _look(self) -> None:
        """Something was heard of a job: perhaps of the last one that was waited for, perhaps the last end."""
        if not self._begun:
            return
        if self.holding and all(watch.heard for watch in self._held.values()):
            assert self._place is not None
            last = {name: watch.newest.id if watch.newest else MISSING for name, watch in self._held.items()}
            self._release(resumed=digest_of(last.items()) == self._place.digest, last=last)
        if self._ends and not self._subscriptions.watches and not self.ended:
            self._over = True
            self.end()

    def _release(self, *, resumed: bool, last: Mapping[str, str] = MappingProxyType({})) -> None:
        self.holding = False
        for name, event_id in last.items() if resumed else ():
            self._trail.know(name, event_id)
        held, self._held = self._held, {}
        for watch in held.values():
            watch.release(resumed=resumed)

    def _with_id(self, frame: Frame) -> bytes:
        if not frame.id:
            return frame.data
        if frame.name in self._jobs:
            self._trail.know(frame.name, frame.id)
        return frame.with_id(self._trail.step())
