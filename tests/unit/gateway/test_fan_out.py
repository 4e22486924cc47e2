"""Whatever the order in which readers, changes and faults come, each reader sees the job go forward to its end."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.readers import OneReader
from jobwire_gateway.topics import Topics

from .reading import events, job
from .watching import ACTIVE, COMPLETED, DELAYED, FINAL, SNAPSHOT, UPDATE, WAITING, change, drive, watch


class FanOut(RuleBasedStateMachine):
    """Readers come, go, read and stop reading, while a job changes, the feed lags, breaks and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = Topics(Bounds(6, 4_000), 15_000)
        self.now = job(1, WAITING)
        self.wire: deque[SubscribeResponse] = deque()
        self.counted = 0
        self.plugged = False
        self.readers: dict[OneReader, bytes] = {}
        self.cursors: dict[OneReader, int] = {}

    @rule(state=st.sampled_from((WAITING, ACTIVE, ACTIVE, ACTIVE, DELAYED)), percent=st.integers(0, 99))
    def change(self, state: JobState.ValueType, percent: int) -> None:
        if self.now.state != COMPLETED:
            self._become(job(self.now.revision + 1, state, percent=percent))

    @rule()
    def complete(self) -> None:
        if self.now.state != COMPLETED:
            self._become(job(self.now.revision + 1, COMPLETED))

    @rule(known=st.integers(0, 20))
    def join(self, known: int) -> None:
        cursor = Cursor(min(known, self.now.revision), end=False) if known else None
        reader = watch(self.topics, cursor)
        self.readers[reader] = b""
        self.cursors[reader] = cursor.revision if cursor else 0

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(list(self.readers)))
        reader.leave()
        del self.readers[reader]

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(list(self.readers)))
        self.readers[reader] += reader.take()

    @precondition(lambda self: not self.plugged)
    @rule()
    def plug(self) -> None:
        self.plugged = True
        drive(self.topics.plug())

    @precondition(lambda self: self.plugged)
    @rule()
    def unplug(self) -> None:
        self.plugged = False
        self.counted = 0
        self.wire.clear()
        drive(self.topics.unplug("broker_unavailable"))

    @precondition(lambda self: self.plugged)
    @rule()
    def ask(self) -> None:
        add, remove = self.topics.demand()
        for name in add:
            self.counted += 1
            self.wire.append(SubscribeResponse(added=[name]))
            self.wire.append(SubscribeResponse(changes=[change(FINAL if self.now.state == COMPLETED else SNAPSHOT, self.now)]))
        self.counted -= len(remove)

    @precondition(lambda self: self.wire)
    @rule()
    def deliver(self) -> None:
        drive(self.topics.apply(self.wire.popleft()))

    @invariant()
    def bounds_hold(self) -> None:
        for reader in self.readers:
            assert len(reader.mailbox) <= 6

    def teardown(self) -> None:
        if not self.plugged:
            self.plug()
        self.complete()
        self.ask()
        while self.wire:
            self.deliver()
        for reader, before in self.readers.items():
            self._check(reader, events(before + reader.take()))

    def _become(self, now: Job) -> None:
        self.now = now
        if self.counted:
            self.wire.append(SubscribeResponse(changes=[change(FINAL if now.state == COMPLETED else UPDATE, now)]))

    def _check(self, reader: OneReader, seen: list) -> None:  # type: ignore[type-arg]
        kinds = [event.type for event in seen if event.type != "degraded"]
        assert kinds[0] == "connected"
        assert kinds.count("connected") == 1
        assert kinds[-1] == "final"
        assert kinds.count("final") == 1
        assert reader.ended
        shown = [event.data["revision"] for event in seen if event.type == "update"]
        assert shown == sorted(set(shown))
        assert seen[-1 if seen[-1].type == "final" else -2].data["revision"] == self.now.revision
        assert max(shown, default=self.now.revision) <= self.now.revision


TestFanOut = FanOut.TestCase
TestFanOut.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
