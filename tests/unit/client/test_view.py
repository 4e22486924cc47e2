"""What a watcher sees never goes backward, and has an end."""

from typing import Any

import pytest
from jobwire.v1 import job_pb2, job_service_pb2
from jobwire_client import Change, Job
from jobwire_client._job import change_from, job_from, name_of, state_number, state_word
from jobwire_client._watch import View
from jobwire_client.errors import InvalidRequest

NAME = "queues/q/jobs/a"


def change(kind: Any, revision: int, state: str = "active", **fields: Any) -> Change:
    return Change(kind, Job(name=NAME, queue="q", id="a", state=state, revision=revision, **fields))


def test_the_same_revision_is_seen_once() -> None:
    view = View([NAME])
    assert view.take(change("snapshot", 5)) is not None
    assert view.take(change("snapshot", 5)) is None
    assert view.take(change("update", 4)) is None
    assert view.take(change("update", 6)) is not None


def test_a_change_is_completed_by_what_is_known() -> None:
    view = View([NAME])
    view.take(change("snapshot", 5, job_name="h", priority=1, max_attempts=7))
    seen = view.take(change("update", 6))
    assert seen is not None
    assert (seen.job.job_name, seen.job.priority, seen.job.max_attempts) == ("h", 1, 7)


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled", "expired", "removed"])
def test_a_final_state_ends_the_watch_even_as_a_snapshot(state: str) -> None:
    view = View([NAME])
    seen = view.take(change("snapshot", 5, state))
    assert seen is not None
    assert seen.type == "final"
    assert view.open == []


def test_a_job_that_was_there_and_is_gone_ends_as_removed() -> None:
    view = View([NAME])
    view.take(change("snapshot", 5, job_name="h"))
    seen = view.take(change("not_found", 0))
    assert seen is not None
    assert (seen.type, seen.job.state, seen.job.job_name) == ("final", "removed", "h")
    assert seen.job.revision > 5
    assert view.open == []


def test_a_job_that_was_never_there_is_not_found() -> None:
    view = View([NAME])
    seen = view.take(change("not_found", 0))
    assert seen is not None
    assert seen.type == "not_found"
    assert view.open == []


def test_only_what_has_not_ended_is_watched_again() -> None:
    other = "queues/q/jobs/b"
    view = View([NAME, other, "queues/all"])
    view.take(change("final", 5, "completed"))
    assert view.open == [other, "queues/all"]


def test_the_ended_jobs_of_a_queue_are_not_kept() -> None:
    view = View(["queues/q"])
    view.take(change("update", 5))
    assert view.last(NAME) is not None
    view.take(change("final", 6, "completed"))
    assert view.last(NAME) is None
    assert view.open == ["queues/q"]


def test_a_job_is_read_from_its_message_without_a_field_missing() -> None:
    message = job_pb2.Job(name=NAME, queue="q", id="a")
    for field in message.DESCRIPTOR.fields:
        assert field.name in Job.__dataclass_fields__, f"Job lacks {field.name}"
    assert job_from(message) == Job(name=NAME, queue="q", id="a", priority=0)


def test_a_change_is_read_from_its_message() -> None:
    for kind in job_service_pb2.ChangeType.values()[1:]:
        read = change_from(job_service_pb2.JobChange(type=job_service_pb2.ChangeType.ValueType(kind), job=job_pb2.Job(queue="q", id="a")))
        assert read.type == job_service_pb2.ChangeType.Name(job_service_pb2.ChangeType.ValueType(kind)).removeprefix("CHANGE_TYPE_").lower()


def test_state_words_are_the_enums_in_lower_case() -> None:
    assert [state_word(number) for number in range(1, 10)] == [
        "delayed", "waiting", "blocked", "active", "completed", "failed", "cancelled", "expired", "removed",
    ]  # fmt: skip
    assert state_word(99) == "state_99"
    assert state_number("waiting") == job_pb2.JOB_STATE_WAITING
    with pytest.raises(InvalidRequest, match="delayed, waiting"):
        state_number("sleeping")


@pytest.mark.parametrize(
    "name",
    [None, 5, "queues/q/jobs/é", "queues/q/jobs/\udcff", "", "a", "queues/q", "queues/q/jobs/", "queues//jobs/a", "queues/q/jobs/a/b", "jobs/q/queues/a"],
)
def test_what_is_no_jobs_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="queues/QUEUE/jobs/ID"):
        name_of(name)


def test_a_snapshot_or_an_end_that_is_older_is_what_the_store_still_knows() -> None:
    view = View([NAME])
    view.take(change("snapshot", 5))
    seen = view.take(change("snapshot", 4, "waiting"))
    assert seen is not None
    assert (seen.type, seen.job.state) == ("snapshot", "waiting")
    assert view.take(change("update", 3)) is None
    seen = view.take(change("final", 2, "failed"))
    assert seen is not None
    assert seen.job.state == "failed"
    assert view.open == []


def test_after_a_gap_an_older_change_of_a_queue_s_job_is_seen() -> None:
    view = View(["queues/q"])
    view.take(change("update", 5))
    assert view.take(Change("gap", Job(name="queues/q", queue="q", id="", state="waiting", revision=0))) is not None
    assert view.take(change("update", 4, "waiting")) is not None
