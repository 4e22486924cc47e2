"""B10: readers of jobs, queues, groups and labels come and go in any order, while jobs change, end and are removed, and feed and store lose something.

The end of each watched job always arrives, no revision goes backward, nothing is shown twice, and what is left out is said.
"""

from collections import deque
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import ChangeAudience, ChangeType, JobChange
from jobwire_gateway import frames
from jobwire_gateway.cursors import cursor_of
from jobwire_gateway.jobs import FINAL_STATES
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.many import Subscriptions
from jobwire_gateway.topics import Topics

from .reading import Event, events, job

ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
IDS = ("a", "b", "c")
NAMES = tuple(f"queues/q/jobs/{job_id}" for job_id in IDS)
QUEUE, GROUP, LABEL = "queues/q", "queues/q/groups/g", "queues/q/labels/even=no"
TOPICS = (*NAMES, QUEUE, GROUP, LABEL)


def topics_of(of: Job) -> set[str]:
    """All topics that a change of a job belongs to."""
    return {of.name, QUEUE, *([GROUP] if of.group else []), *(f"{QUEUE}/labels/{key}={value}" for key, value in of.labels.items())}


class Stage:
    """A broker and its store, as the contract has them: what was asked for, and what is on its way to the gateway."""

    def __init__(self) -> None:
        self.now = {name: job(1, DELAYED, job_id=job_id) for name, job_id in zip(NAMES, IDS, strict=True)}
        self.gone: dict[str, Job] = {}
        self.wire: deque[SubscribeResponse] = deque()
        self.asked: set[str] = set()
        # Snapshots that were read and are not on their way yet: what happens meanwhile goes first.
        self.opening: deque[SubscribeResponse] = deque()
        self.lost: set[str] = set()
        self.now[NAMES[0]].group = "g"
        self.now[NAMES[1]].labels["even"] = "no"
        self.now[NAMES[2]].MergeFrom(Job(group="g", labels={"even": "no"}))

    def answer(self, add: list[str], remove: list[str]) -> None:
        for name in add:
            self.asked.add(name)
            self.wire.append(SubscribeResponse(added=[name]))
            if name in NAMES:
                read = self._read(name, ChangeType.CHANGE_TYPE_SNAPSHOT)
                read.audience = ChangeAudience.CHANGE_AUDIENCE_JOB
                self.opening.append(SubscribeResponse(changes=[read]))
        self.asked -= set(remove)

    def become(self, name: str, state: JobState.ValueType, percent: int, *, is_heard: bool) -> None:
        before = self.now[name]
        now = Job()
        now.CopyFrom(before)
        now.state, now.revision = state, before.revision + 1
        now.progress.percent = percent
        self.now[name] = now
        self._tell(name, self._read(name, ChangeType.CHANGE_TYPE_UPDATE), is_heard=is_heard)

    def remove(self, name: str, *, is_known: bool) -> None:
        """It is deleted; perhaps its end stays known."""
        of = self.now[name]
        gone = Job(name=name, queue="q", id=of.id, state=JobState.JOB_STATE_REMOVED, revision=of.revision + 1 if is_known else 0)
        self.gone[name] = gone
        self._tell(name, JobChange(type=ChangeType.CHANGE_TYPE_FINAL, job=gone), is_heard=True)

    def heal(self) -> None:
        """The hole is noticed: jobs that are watched are read, and all who watch many are told."""
        for name in sorted(self.asked & set(NAMES)) if self.lost else ():
            self.wire.append(SubscribeResponse(changes=[self._read(name, ChangeType.CHANGE_TYPE_UPDATE)]))
        if self.lost:
            self.wire.append(SubscribeResponse(changes=[JobChange(type=ChangeType.CHANGE_TYPE_GAP, job=Job(name=QUEUE, queue="q"))]))
        self.lost.clear()

    def _read(self, name: str, kind: ChangeType.ValueType) -> JobChange:
        if name in self.gone:
            return JobChange(type=ChangeType.CHANGE_TYPE_FINAL, job=self.gone[name])
        of = self.now[name]
        return JobChange(type=ChangeType.CHANGE_TYPE_FINAL if of.state in FINAL_STATES else kind, job=of)

    def _tell(self, name: str, change: JobChange, *, is_heard: bool) -> None:
        if not is_heard:
            self.lost.add(name)
        elif topics_of(self.now[name]) & self.asked:
            self.wire.append(SubscribeResponse(changes=[change]))


class Reader:
    """One WebSocket: topics come and go, and frames are read now or later."""

    def __init__(self, topics: Topics) -> None:
        self.subscriptions = Subscriptions(topics, lambda: None)
        self.seen: list[Event] = []
        self.unsubscribed = 0

    def read(self) -> None:
        self.seen += events(b"".join(frame.data for frame in self.subscriptions.mailbox.take()))

    def unsubscribe(self, topic: str) -> None:
        if self.subscriptions.remove(topic):
            self.subscriptions.mailbox.put(topic, frames.unsubscribed(topic))
            self.unsubscribed += 1

    def since_connected(self, topic: str) -> list[Event] | None:
        """All that was seen since the topic began the last time. None: it has not."""
        begins = [place for place, event in enumerate(self.seen) if event.type == "connected" and event.data["name"] == topic]
        return self.seen[begins[-1] :] if begins else None


class Interleavings(RuleBasedStateMachine):
    """What happens."""

    @initialize(max_frames=st.sampled_from((8, 1_000)))
    def begin(self, max_frames: int) -> None:
        self.topics = Topics(Bounds(max_frames, 1_000_000), 15_000)
        self.stage = Stage()
        self.readers: list[Reader] = []
        self.is_plugged = False
        self.is_overfull = max_frames == 8

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from((ACTIVE, ACTIVE, DELAYED, COMPLETED)), percent=st.integers(0, 99), loss=st.integers(0, 3))
    def change(self, name: str, state: JobState.ValueType, percent: int, loss: int) -> None:
        if name not in self.stage.gone:
            self.stage.become(name, state, percent, is_heard=loss < 3)

    @rule(name=st.sampled_from(NAMES), is_known=st.booleans())
    def remove(self, name: str, is_known: bool) -> None:
        if name not in self.stage.gone:
            self.stage.remove(name, is_known=is_known)

    @rule()
    def heal(self) -> None:
        self.stage.heal()

    @rule()
    def come(self) -> None:
        self.readers.append(Reader(self.topics))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), topic=st.sampled_from(TOPICS), is_back=st.booleans())
    def subscribe(self, data: st.DataObject, topic: str, is_back: bool) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        shown = [event.data["revision"] for event in reader.seen if event.data.get("name") == topic and "revision" in event.data]
        reader.subscriptions.add(topic, cursor_of(str(shown[-1])) if shown and is_back else None)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), topic=st.sampled_from(TOPICS))
    def unsubscribe(self, data: st.DataObject, topic: str) -> None:
        data.draw(st.sampled_from(self.readers)).unsubscribe(topic)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.readers)).read()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.subscriptions.leave()

    @precondition(lambda self: not self.is_plugged)
    @rule()
    def plug(self) -> None:
        self.is_plugged = True
        run(self.topics.plug())

    @precondition(lambda self: self.is_plugged)
    @rule(trouble=st.sampled_from(("broker_unavailable", "store_unavailable")))
    def unplug(self, trouble: str) -> None:
        self.is_plugged = False
        self.stage.wire.clear()
        self.stage.opening.clear()
        self.stage.asked.clear()
        run(self.topics.unplug(trouble))

    @precondition(lambda self: self.is_plugged)
    @rule()
    def ask(self) -> None:
        self.stage.answer(*self.topics.demand())

    @precondition(lambda self: self.stage.opening)
    @rule()
    def snapshot(self) -> None:
        self.stage.wire.append(self.stage.opening.popleft())

    @precondition(lambda self: self.stage.wire)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.stage.wire))):
            run(self.topics.apply(self.stage.wire.popleft()))

    @invariant()
    def no_more_waits_than_may(self) -> None:
        for reader in getattr(self, "readers", ()):
            assert len(reader.subscriptions.mailbox) <= (8 + 3 * len(TOPICS) + 2 + 80 if self.is_overfull else 1_000)

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        if not self.is_plugged:
            self.plug()
        self._settle()
        self._check_gaps()
        for name in NAMES:
            if name not in self.stage.gone:
                self.stage.become(name, COMPLETED, 100, is_heard=True)
        wanted = [set(reader.subscriptions.watches) for reader in self.readers]
        self._settle()
        for reader, topics in zip(self.readers, wanted, strict=True):
            reader.read()
            for topic in topics:
                self._check_end(reader, topic)
            for name in NAMES:
                check_order(reader, name)
            check_silence(reader)
            assert [event.type for event in reader.seen].count("unsubscribed") == reader.unsubscribed

    def _check_gaps(self) -> None:
        """What the store lost is said to all who watch many."""
        self.stage.lost.add(NAMES[0])
        self.stage.heal()
        for reader in self.readers:
            reader.read()
        had = [len(reader.seen) for reader in self.readers]
        self._settle()
        for reader, before in zip(self.readers, had, strict=True):
            reader.read()
            for topic in reader.subscriptions.watches:
                gaps = [event for event in reader.seen[before:] if event.type == "gap" and event.data["name"] == topic]
                assert bool(gaps) is (topic not in NAMES)

    def _settle(self) -> None:
        self.ask()
        while self.stage.wire or self.stage.opening:
            self.stage.wire.extend(self.stage.opening)
            self.stage.opening.clear()
            self.deliver(1)
            self.ask()

    def _check_end(self, reader: Reader, topic: str) -> None:
        seen = reader.since_connected(topic)
        if topic in NAMES:
            last = [event for event in reader.seen if event.data.get("name") == topic and event.type in ("final", "error", "update")][-1]
            assert last.type in ("final", "error")
            assert topic not in reader.subscriptions.watches
            if topic not in self.stage.gone:
                assert (last.type, last.data["revision"]) == ("final", self.stage.now[topic].revision)
            return
        assert seen is not None
        for name, of in self.stage.now.items():
            if topic in topics_of(of) and name not in self.stage.gone:
                ended = [event.data["revision"] for event in seen if event.type == "final" and event.data["name"] == name]
                is_said = any(event.type == "gap" and event.data["name"] == topic for event in seen)
                assert ended[-1:] == [of.revision] or (self.is_overfull and is_said)


def run(work: Iterator[None]) -> None:
    for _ in work:
        pass


def check_order(reader: Reader, name: str) -> None:
    """Forward only, and nothing twice, but for one who asks anew."""
    shown = 0
    ended = False
    for event in reader.seen:
        if event.data.get("name") != name:
            continue
        if event.type == "connected":
            shown, ended = 0, False
        elif event.type == "update":
            assert event.data["revision"] > shown
            shown, ended = event.data["revision"], False
        elif event.type == "final":
            assert event.data["revision"] > shown or (event.data["revision"] == shown and not ended)
            shown, ended = event.data["revision"], True


def check_silence(reader: Reader) -> None:
    """Of a topic that was unsubscribed nothing comes, until it is subscribed again."""
    watched: set[str] = set()
    for event in reader.seen:
        name = event.data.get("name", "")
        if event.type == "connected":
            assert name not in watched
            watched.add(name)
        elif event.type == "unsubscribed" or event.type == "error" or (event.type == "final" and name in watched):
            watched.discard(name)
        elif event.type == "gap":
            assert name in watched
        elif event.type == "update":
            assert watched & {name, QUEUE, GROUP, LABEL}


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
