"""The mailbox: what a slow reader may miss, and what it never misses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.rules import mailbox as module
from jobwire_broker.rules.mailbox import MAX_PER_JOB, Mailbox

ACTIVE, WAITING, COMPLETED = job_pb2.JOB_STATE_ACTIVE, job_pb2.JOB_STATE_WAITING, job_pb2.JOB_STATE_COMPLETED


def change(job: str, revision: int, state: Any = ACTIVE, *, attempt: int = 1, kind: Any = None) -> pb.JobChange:
    queue = job.split("/")[0]
    name = f"queues/{queue}/jobs/{job}"
    found = job_pb2.Job(name=name, queue=queue, revision=revision, state=state, attempt=attempt)
    return pb.JobChange(type=kind or (pb.CHANGE_TYPE_FINAL if state == COMPLETED else pb.CHANGE_TYPE_UPDATE), job=found)


def snapshot(job: str, revision: int, state: Any = ACTIVE) -> pb.JobChange:
    return change(job, revision, state, kind=pb.CHANGE_TYPE_FINAL if state == COMPLETED else pb.CHANGE_TYPE_SNAPSHOT)


def lines(job: str) -> pb.JobChange:
    return change(job, 0, kind=pb.CHANGE_TYPE_LOG)


def revisions(box: Mailbox) -> list[int]:
    return [x.job.revision for x in box.take()]


def name_of(job: str) -> str:
    return change(job, 1).job.name


def unasked() -> None:
    raise AssertionError("nothing was dropped")


def test_progress_takes_the_place_of_the_progress_before_it() -> None:
    box = Mailbox()
    for revision in range(1, 50):
        box.put(change("q/a", revision))
    assert revisions(box) == [49]


@pytest.mark.parametrize("other", [change("q/a", 2, WAITING), change("q/a", 2, attempt=2)], ids=["state", "attempt"])
def test_changes_of_state_are_kept(other: pb.JobChange) -> None:
    box = Mailbox()
    box.put(change("q/a", 1))
    box.put(other)
    box.put(change("q/a", 3))
    assert revisions(box) == [1, 2, 3]


def test_who_asks_twice_is_answered_twice_before_what_is_newer() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(change("q/a", 5, kind=pb.CHANGE_TYPE_SNAPSHOT))
    box.put(change("q/a", 6, WAITING))
    box.put_snapshot(change("q/a", 5, kind=pb.CHANGE_TYPE_SNAPSHOT))
    assert revisions(box) == [5, 5, 6]
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(change("q/a", 6, kind=pb.CHANGE_TYPE_SNAPSHOT))
    assert revisions(box) == [6]


def test_what_is_not_newer_does_not_get_in_even_after_it_was_taken() -> None:
    box = Mailbox()
    box.put(change("q/a", 5))
    assert revisions(box) == [5]
    box.put(change("q/a", 5, WAITING))
    box.put(change("q/a", 4, COMPLETED))
    assert revisions(box) == []


def test_a_snapshot_goes_before_what_is_newer_and_in_place_of_what_is_not() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.put(change("q/a", 3, WAITING))
    box.put(change("q/a", 5, ACTIVE))
    box.put(change("q/a", 7, COMPLETED))
    assert box.take() == []
    box.put_snapshot(snapshot("q/a", 5))
    assert revisions(box) == [5, 7]


def test_others_do_not_wait_for_a_snapshot() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.put(change("q/a", 3))
    box.put(change("q/b", 4))
    assert revisions(box) == [4]
    box.abandon(name_of("q/a"))
    assert revisions(box) == [3]


def test_two_snapshots_under_way_are_both_waited_for() -> None:
    box = Mailbox()
    for _ in range(2):
        box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 3))
    assert box.take() == []
    box.put_snapshot(snapshot("q/a", 4))
    assert revisions(box) == [3, 4]


def test_log_lines_go_before_changes_of_state_do() -> None:
    box = Mailbox()
    box.put(change("q/a", 1, WAITING))
    box.put(change("q/a", 2, COMPLETED))
    for _ in range(50):
        box.put(lines("q/a"))
    taken = box.take()
    assert len(taken) == MAX_PER_JOB
    assert [x.job.revision for x in taken[:2]] == [1, 2]


def test_forgotten_jobs_begin_anew() -> None:
    box = Mailbox()
    box.put(change("q/a", 5))
    box.forget(name_of("q/a"))
    assert revisions(box) == []
    box.put(change("q/a", 2))
    assert revisions(box) == [2]


def test_a_take_gives_about_as_much_as_was_asked_for_and_the_rest_later() -> None:
    box = Mailbox()
    for i in range(10):
        box.put(change(f"q/{i}", 1 + i))
    assert [len(box.take(4)) for _ in range(4)] == [4, 4, 2, 0]


async def test_a_reader_waits_until_there_is_something() -> None:
    box = Mailbox()
    reader = asyncio.create_task(box.wait())
    await asyncio.sleep(0)
    assert not reader.done()
    box.put(change("q/a", 1))
    await reader
    assert revisions(box) == [1]


async def test_a_reader_of_a_part_is_woken_for_the_rest() -> None:
    box = Mailbox()
    for i in range(3):
        box.put(change(f"q/{i}", 1))
    await box.wait()
    assert len(box.take(2)) == 2
    await asyncio.wait_for(box.wait(), 1)
    assert len(box.take(2)) == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "MAX_JOBS", 10)
    return 10


def test_who_falls_behind_is_told_of_a_gap_in_each_queue(small: int) -> None:
    box = Mailbox()
    for i in range(small + 1):
        box.put(change(f"q{i % 3}/{i}", 1))
    taken = box.take()
    assert sorted((x.type, x.job.queue) for x in taken) == [(pb.CHANGE_TYPE_GAP, f"q{i}") for i in range(3)]


def test_what_is_followed_by_name_survives_a_gap_down_to_its_last_change(small: int) -> None:
    box = Mailbox()
    box.open(name_of("q/mine"), unasked)
    box.put_snapshot(snapshot("q/mine", 1, WAITING))
    box.put(change("q/mine", 2, ACTIVE))
    box.put(change("q/mine", 3, COMPLETED))
    box.put(lines("q/mine"))
    for i in range(small + 1):
        box.put(change(f"q/{i}", 1))
    taken = box.take()
    assert [(x.type, x.job.name, x.job.revision) for x in taken] == [
        (pb.CHANGE_TYPE_FINAL, name_of("q/mine"), 3),
        (pb.CHANGE_TYPE_GAP, "queues/q", 0),
    ]


def test_any_number_of_jobs_may_be_followed_by_name_without_a_gap(small: int) -> None:
    box = Mailbox()
    for i in range(5 * small):
        box.open(name_of(f"q/{i}"), unasked)
        box.put_snapshot(snapshot(f"q/{i}", 1))
    assert {x.type for x in box.take()} == {pb.CHANGE_TYPE_SNAPSHOT}


def test_what_a_gap_dropped_may_be_told_again(small: int) -> None:
    box = Mailbox()
    for i in range(small + 1):
        box.put(change(f"q/{i}", 7))
    box.take()
    box.put(change("q/0", 7))
    assert revisions(box) == [7]


def ended(job: str, revision: int, size: int) -> pb.JobChange:
    """An end with a result."""
    made = change(job, revision, COMPLETED)
    made.job.result.data = bytes(size)
    return made


def test_a_frame_has_2_mib_or_one_change() -> None:
    box = Mailbox()
    sizes = [3 << 20, 1 << 20, 900_000, 900_000, 900_000, 10]
    for i, size in enumerate(sizes):
        box.put(ended(f"q/{i}", 1 + i, size))
    assert [revisions(box) for _ in range(4)] == [[1], [2, 3], [4, 5, 6], []]


async def test_one_job_s_changes_come_in_pieces_in_order_and_the_reader_is_woken_for_the_rest() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 1))
    for revision in (2, 3, 4):
        box.put(ended("q/a", revision, 1 << 20))
    await box.wait()
    assert revisions(box) == [1, 2]
    await asyncio.wait_for(box.wait(), 1)
    assert revisions(box) == [3]
    # A second answer goes before what is left, and not in the place of one that was taken.
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 3))
    assert [revisions(box) for _ in range(2)] == [[3, 4], []]


def test_what_is_too_much_is_dropped_and_read_again_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 8 << 20)
    box, asked = Mailbox(), list[str]()
    for i in range(40):
        box.open(name_of(f"q/{i}"), lambda i=i: asked.append(f"q/{i}"))  # type: ignore[misc]  # a lambda with a default
        box.put_snapshot(snapshot(f"q/{i}", 1))
    for i in range(40):
        box.put(ended(f"q/{i}", 2, 1 << 20))
        assert box._bytes <= (8 << 20) + (1 << 20)
    ends = dict.fromkeys((f"q/{i}" for i in range(40)), False)
    most = 0
    for _ in range(200):
        for found in box.take():
            ends[found.job.name.removeprefix("queues/q/jobs/")] |= found.type == pb.CHANGE_TYPE_FINAL
        most = max(most, len(asked))
        for job in asked:
            box.open(name_of(job), unasked)
            box.put_snapshot(snapshot(job, 2, COMPLETED))
        asked.clear()
    assert all(ends.values())
    assert 0 < most <= 4
    assert box._bytes == 0


def test_a_first_answer_that_is_folded_into_a_later_change_stays_an_answer(small: int) -> None:
    box = Mailbox()
    box.open(name_of("q/mine"), unasked)
    box.put_snapshot(snapshot("q/mine", 1, WAITING))
    box.put(change("q/mine", 2, ACTIVE))
    for i in range(small + 2):
        box.put(change(f"q/{i}", 1))
    assert next((x.type, x.job.revision) for x in box.take()) == (pb.CHANGE_TYPE_SNAPSHOT, 2)


# Random lives -----------------------------------------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from("abc"), st.sampled_from([WAITING, ACTIVE, ACTIVE, ACTIVE, COMPLETED])),
        st.tuples(st.just("log"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("again"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("late"), st.sampled_from("abc"), st.integers(1, 5)),
        st.tuples(st.just("open"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("read"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("take"), st.just("a"), st.integers(1, 3)),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(steps)
def test_the_end_always_arrives_revisions_never_go_backward_and_bounds_hold(script: list[tuple[str, str, int]]) -> None:
    """A store whose jobs change, and one reader: `read` is a snapshot that arrives, `again` an event that comes twice, `late` one that comes out of order."""
    box, truth, opened = Mailbox(), {job: change(f"q/{job}", 0, WAITING) for job in "abc"}, dict.fromkeys("abc", 0)
    got: dict[str, list[pb.JobChange]] = {job: [] for job in "abc"}
    for revision, (step, job, detail) in enumerate(script, 1):
        if step == "change":
            truth[job] = change(f"q/{job}", revision, detail, attempt=revision if detail == WAITING else truth[job].job.attempt)
            box.put(truth[job])
        elif step == "log":
            box.put(lines(f"q/{job}"))
        elif step == "again" and truth[job].job.revision:
            box.put(truth[job])
        elif step == "late" and truth[job].job.revision > detail:
            box.put(change(f"q/{job}", truth[job].job.revision - detail, WAITING))
        elif step == "open":
            box.open(name_of(f"q/{job}"), unasked)
            opened[job] += 1
        elif step == "read" and opened[job]:
            opened[job] -= 1
            box.put_snapshot(snapshot(f"q/{job}", truth[job].job.revision, truth[job].job.state))
        elif step == "take":
            collect(got, box.take(detail))
        assert all(len(chain) <= MAX_PER_JOB + 1 for chain in box._chains.values())
        assert box._bytes == sum(kept.size for chain in box._chains.values() for kept in chain)
    for job in "abc":
        for _ in range(opened[job]):
            box.put_snapshot(snapshot(f"q/{job}", truth[job].job.revision, truth[job].job.state))
    while taken := box.take():
        collect(got, taken)
    for job, heard in got.items():
        seen = [x.job.revision for x in heard if x.type != pb.CHANGE_TYPE_LOG]
        assert seen == sorted(seen)
        if truth[job].job.revision:
            last = next(x for x in reversed(heard) if x.type != pb.CHANGE_TYPE_LOG)
            assert (last.job.revision, last.job.state) == (truth[job].job.revision, truth[job].job.state)


def collect(got: dict[str, list[pb.JobChange]], taken: list[pb.JobChange]) -> None:
    for x in taken:
        got[x.job.name[-1]].append(x)


def test_after_a_doubt_an_older_state_of_a_followed_job_is_told_as_what_holds() -> None:
    box = Mailbox()
    for job in ("q/a", "q/b", "other/c"):
        box.open(name_of(job), unasked)
        box.put_snapshot(snapshot(job, 5))
    box.take()
    box.doubt("q")
    box.put(change("q/a", 5))
    assert box.take() == []
    box.put(change("q/a", 3))
    box.put(change("q/a", 2))
    box.put(change("q/b", 4, COMPLETED))
    box.put(change("other/c", 4))
    assert [(x.job.name, x.job.revision, x.type) for x in box.take()] == [
        (name_of("q/a"), 3, pb.CHANGE_TYPE_SNAPSHOT),
        (name_of("q/b"), 4, pb.CHANGE_TYPE_FINAL),
    ]


def test_what_happens_after_a_doubt_is_not_undone_by_a_reading_from_before_it() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 5))
    box.doubt("q")
    box.put(change("q/a", 8))
    box.put(change("q/a", 4))
    assert revisions(box) == [5, 8]


def test_a_second_snapshot_takes_the_place_of_what_was_lost_before_it_was_taken() -> None:
    box = Mailbox()
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 5))
    box.put(change("q/a", 7))
    box.open(name_of("q/a"), unasked)
    box.doubt("q")
    box.put_snapshot(snapshot("q/a", 4))
    box.put(change("q/a", 6))
    assert revisions(box) == [5, 4, 6]


def test_after_a_doubt_jobs_that_are_not_followed_by_name_begin_anew() -> None:
    box = Mailbox()
    box.put(change("q/a", 5))
    box.doubt("q")
    box.put(change("q/a", 4, WAITING))
    assert revisions(box) == [5, 4]


def shared() -> Mailbox:
    box = Mailbox(is_shared=True)
    box.follow_queue("q")
    return box


def told(box: Mailbox) -> list[tuple[int, int]]:
    return [(x.job.revision, x.audience) for x in box.take()]


ALL, OF_JOB, OF_MANY = pb.CHANGE_AUDIENCE_UNSPECIFIED, pb.CHANGE_AUDIENCE_JOB, pb.CHANGE_AUDIENCE_MANY


def test_an_answer_takes_nothing_from_those_who_follow_the_whole_queue() -> None:
    box = shared()
    box.put(change("q/a", 3, WAITING))
    assert told(box) == [(3, ALL)]
    box.open(name_of("q/a"), unasked)
    box.put(change("q/a", 4, ACTIVE))
    box.put_snapshot(snapshot("q/a", 6, COMPLETED))
    # These events come after what was read when they had happened.
    box.put(change("q/a", 5, WAITING))
    box.put(change("q/a", 6, COMPLETED))
    box.put(change("q/a", 6, COMPLETED))
    box.put(change("q/a", 7, WAITING))
    assert told(box) == [(6, OF_JOB), (4, OF_MANY), (5, OF_MANY), (6, OF_MANY), (7, ALL)]


def test_an_answer_that_says_nothing_new_is_the_only_word() -> None:
    box = shared()
    box.put(change("q/a", 3, COMPLETED))
    box.take()
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 3, COMPLETED))
    box.put(change("q/a", 3, COMPLETED))
    assert told(box) == [(3, OF_JOB)]


def test_a_change_of_labels_is_not_taken_for_progress() -> None:
    box = Mailbox()
    moved = change("q/a", 2, WAITING)
    moved.left.append("queues/q/labels/a=b")
    for each in (change("q/a", 1, WAITING), moved, change("q/a", 3, WAITING)):
        box.put(each)
    assert revisions(box) == [2, 3]


def test_a_shared_reader_that_falls_behind_has_the_answer_and_the_last_change_of_what_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    box = shared()
    box.open(name_of("q/a"), unasked)
    box.put_snapshot(snapshot("q/a", 6, COMPLETED))
    box.put(change("q/a", 5, ACTIVE))
    box.put(change("q/a", 6, COMPLETED))
    monkeypatch.setattr(module, "MAX_JOBS", 0)
    box.put(change("q/b", 1))
    taken = box.take()
    assert [(x.job.revision, x.audience) for x in taken if x.type != pb.CHANGE_TYPE_GAP] == [(6, OF_JOB), (6, OF_MANY)]
    assert pb.CHANGE_TYPE_GAP in [x.type for x in taken]


def test_a_shared_reader_of_jobs_alone_is_told_of_no_queue() -> None:
    box = Mailbox(is_shared=True)
    box.open(name_of("q/a"), unasked)
    box.put(change("q/a", 4, ACTIVE))
    box.put_snapshot(snapshot("q/a", 6, COMPLETED))
    box.put(change("q/a", 5, WAITING))
    assert told(box) == [(6, OF_JOB)]


def test_what_is_dropped_of_followed_jobs_is_a_gap_to_those_who_follow_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    monkeypatch.setattr(module, "MAX_BYTES_PER_FOLLOWED", 0)
    box, asked = shared(), []
    for job in ("q/a", "other/b"):
        box.open(name_of(job), lambda: asked.append(1))
        box.put_snapshot(snapshot(job, 5))
        box.put(change(job, 6, COMPLETED), 200)
    assert [x.job.name for x in box.take() if x.type == pb.CHANGE_TYPE_GAP] == ["queues/q"]
    assert asked
