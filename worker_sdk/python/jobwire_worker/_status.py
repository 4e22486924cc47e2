"""Why a stream ended, read from gRPC's status and the error details that brokers send with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from jobwire.v1 import error_pb2

DETAILS_TRAILER = "grpc-status-details-bin"
SESSION_MOVED = "SESSION_MOVED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The end of a stream."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    """ErrorInfo.reason; empty when there is none."""
    retry_after_s: float = 0.0
    """RetryInfo; 0 when there is none."""

    @property
    def superseded(self) -> bool:
        """Whether another stream took the session over."""
        return self.code is grpc.StatusCode.ABORTED and self.reason in ("", SESSION_MOVED)

    @property
    def our_fault(self) -> bool:
        """Whether trying again is not likely to help."""
        return self.code in _OUR_FAULTS


_OUR_FAULTS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


def read_status(code: grpc.StatusCode, message: str | None, trailers: Iterable[tuple[str, str | bytes]] | None) -> Status:
    """Details that cannot be read are left out: the code alone is enough to go on."""
    reason, retry_after_s = "", 0.0
    for key, value in trailers or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            try:
                reason, retry_after_s = _read_details(value)
            except DecodeError:
                continue
    return Status(code=code, message=message or "", reason=reason, retry_after_s=retry_after_s)


def _read_details(data: bytes) -> tuple[str, float]:
    reason, retry_after_s = "", 0.0
    for detail in error_pb2.ErrorStatus.FromString(data).details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == "google.rpc.ErrorInfo":
            reason = error_pb2.ErrorInfo.FromString(detail.value).reason
        elif kind == "google.rpc.RetryInfo":
            retry_after_s = error_pb2.RetryInfo.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9
    return reason, retry_after_s
