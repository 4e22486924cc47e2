"""Readers of all jobs of a queue or with a label, and of the counts of all queues."""

from jobwire.v1.job_pb2 import LogLine
from jobwire.v1.job_service_pb2 import ChangeAudience, JobChange
from jobwire.v1.queue_service_pb2 import Queue
from jobwire_gateway.readers import OneReader

from .reading import events, job, types
from .watching import (
    COMPLETED,
    FINAL,
    LABEL_A,
    LABEL_B,
    LOG,
    NAME,
    SNAPSHOT,
    UPDATE,
    change,
    drive,
    labelled,
    say,
    topics_on_a_feed,
    watch,
    watch_overview,
    watch_queue,
)


def test_a_queue_reader_sees_each_change_of_its_jobs_once_and_no_log() -> None:
    topics = topics_on_a_feed()
    reader = watch_queue(topics)
    topics.demand()
    say(topics, added=("queues/q",))
    say(topics, change(UPDATE, job(1, job_id="a")), change(UPDATE, job(2, job_id="b")), change(UPDATE, job(1, job_id="a")))
    say(topics, JobChange(type=LOG, job=job(2, job_id="b"), lines=[LogLine(message="hello")]), change(UPDATE, job(3, queue="other")))
    assert [event.data.get("id") for event in events(reader.take())] == [None, "a", "b"]


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
