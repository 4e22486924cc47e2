"""What workers say of their jobs: checked, clipped, and put into the form of the store."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_broker.errors import InvalidField
from jobwire_broker.rules import reports
from jobwire_broker.rules.reports import checkpoint_item, clip, finish_item, log_item, progress_item, receipt_item, span


def finish(**outcome: Any) -> pb.Finish:
    return pb.Finish(queue="q", id="a", token=7, **outcome)


def progress(**fields: Any) -> pb.ProgressReport:
    return pb.ProgressReport(queue="q", id="a", token=7, progress=job_pb2.Progress(**fields))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (100, "100 ms"),
        (1500, "1500 ms"),
        (90_000, "90 s"),
        (300_000, "5 min"),
        (3_600_000, "1 h"),
        (86_400_000, "1 day"),
        (2_592_000_000, "30 days"),
    ],
)
def test_a_length_of_time_is_said_in_the_largest_unit_that_says_it_whole(ms: int, text: str) -> None:
    assert span(ms) == text


@settings(deadline=None)
@given(st.text(), st.integers(0, 50))
def test_a_clipped_text_is_its_beginning_and_within_its_limit(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert text.startswith(clipped)
    assert len(clipped.encode()) <= limit
    if len(text.encode()) <= limit:
        assert clipped == text
    else:
        assert len((clipped + text[len(clipped)]).encode()) > limit


@pytest.mark.parametrize(
    ("outcome", "item"),
    [
        ({"complete": pb.Complete()}, ("C", b"a", 7, b"", b"")),
        ({"complete": pb.Complete(result=job_pb2.Payload(json="1"))}, ("C", b"a", 7, b"\x0a\x011", b"")),
        ({"fail": pb.Fail()}, ("F", b"a", 7, b"", -1)),
        ({"fail": pb.Fail(failure=job_pb2.Failure(type="T"), permanent=True)}, ("F", b"a", 7, b"\x0a\x01T", -2)),
        ({"fail": pb.Fail(retry_after=Duration())}, ("F", b"a", 7, b"", 0)),
        ({"fail": pb.Fail(retry_after=Duration(seconds=3))}, ("F", b"a", 7, b"", 3000)),
        ({"snooze": pb.Snooze(delay=Duration(nanos=1))}, ("S", b"a", 7, 1, b"")),
        ({"release": pb.Release()}, ("R", b"a", 7, "", b"")),
        ({"release": pb.Release(reason=pb.RELEASE_REASON_NO_HANDLER)}, ("R", b"a", 7, "NO_HANDLER", b"")),
    ],
)
def test_each_outcome_has_its_item(outcome: dict[str, Any], item: tuple[Any, ...]) -> None:
    assert finish_item(finish(**outcome)) == item


def test_a_failure_is_clipped_and_takes_no_reason_from_a_worker() -> None:
    failure = job_pb2.Failure(type="t" * 999, message="é" * 9999, stack="s" * 99_999, reason="POISON")
    kept = job_pb2.Failure.FromString(finish_item(finish(fail=pb.Fail(failure=failure)))[3])  # type: ignore[arg-type]  # always bytes for F
    assert (len(kept.type), len(kept.message.encode()), len(kept.stack), kept.reason) == (128, 2048, 8192, "")


@pytest.mark.parametrize(("percent", "kept"), [(0, 0), (0.005, 0), (33.333, 3333), (99.999, 10_000), (100, 10_000)])
def test_progress_keeps_two_decimals(percent: float, kept: int) -> None:
    assert progress_item(progress(percent=percent)) == ("P", b"a", 7, kept, b"")


def test_progress_keeps_a_message_clipped_and_data_whole() -> None:
    item = progress_item(progress(percent=5, message="é" * 9999, data_json='{"n": 1}'))
    kept = job_pb2.Progress.FromString(item.b)  # type: ignore[arg-type]  # always bytes for P
    assert (len(kept.message.encode()), kept.data_json, kept.percent) == (512, '{"n": 1}', 0)


def test_log_lines_are_clipped() -> None:
    report = pb.LogReport(queue="q", id="a", token=7, lines=[job_pb2.LogLine(sequence=3, level="l" * 99, message="m" * 9999, time_ms=5)])
    item = log_item(report)
    assert isinstance(item.a, bytes)
    line = job_pb2.LogLine.FromString(item.a[10:])
    assert (int.from_bytes(item.a[:8], "big"), int.from_bytes(item.a[8:10], "big")) == (3, len(item.a) - 10)
    assert (item.kind, line.sequence, len(line.level), len(line.message), line.time_ms) == ("L", 3, 16, 2048, 5)


def checkpoint(**content: Any) -> pb.CheckpointReport:
    return pb.CheckpointReport(queue="q", id="a", token=7, sequence=2, checkpoint=job_pb2.Payload(**content))


def test_a_checkpoint_is_kept_as_it_came_and_an_empty_one_is_none() -> None:
    assert checkpoint_item(checkpoint(json="{}")) == ("K", b"a", 7, 2, job_pb2.Payload(json="{}").SerializeToString())
    assert checkpoint_item(checkpoint(data=b"", content_type="a/b")).b == job_pb2.Payload(data=b"", content_type="a/b").SerializeToString()
    assert checkpoint_item(checkpoint()).b == checkpoint_item(pb.CheckpointReport(queue="q", id="a", token=7)).b == b""
    assert len(str(checkpoint_item(checkpoint(data=bytes(65_536))).b)) > 65_536


def logged(*sequences: int) -> pb.LogReport:
    return pb.LogReport(queue="q", id="a", token=7, lines=[job_pb2.LogLine(sequence=sequence) for sequence in sequences])


@pytest.mark.parametrize(
    ("make", "report", "field"),
    [
        (finish_item, pb.Finish(queue="q", id="a", complete=pb.Complete()), "token"),
        (finish_item, pb.Finish(queue="q", id="a b", token=7, complete=pb.Complete()), "id"),
        (finish_item, finish(), "outcome"),
        (finish_item, finish(snooze=pb.Snooze()), "snooze.delay"),
        (finish_item, finish(snooze=pb.Snooze(delay=Duration(seconds=-1))), "snooze.delay"),
        (finish_item, finish(snooze=pb.Snooze(delay=Duration(seconds=366 * 86400))), "snooze.delay"),
        (finish_item, finish(fail=pb.Fail(retry_after=Duration(seconds=31 * 86400))), "fail.retry_after"),
        (finish_item, finish(complete=pb.Complete(result=job_pb2.Payload(data=bytes(reports.MAX_RESULT_BYTES + 2000)))), "complete.result"),
        (log_item, logged(), "lines"),
        (log_item, logged(*range(1, 102)), "lines"),
        (log_item, logged(0), "lines[0].sequence"),
        (log_item, logged(1, 1), "lines[1].sequence"),
        (log_item, logged(1, 1 << 53), "lines[1].sequence"),
        (checkpoint_item, checkpoint(data=bytes(65_537)), "checkpoint"),
        (checkpoint_item, checkpoint(json="é" * 32_769), "checkpoint"),
        (checkpoint_item, checkpoint(data=b"x", content_type="a" * 129), "checkpoint.content_type"),
        (checkpoint_item, pb.CheckpointReport(queue="q", id="a"), "token"),
        (checkpoint_item, pb.CheckpointReport(queue="q", id="a", token=7, sequence=-1), "sequence"),
        (checkpoint_item, pb.CheckpointReport(queue="q", id="a", token=7, sequence=1 << 53), "sequence"),
        (progress_item, progress(percent=-0.1), "progress.percent"),
        (progress_item, progress(percent=100.1), "progress.percent"),
        (progress_item, progress(percent=float("nan")), "progress.percent"),
        (progress_item, progress(percent=1, data_json="x" * 4097), "progress.data_json"),
        (progress_item, progress(percent=1, data_json="é" * 2049), "progress.data_json"),
        (log_item, pb.LogReport(queue="q", id="a", token=7), "lines"),
        (log_item, pb.LogReport(queue="q", id="a", token=7, lines=[job_pb2.LogLine()] * 101), "lines"),
        (receipt_item, pb.CancelReceipt(queue="q", id="a"), "token"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_by_name(make: Any, report: Any, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        make(report)
    assert caught.value.field == field
