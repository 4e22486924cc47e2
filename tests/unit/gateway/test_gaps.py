"""What readers are told when something may have been missed: the feed was broken, the store was away or has lost changes, a change could not be shown."""

import pytest
from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway import frames
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.jobs import job_json
from jobwire_gateway.readers import OneReader

from .reading import events, job, types
from .watching import (
    COMPLETED,
    DELAYED,
    FINAL,
    GAP,
    LABEL_A,
    NAME,
    NOT_FOUND,
    SNAPSHOT,
    UPDATE,
    WAITING,
    change,
    drive,
    labelled,
    say,
    topics_on_a_feed,
    watch,
    watch_queue,
)


def test_a_reader_that_missed_something_is_told_and_gets_the_snapshot() -> None:
    topics = topics_on_a_feed()
    for cursor in (Cursor(3, end=False), Cursor(9_999, end=False)):
        reader = watch(topics, cursor)
        topics.demand()
        say(topics, change(SNAPSHOT, job(5)), added=(NAME,))
        assert types(reader.take()) == ["connected", "gap", "update"]


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
