"""The error tree: complete, documented, and rebuilt from what travels."""

import copy
import inspect
import pickle
import re
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import jobwire_client
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from jobwire.v1 import error_pb2, job_service_pb2
from jobwire_client import (
    FieldViolation,
    InvalidRequest,
    JobNotFound,
    JobwireError,
    QueueFull,
    QueueUnavailable,
    ServerError,
    StoreFull,
    UsedUp,
    WaitTimeout,
    WrongState,
    errors,
)
from jobwire_client._status import error_of, error_of_item

PROTO = Path(__file__).resolve().parents[3] / "proto/jobwire/v1/error.proto"


def failed(code: grpc.StatusCode, text: str = "no", details: list[Message] | None = None) -> grpc.aio.AioRpcError:
    """What gRPC raises when a broker answers like this."""
    trailers = grpc.aio.Metadata()
    if details is not None:
        status = error_pb2.ErrorStatus(code=code.value[0], message=text)
        for detail in details:
            status.details.append(AnyMessage(type_url=f"type.googleapis.com/google.rpc.{type(detail).__name__}", value=detail.SerializeToString()))
        trailers.add("grpc-status-details-bin", status.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, text)


def test_every_reason_of_the_contract_has_its_class() -> None:
    reasons = set(re.findall(r"^//   ([A-Z_]+)  +[A-Z_]+  ", PROTO.read_text(), re.MULTILINE)) | {"DURABILITY_UNSUPPORTED"}
    assert len(reasons) > 15
    assert set(errors.BY_REASON) == reasons


def test_every_error_is_in_the_documented_tree() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, JobwireError)}
    assert kinds == set(re.findall(r"^[ │├└─]*([A-Z]\w+)", errors.__doc__.split("What can go wrong")[1].split("`BY_REASON`")[0], re.MULTILINE))
    assert kinds <= set(jobwire_client.__all__)


def test_an_error_is_rebuilt_from_its_reason() -> None:
    error = error_of(
        failed(grpc.StatusCode.FAILED_PRECONDITION, "it is completed", [error_pb2.ErrorInfo(reason="WRONG_STATE", metadata={"state": "COMPLETED"})]), "b:1"
    )
    assert type(error) is WrongState
    assert (str(error), error.reason, error.state) == ("it is completed", "WRONG_STATE", "completed")


def test_the_fields_that_are_wrong_come_along() -> None:
    violations = error_pb2.BadRequest(field_violations=[error_pb2.BadRequest.FieldViolation(field="job.queue", description="too long")])
    error = error_of(failed(grpc.StatusCode.INVALID_ARGUMENT, details=[error_pb2.ErrorInfo(reason="INVALID_FIELD"), violations]), "b:1")
    assert type(error) is InvalidRequest
    assert error.violations == (FieldViolation("job.queue", "too long"),)


def test_the_servers_wish_for_a_pause_comes_along() -> None:
    pause = error_pb2.RetryInfo(retry_delay=Duration(seconds=3))
    error = error_of(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[error_pb2.ErrorInfo(reason="STORE_FULL"), pause]), "b:1")
    assert type(error) is StoreFull
    assert error.retry_after == timedelta(seconds=3)


def test_what_is_used_up_comes_along() -> None:
    used_up = error_pb2.QuotaFailure(violations=[error_pb2.QuotaFailure.Violation(subject="queues/mail", description="it is full")])
    error = error_of(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[error_pb2.ErrorInfo(reason="QUEUE_FULL"), used_up]), "b:1")
    assert type(error) is QueueFull
    assert error.quota == (UsedUp("queues/mail", "it is full"),)
    full = job_service_pb2.ItemError(code=8, reason="QUEUE_FULL", message="it is full", metadata={"quota": "queues/mail"}, retry_after=Duration(seconds=1))
    item = error_of_item(full)
    assert (item.quota, item.retry_after) == (error.quota, timedelta(seconds=1))


@pytest.mark.parametrize(("said", "expected"), [("no", "no"), ("unknown", "unknown"), ("", "unknown"), ("perhaps", "unknown")])
def test_accepted_is_no_only_when_the_broker_says_so(said: str, expected: str) -> None:
    info = error_pb2.ErrorInfo(reason="STORE_UNAVAILABLE", metadata={"accepted": said} if said else {})
    error = error_of(failed(grpc.StatusCode.UNAVAILABLE, details=[info]), "b:1")
    assert isinstance(error, QueueUnavailable)
    assert error.accepted == expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused (111)", "no"),
        (grpc.StatusCode.UNAVAILABLE, "DNS resolution failed for nowhere:1: domain name not found", "no"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "unknown"),
        (grpc.StatusCode.UNAVAILABLE, "a text that no version has had yet", "unknown"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "unknown"),
        (grpc.StatusCode.CANCELLED, "the server ended", "unknown"),
    ],
)
def test_without_details_accepted_is_no_only_when_there_was_no_connection(code: grpc.StatusCode, text: str, expected: str) -> None:
    error = error_of(failed(code, text), "b:1")
    assert isinstance(error, QueueUnavailable)
    assert error.accepted == expected
    assert "b:1" in str(error)


def test_an_error_that_nobody_knows_keeps_its_code() -> None:
    error = error_of(failed(grpc.StatusCode.UNIMPLEMENTED, "not served yet"), "b:1")
    assert type(error) is ServerError
    assert (str(error), error.reason) == ("not served yet", "UNIMPLEMENTED")


def test_details_that_are_garbage_do_not_hide_the_error() -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = error_of(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, "broken"), "b:1")
    assert (type(error), str(error)) == (ServerError, "broken")


def test_a_refused_item_names_its_field_and_not_its_place_among_the_jobs_of_others() -> None:
    message = "jobs[3].priority must be at most 9"
    error = error_of_item(job_service_pb2.ItemError(code=3, reason="INVALID_FIELD", field="jobs[3].priority", message=message))
    assert (type(error), str(error)) == (InvalidRequest, "priority must be at most 9")
    assert error.violations == (FieldViolation("priority", "priority must be at most 9"),)


def test_a_wait_that_timed_out_is_a_timeout_error() -> None:
    assert issubclass(WaitTimeout, TimeoutError)


def test_copies_and_pickles_keep_all_attributes() -> None:
    error = QueueUnavailable("away", accepted="no", reason="STORE_UNAVAILABLE", metadata={"accepted": "no"}, retry_after=timedelta(seconds=1))
    error.id = "a"
    for twin in (error.again(), copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert twin is not error
        assert (type(twin), str(twin), vars(twin)) == (QueueUnavailable, "away", vars(error))
    gone = JobNotFound("gone", metadata={"state": "JOB_STATE_FAILED"})
    assert gone.again().state == "failed"
