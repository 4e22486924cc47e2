"""Errors as the outside sees them: RFC 9457 problem details, made from gRPC statuses and their details.

One table maps the codes. Three reasons have a status of their own: a payload over the limit is 413, as any body over a limit is; a verb that does not fit
the job's state is 409, since nothing is wrong with the request, and so is a session where nobody has to say who they are. Everything else follows
google.rpc's mapping, in which a failed precondition is 400.
"""

import json
import math
import re
from dataclasses import dataclass, field
from http import HTTPStatus

import grpc
from google.protobuf.message import DecodeError
from jobwire.v1.error_pb2 import BadRequest, ErrorInfo, ErrorStatus, QuotaFailure, RetryInfo
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

_STATUS_OF = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}
_STATUS_OF_REASON = {"PAYLOAD_TOO_LARGE": 413, "WRONG_STATE": 409, "NO_AUTHENTICATION": 409}
_OURS = "jobwire"
_SNAKE = re.compile("_([a-z0-9])")
_OUTER = re.compile(r"^(job|jobs\[\d+\]|queue|group)\.")
_TOPICS = re.compile(r"^names\b")
_RETRY_MS = 1_000
"""What `Retry-After` says when the broker itself could not be asked."""


@dataclass(frozen=True)
class Violation:
    """One field that is out of its bounds."""

    field: str
    description: str


@dataclass(frozen=True)
class UsedUp:
    """One thing of which there is no more: a queue's depth, the store's memory, a stream's topics."""

    subject: str
    description: str


@dataclass(eq=False)
class Problem(Exception):
    """Raised when a request cannot be answered. Shown as `application/problem+json`."""

    status: int
    detail: str
    reason: str = ""
    code: str = ""
    violations: tuple[Violation, ...] = ()
    quota: tuple[UsedUp, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.detail

    def body(self, instance: str) -> dict[str, object]:
        """The members of the problem. `instance` is the path that was asked for, without its query."""
        members: dict[str, object] = {"type": "about:blank", "title": _title(self.status), "status": self.status, "detail": self.detail, "instance": instance}
        optional = {
            "code": self.code,
            "reason": self.reason,
            "metadata": self.metadata,
            "violations": [{"field": v.field, "description": v.description} for v in self.violations],
            "quota": [{"subject": used.subject, "description": used.description} for used in self.quota],
            "retryAfterMs": self.retry_after_ms,
        }
        return members | {name: value for name, value in optional.items() if value}

    def response(self, instance: str) -> Response:
        """The whole answer."""
        headers = {"Cache-Control": "no-store", **self.headers}
        if self.status == 401:
            headers.setdefault("WWW-Authenticate", 'Bearer realm="jobwire"')
        if self.retry_after_ms is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_ms / 1000)))
        content = json.dumps(self.body(instance), ensure_ascii=True, separators=(",", ":"))
        return Response(content, self.status, headers, media_type=MEDIA_TYPE)


def from_rpc(error: grpc.aio.AioRpcError) -> Problem:
    """Make a problem of a failed call to the broker."""
    code = error.code()
    details = details_of(error)
    status = _STATUS_OF_REASON.get(details.reason) or _STATUS_OF.get(code, 500)
    sentence = error.details() or ""
    if not details.reason:
        sentence = _without_internals(code, sentence)
    for path in details.paths:
        sentence = in_rest(sentence, path)
    retry_ms = details.retry_after_ms
    if retry_ms is None and status in (429, 503):
        retry_ms = _RETRY_MS
    return Problem(
        status,
        sentence,
        reason=details.reason or ("BROKER_UNAVAILABLE" if code is grpc.StatusCode.UNAVAILABLE else ""),
        code=code.name.lower(),
        violations=details.violations,
        quota=details.quota,
        metadata=details.metadata,
        retry_after_ms=retry_ms,
    )


@dataclass
class Details:
    """What the trailer of a failed call says beside code and sentence."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    paths: tuple[str, ...] = ()
    """The fields of the violations, as the contract names them."""
    quota: tuple[UsedUp, ...] = ()
    retry_after_ms: int | None = None


def details_of(error: grpc.aio.AioRpcError) -> Details:
    """Read `grpc-status-details-bin`. Nothing there, or nothing that can be read, gives empty details."""
    details = Details()
    for detail in _status_of(error).details:
        match detail.type_url.rpartition("/")[2]:
            case "google.rpc.ErrorInfo":
                info = ErrorInfo.FromString(detail.value)
                if info.domain == _OURS:
                    details.reason, details.metadata = info.reason, dict(info.metadata)
            case "google.rpc.BadRequest":
                bad = BadRequest.FromString(detail.value)
                details.paths = tuple(v.field for v in bad.field_violations)
                details.violations = tuple(Violation(json_path(v.field), in_rest(v.description, v.field)) for v in bad.field_violations)
            case "google.rpc.QuotaFailure":
                details.quota = tuple(UsedUp(v.subject, v.description) for v in QuotaFailure.FromString(detail.value).violations)
            case "google.rpc.RetryInfo":
                details.retry_after_ms = RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds()
    return details


def json_path(path: str) -> str:
    """A field's path as REST knows it: in proto JSON names, of the body itself where the contract says `job`, `jobs[7]`, `queue` or `group`, and `topics` for
    the `names` of what a token lets watch.
    """
    return _SNAKE.sub(lambda match: match[1].upper(), _TOPICS.sub("topics", _OUTER.sub("", path)))


def in_rest(sentence: str, path: str) -> str:
    """What the broker says of a field, by the field's name in REST."""
    return sentence.replace(path, json_path(path)) if path else sentence


def _status_of(error: grpc.aio.AioRpcError) -> ErrorStatus:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return ErrorStatus.FromString(value)
            except DecodeError:
                break
    return ErrorStatus()


def _without_internals(code: grpc.StatusCode, sentence: str) -> str:
    """A status without our reason comes from the library, and its sentence may hold addresses or stack traces."""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return "The broker cannot be reached."
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "The broker did not answer in time."
        case grpc.StatusCode.UNKNOWN | grpc.StatusCode.INTERNAL | grpc.StatusCode.DATA_LOSS:
            return "Something went wrong inside."
        case _:
            return sentence


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client Closed Request" if status == 499 else "Error"
