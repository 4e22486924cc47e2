"""What a handler sees of its job, and how it is told to give up."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker import Cancelled, CancelReason, Job, PayloadError, Permanent, Retry, Snooze
from jobwire_worker._outcomes import MESSAGE_LIMIT_BYTES, STACK_LIMIT_BYTES, Failed


class Reports(list[Any]):
    def put(self, item: Any, /) -> None:
        self.append(item)


def job(**fields: Any) -> tuple[Job, Reports]:
    reports = Reports()
    given: dict[str, Any] = {"queue": "q", "id": "a", "token": 7, "job_name": "n", "attempt": 2, "max_attempts": 3, "priority": 5, **fields}
    return Job(pb.Delivery(**given), reports), reports


def test_a_job_says_where_it_is_from() -> None:
    it, _ = job()
    assert (it.name, it.queue, it.id, it.job_name) == ("queues/q/jobs/a", "q", "a", "n")
    assert (it.token, it.attempt, it.max_attempts, it.last_attempt, it.priority) == (7, 2, 3, False, 5)
    assert job(attempt=3)[0].last_attempt
    assert (it.group, it.labels) == ("", {})
    it = job(group="acme", labels={"a": "1"})[0]
    assert (it.group, it.labels) == ("acme", {"a": "1"})


def test_the_payload_is_json_bytes_or_nothing() -> None:
    assert job(payload={"json": '{"a":1}'})[0].payload == {"a": 1}
    assert job(payload={"data": b"\xff"})[0].payload == b"\xff"
    assert job()[0].payload is None
    with pytest.raises(PayloadError):
        _ = job(payload={"json": "{"})[0].payload


def test_progress_never_falls_and_the_latest_message_wins() -> None:
    it, reports = job()
    it.progress(40, "first")
    it.progress(30, "second")
    assert len(reports) == 1, "one word to the stream, however many calls"
    progress, lines, _ = it._take_reports()
    assert progress is not None
    assert (progress.percent, progress.message, list(lines)) == (40, "second", [])
    assert it._take_reports() == (None, [], None)
    it.progress(40, "third")
    assert len(reports) == 2


def test_progress_is_kept_within_its_bounds() -> None:
    it, _ = job()
    it.progress(-5, "é" * 1000)
    progress, _, _ = it._take_reports()
    assert progress is not None
    assert (progress.percent, len(progress.message.encode())) == (0, 512)
    it.progress(1000)
    progress, _, _ = it._take_reports()
    assert progress is not None
    assert progress.percent == 100
    with pytest.raises(ValueError, match="4096 bytes"):
        it.progress(50, data="x" * 4096)
    with pytest.raises(ValueError, match="nan"):
        it.progress(float("nan"))


def test_the_latest_checkpoint_is_sent_once() -> None:
    it, reports = job()
    it.save_checkpoint({"page": 1})
    it.save_checkpoint({"page": 2})
    assert len(reports) == 1
    assert it._take_reports() == (None, [], job_pb2.Payload(json='{"page":2}'))
    it.log("more")
    assert it._take_reports()[2] is None
    it.save_checkpoint(b"\xff")
    assert it._take_reports()[2] == job_pb2.Payload(data=b"\xff")
    it.save_checkpoint(None)
    assert it._take_reports()[2] == job_pb2.Payload()


def test_a_checkpoint_over_its_bound_or_of_no_json_is_refused() -> None:
    it, reports = job()
    it.save_checkpoint("x" * 65_534)
    for value, error in (("x" * 65_535, ValueError), (bytes(65_537), ValueError), (object(), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            it.save_checkpoint(value)
    assert len(reports) == 1


@pytest.mark.parametrize(
    ("checkpoint", "value"),
    [(None, None), (job_pb2.Payload(json='{"page":2}'), {"page": 2}), (job_pb2.Payload(json="null"), None), (job_pb2.Payload(data=b"\xff"), b"\xff")],
)
def test_a_handler_sees_what_the_attempt_before_left(checkpoint: job_pb2.Payload | None, value: object) -> None:
    it, _ = job(checkpoint=checkpoint)
    assert it.checkpoint == value


def test_log_lines_are_numbered_and_the_latest_thousand_kept() -> None:
    it, _ = job()
    for number in range(1200):
        it.log(f"line {number}", level="debug")
    _, lines, _ = it._take_reports()
    assert [line.sequence for line in lines] == list(range(201, 1201))
    assert all(line.time_ms > 0 for line in lines)
    with pytest.raises(ValueError, match="level"):
        it.log("x", level="loud")


def test_a_cancellation_is_falsy_until_it_is_told() -> None:
    it, _ = job()
    assert not it.cancelled
    it.check_cancelled()
    it.cancelled._set(CancelReason.REQUESTED, timedelta(seconds=5))
    assert it.cancelled
    assert (it.cancelled.reason, it.cancelled.grace) == (CancelReason.REQUESTED, timedelta(seconds=5))
    with pytest.raises(Cancelled):
        it.check_cancelled()


def test_an_uncertain_lease_may_pass_and_a_definite_reason_does_not() -> None:
    it, _ = job()
    it.cancelled._set(CancelReason.LEASE_UNCERTAIN)
    assert it.cancelled
    it.check_cancelled()
    it.cancelled._clear_uncertain()
    assert not it.cancelled
    it.cancelled._set(CancelReason.TIMEOUT)
    it.cancelled._set(CancelReason.LEASE_UNCERTAIN)
    it.cancelled._clear_uncertain()
    reasons = [it.cancelled.reason]
    it.cancelled._set(CancelReason.STALE_LEASE)
    it.cancelled._set(CancelReason.REQUESTED)
    reasons.append(it.cancelled.reason)
    assert reasons == [CancelReason.TIMEOUT, CancelReason.STALE_LEASE]


async def test_a_cancellation_can_be_awaited_and_waited_for() -> None:
    it, _ = job()
    waiting = asyncio.create_task(it.cancelled.wait())
    blocked = asyncio.create_task(asyncio.to_thread(it.cancelled.wait_in_thread, 5))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    threading.Thread(target=it.cancelled._set, args=(CancelReason.REQUESTED,)).start()
    assert await waiting is await blocked is CancelReason.REQUESTED
    assert await it.cancelled.wait() is CancelReason.REQUESTED
    assert job()[0].cancelled.wait_in_thread(0.01) is None


@pytest.mark.parametrize("after", [-1, timedelta(days=31), float("nan"), float("inf"), 1e30])
def test_a_retry_that_no_broker_takes_is_refused_where_it_is_raised(after: Any) -> None:
    with pytest.raises(ValueError, match="from 0 to 30 days"):
        Retry(after=after)


def test_a_snooze_is_at_most_a_year() -> None:
    assert Snooze(timedelta(days=365)).after == timedelta(days=365)
    with pytest.raises(ValueError, match="365 days"):
        Snooze(timedelta(days=366))


def test_outcomes_have_sentences() -> None:
    assert (str(Permanent("why")), str(Retry("why", after=3)), str(Snooze(3))) == ("why", "why", "snoozed for 0:00:03")


def test_a_failure_is_cut_to_what_is_kept_and_never_in_the_middle_of_a_character() -> None:
    failed = Failed("T" * 500, "é" * 5000 + "\ud800", stack="début" * 5000 + "end")
    finish = pb.Finish()
    failed.write(finish)
    failure = finish.fail.failure
    assert (len(failure.type), len(failure.message.encode())) == (128, MESSAGE_LIMIT_BYTES)
    assert len(failure.stack.encode()) <= STACK_LIMIT_BYTES
    assert failure.stack.endswith("end")
    assert finish.ByteSize() <= failed.size_bytes
