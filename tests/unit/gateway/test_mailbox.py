"""What waits for one reader stays bounded, and what matters arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobwire.v1.job_pb2 import Job, JobState, LogLine
from jobwire_gateway import frames
from jobwire_gateway.frames import Frame, Kind
from jobwire_gateway.mailbox import GATEWAY, Bounds, Mailbox

from .reading import Event, events, job, types

ACTIVE, DELAYED, COMPLETED = JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED, JobState.JOB_STATE_COMPLETED
NAME = "queues/q/jobs/j"


class Box(Mailbox):
    """A mailbox of one topic, whose bytes are read."""

    def add(self, frame: Frame) -> None:
        self.put(GATEWAY if frame.kind is Kind.DEGRADED else NAME, frame)

    def read(self) -> bytes:
        return b"".join(frame.data for frame in self.take())


def one_log(of: Job, *lines: LogLine) -> Frame:
    ((frame, _),) = frames.logs(of, lines)
    return frame


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
    mailbox = box(max_frames=8)
    mailbox.add(frames.update(job(1)))
    for number in range(1, 20, 2):
        mailbox.add(one_log(job(1), LogLine(sequence=number), LogLine(sequence=number + 1)))
    seen = events(mailbox.read())
    assert [event.type for event in seen[:3]] == ["log", "update", "log"]
    shown = [line["sequence"] for event in seen[1:] for line in event.data.get("lines", ())]
    assert shown == list(range(seen[0].data["dropped"] + 1, 21))
    assert len(shown) >= 6


def test_lines_that_were_dropped_are_said_though_nothing_else_waits() -> None:
    mailbox = box(max_bytes=1_000)
    mailbox.put(NAME, one_log(job(1), LogLine(sequence=1, message="x" * 900)))
    mailbox.put("queues/q/jobs/k", frames.update(job(1, job_id="k")))
    mailbox.forget("queues/q/jobs/k")
    mailbox.add(frames.final(job(2, COMPLETED)))
    seen = events(mailbox.read())
    assert [(event.type, event.data.get("dropped")) for event in seen] == [("log", 1), ("final", None)]
    assert mailbox.take() == []


def test_every_answer_to_its_reader_stays_and_in_its_place() -> None:
    mailbox = box(max_frames=4)
    for number in range(6):
        mailbox.put(GATEWAY, frames.error(f"bad{number}", "INVALID_TOPIC", "no"))
    mailbox.put(NAME, frames.unsubscribed(NAME))
    mailbox.put(NAME, frames.connected(NAME, resumed=False, heartbeat_ms=1))
    for revision in range(1, 9):
        mailbox.add(frames.update(job(revision, (ACTIVE, DELAYED)[revision % 2])))
    seen = [(event.type, event.data["name"]) for event in events(mailbox.read())]
    assert [name for kind, name in seen if kind == "error"] == [f"bad{number}" for number in range(6)]
    assert [kind for kind, name in seen if name == NAME] == ["unsubscribed", "connected", "gap", "update"]


def test_an_end_is_not_replaced_by_what_another_topic_says_of_the_job_later() -> None:
    mailbox = box(max_frames=4)
    for revision in range(1, 6):
        mailbox.put("queues/q", frames.update(job(revision, (ACTIVE, DELAYED)[revision % 2], job_id="k")))
    mailbox.add(frames.final(job(9, COMPLETED)))
    mailbox.put("queues/q", frames.update(job(10, DELAYED)))
    assert [event.data["revision"] for event in events(mailbox.read()) if event.type == "final"] == [9]


def test_of_many_large_jobs_nothing_long_waits_and_where_it_is_is_said() -> None:
    mailbox = box(max_frames=50, max_bytes=100_000)
    for number in range(40):
        of = job(1, COMPLETED, job_id=str(number))
        of.result.json = '"' + "x" * 50_000 + '"'
        mailbox.put(of.name, frames.final(of))
        assert mailbox.waiting_bytes <= 200_000
    seen = events(mailbox.read())
    assert [(event.type, event.id) for event in seen] == [("final", "1.end")] * 40
    assert all("result" in event.data or event.data["url"] == f"/v1/{event.data['name']}" for event in seen)


def test_a_reader_of_more_than_fits_is_not_collapsed_anew_for_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    collapses = 0
    rightly = Mailbox._collapse

    def counting(mailbox: Mailbox) -> None:
        nonlocal collapses
        collapses += 1
        rightly(mailbox)

    monkeypatch.setattr(Mailbox, "_collapse", counting)
    mailbox = Mailbox(Bounds(40, 1_000_000), lambda: None)
    for revision in range(1, 1_001):
        of = job(revision, (ACTIVE, DELAYED)[revision // 100 % 2], job_id=str(revision % 100))
        mailbox.put(of.name, frames.update(of))
    assert collapses < 150


def test_after_the_end_nothing_is_taken_in() -> None:
    mailbox = box()
    mailbox.add(frames.final(job(1, COMPLETED)))
    mailbox.end()
    mailbox.add(frames.update(job(2)))
    assert types(mailbox.read()) == ["final"]
    assert mailbox.read() == b""


TOPICS = ("queues/q/jobs/a", "queues/q/jobs/b", "queues/q")


class Slow:
    """A reader of two jobs and a queue, what was put for it and what it has read."""

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self.mailbox = Mailbox(Bounds(max_frames, max_bytes), lambda: None)
        self.bounds = Bounds(max_frames, max_bytes)
        self.read = b""
        self.lines = dict.fromkeys(TOPICS, 0)
        self.answers: list[str] = []
        self.changes: dict[str, list[tuple[int, int]]] = {topic: [] for topic in TOPICS}
        self.revision = 1
        self.largest = 0

    def put(self, topic: str, what: str, size: int) -> None:
        self.revision += 1
        of = job(self.revision, (ACTIVE, DELAYED)[size % 2], percent=self.revision % 100, job_id="c" if topic == "queues/q" else topic[-1])
        match what:
            case "change":
                self.changes[topic].append((self.revision, size % 2))
                of.progress.message = "x" * size
                self._put(topic, frames.update(of))
            case "log":
                self.lines[topic] += 1 + size % 3
                self._put(topic, one_log(of, *[LogLine(sequence=n, message="x" * size) for n in range(1 + size % 3)]))
            case "notice":
                self._put(GATEWAY, frames.degraded(bool(size % 2), "store_unavailable"))
            case "answer":
                self.answers.append(f"{self.revision}")
                self._put(GATEWAY, frames.error(f"{self.revision}", "INVALID_TOPIC", "no"))
            case _:
                self.take()

    def take(self) -> None:
        self.read += b"".join(frame.data for frame in self.mailbox.take())

    def finish(self) -> list[Event]:
        for topic in TOPICS[:2]:
            self.revision += 1
            self._put(topic, frames.final(job(self.revision, COMPLETED, job_id=topic[-1])))
        self.mailbox.end()
        self.take()
        return events(self.read)

    def _put(self, topic: str, frame: Frame) -> None:
        self.mailbox.put(topic, frame)
        self.largest = max(self.largest, len(frame.data))
        waiting = min(len(self.answers), len(self.mailbox))
        left = 3 * len(TOPICS) + 2 + waiting
        assert len(self.mailbox) <= max(self.bounds.max_frames, left + self.bounds.max_frames // 4)
        assert self.mailbox.waiting_bytes <= max(self.bounds.max_bytes, len(TOPICS) * 3_000 + left * 200 + self.bounds.max_bytes // 4 + self.largest)


WHAT = ("change", "change", "log", "log", "notice", "answer", "take")


@given(st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from(WHAT), st.integers(0, 3_000)), max_size=80), st.integers(6, 12), st.integers(2_000, 10_000))
def test_bounds_hold_and_nothing_is_left_out_in_silence_whatever_comes(script: list[tuple[str, str, int]], max_frames: int, max_bytes: int) -> None:
    slow = Slow(max_frames, max_bytes)
    for topic, what, size in script:
        slow.put(topic, what, size)
    seen = slow.finish()
    assert [event.data["name"] for event in seen if event.type == "error"] == slow.answers
    for topic in TOPICS:
        name = "queues/q/jobs/c" if topic == "queues/q" else topic
        of_topic = [event for event in seen if event.data.get("name") in (name, topic)]
        logs = [event.data for event in of_topic if event.type == "log"]
        assert sum(len(data["lines"]) + data.get("dropped", 0) for data in logs) == slow.lines[topic]
        revisions = [event.data["revision"] for event in of_topic if event.type in ("update", "final")]
        assert revisions == sorted(set(revisions))
        if topic != "queues/q":
            assert [event.type for event in of_topic].count("final") == 1
            assert of_topic[-1].type == "final"
        elif slow.changes[topic]:
            assert revisions[-1] == slow.changes[topic][-1][0]
        assert not _skipped(slow.changes[topic], set(revisions)) or "gap" in [event.type for event in of_topic]


def _skipped(changes: list[tuple[int, int]], shown: set[int]) -> list[int]:
    """Changes that were not shown, and of which the next one does not say everything: it has another state, or is the end."""
    following = [*(state for _, state in changes[1:]), None]
    return [revision for (revision, state), later in zip(changes, following, strict=False) if revision not in shown and state != later]
