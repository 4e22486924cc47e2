"""What a caller says of a job, and what travels."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jobwire.v1 import job_pb2, job_service_pb2
from jobwire_client import Backoff, InvalidRequest, JobSpec, Priority
from jobwire_client._payload import from_message
from jobwire_client._spec import encode_spec
from jobwire_client.errors import PayloadTooLarge


@dataclass
class Size:
    width: int
    name: str


@dataclass
class Photo:
    path: str
    sizes: list[Size]


def sent(**fields: Any) -> job_pb2.JobSpec:
    """The job as a broker reads it."""
    frame = encode_spec(JobSpec(**({"queue": "q", "job_name": "h"} | fields)), "id1")
    (job,) = job_service_pb2.EnqueueStreamRequest.FromString(frame).jobs
    return job


def test_joined_frames_are_a_batch() -> None:
    specs = [JobSpec("q", "h", "x" * length, priority=length) for length in (0, 1, 100, 127, 128, 300, 20_000)]
    frames = b"".join(encode_spec(spec, f"id{number}") for number, spec in enumerate(specs))
    expected = job_service_pb2.EnqueueStreamRequest(
        jobs=[
            job_pb2.JobSpec(queue="q", id=f"id{number}", job_name="h", payload=job_pb2.Payload(json=f'"{spec.payload}"'), priority=len(spec.payload))
            for number, spec in enumerate(specs)
        ]
    )
    assert job_service_pb2.EnqueueStreamRequest.FromString(frames) == expected
    assert frames == expected.SerializeToString()


def test_what_is_not_said_is_not_sent() -> None:
    assert sent() == job_pb2.JobSpec(queue="q", id="id1", job_name="h")


def test_what_a_job_says_of_rules_is_sent_behind_the_rest() -> None:
    rules: dict[str, Any] = {"group": "acme", "labels": {"b": "2", "a": ""}, "required_labels": {"gpu": "a100"}, "units": 3}
    assert sent(**rules, attempts=2) == job_pb2.JobSpec(queue="q", id="id1", job_name="h", attempts=2, **rules)
    assert sent(labels={}, required_labels={}) == sent()


def test_rules_of_time_are_sent() -> None:
    date = datetime(2030, 1, 2, tzinfo=UTC)
    job = sent(timeout=1.5, total_timeout=timedelta(hours=1), expires_at=date, permanent_errors=("A", "B"), backoff=Backoff(delays=[1, 60], jitter=0))
    assert (job.timeout.ToMilliseconds(), job.total_timeout.ToSeconds(), job.expires_at.ToDatetime(UTC)) == (1500, 3600, date)
    assert list(job.permanent_errors) == ["A", "B"]
    assert [delay.seconds for delay in job.backoff.delays] == [1, 60]
    assert (job.backoff.HasField("base"), job.backoff.factor, job.backoff.jitter) == (False, 0, 0)
    assert sent(expires_in=2).expires_in.seconds == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": "1s"},
        {"expires_at": datetime(2030, 1, 2)},
        {"expires_at": datetime(2030, 1, 2, tzinfo=UTC), "expires_in": 1},
        {"permanent_errors": "ValueError"},
        {"permanent_errors": [7]},
        {"backoff": Backoff(delays=["1s"])},  # type: ignore[list-item]  # a mistake that callers make
    ],
)
def test_rules_of_time_that_can_not_be_said_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sent(**fields)


@pytest.mark.parametrize("fields", [{"units": 0}, {"units": True}, {"labels": {"a": 1}}, {"labels": ["a"]}, {"group": 7}])
def test_rules_that_can_not_be_said_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sent(**fields)


@pytest.mark.parametrize(
    ("given", "expected"), [(0, 0), (-3, -3), (Priority.HIGH, 1), ("critical", 0), ("HIGH", 1), ("normal", 5), ("Medium", 5), ("low", 10), ("batch", 20)]
)
def test_a_priority_is_a_number_or_a_name(given: int | str, expected: int) -> None:
    job = sent(priority=given)
    assert job.HasField("priority")
    assert job.priority == expected


@pytest.mark.parametrize("delay", [timedelta(seconds=1.5), 1.5])
def test_a_delay_is_a_timedelta_or_seconds(delay: timedelta | float) -> None:
    assert sent(delay=delay).delay.ToTimedelta() == timedelta(seconds=1.5)


def test_a_date_is_sent_in_utc() -> None:
    due = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert sent(delay_until=due).delay_until.ToDatetime(tzinfo=UTC) == due


def test_a_backoff_says_only_what_it_must() -> None:
    assert sent(backoff=Backoff()).backoff == job_pb2.Backoff(base=sent(delay=2).delay, factor=2.0)
    exact = sent(backoff=Backoff(base=timedelta(0), factor=1, max_delay=5, jitter=0)).backoff
    assert exact.HasField("base")
    assert exact.HasField("jitter")
    assert exact.max_delay.seconds == 5


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"priority": "urgent"}, "critical, high, normal"),
        ({"priority": True}, "bool"),
        ({"priority": 2**40}, "priority must be a whole number of 32 bits; it is 1099511627776"),
        ({"priority": 1.5}, "float"),
        ({"expires_at": "2030-01-01"}, "expires_at must be a datetime with a time zone"),
        ({"timeout": "10s"}, "'10s' is no length of time; give seconds or a timedelta"),
        ({"delay": 1, "delay_until": datetime.now(UTC)}, "not both"),
        ({"delay_until": datetime(2030, 1, 1)}, "time zone"),
        ({"attempts": 0}, "at least 1"),
        ({"attempts": True}, "at least 1"),
        ({"queue": 7}, "can't be sent"),
        ({"queue": "\ud800"}, "can't be sent"),
        ({"payload": float("nan")}, "JSON"),
        ({"payload": {"a": "\ud83d"}}, "surrogates"),
        ({"payload": {1, 2}}, "neither JSON nor a dataclass"),
        ({"payload": object()}, "neither JSON nor a dataclass"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_a_hint(fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(InvalidRequest, match=hint):
        sent(**fields)


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(InvalidRequest):
        sent(payload=loop)


@pytest.mark.parametrize("payload", [0, False, "", [], {}, "höhe", {"a": [1, 2.5, None, True]}])
def test_json_comes_back_as_it_was(payload: object) -> None:
    job = sent(payload=payload)
    assert job.payload.WhichOneof("content") == "json"
    assert from_message(job.payload) == payload


@pytest.mark.parametrize("payload", [b"\x00\xff", bytearray(b"x"), memoryview(b"y"), b""])
def test_bytes_travel_as_they_are(payload: bytes) -> None:
    job = sent(payload=payload)
    assert job.payload.WhichOneof("content") == "data"
    assert from_message(job.payload) == bytes(payload)


def test_dataclasses_are_sent_as_json_however_deep() -> None:
    job = sent(payload={"photo": Photo("sea.jpg", [Size(64, "small")])})
    assert from_message(job.payload) == {"photo": {"path": "sea.jpg", "sizes": [{"width": 64, "name": "small"}]}}


def test_no_payload_is_none() -> None:
    assert from_message(sent().payload) is None


def test_a_payload_that_is_no_json_after_all_comes_as_text() -> None:
    assert from_message(job_pb2.Payload(json="{")) == "{"


def test_a_group_that_is_given_and_empty_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="group must not be empty; leave it out for a job of no group"):
        sent(group="")


def test_an_id_that_is_given_and_empty_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="id must not be empty; leave it out to have one made"):
        encode_spec(JobSpec("q", "h"), "")


def test_a_job_that_no_call_can_carry_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PayloadTooLarge, match="8388608"):
        encode_spec(JobSpec("q", "h", b"x" * (8 * 1024 * 1024)), "id1")
