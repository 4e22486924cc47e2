"""Of the one feed, each reader gets what it watches: from a snapshot on, forward only, to the end."""

from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import JobChange
from jobwire_gateway.cursors import Cursor
from jobwire_gateway.readers import OneReader

from .reading import events, job, types
from .watching import COMPLETED, DELAYED, FINAL, NAME, NOT_FOUND, SNAPSHOT, UPDATE, change, drive, say, topics_on_a_feed, watch


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
