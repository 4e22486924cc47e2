"""The schemas say what is shown, and nothing that is not: each beside the contract's messages."""

from typing import Any

import jsonschema_rs
import pytest
from google.protobuf.message import Message
from jobwire.v1.admin_service_pb2 import GetServerInfoResponse, Worker
from jobwire.v1.job_pb2 import (
    ATTEMPT_END_TIMEOUT,
    CANCEL_STAGE_DELIVERED,
    CANCEL_STAGE_FORCED,
    Attempt,
    Failure,
    Job,
    JobCounts,
    JobState,
    LogLine,
    Payload,
    Progress,
    Resolution,
)
from jobwire.v1.job_service_pb2 import (
    HOLD_REASON_ACTIVE,
    BulkJobsResponse,
    BulkRun,
    ExplainJobResponse,
    FailureGroup,
    JobFilter,
    JobHold,
    JobHolder,
    ListLogsResponse,
)
from jobwire.v1.policy_pb2 import QUEUE_CLASS_HIGH, Limit, QueuePolicy
from jobwire.v1.queue_service_pb2 import ClassStats, Group, Queue
from jobwire.v1.worker_service_pb2 import Reserve
from jobwire_gateway.explanations import explanation_json
from jobwire_gateway.jobs import class_json, job_json, queue_json, server_json, worker_json
from jobwire_gateway.problems import Problem, UsedUp, Violation
from jobwire_gateway.schema_parts import ref
from jobwire_gateway.schemas import COMPONENTS

# What stands in the contract and is shown under other names, or what the gateway adds.
_CONTENT = {f"{name}{form}" for name in ("payload", "result", "checkpoint") for form in ("Text", "Base64", "ContentType")}


def checked(name: str, value: object) -> None:
    schema: dict[str, Any] = {**ref(name), "components": {"schemas": COMPONENTS}}
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)


def json_names(message: type[Message]) -> set[str]:
    return {field.json_name for field in message.DESCRIPTOR.fields}


def full_job(**changes: Any) -> Job:
    job = Job(name="queues/q/jobs/a", queue="q", id="a", job_name="t", state=JobState.JOB_STATE_FAILED, revision=1_795_365_091_344_543, priority=-3)
    job.progress.CopyFrom(Progress(percent=12.5, message="half", data_json='{"a":1}'))
    job.payload.CopyFrom(Payload(json='{"big":12345678901234567890}'))
    job.result.CopyFrom(Payload(data=b"\xff\x00", content_type="image/png"))
    job.failure.CopyFrom(Failure(type="E", message="m", stack="s", reason="POISON"))
    for date in (job.create_time, job.due_time, job.start_time, job.finish_time):
        date.GetCurrentTime()
    job.worker, job.cancel_requested, job.cancel_delivered, job.losses = "w", True, False, 2
    job.group, job.units, job.fingerprint, job.log_lines, job.cancel_stage = "acme", 2, "0" * 16, 7, CANCEL_STAGE_FORCED
    job.labels["a/b"] = "c"
    job.required_labels["gpu"] = ""
    for date in (job.expire_time, job.cancel_time, job.resolution.resolve_time):
        date.GetCurrentTime()
    for length in (job.timeout, job.total_timeout):
        length.FromMilliseconds(1500)
    job.attempts.add(number=1, end=ATTEMPT_END_TIMEOUT, failure=Failure(type="E"), token=5).start_time.GetCurrentTime()
    job.checkpoint.CopyFrom(Payload(json='{"page":3}'))
    job.MergeFrom(Job(**changes))
    return job


@pytest.mark.parametrize("job", [full_job(), Job(queue="q", id="a"), full_job(payload=Payload(json="{"), progress=Progress(data_json="["))])
def test_a_job_is_shown_as_its_schema_says(job: Job) -> None:
    shown = job_json(job)
    checked("Job", shown)
    assert set(shown) <= set(COMPONENTS["Job"]["properties"])


@pytest.mark.parametrize(
    ("name", "message", "added"),
    [
        ("Job", Job, _CONTENT),
        ("Explanation", ExplainJobResponse, set()),
        ("Hold", JobHold, set()),
        ("Holder", JobHolder, set()),
        ("Failure", Failure, set()),
        ("Counts", JobCounts, set()),
        ("Queue", Queue, set()),
        ("Policy", QueuePolicy, set()),
        ("Limit", Limit, set()),
        ("Attempt", Attempt, set()),
        ("Resolution", Resolution, set()),
        ("LogLine", LogLine, set()),
        ("Logs", ListLogsResponse, set()),
        ("FailureGroup", FailureGroup, set()),
        ("Bulk", BulkJobsResponse, set()),
        ("BulkRun", BulkRun, set()),
        ("JobFilter", JobFilter, set()),
        ("Group", Group, set()),
        ("Class", ClassStats, set()),
        ("Worker", Worker, set()),
        ("Reserve", Reserve, set()),
        ("Server", GetServerInfoResponse, {"gatewayVersion"}),
    ],
)
def test_a_schema_has_every_field_of_its_message(name: str, message: type[Message], added: set[str]) -> None:
    assert set(COMPONENTS[name]["properties"]) == json_names(message) | added


def test_a_whole_job_shows_every_member_that_its_schema_has() -> None:
    forms = {name for name in COMPONENTS["Job"]["properties"] if name.endswith(("Text", "Base64", "ContentType"))}
    assert set(COMPONENTS["Job"]["properties"]) - set(job_json(full_job())) == forms - {"resultBase64", "resultContentType"} | {"result"}


def test_the_rules_of_a_queue_are_shown_as_they_were_set() -> None:
    queue = Queue(name="queues/q", queue="q", more_workers_help=False)
    queue.policy.queue_class = QUEUE_CLASS_HIGH
    queue.policy.priority = 0
    queue.policy.job_limits["mail"].rate.count = 5
    queue.policy.job_limits["mail"].rate.period.FromMilliseconds(1)
    queue.policy.backoff.delays.add().FromSeconds(0)
    queue.policy.retention.failed.count = 0
    shown = queue_json(queue)
    checked("Queue", shown)
    assert shown["policy"] == {
        "queueClass": "high",
        "priority": 0,
        "backoff": {"delays": ["0s"]},
        "retention": {"failed": {"count": 0}},
        "jobLimits": {"mail": {"rate": {"count": 5, "period": "0.001s"}}},
    }
    assert (shown["rateIn"], shown["rateOut"]) == (0, 0)


def test_a_class_is_shown_with_its_zeros() -> None:
    shown = class_json(ClassStats(queue_class=QUEUE_CLASS_HIGH))
    checked("Class", shown)
    assert set(shown) == set(COMPONENTS["Class"]["properties"])


def test_queues_workers_and_servers_are_shown_as_their_schemas_say() -> None:
    worker = Worker(session="0" * 32, queues=["q"], reserved=[Reserve(queue="q", slots=2), Reserve(queue_class=QUEUE_CLASS_HIGH, slots=1)])
    worker.connect_time.GetCurrentTime()
    checked("Queue", queue_json(Queue(name="queues/q", queue="q", counts=JobCounts(waiting=1))))
    checked("Worker", worker_json(worker))
    checked("Server", {**server_json(GetServerInfoResponse()), "gatewayVersion": "1"})


def test_an_explanation_is_shown_as_its_schema_says_with_every_member_that_has_a_value() -> None:
    hold = JobHold(
        reason=HOLD_REASON_ACTIVE,
        message="m",
        jobs_before=2,
        holders=[JobHolder(session="0" * 32, alone=True)],
        cancel_stage=CANCEL_STAGE_DELIVERED,
        kept_for="queues/q/jobs/a",
    )
    for date in (hold.until, hold.since):
        date.GetCurrentTime()
    for span in (hold.cancel_left, hold.lease_left):
        span.FromMilliseconds(1500)
    shown: Any = explanation_json(ExplainJobResponse(summary="s", state=JobState.JOB_STATE_ACTIVE, holds=[hold]))
    checked("Explanation", shown)
    (only,) = shown["holds"]
    assert set(only) == set(COMPONENTS["Hold"]["properties"])
    assert set(only["holders"][0]) == set(COMPONENTS["Holder"]["properties"])


def test_a_problem_is_shown_as_its_schema_says() -> None:
    problem = Problem(400, "No.", reason="X", code="y", violations=(Violation("a", "b"),), quota=(UsedUp("a", "b"),), metadata={"c": "d"}, retry_after_ms=5)
    checked("Problem", problem.body("/"))
    assert set(problem.body("/")) == set(COMPONENTS["Problem"]["properties"])


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("EnqueueJob", {"jobName": "t", "delay": "315359999.5s"}, True),
        ("EnqueueJob", {"jobName": "t", "delay": "315360000s"}, False),
        ("EnqueueJob", {"jobName": "t", "delay": "1s", "delayUntil": "2030-01-01T00:00:00Z"}, False),
        ("EnqueueJob", {"jobName": "t", "prority": 1}, False),
        ("EnqueueJob", {"jobName": "t", "backoff": {"base": "604799s", "maxDelay": "2591999s"}}, True),
        ("EnqueueJob", {"jobName": "t", "backoff": {"base": "604800s"}}, False),
        ("EnqueueJob", {"payload": 1}, False),
        ("EnqueueJob", {"jobName": "t", "timeout": "0.1s", "expiresIn": "31535999s", "labels": {"a/b": ""}, "units": 1000, "group": "a@b"}, True),
        ("EnqueueJob", {"jobName": "t", "timeout": "0.05s"}, False),
        ("EnqueueJob", {"jobName": "t", "timeout": "2592000s"}, False),
        ("EnqueueJob", {"jobName": "t", "units": 0}, False),
        ("EnqueueJob", {"jobName": "t", "labels": {"": "x"}}, False),
        ("EnqueueJob", {"jobName": "t", "unique": {}, "delay": "5s"}, True),
        ("EnqueueJob", {"jobName": "t", "unique": {}, "throttle": {"key": "k", "period": "1s"}}, False),
        ("EnqueueJob", {"jobName": "t", "debounce": {"key": "k", "delay": "1s"}, "delay": "5s"}, False),
        ("EnqueueJobs", {"jobs": [{"jobName": "t"}], "durability": "disk"}, True),
        ("EnqueueJobs", {"jobs": []}, False),
    ],
)
def test_a_request_is_judged_by_its_schema_as_it_is_by_the_broker(name: str, value: object, good: bool) -> None:
    if good:
        checked(name, value)
    else:
        with pytest.raises(jsonschema_rs.ValidationError):
            checked(name, value)
