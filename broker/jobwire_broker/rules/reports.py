"""What workers say of their jobs, checked and put into the form of the store. The stream and the unary calls share it."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.names import id_to_bytes
from jobwire_broker.store.arguments import BY_BACKOFF, PERMANENT, TurnItem
from jobwire_broker.store.codec import encode_lines

#: The largest result, as Welcome tells it.
MAX_RESULT_BYTES = 1 << 20
MAX_PROGRESS_DATA = 4096
MAX_PROGRESS_MESSAGE = 512
MAX_TYPE, MAX_MESSAGE, MAX_STACK = 128, 2048, 8192
MAX_LINES, MAX_LINE = 100, 2048
MAX_SEQUENCE = (1 << 53) - 1
MAX_CHECKPOINT_BYTES = 1 << 16
MAX_RETRY_AFTER_MS = 30 * 86_400_000
MAX_SNOOZE_MS = 365 * 86_400_000
MAX_LIMITED_MS = 86_400_000


def duration_ms(duration: Duration, field: str, *, low_ms: int, high_ms: int) -> int:
    """A duration in milliseconds, rounded up. Raises InvalidField when it is out of its bounds."""
    seconds, nanos = duration.seconds, duration.nanos
    if not -1_000_000_000 < nanos < 1_000_000_000 or (seconds and nanos and (seconds < 0) != (nanos < 0)):
        raise InvalidField(f"{field} is no duration: nanos must be under a second and have the sign of seconds", field=field)
    ms = seconds * 1000 + (-(-nanos // 1_000_000) if nanos > 0 else nanos // 1_000_000)
    if not low_ms <= ms <= high_ms:
        raise InvalidField(f"{field} must be from {span(low_ms)} to {span(high_ms)}; it is {span(ms)}", field=field)
    return ms


def span(ms: int) -> str:
    """A length of time for people, in the largest unit that says it whole: 30 days, 1 h, 5 min, 90 s, 100 ms."""
    if ms == 86_400_000:
        return "1 day"
    for size, unit in ((86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def clip(text: str, limit: int) -> str:
    """At most `limit` bytes of a text, never half a character."""
    if len(text) * 4 <= limit:
        return text
    return text.encode()[:limit].decode(errors="ignore")


def _head(report: pb.Finish | pb.ProgressReport | pb.LogReport | pb.CheckpointReport | pb.CancelReceipt) -> tuple[bytes, int]:
    if report.token < 1:
        raise InvalidField(f"token must be that of a lease; it is {report.token}", field="token")
    return id_to_bytes(report.id), report.token


def progress_item(report: pb.ProgressReport) -> TurnItem:
    """Raises InvalidField."""
    raw_id, token = _head(report)
    progress = report.progress
    if not 0 <= progress.percent <= 100:
        raise InvalidField(f"progress.percent must be from 0 to 100; it is {progress.percent:g}", field="progress.percent")
    if len(progress.data_json.encode()) > MAX_PROGRESS_DATA:
        raise InvalidField(f"progress.data_json may have {MAX_PROGRESS_DATA} bytes; it has more", field="progress.data_json")
    rest = b""
    if progress.message or progress.data_json:
        rest = job_pb2.Progress(message=clip(progress.message, MAX_PROGRESS_MESSAGE), data_json=progress.data_json).SerializeToString()
    return TurnItem("P", raw_id, token, round(progress.percent * 100), rest)


def log_item(report: pb.LogReport) -> TurnItem:
    """Raises InvalidField."""
    raw_id, token = _head(report)
    if not 1 <= len(report.lines) <= MAX_LINES:
        raise InvalidField(f"lines may have 1 to {MAX_LINES} lines; it has {len(report.lines)}", field="lines")
    lines: list[job_pb2.LogLine] = []
    for i, x in enumerate(report.lines):
        if not (lines[-1].sequence if lines else 0) < x.sequence <= MAX_SEQUENCE:
            raise InvalidField(f"lines[{i}].sequence must count from 1 and grow; it is {x.sequence}", field=f"lines[{i}].sequence")
        lines.append(job_pb2.LogLine(sequence=x.sequence, level=clip(x.level, 16), message=clip(x.message, MAX_LINE), time_ms=x.time_ms))
    return TurnItem("L", raw_id, token, encode_lines(lines))


def checkpoint_item(report: pb.CheckpointReport) -> TurnItem:
    """Raises InvalidField."""
    raw_id, token = _head(report)
    checkpoint = report.checkpoint
    size = max(len(checkpoint.json.encode()), len(checkpoint.data))
    if size > MAX_CHECKPOINT_BYTES:
        message = f"checkpoint may have {MAX_CHECKPOINT_BYTES} bytes; it has {size}: leave a reference to it instead"
        raise InvalidField(message, field="checkpoint", reason="PAYLOAD_TOO_LARGE")
    if len(checkpoint.content_type) > 128 or not checkpoint.content_type.isprintable():
        raise InvalidField("checkpoint.content_type may have 128 printable characters", field="checkpoint.content_type")
    if not 0 <= report.sequence <= MAX_SEQUENCE:
        raise InvalidField(f"sequence must count from 1, or be 0 for none; it is {report.sequence}", field="sequence")
    return TurnItem("K", raw_id, token, report.sequence, checkpoint.SerializeToString() if checkpoint.WhichOneof("content") else b"")


def receipt_item(receipt: pb.CancelReceipt) -> TurnItem:
    """Raises InvalidField."""
    raw_id, token = _head(receipt)
    return TurnItem("X", raw_id, token)


def finish_item(finish: pb.Finish) -> TurnItem:
    """Raises InvalidField."""
    raw_id, token = _head(finish)
    outcome = finish.WhichOneof("outcome")
    if outcome == "complete":
        complete = finish.complete
        result = complete.result.SerializeToString() if complete.HasField("result") else b""
        if len(result) > MAX_RESULT_BYTES + 1024:
            message = f"complete.result may have {MAX_RESULT_BYTES} bytes; it has {len(result)}: give back a reference to it instead"
            raise InvalidField(message, field="complete.result", reason="PAYLOAD_TOO_LARGE")
        return TurnItem("C", raw_id, token, result)
    if outcome == "fail":
        return _fail_item(finish.fail, raw_id, token)
    if outcome == "snooze":
        if not finish.snooze.HasField("delay"):
            raise InvalidField("snooze.delay is required", field="snooze.delay")
        return TurnItem("S", raw_id, token, duration_ms(finish.snooze.delay, "snooze.delay", low_ms=0, high_ms=MAX_SNOOZE_MS))
    if outcome == "limit_group":
        if not finish.limit_group.HasField("delay"):
            raise InvalidField("limit_group.delay is required", field="limit_group.delay")
        return TurnItem("G", raw_id, token, duration_ms(finish.limit_group.delay, "limit_group.delay", low_ms=0, high_ms=MAX_LIMITED_MS))
    if outcome == "release":
        return TurnItem("R", raw_id, token, "NO_HANDLER" if finish.release.reason == pb.RELEASE_REASON_NO_HANDLER else "")
    raise InvalidField("outcome must be exactly one of complete, fail, snooze, release, limit_group", field="outcome")


def _fail_item(fail: pb.Fail, raw_id: bytes, token: int) -> TurnItem:
    failure = job_pb2.Failure(
        type=clip(fail.failure.type, MAX_TYPE),
        message=clip(fail.failure.message, MAX_MESSAGE),
        stack=clip(fail.failure.stack, MAX_STACK),
    )
    wait_ms = BY_BACKOFF
    if fail.HasField("retry_after"):
        wait_ms = duration_ms(fail.retry_after, "fail.retry_after", low_ms=0, high_ms=MAX_RETRY_AFTER_MS)
    return TurnItem("F", raw_id, token, failure.SerializeToString(), PERMANENT if fail.permanent else wait_ms)
