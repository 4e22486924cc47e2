"""From what gRPC raises to the tree of errors.py."""

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from jobwire.v1 import error_pb2, job_service_pb2

from jobwire_client.errors import BY_REASON, FieldViolation, InvalidRequest, JobwireError, NotFound, QueueUnavailable, ServerError

_DETAILS = "grpc-status-details-bin"
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "Address resolution failed", "Name resolution failure")
"""How gRPC begins the message of a call that found no connection. A text that is not known means "unknown", which is the safe side."""

_BY_CODE: dict[grpc.StatusCode, type[JobwireError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
}
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes that, when no reason comes with them, say that there was no answer: a broker that ends cancels its calls, one that is stuck lets them time out."""


def error_of(failure: grpc.aio.AioRpcError, target: str) -> JobwireError:
    """The error that a failed call stands for; `target` is whom it asked."""
    status = _status(failure)
    info, violations, retry = _details(status)
    code = failure.code()
    message = (status.message if status else "") or failure.details() or code.name
    kind = BY_REASON.get(info.reason)
    if kind is QueueUnavailable or (kind is None and code in _UNAVAILABLE):
        return _unavailable(failure, message, info, retry, target)
    known = kind or _BY_CODE.get(code, ServerError)
    retry_after = retry.retry_delay.ToTimedelta() if retry else None
    return known(message, reason=info.reason or code.name, metadata=info.metadata, violations=violations, retry_after=retry_after)


def error_of_item(item: job_service_pb2.ItemError) -> JobwireError:
    """The error that a refused item of a batch stands for."""
    kind = BY_REASON.get(item.reason, ServerError)
    if item.field:
        return kind(item.message, reason=item.reason, violations=[FieldViolation(item.field, item.message)])
    return kind(item.message, reason=item.reason)


def _unavailable(failure: grpc.aio.AioRpcError, message: str, info: error_pb2.ErrorInfo, retry: error_pb2.RetryInfo | None, target: str) -> QueueUnavailable:
    if info.reason:
        said_no = info.metadata.get("accepted") == "no"
    else:
        said_no = failure.code() is grpc.StatusCode.UNAVAILABLE and message.startswith(_NEVER_SENT)
        message = f"no broker answers at {target}: {_short(failure.code(), message)}"
    return QueueUnavailable(
        message,
        accepted="no" if said_no else "unknown",
        reason=info.reason,
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta() if retry else None,
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


def _details(status: error_pb2.ErrorStatus | None) -> tuple[error_pb2.ErrorInfo, list[FieldViolation], error_pb2.RetryInfo | None]:
    info, violations, retry = error_pb2.ErrorInfo(), list[FieldViolation](), None
    for detail in status.details if status else ():
        kind = _kind(detail)
        if kind == "google.rpc.ErrorInfo":
            info = error_pb2.ErrorInfo.FromString(detail.value)
        elif kind == "google.rpc.BadRequest":
            violations = [FieldViolation(v.field, v.description) for v in error_pb2.BadRequest.FromString(detail.value).field_violations]
        elif kind == "google.rpc.RetryInfo":
            retry = error_pb2.RetryInfo.FromString(detail.value)
    return info, violations, retry


def _kind(detail: AnyMessage) -> str:
    return detail.type_url.rpartition("/")[2]
