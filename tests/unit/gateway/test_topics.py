"""Of the one feed, each reader gets what it watches: from a snapshot on, forward only, to the end."""

from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState, LogLine
from jobwire.v1.job_service_pb2 import ChangeAudience, ChangeType, JobChange
from jobwire.v1.queue_service_pb2 import Queue
from jobwire_gateway import frames
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.jobs import job_json
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.readers import OneReader
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import OverviewWatch

from .reading import events, job, types

WAITING, ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_WAITING, JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
SNAPSHOT, UPDATE, FINAL = ChangeType.CHANGE_TYPE_SNAPSHOT, ChangeType.CHANGE_TYPE_UPDATE, ChangeType.CHANGE_TYPE_FINAL
NOT_FOUND, GAP, LOG = ChangeType.CHANGE_TYPE_NOT_FOUND, ChangeType.CHANGE_TYPE_GAP, ChangeType.CHANGE_TYPE_LOG
NAME = "queues/q/jobs/j"


def drive(work: Iterator[None]) -> None:
    for _ in work:
        pass


def topics_on_a_feed() -> Topics:
    topics = Topics(Bounds(100, 1_000_000), 15_000)
    drive(topics.plug())
    return topics


def watch(topics: Topics, cursor: Cursor | None = None) -> OneReader:
    return OneReader.of_job(topics, NAME, cursor, lambda: None)


def watch_queue(topics: Topics, cursor: Cursor | None = None) -> OneReader:
    return OneReader.of_queue(topics, "queues/q", cursor, lambda: None)


def watch_overview(topics: Topics) -> OverviewWatch:
    reader = OverviewWatch("queues", lambda: None, 15_000)
    topics.join(reader)
    return reader


def say(topics: Topics, *changes: JobChange, added: tuple[str, ...] = (), queues: tuple[Queue, ...] = ()) -> None:
    drive(topics.apply(SubscribeResponse(added=added, changes=changes, queues=queues)))


def change(kind: ChangeType.ValueType, of: Job) -> JobChange:
    return JobChange(type=kind, job=of)


def test_a_reader_sees_connected_then_the_snapshot_then_updates_then_the_end() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    assert topics.demand() == ([NAME], [])
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    say(topics, change(UPDATE, job(2, DELAYED)), change(FINAL, job(3, COMPLETED)))
    assert types(reader.take()) == ["connected", "update", "update", "final"]
    assert reader.ended


def test_a_job_that_has_ended_gives_its_snapshot_and_its_end() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, change(FINAL, job(7, COMPLETED)), added=(NAME,))
    seen = events(reader.take())
    assert [(event.type, event.id) for event in seen] == [("connected", ""), ("update", "7"), ("final", "7.end")]


def test_the_second_reader_of_a_job_costs_the_broker_nothing() -> None:
    topics = topics_on_a_feed()
    watch(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    second = watch(topics)
    assert topics.demand() == ([], [])
    assert types(second.take()) == ["connected", "update"]


def test_a_topic_is_removed_when_the_last_reader_has_left() -> None:
    topics = topics_on_a_feed()
    first, second = watch(topics), watch(topics)
    topics.demand()
    first.leave()
    assert topics.demand() == ([], [])
    second.leave()
    second.leave()
    say(topics, added=(NAME,))
    assert topics.demand() == ([], [NAME])
    assert len(topics) == 0


def test_a_topic_that_is_wanted_again_before_its_removal_went_out_stays() -> None:
    topics = topics_on_a_feed()
    first = watch(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    first.leave()
    second = watch(topics)
    assert topics.demand() == ([], [])
    assert types(second.take()) == ["connected", "update"]


def test_a_topic_is_removed_only_after_it_was_confirmed() -> None:
    topics = topics_on_a_feed()
    watch(topics).leave()
    first = watch(topics)
    assert topics.demand() == ([NAME], [])
    first.leave()
    assert topics.demand() == ([], [])
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    assert topics.demand() == ([], [NAME])


def test_what_is_left_of_an_earlier_adding_is_not_taken_for_the_answer_to_the_present_one() -> None:
    topics = topics_on_a_feed()
    first = watch(topics)
    topics.demand()
    say(topics, added=(NAME,))
    first.leave()
    topics.demand()
    reader = watch(topics)
    assert topics.demand() == ([NAME], [])
    say(topics, JobChange(type=NOT_FOUND, job=Job(name=NAME)))
    assert reader.take() == b""
    say(topics, change(SNAPSHOT, job(5)), added=(NAME,))
    assert types(reader.take()) == ["connected", "update"]


def test_what_happens_between_confirmation_and_snapshot_is_shown_after_the_snapshot() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, added=(NAME,))
    say(topics, change(UPDATE, job(5, DELAYED)))
    assert reader.take() == b""
    say(topics, change(SNAPSHOT, job(4)))
    assert [event.data.get("revision") for event in events(reader.take())] == [None, 4, 5]


def test_an_older_change_never_follows_a_newer_one() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(5)), added=(NAME,))
    say(topics, change(UPDATE, job(4)), change(UPDATE, job(5)), change(UPDATE, job(6)))
    assert [event.data.get("revision") for event in events(reader.take())][1:] == [6]


def test_a_reader_that_has_the_snapshot_already_is_only_told_so() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics, Cursor(5, end=False))
    topics.demand()
    say(topics, change(SNAPSHOT, job(5)), added=(NAME,))
    (connected,) = events(reader.take())
    assert connected.data["resumed"] is True


def test_a_reader_that_missed_something_is_told_and_gets_the_snapshot() -> None:
    topics = topics_on_a_feed()
    for cursor in (Cursor(3, end=False), Cursor(9_999, end=False)):
        reader = watch(topics, cursor)
        topics.demand()
        say(topics, change(SNAPSHOT, job(5)), added=(NAME,))
        assert types(reader.take()) == ["connected", "gap", "update"]


def test_an_unknown_job_gives_an_error_and_ends() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, JobChange(type=NOT_FOUND, job=Job(name=NAME)), added=(NAME,))
    (error,) = events(reader.take())
    assert (error.type, error.data["reason"], error.id) == ("error", "JOB_NOT_FOUND", "0.end")
    assert reader.watch.missing
    assert reader.ended
    late = watch(topics)
    assert types(late.take()) == ["error"]


def test_a_job_that_was_seen_and_is_gone_ends_as_removed() -> None:
    topics = topics_on_a_feed()
    for answer in (JobChange(type=NOT_FOUND, job=Job(name=NAME)), JobChange(type=FINAL, job=Job(name=NAME, state=JobState.JOB_STATE_REMOVED))):
        reader = watch(topics, Cursor(3, end=False))
        topics.demand()
        say(topics, answer, added=(NAME,))
        seen = events(reader.take())
        assert [event.type for event in seen] == ["connected", "final"]
        assert (seen[-1].data["state"], seen[-1].data["id"], seen[-1].id) == ("removed", "j", "3.end")
        reader.leave()
        topics.demand()


def test_a_broken_feed_is_said_and_what_was_missed_follows_its_return() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    reader.take()
    drive(topics.unplug("broker_unavailable"))
    late = watch(topics)
    assert types(late.take()) == ["degraded"]
    assert [event.data for event in events(reader.take())] == [{"type": "degraded", "degraded": True, "reason": "broker_unavailable"}]
    drive(topics.plug())
    assert topics.demand() == ([NAME], [])
    say(topics, change(SNAPSHOT, job(4)), added=(NAME,))
    seen = events(reader.take())
    assert [event.type for event in seen] == ["degraded", "gap", "update"]
    assert seen[0].data["degraded"] is False
    assert types(late.take()) == ["degraded", "connected", "update"]


def test_a_feed_that_comes_back_to_the_same_revision_shows_nothing_twice() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    drive(topics.unplug("broker_unavailable"))
    drive(topics.plug())
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME,))
    assert types(reader.take()) == ["connected", "update", "degraded"]


def test_a_store_that_is_away_is_said_once() -> None:
    topics = topics_on_a_feed()
    reader = watch(topics)
    topics.demand()
    for available, told in ((False, [True]), (False, []), (True, [False]), (True, [])):
        drive(topics.apply(SubscribeResponse(store_available=available)))
        assert [event.data["degraded"] for event in events(reader.take())] == told


def test_a_queue_reader_sees_each_change_of_its_jobs_once_and_no_log() -> None:
    topics = topics_on_a_feed()
    reader = watch_queue(topics)
    topics.demand()
    say(topics, added=("queues/q",))
    say(topics, change(UPDATE, job(1, job_id="a")), change(UPDATE, job(2, job_id="b")), change(UPDATE, job(1, job_id="a")))
    say(topics, JobChange(type=LOG, job=job(2, job_id="b"), lines=[LogLine(message="hello")]), change(UPDATE, job(3, queue="other")))
    assert [event.data.get("id") for event in events(reader.take())] == [None, "a", "b"]


def test_a_queue_reader_is_told_of_gaps() -> None:
    topics = topics_on_a_feed()
    reader = watch_queue(topics, Cursor(1))
    topics.demand()
    say(topics, added=("queues/q",))
    say(topics, JobChange(type=GAP, job=Job(queue="q", name="queues/q")))
    drive(topics.unplug("broker_unavailable"))
    drive(topics.plug())
    topics.demand()
    say(topics, added=("queues/q",))
    seen = events(reader.take())
    assert [event.data["reason"] for event in seen if event.type == "gap"] == ["resumed", "store_lost", "broker_lost"]


def test_one_encoding_is_shared_by_all_who_watch_the_job_and_its_queue() -> None:
    topics = topics_on_a_feed()
    readers = [watch(topics), watch(topics), watch_queue(topics)]
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), added=(NAME, "queues/q"))
    for reader in readers:
        reader.take()
    say(topics, change(UPDATE, job(2)))
    data = {id(frame.data) for reader in readers for frame in reader.mailbox.take()}
    assert len(data) == 1


def test_the_overview_begins_with_all_queues_and_conflates_by_queue() -> None:
    topics = topics_on_a_feed()
    reader = watch_overview(topics)
    topics.demand()
    say(topics, added=("queues",), queues=(Queue(name="queues/a", queue="a"), Queue(name="queues/b", queue="b")))
    seen = events(reader.take())
    assert [event.type for event in seen] == ["connected", "update"]
    assert [queue["queue"] for queue in seen[1].data["queues"]] == ["a", "b"]
    for workers in range(1, 5):
        say(topics, queues=(Queue(name="queues/a", queue="a", workers=workers),))
    (latest,) = events(reader.take())
    assert [(queue["queue"], queue["workers"]) for queue in latest.data["queues"]] == [("a", 4)]
    late = watch_overview(topics)
    assert len(events(late.take())[1].data["queues"]) == 2


def test_an_overview_without_queues_says_so() -> None:
    topics = topics_on_a_feed()
    reader = watch_overview(topics)
    topics.demand()
    say(topics, added=("queues",))
    assert types(reader.take()) == ["connected"]
    assert reader.expecting
    reader.settle()
    assert events(reader.take())[0].data["queues"] == []


def test_queues_that_come_after_the_confirmation_are_the_first_update() -> None:
    topics = topics_on_a_feed()
    reader = watch_overview(topics)
    topics.demand()
    say(topics, added=("queues",))
    say(topics, queues=(Queue(name="queues/a", queue="a"),))
    seen = events(reader.take())
    assert [event.type for event in seen] == ["connected", "update"]
    assert len(seen[1].data["queues"]) == 1


def test_a_store_that_has_lost_changes_is_believed_after_the_feed_was_away() -> None:
    topics = topics_on_a_feed()
    reader, everything, held = watch(topics), watch_queue(topics), watch(topics, Cursor(9))
    topics.demand()
    say(topics, change(SNAPSHOT, job(9)), added=(NAME, "queues/q"))
    say(topics, change(UPDATE, job(10, DELAYED)))
    for each in (reader, everything, held):
        each.take()
    drive(topics.unplug("store_unavailable"))
    drive(topics.plug())
    topics.demand()
    say(topics, change(SNAPSHOT, job(5)), added=(NAME, "queues/q"))
    say(topics, change(UPDATE, job(6, DELAYED)), change(FINAL, job(7, COMPLETED)))
    for each in (reader, held):
        shown = [event for event in events(each.take()) if event.type != "degraded"]
        assert [(event.type, event.data.get("revision")) for event in shown] == [("gap", None), ("update", 5), ("update", 6), ("final", 7)]
        assert each.ended
        assert shown[0].data["reason"] == "store_lost"
    assert [event.data.get("revision") for event in events(everything.take()) if event.type != "degraded"] == [None, 5, 6, 7]


def test_b09_very_many_topics_are_asked_for_a_part_at_a_time() -> None:
    topics = topics_on_a_feed()
    names = {f"queues/q/jobs/{number}" for number in range(2_500)}
    readers = [OneReader.of_job(topics, name, None, lambda: None) for name in names]
    demanded: list[bool] = []
    topics.on_demand = lambda: demanded.append(True)
    for _ in range(2):
        asked: set[str] = set()
        while batch := topics.demand()[0]:
            assert len(batch) <= 1_000
            assert topics.demand() == ([], [])
            asked |= set(batch)
            demanded.clear()
            for part in (batch[:400], batch[400:]):
                say(topics, *(change(SNAPSHOT, job(1, job_id=name.rpartition("/")[2])) for name in part), added=tuple(part))
            assert demanded or asked == names
        assert asked == names
        drive(topics.unplug("broker_unavailable"))
        drive(topics.plug())
    assert all(types(reader.take())[:2] == ["connected", "update"] for reader in readers)


def test_a_change_that_cannot_be_shown_costs_its_readers_a_gap_and_nobody_else_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = topics_on_a_feed()
    reader, other, everything = watch(topics), OneReader.of_job(topics, "queues/q/jobs/k", None, lambda: None), watch_queue(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(1)), change(SNAPSHOT, job(2, job_id="k")), added=(NAME, "queues/q/jobs/k", "queues/q"))
    for each in (reader, other, everything):
        each.take()

    def unless_3(of: Job) -> dict[str, object]:
        if of.revision in (3, 6):
            raise RecursionError("too deep")
        return job_json(of)

    monkeypatch.setattr(frames, "job_json", unless_3)
    say(topics, change(UPDATE, job(3, DELAYED)), change(UPDATE, job(4, DELAYED, job_id="k")), change(UPDATE, job(5)))
    assert [(event.type, event.data.get("reason") or event.data["revision"]) for event in events(reader.take())] == [("gap", "not_shown"), ("update", 5)]
    assert types(other.take()) == ["update"]
    assert types(everything.take()) == ["gap", "update", "update"]
    say(topics, change(FINAL, job(6, COMPLETED)))
    assert types(reader.take()) == ["gap", "error"]
    assert reader.ended
    assert types(everything.take()) == ["gap"]


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


def test_a_store_that_has_lost_changes_is_believed_though_the_feed_was_never_away() -> None:
    topics = topics_on_a_feed()
    reader, of_queue = watch(topics), watch_queue(topics)
    topics.demand()
    say(topics, change(SNAPSHOT, job(5)), added=(NAME, "queues/q"))
    say(topics, change(UPDATE, job(9)))
    reader.take()
    of_queue.take()
    say(topics, JobChange(type=GAP, job=Job(queue="q", name="queues/q")), change(SNAPSHOT, job(7)), change(UPDATE, job(8, WAITING)))
    assert [event.data.get("reason") or event.data["revision"] for event in events(reader.take())] == ["store_lost", 7, 8]
    assert [event.data.get("revision") for event in events(of_queue.take())] == [None, 8]
    say(topics, change(ChangeType.CHANGE_TYPE_FINAL, job(6, JobState.JOB_STATE_FAILED)))
    assert [event.type for event in events(reader.take())] == ["gap", "update", "final"]


def test_after_a_gap_a_queue_reader_learns_what_became_of_the_jobs_that_it_had_seen() -> None:
    topics = topics_on_a_feed()
    reader = watch_queue(topics)
    topics.demand()
    say(topics, added=("queues/q",))
    say(topics, *(change(UPDATE, job(1, job_id=name)) for name in "abcd"), change(FINAL, job(1, COMPLETED, job_id="e")))
    reader.take()
    drive(topics.unplug("broker_unavailable"))
    drive(topics.plug())
    assert topics.demand() == (["queues/q"], [])
    say(topics, added=("queues/q",))
    names = [f"queues/q/jobs/{name}" for name in "abcd"]
    add, _ = topics.demand()
    assert sorted(add) == names
    say(topics, change(FINAL, job(2, COMPLETED, job_id="a")), change(SNAPSHOT, job(3, DELAYED, job_id="b")), added=tuple(names))
    say(topics, change(NOT_FOUND, Job(name=names[2], queue="q", id="c")), change(SNAPSHOT, job(1, job_id="d")))
    seen = [(event.data.get("id"), event.data.get("state"), event.data.get("reason")) for event in events(reader.take()) if event.type != "degraded"]
    assert seen == [(None, None, "broker_lost"), ("a", "completed", None), ("b", "delayed", None), ("c", "removed", None)]
    assert sorted(topics.demand()[1]) == names
    assert len(topics) == 1


def test_a_job_that_is_followed_by_name_and_is_gone_after_a_gap_ends_for_the_readers_of_its_group_too() -> None:
    topics = topics_on_a_feed()
    group = "queues/q/groups/g"
    follower, reader = watch(topics), OneReader.of_queue(topics, group, None, lambda: None)
    topics.demand()
    begin = job(1)
    begin.group = "g"
    say(topics, change(SNAPSHOT, begin), change(UPDATE, begin), added=(NAME, group))
    reader.take()
    gone = Job(name=NAME, queue="q", id="j", state=JobState.JOB_STATE_REMOVED)
    say(topics, JobChange(type=GAP, job=Job(queue="q", name="queues/q")))
    say(topics, change(FINAL, gone), change(FINAL, gone))
    assert [event.data.get("state") for event in events(reader.take())] == [None, "removed"]
    assert events(follower.take())[-1].data["state"] == "removed"


def test_after_a_gap_only_so_many_jobs_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobwire_gateway.topics.MOST_LOOKED_AT", 2)
    topics = topics_on_a_feed()
    watch_queue(topics)
    topics.demand()
    say(topics, added=("queues/q",))
    say(topics, *(change(UPDATE, job(1, job_id=name)) for name in "abc"))
    say(topics, JobChange(type=GAP, job=Job(queue="q", name="queues/q")))
    assert len(topics.demand()[0]) == 2


def test_an_answer_to_who_asks_for_a_job_is_for_nobody_else_and_what_came_late_for_all_but_them() -> None:
    topics = topics_on_a_feed()
    reader, of_queue = watch(topics), watch_queue(topics)
    topics.demand()
    say(topics, JobChange(type=FINAL, job=job(7, COMPLETED), audience=ChangeAudience.CHANGE_AUDIENCE_JOB), added=(NAME, "queues/q"))
    assert types(reader.take()) == ["connected", "update", "final"]
    assert types(of_queue.take()) == ["connected"]
    say(topics, JobChange(type=UPDATE, job=job(6), audience=ChangeAudience.CHANGE_AUDIENCE_MANY))
    say(topics, JobChange(type=FINAL, job=job(7, COMPLETED), audience=ChangeAudience.CHANGE_AUDIENCE_MANY))
    assert [(event.type, event.data["revision"]) for event in events(of_queue.take())] == [("update", 6), ("final", 7)]


LABEL_A, LABEL_B = "queues/q/labels/order=17", "queues/q/labels/order=18"


def labelled(revision: int, order: str) -> Job:
    # Of two states in turn, so that no update is taken for the progress of the one before.
    made = job(revision, DELAYED if revision % 2 else ACTIVE)
    made.labels["order"] = order
    return made


def test_a_job_that_has_left_a_label_is_shown_there_once_more() -> None:
    topics = topics_on_a_feed()
    of_a, of_b = (OneReader.of_queue(topics, name, None, lambda: None) for name in (LABEL_A, LABEL_B))
    topics.demand()
    say(topics, change(UPDATE, labelled(1, "17")), added=(LABEL_A, LABEL_B))
    say(topics, JobChange(type=UPDATE, job=labelled(2, "18"), left=[LABEL_A]), change(UPDATE, labelled(3, "18")))
    assert [event.data.get("revision") for event in events(of_a.take())] == [None, 1, 2]
    assert [event.data.get("revision") for event in events(of_b.take())] == [None, 2, 3]


def test_a_label_that_changed_while_the_feed_was_broken_is_shown_to_who_follows_the_one_before() -> None:
    topics = topics_on_a_feed()
    reader = OneReader.of_queue(topics, LABEL_A, None, lambda: None)
    topics.demand()
    say(topics, change(UPDATE, labelled(1, "17")), added=(LABEL_A,))
    reader.take()
    drive(topics.unplug("broker_unavailable"))
    drive(topics.plug())
    topics.demand()
    say(topics, added=(LABEL_A,))
    assert topics.demand()[0] == [NAME]
    say(topics, JobChange(type=SNAPSHOT, job=labelled(2, "18"), audience=ChangeAudience.CHANGE_AUDIENCE_JOB), added=(NAME,))
    assert [event.data.get("labels") for event in events(reader.take()) if event.type != "degraded"] == [None, {"order": "18"}]


def test_a_job_that_is_followed_by_name_is_looked_at_after_a_gap_once_it_was_read_again() -> None:
    topics = topics_on_a_feed()
    follower, reader = watch(topics), OneReader.of_queue(topics, LABEL_A, None, lambda: None)
    topics.demand()
    say(topics, change(SNAPSHOT, labelled(5, "17")), change(UPDATE, labelled(6, "17")), added=(NAME, LABEL_A))
    for each in (follower, reader):
        each.take()
    gap = JobChange(type=GAP, job=Job(queue="q", name="queues/q"))
    # The event that told of the other label was lost.
    say(topics, gap)
    say(topics, change(UPDATE, labelled(7, "18")))
    assert [event.data.get("revision") for event in events(reader.take())] == [None, 7]
    # And so was the change itself.
    say(topics, gap)
    say(topics, change(SNAPSHOT, labelled(6, "17")))
    assert [event.data.get("revision") for event in events(reader.take())] == [None, 6]
    assert [event.data.get("revision") for event in events(follower.take())] == [7, None, 6]
    follower.leave()
    assert topics.demand() == ([], [NAME])
