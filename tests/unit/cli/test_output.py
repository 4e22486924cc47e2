"""The JSON of commands has the members that REST and the event streams have."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2, queue_service_pb2
from jobwire_cli import output
from jobwire_client import Enqueued, InvalidRequest
from jobwire_client._job import job_from
from jobwire_client._queues import queue_from
from jobwire_gateway import jobs as gateway
from rich.console import Console, RenderableType
from rich.text import Text


def moment(second: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(2026, 11, 22, 16, 0, second, 250_000, tzinfo=UTC))
    return stamp


def a_job() -> job_pb2.Job:
    return job_pb2.Job(
        name="queues/q/jobs/a",
        queue="q",
        id="a",
        job_name="h",
        state=job_pb2.JOB_STATE_ACTIVE,
        revision=1_795_365_835_668_697,
        priority=0,
        attempt=2,
        max_attempts=3,
        progress=job_pb2.Progress(percent=40, message="resizing", data_json='{"size":64}'),
        payload=job_pb2.Payload(json='{"a":[1,null]}'),
        failure=job_pb2.Failure(type="ValueError", message="no"),
        create_time=moment(0),
        start_time=moment(1),
        token=7,
        worker="w",
        cancel_requested=True,
        losses=1,
    )


def test_a_job_has_the_members_of_rest() -> None:
    message = a_job()
    assert output.job_json(job_from(message)) == _with_micros(gateway.job_json(message))


def test_a_job_that_has_ended_has_the_members_of_rest() -> None:
    message = a_job()
    message.MergeFrom(job_pb2.Job(state=job_pb2.JOB_STATE_COMPLETED, result=job_pb2.Payload(json="42"), finish_time=moment(2), due_time=moment(3)))
    assert output.job_json(job_from(message)) == _with_micros(gateway.job_json(message))


def test_a_job_that_says_everything_has_the_members_of_rest() -> None:
    message = a_job()
    message.MergeFrom(
        job_pb2.Job(
            priority=3,
            result=job_pb2.Payload(json="42"),
            due_time=moment(3),
            finish_time=moment(4),
            cancel_delivered=True,
            group="acme",
            labels={"plan": "free"},
            required_labels={"gpu": "a100"},
            units=3,
            expire_time=moment(5),
            timeout=Duration(seconds=30),
            total_timeout=Duration(seconds=90),
            attempts=[job_pb2.Attempt(number=1, token=6, worker="w", start_time=moment(1), end_time=moment(2), end=job_pb2.ATTEMPT_END_COMPLETED)],
            checkpoint=job_pb2.Payload(json='{"page":3}'),
            cancel_stage=job_pb2.CANCEL_STAGE_DELIVERED,
            cancel_time=moment(6),
            fingerprint="0123456789abcdef",
            resolution=job_pb2.Resolution(note="known", resolve_time=moment(7)),
            log_lines=12,
        )
    )
    assert {field.name for field in job_pb2.Job.DESCRIPTOR.fields} == {field.name for field, _ in message.ListFields()}
    assert output.job_json(job_from(message)) == _with_micros(gateway.job_json(message))


def test_a_job_that_says_nothing_has_the_members_of_rest() -> None:
    message = job_pb2.Job(name="queues/q/jobs/a", queue="q", id="a", state=job_pb2.JOB_STATE_WAITING)
    assert output.job_json(job_from(message)) == gateway.job_json(message)


@pytest.mark.parametrize("text", ["hello {", '"hello {"', "", "NaN", "1e999", "-Infinity", "[" * 5_000 + "]" * 5_000])
def test_what_is_no_json_has_the_members_of_rest(text: str) -> None:
    content = job_pb2.Payload(json=text)
    message = a_job()
    message.MergeFrom(job_pb2.Job(payload=content, result=content, checkpoint=content, progress=job_pb2.Progress(percent=40, data_json=text)))
    assert output.job_json(job_from(message)) == _with_micros(gateway.job_json(message))


def _with_micros(members: dict[str, object]) -> dict[str, object]:
    """Dates with six digits behind the point: protobuf writes three where those are enough."""
    found: dict[str, object] = json.loads(json.dumps(members).replace('.250Z"', '.250000Z"'))
    return found


def test_a_queue_has_the_members_of_rest() -> None:
    message = queue_service_pb2.Queue(name="queues/q", queue="q", paused=True, workers=2, counts=job_pb2.JobCounts(waiting=3, completed_total=9, total=3))
    assert output.queue_json(queue_from(message)) == gateway.queue_json(message)


def test_a_refused_enqueue_says_why() -> None:
    made = Enqueued("q", "a", "refused", InvalidRequest("too odd"))
    assert output.enqueued_json(made) == {"name": "queues/q/jobs/a", "queue": "q", "id": "a", "verdict": "refused", "error": "too odd"}


def test_a_failure_that_jobwire_gives_says_its_word_once() -> None:
    assert output.failure_line("TIMEOUT", "TIMEOUT", "too long") == "TIMEOUT: too long"
    assert output.failure_line("", "ValueError", "no address") == "ValueError: no address"


def test_half_a_surrogate_pair_is_shown_as_its_escape() -> None:
    assert output.json_text({"é": "\ud83d"}) == r'{"\u00e9":"\ud83d"}'
    assert output.json_text({"é": 1}) == '{"é":1}'


_COLUMNS = ("job", "state", "prio", "progress")
_ROWS = [("a", output.state_text("failed"), "5", ""), ("日本語", output.state_text("sleeping"), "-100", "40 % é\x07"), ("", output.state_text(""), "", "x")]


def _printed(table: RenderableType, width: int = 80, *, color: bool = False) -> str:
    shown = io.StringIO()
    Console(file=shown, width=width, force_terminal=color, color_system="standard" if color else None).print(table)
    return shown.getvalue()


def _cells(rows: Sequence[Sequence[str | Text]]) -> list[list[Text]]:
    return [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("width", [80, 36])
def test_a_table_that_has_room_is_made_of_lines_and_looks_the_same(width: int) -> None:
    lines = output._lines(_COLUMNS, _cells(_ROWS), width)
    assert lines is not None
    assert _printed(lines, width) == _printed(output._folded(_COLUMNS, _cells(_ROWS)), width)
    assert "\x1b[31mfailed\x1b[0m" in _printed(lines, width, color=True)


@pytest.mark.parametrize(("cell", "width"), [("two\nlines", 80), ("a\ttab", 80), ("x" * 81, 80), ("x", 20)])
def test_a_table_without_room_for_its_rows_is_folded(cell: str, width: int) -> None:
    assert output._lines(_COLUMNS, _cells([*_ROWS, (cell, "", "", "")]), width) is None
