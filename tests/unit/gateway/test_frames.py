"""Frames are what EventSource reads, whatever a job carries."""

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1.job_pb2 import Failure, Job, JobCounts, JobState, LogLine, Payload, Progress
from jobwire.v1.queue_service_pb2 import Queue
from jobwire_gateway import frames
from jobwire_gateway.cursors import UNKNOWN, Cursor, cursor_of
from jobwire_gateway.jobs import STATES, job_json, queue_json, state_of
from jobwire_gateway.json_text import JsonAnswer

from .reading import events, job


def test_a_frame_has_an_id_and_data_and_no_event_line() -> None:
    frame = frames.update(job(1_700_000_000_000_001))
    assert frame.data.startswith(b'id: 1700000000000001\ndata: {"type":"update",')
    assert frame.data.endswith(b"}\n\n")
    assert b"event:" not in frame.data


def test_ids_need_no_preflight_and_come_back_as_they_went() -> None:
    for frame, cursor in ((frames.update(job(42)), Cursor(42, end=False)), (frames.final(job(43)), Cursor(43, end=True))):
        (event,) = events(frame.data)
        assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", event.id)
        assert cursor_of(event.id) == cursor


@pytest.mark.parametrize("text", ["abc", "-5", "5.", "5.fin", "5\n", "9" * 20, "٣", "5 ", "01a2:5"])
def test_an_id_that_no_gateway_sent_is_known_as_such(text: str) -> None:
    assert cursor_of(text) == UNKNOWN
    assert cursor_of("") is None


def test_the_json_of_a_frame_is_what_stands_in_its_data() -> None:
    frame = frames.update(job(42))
    assert frame.data == b"id: 42\ndata: " + frame.json + b"\n\n"
    assert frame.with_id("7-00") == b"id: 7-00\ndata: " + frame.json + b"\n\n"


@given(st.text(), st.text())
def test_whatever_text_a_worker_sends_stays_on_one_line(message: str, kind: str) -> None:
    try:
        of = Job(name="queues/q/jobs/j", progress=Progress(message=message), failure=Failure(type=kind))
    except (UnicodeEncodeError, ValueError):
        return
    (event,) = events(frames.update(of).data)
    assert event.data["progress"]["message"] == message
    assert event.data.get("failure", {}).get("type", "") == kind


HALVES = st.text(st.characters(categories=["Cs", "L", "Zs"]), max_size=20)


@given(HALVES, st.dictionaries(HALVES, HALVES, max_size=3))
def test_half_of_a_surrogate_pair_in_what_a_worker_sends_is_shown_as_it_came(text: str, members: dict[str, str]) -> None:
    sent = {"text": text, **members}
    content = Payload(json=json.dumps(sent))
    of = Job(name="queues/q/jobs/j", payload=content, result=content, checkpoint=content, progress=Progress(data_json=content.json))
    for frame in (frames.update(of), frames.final(of)):
        (event,) = events(frame.data)
        assert [event.data["payload"], event.data["result"], event.data["checkpoint"], event.data["progress"]["data"]] == [sent] * 4
    assert json.loads(bytes(JsonAnswer(job_json(of)).body))["result"] == sent


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_whatever_depth_can_be_read_can_be_written(opening: str) -> None:
    closing = {"[": "]"}.get(opening, "}")
    for depth in (400, 499, 500, 501, 502, *range(900, 1_000, 3)):
        text = opening * depth + "0" + closing * depth
        (event,) = events(frames.final(Job(name="queues/q/jobs/j", result=Payload(json=text))).data)
        assert ("result" in event.data) is (depth <= 500)
        assert ("resultText" in event.data) is (depth > 500)


def test_a_job_over_the_bound_comes_without_its_result_and_says_where_it_is() -> None:
    of = job(1, JobState.JOB_STATE_COMPLETED)
    of.result.json = '"' + "x" * 200_000 + '"'
    (event,) = events(frames.final(of).data)
    assert "result" not in event.data
    assert (event.data["truncated"], event.data["url"]) == (True, "/v1/queues/q/jobs/j")


@given(st.lists(st.tuples(st.sampled_from(("x", "\0", "\\", "ü", "\u2028")), st.integers(0, 2_048)), min_size=1, max_size=200))
@settings(max_examples=30, deadline=None)
def test_lines_of_a_log_come_in_as_many_frames_as_they_need(texts: list[tuple[str, int]]) -> None:
    lines = [LogLine(sequence=n, message=(char * size).encode()[:2_048].decode(errors="ignore"), cursor=n) for n, (char, size) in enumerate(texts, 1)]
    made = list(frames.logs(job(1, queue="q" * 100, job_id="j" * 128), lines))
    assert all(len(frame.with_id(str(2**63))) <= frames.MAX_FRAME_BYTES for frame, _ in made)
    seen = [event.data for frame, _ in made for event in events(frame.data)]
    assert [line["message"] for data in seen for line in data["lines"]] == [line.message for line in lines]
    assert [cursor for _, cursor in made] == [data["lines"][-1]["cursor"] for data in seen]
    assert sum(frame.lines for frame, _ in made) == len(lines)
    sizes = [len(frame.data) for frame, _ in made]
    assert all(one + following > frames.MAX_FRAME_BYTES - 2_048 for one, following in itertools.pairwise(sizes))


def test_json_is_embedded_with_exact_numbers() -> None:
    of = Job(payload=Payload(json='{"big": 123456789012345678901234567890, "text": "ü"}'), progress=Progress(data_json="[1]"))
    members = job_json(of)
    assert members["payload"] == {"big": 123456789012345678901234567890, "text": "ü"}
    assert members["progress"] == {"percent": 0.0, "message": "", "data": [1]}


@pytest.mark.parametrize("text", ["NaN", "[1e999]", "{", "-Infinity", "[" * 100_000])
def test_what_is_no_json_is_shown_as_text(text: str) -> None:
    assert job_json(Job(result=Payload(json=text)))["resultText"] == text


def test_bytes_are_base64_with_their_type() -> None:
    members = job_json(Job(payload=Payload(data=b"\x00\xff", content_type="image/webp")))
    assert (members["payloadBase64"], members["payloadContentType"]) == ("AP8=", "image/webp")


def test_states_are_words_in_lower_case_and_unknown_ones_are_shown_as_they_are() -> None:
    assert STATES == ("delayed", "waiting", "blocked", "active", "completed", "failed", "cancelled", "expired")
    assert state_of("waiting") == JobState.JOB_STATE_WAITING
    assert [state_of(word) for word in ("WAITING", "removed", "", "stalled")] == [None] * 4
    of = Job()
    of.ParseFromString(b"\x28\x63")
    assert job_json(of)["state"] == 99


def test_counts_are_all_there_by_their_json_names() -> None:
    counts = queue_json(Queue(counts=JobCounts(waiting=2, completed_total=7)))["counts"]
    assert isinstance(counts, dict)
    assert (counts["waiting"], counts["active"], counts["completedTotal"], len(counts)) == (2, 0, 7, 11)
