"""What waits for one reader stays bounded, and what matters arrives."""

from hypothesis import given
from hypothesis import strategies as st
from jobwire.v1.job_pb2 import JobState, LogLine
from jobwire_gateway import frames
from jobwire_gateway.frames import Frame, Kind
from jobwire_gateway.mailbox import GATEWAY, Bounds, Mailbox

from .reading import events, job, types

ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
NAME = "queues/q/jobs/j"
AFTER_COLLAPSE = 5


class Box(Mailbox):
    """A mailbox of one topic, whose bytes are read."""

    def add(self, frame: Frame) -> None:
        self.put(GATEWAY if frame.kind is Kind.DEGRADED else NAME, frame)

    def read(self) -> bytes:
        return b"".join(frame.data for frame in self.take())


def box(max_frames: int = 100, max_bytes: int = 1_000_000) -> Box:
    return Box(Bounds(max_frames, max_bytes), lambda: None)


def test_progress_of_one_job_is_conflated_to_the_latest() -> None:
    mailbox = box()
    for revision in range(1, 50):
        mailbox.add(frames.update(job(revision, percent=revision)))
    assert [event.data["progress"]["percent"] for event in events(mailbox.read())] == [49]


def test_a_change_of_state_between_two_reports_of_progress_is_kept() -> None:
    mailbox = box()
    for revision, state in enumerate((ACTIVE, ACTIVE, DELAYED, ACTIVE, ACTIVE), 1):
        mailbox.add(frames.update(job(revision, state)))
    assert [(event.data["state"], event.data["revision"]) for event in events(mailbox.read())] == [("active", 2), ("delayed", 3), ("active", 5)]


def test_two_jobs_are_conflated_each_by_itself() -> None:
    mailbox = box()
    for revision in range(1, 11):
        mailbox.add(frames.update(job(revision, job_id=f"j{revision % 2}")))
    assert [event.data["revision"] for event in events(mailbox.read())] == [9, 10]


def test_what_does_not_fit_collapses_into_a_gap_and_the_newest_state() -> None:
    mailbox = box(max_frames=4)
    for revision in range(1, 10):
        mailbox.add(frames.update(job(revision, (ACTIVE, DELAYED)[revision % 2])))
    assert types(mailbox.read())[0] == "gap"
    mailbox.add(frames.update(job(10)))
    assert types(mailbox.read()) == ["update"]


def test_a_notice_that_overflows_the_mailbox_does_not_drive_out_the_end() -> None:
    mailbox = box(max_frames=2)
    mailbox.add(frames.update(job(1)))
    mailbox.add(frames.final(job(2, COMPLETED)))
    mailbox.add(frames.degraded(True, "broker_unavailable"))
    assert types(mailbox.read()) == ["gap", "final", "degraded"]


def test_log_lines_go_first_and_are_counted() -> None:
    mailbox = box(max_frames=5)
    mailbox.add(frames.update(job(1)))
    for number in range(8):
        mailbox.add(frames.log(job(1), [LogLine(sequence=number, message="line")]))
    seen = events(mailbox.read())
    assert [event.type for event in seen[:2]] == ["log", "update"]
    assert seen[0].data["dropped"] == 5


def test_after_the_end_nothing_is_taken_in() -> None:
    mailbox = box()
    mailbox.add(frames.final(job(1, COMPLETED)))
    mailbox.end()
    mailbox.add(frames.update(job(2)))
    assert types(mailbox.read()) == ["final"]
    assert mailbox.read() == b""


@given(
    st.lists(st.tuples(st.sampled_from(("progress", "state", "log", "notice", "take")), st.integers(0, 3_000))),
    st.integers(6, 12),
    st.integers(2_000, 10_000),
)
def test_bounds_hold_and_the_end_arrives_whatever_comes(script: list[tuple[str, int]], max_frames: int, max_bytes: int) -> None:
    mailbox = box(max_frames, max_bytes)
    taken = b""
    revision = 1
    largest = 0
    for what, size in script:
        revision += 1
        frame = _frame(what, revision, size)
        if frame is None:
            taken += mailbox.read()
            continue
        mailbox.add(frame)
        largest = max(largest, len(frame.data))
        assert len(mailbox) <= max_frames
        assert mailbox.waiting_bytes <= max(max_bytes, AFTER_COLLAPSE * max(largest, 200))
    mailbox.add(frames.final(job(revision + 1, COMPLETED)))
    mailbox.end()
    seen = events(taken + mailbox.read())
    revisions = [event.data["revision"] for event in seen if event.type in ("update", "final")]
    assert revisions == sorted(set(revisions))
    assert [event.type for event in seen].count("final") == 1
    assert revisions[-1] == revision + 1


def _frame(what: str, revision: int, size: int) -> Frame | None:
    match what:
        case "progress":
            return frames.update(job(revision, percent=revision % 100))
        case "state":
            return frames.update(job(revision, (ACTIVE, DELAYED)[revision % 2]))
        case "log":
            return frames.log(job(revision), [LogLine(sequence=revision, message="x" * size)])
        case "notice":
            return frames.degraded(bool(size % 2), "store_unavailable")
        case _:
            return None
