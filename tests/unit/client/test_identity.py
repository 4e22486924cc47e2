"""Identities, retention and changes of jobs, as they travel."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, job_service_pb2
from jobwire_client import Debounce, InvalidRequest, JobSpec, Throttle
from jobwire_client._spec import encode_spec
from jobwire_client._update import update_request

NAME = "queues/q/jobs/a"


def sent(**fields: Any) -> job_pb2.JobSpec:
    (job,) = job_service_pb2.EnqueueStreamRequest.FromString(encode_spec(JobSpec("q", "h", **fields), "id1")).jobs
    job.ClearField("queue")
    job.ClearField("id")
    job.ClearField("job_name")
    return job


def test_each_identity_is_sent_in_its_field() -> None:
    second = Duration(seconds=1)
    assert sent(idempotency_key="k") == job_pb2.JobSpec(idempotency=job_pb2.Idempotency(key="k"))
    assert sent(idempotency_key="k", idempotency_ttl=1) == job_pb2.JobSpec(idempotency=job_pb2.Idempotency(key="k", ttl=second))
    assert sent(unique="k") == job_pb2.JobSpec(unique=job_pb2.Unique(key="k"))
    assert sent(unique=True) == job_pb2.JobSpec(unique=job_pb2.Unique())
    assert sent(debounce=Debounce("k", 1, timedelta(seconds=2))) == job_pb2.JobSpec(
        debounce=job_pb2.Debounce(key="k", delay=second, max_wait=Duration(seconds=2))
    )
    assert sent(throttle=Throttle("k", 1)) == job_pb2.JobSpec(throttle=job_pb2.Throttle(key="k", period=second))
    assert sent(retention=0) == job_pb2.JobSpec(retention=Duration())
    assert sent(retention=1, unique="k", attempts=2) == job_pb2.JobSpec(retention=second, unique=job_pb2.Unique(key="k"), attempts=2)
    assert sent() == job_pb2.JobSpec()


@pytest.mark.parametrize(
    "fields",
    [{"idempotency_key": "a", "unique": True}, {"idempotency_ttl": 5}, {"unique": ""}, {"debounce": "k"}, {"idempotency_key": 7}, {"retention": "1d"}],
)
def test_what_can_not_be_said_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sent(**fields)


def test_a_change_names_what_it_changes_and_nothing_else() -> None:
    request = update_request(NAME, {"a": 1}, "high", None, ...)
    assert (list(request.update_mask.paths), request.job.payload.json, request.job.priority) == (["payload", "priority", "due_time"], '{"a":1}', 1)
    assert not request.job.HasField("due_time")
    due = datetime(2030, 1, 1, tzinfo=UTC)
    request = update_request(NAME, ..., ..., due, {"a": "b"})
    assert (list(request.update_mask.paths), request.job.due_time.ToDatetime(UTC), dict(request.job.labels)) == (["due_time", "labels"], due, {"a": "b"})
    later = update_request(NAME, ..., ..., timedelta(hours=1), ...).job.due_time.ToDatetime(UTC)
    assert timedelta(minutes=59) < later - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize("given", [(..., ..., ..., ...), (..., "soon", ..., ...), (..., ..., datetime(2030, 1, 1), ...), (object(), ..., ..., ...)])
def test_a_change_that_can_not_be_sent_is_refused(given: tuple[Any, Any, Any, Any]) -> None:
    with pytest.raises(InvalidRequest):
        update_request(NAME, *given)
