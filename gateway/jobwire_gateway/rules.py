"""What requests of the rules' calls are made of: changes of queues, groups and jobs, filters, bulk verbs.

A change is a merge patch (RFC 7396): a member that is there is changed, null takes it away, what is not there stays. A member of `policy` is changed as a
whole, but for `retention`, each of whose states is one. `updateMask` says it otherwise: exactly what it names is taken from the body, and what the body does
not hold is taken away.
"""

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message
from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import (
    BulkJobsRequest,
    BulkVerb,
    GetBulkRunRequest,
    JobFilter,
    ListBulkRunsRequest,
    ListFailuresRequest,
    ListLogsRequest,
    ResolveJobRequest,
    RetryJobRequest,
    StopBulkRunRequest,
    UpdateJobRequest,
)
from jobwire.v1.policy_pb2 import Limit, QueueClass
from jobwire.v1.queue_service_pb2 import (
    Group,
    ListGroupsRequest,
    PauseClassRequest,
    PauseGroupRequest,
    Queue,
    ResumeClassRequest,
    ResumeGroupRequest,
    UpdateGroupRequest,
    UpdateQueueRequest,
)

from jobwire_gateway.contract import duration, fields_of, number_of, read_field, string
from jobwire_gateway.enqueue import payload_of, priority_of
from jobwire_gateway.jobs import STATES, state_of
from jobwire_gateway.names import bulk_run_name, group_name
from jobwire_gateway.operations import Asked
from jobwire_gateway.requests import invalid, page_of, refuse_unknown

_MAX_CURSOR = 2**53

QUEUE_PATHS = {
    "paused": "paused",
    "policy": "policy",
    **{f"policy.{name}": f"policy.{field.name}" for name, field in fields_of(type(Queue().policy)).items()},
    **{f"policy.retention.{name}": f"policy.retention.{field.name}" for name, field in fields_of(type(Queue().policy.retention)).items()},
}
"""What can be changed of a queue: in JSON, and in the contract."""

GROUP_PATHS = {name: name for name in ("weight", "express", "limit")}
JOB_PATHS = {"payload": "payload", "priority": "priority", "dueTime": "due_time", "labels": "labels"}


# Changes ------------------------------------------------------------------------------------------------------------------------------------------------


def update_queue(asked: Asked) -> UpdateQueueRequest:
    """What to change of a queue."""
    request = UpdateQueueRequest()
    request.queue.name = asked.queue
    request.update_mask.paths.extend(_mask(asked, QUEUE_PATHS, _queue_changes(asked.body)))
    fields = fields_of(Queue)
    if "paused" in asked.body:
        read_field(request.queue, fields["paused"], asked.body["paused"], "paused")
    if asked.body.get("policy") is not None:
        read_field(request.queue, fields["policy"], _without_null(asked.body["policy"]), "policy")
    policy = request.queue.policy
    of_names = ((f"policy.jobLimits.{name}", limit) for name, limit in policy.job_limits.items())
    _check_limits([("policy.limit", policy.limit), ("policy.groupLimit", policy.group_limit), *of_names])
    return request


def update_group(asked: Asked) -> UpdateGroupRequest:
    """What to change of a group."""
    request = UpdateGroupRequest()
    request.group.name = group_of(asked)
    request.update_mask.paths.extend(_mask(asked, GROUP_PATHS, asked.body))
    _fill(request.group, fields_of(Group), asked.body, GROUP_PATHS)
    _check_limits([("limit", request.group.limit)])
    return request


def update_job(asked: Asked) -> UpdateJobRequest:
    """What to change of a job."""
    request = UpdateJobRequest()
    request.job.name = asked.job
    request.update_mask.paths.extend(_mask(asked, JOB_PATHS, asked.body))
    if "payload" in asked.body:
        request.job.payload.CopyFrom(payload_of(asked.body["payload"]))
    if "priority" in asked.body:
        request.job.priority = priority_of(asked.body["priority"])
    _fill(request.job, fields_of(Job), asked.body, ("dueTime", "labels"))
    return request


def _fill(message: Message, fields: Mapping[str, object], body: Mapping[str, object], names: Iterable[str]) -> None:
    for name in names:
        if body.get(name) is not None:
            read_field(message, fields[name], body[name], name)  # type: ignore[arg-type]


def _queue_changes(body: Mapping[str, object]) -> list[str]:
    """Which paths a merge patch of a queue changes."""
    changes = ["paused"] if "paused" in body else []
    match body.get("policy"):
        case dict(policy):
            refuse_unknown(policy, fields_of(type(Queue().policy)))
            changes += [f"policy.{name}" for name in policy if not (name == "retention" and isinstance(policy[name], dict))]
            retention = policy.get("retention")
            changes += [f"policy.retention.{state}" for state in retention] if isinstance(retention, dict) else []
        case _ if "policy" in body:
            changes.append("policy")
    return changes


def _mask(asked: Asked, paths: Mapping[str, str], changes: Iterable[str]) -> list[str]:
    """The paths of the contract: those that the query names, else those that the body changes."""
    names = [*filter(None, asked.query["updateMask"].split(","))] if "updateMask" in asked.query else list(changes)
    policy = asked.body.get("policy")
    if not (names and asked.body) or policy == {} or (isinstance(policy, dict) and policy.get("retention") == {}):
        raise invalid("body", "must hold something to change")
    if unknown := next((name for name in names if name not in paths), None):
        raise invalid("updateMask" if "updateMask" in asked.query else unknown, f"names nothing that can be changed; there is: {', '.join(paths)}")
    return [paths[name] for name in names]


def _without_null(value: object) -> object:
    """What a merge patch of a queue brings, without what it takes away: a rule, or a state of the retention."""
    if not isinstance(value, dict):
        return value
    found = {name: member for name, member in value.items() if member is not None}
    retention = found.get("retention")
    if isinstance(retention, dict):
        found["retention"] = {state: kept for state, kept in retention.items() if kept is not None}
    return found


def _check_limits(limits: Iterable[tuple[str, Limit]]) -> None:
    """Also where the mask passes them over: half a rate is none."""
    for path, limit in limits:
        for name in ("count", "period"):
            if limit.HasField("rate") and not (limit.rate.count if name == "count" else limit.rate.HasField("period")):
                raise invalid(f"{path}.rate.{name}", "is required")


# Verbs --------------------------------------------------------------------------------------------------------------------------------------------------


def retry_request(asked: Asked) -> RetryJobRequest:
    """Which job to put back, and with what payload."""
    return RetryJobRequest(name=asked.job, payload=payload_of(asked.body["payload"]) if "payload" in asked.body else None)


def resolve_request(asked: Asked) -> ResolveJobRequest:
    """Which job to resolve."""
    return ResolveJobRequest(name=asked.job, note=string("note", asked.body.get("note", "")))


def bulk_request(asked: Asked) -> BulkJobsRequest:
    """What to do with which jobs."""
    body = asked.body
    if "verb" not in body:
        raise invalid("verb", "is required")
    request = BulkJobsRequest(parent=asked.queue, verb=BulkVerb.ValueType(number_of(BulkVerb.DESCRIPTOR, "verb", body["verb"])))
    for name in ("token", "note"):
        if name in body:
            setattr(request, name, string(name, body[name]))
    if "grace" in body:
        request.grace.CopyFrom(duration("grace", body["grace"]))
    if "filter" in body:
        if not isinstance(body["filter"], dict):
            raise invalid("filter", "must be an object")
        request.filter.SetInParent()
        _read_filter(request.filter, body["filter"], "filter.")
    return request


def get_bulk_run(asked: Asked) -> GetBulkRunRequest:
    """Which bulk run to read."""
    return GetBulkRunRequest(name=bulk_run_of(asked))


def stop_bulk_run(asked: Asked) -> StopBulkRunRequest:
    """Which bulk run to stop."""
    return StopBulkRunRequest(name=bulk_run_of(asked))


def bulk_run_of(asked: Asked) -> str:
    """`queues/{queue}/bulkRuns/{run}`. Raises Problem: 400."""
    return bulk_run_name(asked.request.path_params["queue"], asked.request.path_params["run"])


def pause_class(asked: Asked) -> PauseClassRequest:
    """Which class to pause."""
    return PauseClassRequest(queue_class=_class_of(asked))


def resume_class(asked: Asked) -> ResumeClassRequest:
    """Which class to resume."""
    return ResumeClassRequest(queue_class=_class_of(asked))


def pause_group(asked: Asked) -> PauseGroupRequest:
    """Which group to pause."""
    return PauseGroupRequest(name=group_of(asked))


def resume_group(asked: Asked) -> ResumeGroupRequest:
    """Which group to resume."""
    return ResumeGroupRequest(name=group_of(asked))


def group_of(asked: Asked) -> str:
    """`queues/{queue}/groups/{group}`. Raises Problem: 400."""
    return group_name(asked.request.path_params["queue"], asked.request.path_params["group"])


def _class_of(asked: Asked) -> QueueClass.ValueType:
    return QueueClass.ValueType(number_of(QueueClass.DESCRIPTOR, "class", asked.request.path_params["class"]))


# Lists --------------------------------------------------------------------------------------------------------------------------------------------------


def groups_request(asked: Asked) -> ListGroupsRequest:
    """Which groups to list."""
    size, token = page_of(asked.query)
    return ListGroupsRequest(parent=asked.queue, page_size=size, page_token=token)


def bulk_runs_request(asked: Asked) -> ListBulkRunsRequest:
    """Whose bulk runs to list."""
    size, token = page_of(asked.query)
    return ListBulkRunsRequest(parent=asked.queue, page_size=size, page_token=token)


def failures_request(asked: Asked) -> ListFailuresRequest:
    """Whose failures to list."""
    size, token = page_of(asked.query)
    return ListFailuresRequest(parent=asked.queue, page_size=size, page_token=token, filter=filter_of(asked))


def logs_request(asked: Asked) -> ListLogsRequest:
    """Which lines to list."""
    size, _ = page_of(asked.query)
    return ListLogsRequest(name=asked.job, after=cursor_number(asked.query.get("after", "")), page_size=size)


def cursor_number(text: str) -> int:
    """The cursor that is meant; nothing means the oldest line that is kept.

    Raises:
        Problem: 400, it is none.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= _MAX_CURSOR):
        raise invalid("after", "must be a `cursor` or `nextAfter` that was given before")
    return int(text)


FILTER_PARAMETERS = ("jobName", "group", "createdAfter", "createdBefore", "finishedAfter", "finishedBefore", "fingerprint", "resolved")


def filter_of(asked: Asked) -> JobFilter | None:
    """What a query filters by; None where by nothing.

    Raises:
        Problem: 400, a value is not what it should be.
    """
    members: dict[str, object] = {name: asked.query[name] for name in FILTER_PARAMETERS if name in asked.query}
    if "resolved" in members:
        if members["resolved"] not in ("true", "false"):
            raise invalid("resolved", "must be true or false")
        members["resolved"] = members["resolved"] == "true"
    if "label" in asked.lists:
        members["labels"] = dict(_label(text) for text in asked.lists["label"])
    if not members:
        return None
    found = JobFilter()
    _read_filter(found, members)
    return found


def _label(text: str) -> tuple[str, str]:
    key, is_pair, value = text.partition("=")
    if not (key and is_pair):
        raise invalid("label", "must be KEY=VALUE")
    return key, value


def _read_filter(found: JobFilter, members: Mapping[str, object], path: str = "") -> None:
    fields = fields_of(JobFilter)
    refuse_unknown(members, fields)
    for name, value in members.items():
        if name == "states":
            found.states.extend(_states(value, path + name))
        else:
            read_field(found, fields[name], value, path + name)


def _states(value: object, path: str) -> list[JobState.ValueType]:
    states = [state_of(word) if isinstance(word, str) else None for word in value] if isinstance(value, list) else [None]
    if None in states:
        raise invalid(path, f"must be an array of {', '.join(STATES)}")
    return states  # type: ignore[return-value]
