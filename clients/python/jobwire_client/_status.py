"""From what gRPC raises to the tree of errors.py."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from jobwire.v1 import error_pb2, job_service_pb2

from jobwire_client.errors import BY_REASON, Accepted, FieldViolation, InvalidRequest, JobwireError, NotFound, QueueUnavailable, ServerError, UsedUp

_DETAILS = "grpc-status-details-bin"
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "Address resolution failed", "Name resolution failure")
"""How gRPC begins the message of a call that found no connection. A text that is not known means "unknown", which is the safe side."""

_BY_CODE: dict[grpc.StatusCode, type[JobwireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_IN_BATCH = re.compile(r"\bjobs\[\d+\]\.")
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes that, when no reason comes with them, say that there was no answer: a broker that ends cancels its calls, one that is stuck lets them time out."""


def error_of(failure: grpc.aio.AioRpcError, target: str) -> JobwireError:
    """The error that a failed call stands for; `target` is whom it asked."""
    status = _status(failure) or error_pb2.ErrorStatus()
    details = _details(status)
    code = failure.code()
    message = status.message or failure.details() or code.name
    if details.is_from_broker or not (code in _UNAVAILABLE or _is_broken_off(code, message)):
        return _said(code, message, details)
    said_no = code is grpc.StatusCode.UNAVAILABLE and message.startswith(_NEVER_SENT)
    return QueueUnavailable(f"no broker answers at {target}: {_short(code, message)}", accepted="no" if said_no else "unknown")


def _is_broken_off(code: grpc.StatusCode, message: str) -> bool:
    """Whether gRPC itself says INTERNAL: its word for a stream whose connection broke while it wrote."""
    return code is grpc.StatusCode.INTERNAL and message.startswith("Internal error from Core")


def error_of_status(status: error_pb2.ErrorStatus) -> JobwireError:
    """The error that an answer of a stream carries."""
    return _said(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, _details(status))


def error_of_item(item: job_service_pb2.ItemError) -> JobwireError:
    """The error that a refused item of a batch stands for. It is the job's own: the place in a message that it shared says nothing to its caller."""
    kind = BY_REASON.get(item.reason, ServerError)
    message, field = _IN_BATCH.sub("", item.message), _IN_BATCH.sub("", item.field)
    violations = [FieldViolation(field, message)] if field else []
    quota = [UsedUp(item.metadata["quota"], message)] if "quota" in item.metadata else []
    retry_after = item.retry_after.ToTimedelta() if item.HasField("retry_after") else None
    return kind(message, reason=item.reason, violations=violations, metadata=dict(item.metadata), quota=quota, retry_after=retry_after)


@dataclass(frozen=True)
class _Details:
    """What the broker says of an error beside its code and sentence."""

    info: error_pb2.ErrorInfo
    violations: Sequence[FieldViolation]
    retry_after: timedelta | None
    quota: Sequence[UsedUp]

    @property
    def is_from_broker(self) -> bool:
        return bool(self.info.reason)


def _said(code: grpc.StatusCode, message: str, details: _Details) -> JobwireError:
    """The error that the broker itself has told of."""
    info = details.info
    kind = BY_REASON.get(info.reason) or _BY_CODE.get(code, ServerError)
    if kind is QueueUnavailable or (info.reason not in BY_REASON and code in _UNAVAILABLE):
        accepted: Accepted = "no" if info.metadata.get("accepted") == "no" else "unknown"
        return QueueUnavailable(message, accepted=accepted, reason=info.reason, metadata=info.metadata, retry_after=details.retry_after)
    return kind(
        message,
        reason=info.reason or code.name,
        metadata=info.metadata,
        violations=details.violations,
        retry_after=details.retry_after,
        quota=details.quota,
    )


def _short(code: grpc.StatusCode, message: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    return message.rpartition("last error: ")[2].rpartition(": ")[2] or message


def _status(failure: grpc.aio.AioRpcError) -> error_pb2.ErrorStatus | None:
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return error_pb2.ErrorStatus.FromString(value)
            except Exception:  # protobuf's DecodeError: somebody else's details are no reason to lose the error
                return None
    return None


def _details(status: error_pb2.ErrorStatus) -> _Details:
    info, violations, retry_after, quota = error_pb2.ErrorInfo(), list[FieldViolation](), None, list[UsedUp]()
    for detail in status.details:
        kind = _kind(detail)
        if kind == "google.rpc.ErrorInfo":
            info = error_pb2.ErrorInfo.FromString(detail.value)
        elif kind == "google.rpc.BadRequest":
            violations = [FieldViolation(v.field, v.description) for v in error_pb2.BadRequest.FromString(detail.value).field_violations]
        elif kind == "google.rpc.RetryInfo":
            retry_after = error_pb2.RetryInfo.FromString(detail.value).retry_delay.ToTimedelta()
        elif kind == "google.rpc.QuotaFailure":
            quota = [UsedUp(v.subject, v.description) for v in error_pb2.QuotaFailure.FromString(detail.value).violations]
    return _Details(info, violations, retry_after, quota)


def _kind(detail: AnyMessage) -> str:
    return detail.type_url.rpartition("/")[2]
