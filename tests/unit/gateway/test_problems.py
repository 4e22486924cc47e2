"""A failed call becomes a problem that says what to do, and nothing of the inside."""

import json

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from jobwire.v1.error_pb2 import BadRequest, ErrorInfo, ErrorStatus, RetryInfo
from jobwire_gateway.problems import Violation, from_rpc


def failed(code: grpc.StatusCode, sentence: str, *details: Message, trailer: bytes | None = None) -> grpc.aio.AioRpcError:
    packed = [Any(type_url=f"type.googleapis.com/google.rpc.{type(detail).__name__}", value=detail.SerializeToString()) for detail in details]
    status = ErrorStatus(code=code.value[0], message=sentence, details=packed).SerializeToString()
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", trailer if trailer is not None else status))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=sentence)


def test_details_travel_into_the_problem() -> None:
    problem = from_rpc(
        failed(
            grpc.StatusCode.INVALID_ARGUMENT,
            "priority is out of its bounds",
            ErrorInfo(reason="INVALID_FIELD", domain="jobwire", metadata={"limit": "5"}),
            BadRequest(field_violations=[BadRequest.FieldViolation(field="job.delay_until", description="at most 5")]),
        )
    )
    body = problem.body("/v1/queues/q/jobs")
    assert body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "priority is out of its bounds",
        "instance": "/v1/queues/q/jobs",
        "code": "invalid_argument",
        "reason": "INVALID_FIELD",
        "metadata": {"limit": "5"},
        "violations": [{"field": "delayUntil", "description": "at most 5"}],
    }


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("job.total_timeout", "totalTimeout"),
        ("queue.policy.limit.rate", "policy.limit.rate"),
        ("group.weight", "weight"),
        ("page_token", "pageToken"),
        ("names", "topics"),
        ("names[3]", "topics[3]"),
    ],
)
def test_a_field_is_called_everywhere_as_rest_calls_it(path: str, shown: str) -> None:
    sentence = f"{path} must be another"
    problem = from_rpc(
        failed(
            grpc.StatusCode.INVALID_ARGUMENT,
            sentence,
            ErrorInfo(reason="INVALID_FIELD", domain="jobwire"),
            BadRequest(field_violations=[BadRequest.FieldViolation(field=path, description=sentence)]),
        )
    )
    assert (problem.detail, problem.violations) == (f"{shown} must be another", (Violation(shown, f"{shown} must be another"),))


def test_a_retry_hint_becomes_retry_after_in_whole_seconds() -> None:
    error = failed(
        grpc.StatusCode.UNAVAILABLE,
        "The store is away.",
        ErrorInfo(reason="STORE_UNAVAILABLE", domain="jobwire"),
        RetryInfo(retry_delay=Duration(nanos=200_000_000)),
    )
    response = from_rpc(error).response("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert json.loads(bytes(response.body))["retryAfterMs"] == 200
    assert response.headers["content-type"] == "application/problem+json"


def test_a_payload_over_the_limit_is_413() -> None:
    assert from_rpc(failed(grpc.StatusCode.INVALID_ARGUMENT, "too large", ErrorInfo(reason="PAYLOAD_TOO_LARGE", domain="jobwire"))).status == 413


def test_a_verb_that_does_not_fit_the_state_is_409() -> None:
    assert from_rpc(failed(grpc.StatusCode.FAILED_PRECONDITION, "it runs", ErrorInfo(reason="WRONG_STATE", domain="jobwire"))).status == 409


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.ALREADY_EXISTS, 409),
        (grpc.StatusCode.FAILED_PRECONDITION, 400),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.UNIMPLEMENTED, 501),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.INTERNAL, 500),
    ],
)
def test_codes_map_as_google_says(code: grpc.StatusCode, status: int) -> None:
    assert from_rpc(failed(code, "x")).status == status


def test_a_broker_that_cannot_be_reached_is_said_without_addresses() -> None:
    problem = from_rpc(failed(grpc.StatusCode.UNAVAILABLE, "failed to connect to ipv4:10.0.0.7:7410"))
    assert (problem.reason, problem.retry_after_ms) == ("BROKER_UNAVAILABLE", 1_000)
    assert "10.0.0.7" not in problem.detail


def test_a_trailer_that_cannot_be_read_and_foreign_details_are_passed_over() -> None:
    assert from_rpc(failed(grpc.StatusCode.NOT_FOUND, "gone", trailer=b"\xff\xff\xff")).reason == ""
    assert from_rpc(failed(grpc.StatusCode.NOT_FOUND, "gone", ErrorInfo(reason="X", domain="elsewhere"))).reason == ""
