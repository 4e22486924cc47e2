"""Who watches what, and what of the one feed goes to whom. A plain object: the feed's responses go in, frames go out to mailboxes.

Who is authoritative: the broker. A topic is *live* from the broker's confirmation on; before, and while the feed is broken, nothing of it is
shown. While live, the newest revision heard is kept per job, so a second reader begins at once and costs the broker nothing.

A removed topic may be wanted again before the broker has heard of either. So a topic that nobody watches stays until its removal is handed to
the feed, which waits for the confirmation of its adding: there is never more than one confirmation on its way for a topic, and what comes for it
before that one is of an earlier adding and ignored.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job
from jobwire.v1.job_service_pb2 import ChangeAudience, ChangeType, JobChange
from jobwire.v1.queue_service_pb2 import Queue

from jobwire_gateway import frames
from jobwire_gateway.frames import Frame
from jobwire_gateway.mailbox import GATEWAY, Bounds
from jobwire_gateway.names import QUEUES, queue_of
from jobwire_gateway.watches import JobWatch, Outlet, OverviewWatch, QueueWatch, Seen, removed

_log = logging.getLogger("jobwire.gateway")

MOST_UNCONFIRMED = 1_000
"""Topics that the broker is asked for at once. Each costs it a read; of a feed that comes back to very many, the rest waits for the first."""

_EARLY = 64
"""Changes kept of a job between the confirmation of its topic and its snapshot."""

_RECENT = 1024
"""Jobs per queue whose last revision is kept, so that a repeat is not shown twice, and so that those that had not ended are looked at after a gap."""

MOST_LOOKED_AT = 4_096
"""Jobs of all queues that are looked at after a gap at once. Of the others the gap says that they may have changed."""


MAX_TOPICS = 50_000
"""Topics of all streams of a process. The broker ends a feed of more than 100,000, which would cut off everybody again and again."""

MAX_WATCHES = 10_000
"""Streams that watch one topic."""


class JobTopic:
    """One job, and all who watch it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watches: set[JobWatch] = set()
        self.live = False
        self.latest: Seen | None = None
        self._early: list[JobChange] = []
        self._lost = "broker_lost"

    def join(self, watch: JobWatch) -> None:
        self.watches.add(watch)
        if self.live:
            self._show(watch, "resumed")

    def unplug(self, lost: str) -> None:
        """The feed is broken; what is kept may be old. `lost` is the reason of the gaps that follow."""
        self.live = False
        self._lost = lost
        self._early.clear()

    def apply(self, change: JobChange, seen: Seen) -> Iterator[None]:
        """Show a change to all."""
        match change.type:
            case ChangeType.CHANGE_TYPE_NOT_FOUND | ChangeType.CHANGE_TYPE_FINAL if not change.job.revision:
                # Gone, and nothing is known of its end.
                self.live, self.latest = True, None
                yield from _spread(self.watches, JobWatch.gone)
            case ChangeType.CHANGE_TYPE_SNAPSHOT:
                yield from self._snapshot(seen)
            case ChangeType.CHANGE_TYPE_FINAL if not self.live or self._is_older(seen):
                yield from self._snapshot(seen)
            case _ if not self.live:
                self._early = [*self._early[1 - _EARLY :], change]
            case ChangeType.CHANGE_TYPE_LOG:
                for frame, _ in frames.logs(change.job, change.lines):
                    yield from _spread(self.watches, partial(JobWatch.log, frame=frame))
            case _:
                yield from self._change(seen)

    def is_at(self, revision: int) -> bool:
        """Whether this is the revision that was heard last."""
        return self.live and self.latest is not None and self.latest.revision == revision

    def fill(self, job: Job) -> None:
        """Put in what a change leaves out because its reader has it already."""
        if not job.job_name and self.latest is not None:
            job.job_name = self.latest.job.job_name

    def _snapshot(self, seen: Seen) -> Iterator[None]:
        # A snapshot is the truth even when it is older than what was heard before: the store may have lost something.
        is_truth = not self.live or self._is_older(seen)
        reason = "store_lost" if self.live else self._lost
        self.live, self.latest = True, seen
        yield from _spread(self.watches, lambda watch: self._show(watch, reason, is_truth=is_truth))
        early, self._early = self._early, []
        for change in early:
            self.fill(change.job)
            yield from self.apply(change, Seen(change.job))

    def _is_older(self, seen: Seen) -> bool:
        return self.latest is not None and seen.revision < self.latest.revision

    def _show(self, watch: JobWatch, reason: str, *, is_truth: bool = False) -> None:
        if self.latest is None:
            watch.gone()
        else:
            watch.snapshot(self.latest, reason, is_truth=is_truth)

    def _change(self, seen: Seen) -> Iterator[None]:
        if self.latest is not None and seen.revision <= self.latest.revision:
            return
        self.latest = seen
        yield from _spread(self.watches, lambda watch: watch.change(seen))


class QueueTopic:
    """All changes of jobs in one queue, in one of its groups, or with one label, and all who watch them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watches: set[QueueWatch] = set()
        self.live = False
        self._recent: OrderedDict[str, int] = OrderedDict()
        self._ended: set[str] = set()
        # Jobs that were shown before the last gap and had not ended, until they are heard of.
        self._doubted: dict[str, int] = {}
        self._lost = "broker_lost"

    def join(self, watch: QueueWatch) -> None:
        self.watches.add(watch)
        if self.live:
            watch.live("resumed")

    def unplug(self, lost: str) -> None:
        self.live = False
        self._lost = lost

    def confirm(self) -> Iterator[None]:
        """It is heard from here on. What was heard before may be of changes that the store has lost since."""
        self.live = True
        self._doubt()
        yield from _spread(self.watches, lambda watch: watch.live(self._lost))

    def gap(self) -> Iterator[None]:
        """Changes may have been missed between store and broker, or lost by the store."""
        self._doubt()
        yield from _spread(self.watches, lambda watch: watch.live("store_lost"))

    def _doubt(self) -> None:
        self._doubted.update((name, revision) for name, revision in self._recent.items() if name not in self._ended)
        self._recent.clear()
        self._ended.clear()

    @property
    def doubted(self) -> Mapping[str, int]:
        """The jobs that are to be looked at, with the revisions that were shown: before the last gap, and they had not ended."""
        return self._doubted

    def overlook(self, name: str) -> None:
        """Let a job be that cannot be looked at."""
        self._doubted.pop(name, None)

    def look(self, name: str, seen: Seen | None) -> Iterator[None]:
        """Show how a job is that was shown before a gap, if that is something else; None: it is gone."""
        if seen is None:
            yield from self.gone(name)
            return
        before = self._doubted.pop(name, 0)
        if not before or name in self._recent:
            return
        if seen.revision == before:
            self._note(seen)
        else:
            yield from self.apply(seen)

    def gone(self, name: str) -> Iterator[None]:
        """Show the end of a job that was shown before, and is there no more."""
        before = self._doubted.pop(name, 0)
        if name in self._recent:
            before = 0 if name in self._ended else self._recent[name]
        if before:
            seen = removed(name, before)
            self._note(seen)
            yield from _spread(self.watches, lambda watch: watch.change(seen))

    def apply(self, seen: Seen) -> Iterator[None]:
        """Show a change of one job to all, once."""
        name = seen.job.name
        if seen.revision <= self._recent.get(name, 0):
            return
        self._note(seen)
        if self._doubted and self._doubted.pop(name, 0) == seen.revision:
            return
        yield from _spread(self.watches, lambda watch: watch.change(seen))

    def _note(self, seen: Seen) -> None:
        name = seen.job.name
        self._recent[name] = seen.revision
        self._recent.move_to_end(name)
        if seen.ended:
            self._ended.add(name)
        elif self._ended:
            self._ended.discard(name)
        if len(self._recent) > _RECENT:
            self._ended.discard(self._recent.popitem(last=False)[0])


class OverviewTopic:
    """The counts of all queues, and all who watch them."""

    name = QUEUES

    def __init__(self) -> None:
        self.watches: set[OverviewWatch] = set()
        self.live = False
        self._fragments: dict[str, bytes] = {}

    def join(self, watch: OverviewWatch) -> None:
        self.watches.add(watch)
        if self.live:
            watch.live(self._fragments)

    def unplug(self, lost: str) -> None:
        self.live = False

    def confirm(self) -> Iterator[None]:
        """It is heard from here on, and what is kept is all there is."""
        self.live = True
        yield from _spread(self.watches, lambda watch: watch.live(self._fragments))

    def apply(self, queues: Sequence[Queue]) -> Iterator[None]:
        """Show queues whose counts have changed."""
        changed = {queue.name: frames.queue_fragment(queue) for queue in queues}
        self._fragments.update(changed)
        yield from _spread(self.watches, lambda watch: watch.changed(changed))


_Topic = TypeVar("_Topic", "JobTopic", "QueueTopic", "OverviewTopic")
_Watch = TypeVar("_Watch", bound="AnyWatch")

AnyTopic = JobTopic | QueueTopic | OverviewTopic
AnyWatch = JobWatch | QueueWatch | OverviewWatch


class Topics:
    """All topics of this process. `on_demand` is called when the broker is to be asked for others than before."""

    def __init__(self, bounds: Bounds, heartbeat_ms: int, *, max_topics: int = MAX_TOPICS, max_watches: int = MAX_WATCHES) -> None:
        self.on_demand: Callable[[], None] = _nothing
        self.trouble: str | None = None
        self.bounds = bounds
        self.heartbeat_ms = heartbeat_ms
        self._max_topics = max_topics
        self._max_watches = max_watches
        self._topics: dict[str, AnyTopic] = {}
        # Topics that the broker has been asked for on the feed that is open now, and those of them that it has not confirmed.
        self._asked: set[str] = set()
        self._unconfirmed: set[str] = set()
        self._changed: set[str] = set()
        # Topics of groups and labels, among all.
        self._parts: set[str] = set()
        # Jobs that are looked at after a gap, and those of them that were heard of.
        self._looks: dict[str, _Look] = {}
        self._looked: list[_Look] = []

    def refusal(self, names: Iterable[str]) -> str:
        """Why one more cannot watch these now, as a word; empty when it can."""
        new = 0
        for name in names:
            topic = self._topics.get(name)
            if topic is None:
                new += 1
            elif len(topic.watches) >= self._max_watches:
                return "TOO_MANY_STREAMS_OF_TOPIC"
        return "TOO_MANY_TOPICS" if new and len(self._topics) + new > self._max_topics else ""

    def join(self, watch: AnyWatch) -> None:
        """Begin to watch."""
        if self.trouble is not None:
            watch.outlet.put(GATEWAY, frames.degraded(True, self.trouble))
        match watch, self._topics.get(watch.topic):
            case JobWatch(), JobTopic() | None as topic:
                (topic or self._new(JobTopic(watch.topic))).join(watch)
            case QueueWatch(), QueueTopic() | None as topic:
                (topic or self._new(QueueTopic(watch.topic))).join(watch)
            case OverviewWatch(), OverviewTopic() | None as topic:
                (topic or self._new(OverviewTopic())).join(watch)

    def leave(self, watch: AnyWatch) -> None:
        """Watch no more. To leave twice is no error."""
        topic = self._topics.get(watch.topic)
        if topic is None:
            return
        topic.watches.discard(watch)
        if topic.watches:
            return
        if topic.name in self._asked:
            self._change(topic.name)
        else:
            self._drop(topic.name)

    def demand(self) -> tuple[list[str], list[str]]:
        """What to add and what to remove on the open feed, since the last call."""
        changed, self._changed = self._changed, set()
        add, remove = [], []
        for name in changed:
            topic = self._topics.get(name)
            if topic is not None and not topic.watches and name not in self._unconfirmed:
                self._drop(name)
                topic = None
            if topic is not None and name not in self._asked:
                if len(self._unconfirmed) >= MOST_UNCONFIRMED:
                    self._changed.add(name)
                    continue
                add.append(name)
                self._asked.add(name)
                self._unconfirmed.add(name)
            elif topic is None and name in self._asked:
                remove.append(name)
                self._asked.remove(name)
        return add, remove

    def plug(self) -> Iterator[None]:
        """A new feed is open, on which nothing was asked for yet."""
        self._forget_feed()
        self._changed.update(self._topics)
        yield from self._say_trouble(None)
        self.on_demand()

    def unplug(self, reason: str) -> Iterator[None]:
        """The feed is broken. Readers stay and are told."""
        self._forget_feed()
        lost = "store_lost" if reason == "store_unavailable" else "broker_lost"
        for topic in list(self._topics.values()):
            topic.unplug(lost)
            if not topic.watches:
                self._drop(topic.name)
        yield from self._say_trouble(reason)

    def apply(self, response: SubscribeResponse) -> Iterator[None]:
        """Hand on what the broker says. Yields after each step, so that others can get a turn."""
        confirmed = [topic for name in response.added if (topic := self._confirm(name)) is not None]
        if response.added and self._changed:
            self.on_demand()
        for topic in confirmed:
            if isinstance(topic, QueueTopic):
                yield from topic.confirm()
                self._look_at(topic)
        for change in response.changes:
            yield from self._apply_change(change)
            yield
        yield from self._show_looks()
        overview = self._listening(QUEUES)
        if isinstance(overview, OverviewTopic):
            if response.queues:
                yield from overview.apply(response.queues)
            if overview in confirmed:
                yield from overview.confirm()
        if response.HasField("store_available"):
            yield from self._say_trouble(None if response.store_available else "store_unavailable")

    def __len__(self) -> int:
        return len(self._topics)

    def _apply_change(self, change: JobChange) -> Iterator[None]:
        try:
            yield from self._show_change(change)
        except Exception:
            # One change that cannot be shown must not cost all readers their feed.
            _log.exception("gateway.change_not_shown job=%s revision=%d", change.job.name, change.job.revision)
            yield from self._say_not_shown(change)

    def _say_not_shown(self, change: JobChange) -> Iterator[None]:
        job = change.job
        names = [job.name, *self._many_names(job.queue or queue_of(job.name), change)]
        topics = [topic for name in names if isinstance(topic := self._listening(name), JobTopic | QueueTopic)]
        watches = [watch for topic in topics for watch in topic.watches]
        yield from _spread(watches, lambda watch: watch.not_shown(ended=change.type == ChangeType.CHANGE_TYPE_FINAL))

    def _show_change(self, change: JobChange) -> Iterator[None]:
        job = change.job
        queue = job.queue or queue_of(job.name)
        if change.type == ChangeType.CHANGE_TYPE_GAP:
            for of_many in self._of_many(f"queues/{queue}"):
                yield from of_many.gap()
                self._look_at(of_many, in_doubt=True)
            return
        job_topic = self._listening(job.name)
        if isinstance(job_topic, JobTopic):
            job_topic.fill(job)
        seen = Seen(job)
        if change.type in (ChangeType.CHANGE_TYPE_UPDATE, ChangeType.CHANGE_TYPE_FINAL) and change.audience != ChangeAudience.CHANGE_AUDIENCE_JOB:
            if not job.revision:
                for of_many in self._of_many(f"queues/{queue}"):
                    yield from of_many.gone(job.name)
            for name in self._many_names(queue, change):
                if isinstance(topic := self._listening(name), QueueTopic):
                    yield from topic.apply(seen)
        if isinstance(job_topic, JobTopic) and change.audience != ChangeAudience.CHANGE_AUDIENCE_MANY:
            yield from job_topic.apply(change, seen)

    def _look_at(self, topic: QueueTopic, *, in_doubt: bool = False) -> None:
        """Ask how the jobs are that were shown of a topic of many before a gap: whoever saw them must not miss their end.

        `in_doubt`: of those that are followed by name, what is known may be as old. They are being read again, and what is no news is not told.
        """
        for name, revision in list(topic.doubted.items()):
            if name in self._looks:
                self._looks[name].topics.add(topic)
                continue
            if len(self._looks) >= MOST_LOOKED_AT or len(self._topics) >= self._max_topics:
                topic.overlook(name)
                continue
            watch = JobWatch(name, None, _NOWHERE, self.heartbeat_ms, partial(self._heard_of, name))
            self._looks[name] = _Look(watch, {topic})
            followed = self._listening(name)
            if in_doubt and isinstance(followed, JobTopic) and followed.is_at(revision):
                followed.watches.add(watch)
            else:
                self.join(watch)

    def _heard_of(self, name: str) -> None:
        if (look := self._looks.pop(name, None)) is not None:
            self._looked.append(look)

    def _show_looks(self) -> Iterator[None]:
        looked, self._looked = self._looked, []
        for watch, topics in looked:
            self.leave(watch)
            for topic in topics:
                try:
                    yield from topic.look(watch.topic, watch.newest)
                except Exception:
                    # As with a change: it must not cost all readers their feed.
                    _log.exception("gateway.change_not_shown job=%s", watch.topic)
                    yield from _spread(topic.watches, lambda reader: reader.not_shown(ended=False))

    def _many_names(self, queue: str, change: JobChange) -> Iterator[str]:
        """The topics of many jobs that a change of a job belongs to. Those that nobody in this process watches are not looked for."""
        job = change.job
        yield f"queues/{queue}"
        if self._parts:
            yield from change.left
            if job.group:
                yield f"queues/{queue}/groups/{job.group}"
            for key, value in job.labels.items():
                yield f"queues/{queue}/labels/{key}={value}"

    def _of_many(self, name: str) -> list[QueueTopic]:
        """The topic of a queue, and those of the groups and labels in it."""
        found = [name, *(part for part in self._parts if part.startswith(f"{name}/"))]
        return [topic for part in found if isinstance(topic := self._listening(part), QueueTopic)]

    def _confirm(self, name: str) -> AnyTopic | None:
        self._unconfirmed.discard(name)
        topic = self._listening(name)
        if topic is not None and not topic.watches:
            self._change(name)
        return topic

    def _listening(self, name: str) -> AnyTopic | None:
        """The topic, unless it is unknown or not yet confirmed."""
        return self._topics.get(name) if name in self._asked and name not in self._unconfirmed else None

    def _forget_feed(self) -> None:
        self._asked.clear()
        self._unconfirmed.clear()

    def _new(self, topic: _Topic) -> _Topic:
        self._topics[topic.name] = topic
        if isinstance(topic, QueueTopic) and topic.name.count("/") > 1:
            self._parts.add(topic.name)
        self._change(topic.name)
        return topic

    def _drop(self, name: str) -> None:
        del self._topics[name]
        self._parts.discard(name)

    def _change(self, name: str) -> None:
        self._changed.add(name)
        self.on_demand()

    def _say_trouble(self, trouble: str | None) -> Iterator[None]:
        if trouble == self.trouble:
            return
        frame = frames.degraded(trouble is not None, trouble or self.trouble or "")
        self.trouble = trouble
        outlets: set[Outlet] = {watch.outlet for topic in self._topics.values() for watch in topic.watches}
        for outlet in outlets:
            outlet.put(GATEWAY, frame)
            yield


def _spread(watches: Collection[_Watch], show: Callable[[_Watch], None]) -> Iterator[None]:
    """Show something to all, and last to those who have not read what they were shown before: nobody who keeps up waits for them."""
    behind = []
    # A copy, because readers come and go during the yields; what is shown to one that has left goes nowhere.
    for watch in list(watches):
        if watch.outlet.behind:
            behind.append(watch)
        else:
            show(watch)
            yield
    for watch in behind:
        show(watch)
        yield


class _Look(NamedTuple):
    """A job that is asked for after a gap, and the topics whose readers had seen it."""

    watch: JobWatch
    topics: set[QueueTopic]


class _Nowhere:
    """Where what nobody reads goes."""

    behind = False

    def put(self, topic: str, frame: Frame) -> None:
        pass

    def over(self, topic: str) -> None:
        pass


_NOWHERE = _Nowhere()


def _nothing() -> None:
    return
