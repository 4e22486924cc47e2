"""The calls that deal with rules: of queues, groups and classes; and with what failed."""

from jobwire.v1.job_service_pb2 import BulkRun, ListBulkRunsResponse, ListFailuresResponse, ListLogsResponse
from jobwire.v1.queue_service_pb2 import Group, ListClassesRequest, ListClassesResponse, ListGroupsResponse, PurgeQueueRequest

from jobwire_gateway import rules
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.bulk import Bulk
from jobwire_gateway.contract import shown
from jobwire_gateway.jobs import class_json, job_json, line_json, queue_json
from jobwire_gateway.logs import Logs
from jobwire_gateway.operations import Operation, Parameter, Reads, Returns, relay
from jobwire_gateway.requests import JSON, NDJSON
from jobwire_gateway.rest import page_json
from jobwire_gateway.rule_schemas import BULK, GROUP_CHANGE, JOB_CHANGE, LABEL, NOTE, QUEUE_CHANGE
from jobwire_gateway.schema_parts import closed, ref
from jobwire_gateway.schemas import CLEANED, NO_MEMBERS

RULES, FAILURES = "Rules", "Failures"

_QUEUE = "/v1/queues/{queue}"
_JOB = f"{_QUEUE}/jobs/{{id}}"
_BULK_RUN = f"{_QUEUE}/bulkRuns/{{run}}"
_GROUP = f"{_QUEUE}/groups/{{group}}"
_CLASS = "/v1/classes/{class}"

_PAGE_SIZE = Parameter(name="pageSize", description="How many at most. Default 100.", schema={"type": "integer", "minimum": 1, "maximum": 1000})
PAGE = (
    _PAGE_SIZE,
    Parameter(
        name="pageToken",
        description="`nextPageToken` of the page before, of the same list.",
        schema={"type": "string", "maxLength": 2048, "format": "page-token"},
    ),
)
_NAME_SCHEMA = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}$"}
_DATE = {"type": "string", "format": "date-time"}
FILTERS = (
    Parameter(name="jobName", description="Only jobs of this name.", schema=_NAME_SCHEMA),
    Parameter(name="group", description="Only jobs of this group.", schema={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}$"}),
    Parameter(
        name="label",
        description="Only jobs with this label, as `KEY=VALUE`. May be there several times: all must fit.",
        schema={"type": "array", "items": LABEL, "maxItems": 16},
    ),
    Parameter(name="createdAfter", description="Only jobs enqueued at or after this.", schema=_DATE),
    Parameter(name="createdBefore", description="Only jobs enqueued before this.", schema=_DATE),
    Parameter(name="finishedAfter", description="Only jobs that ended at or after this.", schema=_DATE),
    Parameter(name="finishedBefore", description="Only jobs that ended before this.", schema=_DATE),
    Parameter(name="fingerprint", description="Only jobs that failed with this fingerprint.", schema={"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    Parameter(name="resolved", description="Only failed jobs with a note, or only those without.", schema={"type": "boolean"}),
)
FAILURE_FILTERS = tuple(parameter for parameter in FILTERS if parameter.name in ("jobName", "finishedAfter", "finishedBefore"))
_AFTER = Parameter(
    name="after", description="Lines after this `cursor`; `nextAfter` of the page before.", schema={"type": "integer", "minimum": 0, "maximum": 2**53}
)
CURSOR = (
    Parameter(name="last_event_id", description="The last event that was seen, for who cannot set the header `Last-Event-ID`."),
    Parameter(name="lastEventId", description="The same under the name that some libraries use."),
)
_PATCHES = "A member that is there is changed, null takes it away, what is not there stays."
_NO_JOB = "There is no such job, or it is gone: `metadata.state` then says how it ended."
_NO_RUN = "There is no such run, or nothing is known of it any more (`BULK_RUN_NOT_FOUND`)."
_WRONG_STATE = "The job's state does not allow it (`WRONG_STATE`); `metadata.state` says which it is."
_NO_QUEUE = {404: "Nothing was ever enqueued there (`QUEUE_NOT_FOUND`)."}


def _mask(*names: str) -> Parameter:
    one = "|".join(name.replace(".", r"\.") for name in names)
    return Parameter(
        name="updateMask",
        description="What to take from the body, and nothing else; what the body does not hold is taken away. Without: what the body holds.",
        schema={"type": "string", "pattern": f"^({one})(,({one})){{0,30}}$", "examples": [",".join(names[:2])]},
    )


def job_operations(brokers: Brokers, bulk: Bulk, logs: Logs) -> list[Operation]:
    """The calls that change jobs by rules."""
    return [
        Operation(
            method="PATCH",
            path=_JOB,
            id="updateJob",
            tag="Jobs",
            summary="Change a job that has not started",
            description="Its payload, priority, due date or labels. " + _PATCHES,
            handler=relay(brokers, lambda broker: broker.jobs.UpdateJob, rules.update_job, lambda answer: job_json(answer.job)),
            parameters=(_mask(*rules.JOB_PATHS),),
            reads=Reads.OBJECT,
            body={JSON: JOB_CHANGE},
            example={"priority": "HIGH", "dueTime": None},
            returns={200: Returns(description="The job after the call.", schema=ref("Job"))},
            fails={404: _NO_JOB, 409: _WRONG_STATE},
        ),
        Operation(
            method="GET",
            path=f"{_JOB}/logs",
            id="listLogs",
            tag="Jobs",
            summary="Read what the handlers of a job logged, the oldest line first",
            handler=relay(brokers, lambda broker: broker.jobs.ListLogs, rules.logs_request, _logs_page),
            parameters=(
                _AFTER,
                _PAGE_SIZE,
            ),
            returns={200: Returns(description="A page.", schema=ref("Logs"))},
            fails={404: _NO_JOB},
        ),
        Operation(
            method="GET",
            path=f"{_JOB}/logs/stream",
            id="watchLogs",
            tag="Streams",
            summary="Follow what the handlers of a job log, to the job's end",
            description="First the lines that are kept, then each as it comes. The id of an event is the cursor of its last line.",
            handler=logs.stream,
            parameters=(_AFTER, *CURSOR),
            returns={
                200: Returns(description="Server-sent events: `id` and `data` lines.", schema={"type": "string"}, media_type="text/event-stream"),
                204: Returns(description="After the end: there is nothing more to come."),
            },
            fails={404: "There is no such job. An EventSource gets 200 and an `error` frame instead."},
        ),
        Operation(
            method="POST",
            path=f"{_QUEUE}/jobs:bulk",
            id="bulkJobs",
            tag="Jobs",
            summary="Act on all jobs that a filter finds: count them first, then act with the token of that",
            description="Without `token`, this is a dry run: its answer holds the exact count and a token. With it, the verb is done to those jobs that the "
            "dry run saw and that have not changed since; each step is a line. Whoever closes the connection stops the run, and the same token goes on.",
            handler=bulk.bulk,
            reads=Reads.OBJECT,
            body={JSON: BULK},
            example={"verb": "retry", "filter": {"states": ["failed"], "jobName": "thumbnail"}},
            returns={200: Returns(description="The count, or a line for each step.", schema=ref("Bulk"), others={NDJSON: {"type": "string"}})},
            fails={**_NO_QUEUE, 409: "Somebody has stopped the run (`BULK_RUN_STOPPED`)."},
        ),
        Operation(
            method="GET",
            path=f"{_QUEUE}/bulkRuns",
            id="listBulkRuns",
            tag="Jobs",
            summary="List the bulk runs of a queue, whoever began them",
            description="The last 100, for a day after their last step.",
            handler=relay(brokers, lambda broker: broker.jobs.ListBulkRuns, rules.bulk_runs_request, _bulk_runs_page),
            parameters=PAGE,
            returns={200: Returns(description="A page, the one that began last first.", schema=ref("BulkRuns"))},
        ),
        Operation(
            method="GET",
            path=_BULK_RUN,
            id="getBulkRun",
            tag="Jobs",
            summary="Read a bulk run: how far it is, who began it, how it ended",
            handler=relay(brokers, lambda broker: broker.jobs.GetBulkRun, rules.get_bulk_run, lambda answer: bulk_run_json(answer.run)),
            returns={200: Returns(description="The run.", schema=ref("BulkRun"))},
            fails={404: _NO_RUN},
        ),
        Operation(
            method="POST",
            path=f"{_BULK_RUN}:stop",
            id="stopBulkRun",
            tag="Jobs",
            summary="Stop a bulk run, whoever began it",
            description="When this is answered, no further job is acted on, and the token of the run does not go on.",
            handler=relay(brokers, lambda broker: broker.jobs.StopBulkRun, rules.stop_bulk_run, lambda answer: bulk_run_json(answer.run)),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The run, stopped.", schema=ref("BulkRun"))},
            fails={404: _NO_RUN, 409: "It has finished (`WRONG_STATE`)."},
        ),
        Operation(
            method="GET",
            path=f"{_QUEUE}/failures",
            id="listFailures",
            tag=FAILURES,
            summary="Group the failed jobs of a queue by what failed, the latest first",
            handler=relay(brokers, lambda broker: broker.jobs.ListFailures, rules.failures_request, _failures_page),
            description="With a filter, counts and dates are of the jobs that it finds alone, and a page may be short, or empty, and not be the last.",
            parameters=(*FAILURE_FILTERS, *PAGE),
            returns={200: Returns(description="A page.", schema=ref("Failures"))},
        ),
        Operation(
            method="POST",
            path=f"{_JOB}:resolve",
            id="resolveJob",
            tag=FAILURES,
            summary="Note what was decided about a failed job",
            handler=relay(brokers, lambda broker: broker.jobs.ResolveJob, rules.resolve_request, lambda answer: job_json(answer.job)),
            reads=Reads.OPTIONAL,
            body={JSON: closed({"note": NOTE})},
            example={"note": "refunded by hand"},
            returns={200: Returns(description="The job, failed, with its resolution.", schema=ref("Job"))},
            fails={404: _NO_JOB, 409: _WRONG_STATE},
        ),
    ]


def queue_operations(brokers: Brokers) -> list[Operation]:
    """The calls that deal with rules of queues, groups and classes."""
    return [
        Operation(
            method="PATCH",
            path=_QUEUE,
            id="updateQueue",
            tag=RULES,
            summary="Change the rules of a queue",
            description=_PATCHES + " A member of `policy` is one, as a whole; but each state of `retention` is one. A queue that does not exist is made.",
            handler=relay(brokers, lambda broker: broker.queues.UpdateQueue, rules.update_queue, lambda answer: queue_json(answer.queue)),
            parameters=(_mask(*rules.QUEUE_PATHS),),
            reads=Reads.OBJECT,
            body={JSON: QUEUE_CHANGE},
            example={"policy": {"attempts": 5, "timeout": "60s", "limit": {"concurrency": 10}}},
            returns={200: Returns(description="The queue after the call.", schema=ref("Queue"))},
        ),
        Operation(
            method="POST",
            path=f"{_QUEUE}:purge",
            id="purgeQueue",
            tag="Queues",
            summary="Delete the jobs that wait or are delayed",
            description="What runs goes on, and what has ended stays.",
            handler=relay(
                brokers, lambda broker: broker.queues.PurgeQueue, lambda asked: PurgeQueueRequest(name=asked.queue), lambda answer: {"deleted": answer.deleted}
            ),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="How many were deleted.", schema=CLEANED)},
            fails=_NO_QUEUE,
        ),
        Operation(
            method="GET",
            path=f"{_QUEUE}/groups",
            id="listGroups",
            tag=RULES,
            summary="List the groups of a queue that have jobs, or a rule of their own",
            handler=relay(brokers, lambda broker: broker.queues.ListGroups, rules.groups_request, _groups_page),
            parameters=PAGE,
            returns={200: Returns(description="A page, by name.", schema=ref("Groups"))},
        ),
        Operation(
            method="PATCH",
            path=_GROUP,
            id="updateGroup",
            tag=RULES,
            summary="Change the rules of a group",
            description=_PATCHES,
            handler=relay(brokers, lambda broker: broker.queues.UpdateGroup, rules.update_group, lambda answer: group_json(answer.group)),
            parameters=(_mask(*rules.GROUP_PATHS),),
            reads=Reads.OBJECT,
            body={JSON: GROUP_CHANGE},
            example={"weight": 2, "limit": {"concurrency": 5}},
            returns={200: Returns(description="The group after the call.", schema=ref("Group"))},
        ),
        Operation(
            method="POST",
            path=f"{_GROUP}:pause",
            id="pauseGroup",
            tag=RULES,
            summary="Stop the delivery of a group's jobs",
            handler=relay(brokers, lambda broker: broker.queues.PauseGroup, rules.pause_group, lambda answer: group_json(answer.group)),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The group, paused.", schema=ref("Group"))},
        ),
        Operation(
            method="POST",
            path=f"{_GROUP}:resume",
            id="resumeGroup",
            tag=RULES,
            summary="Start it again, also when a worker had said that the group is limited",
            handler=relay(brokers, lambda broker: broker.queues.ResumeGroup, rules.resume_group, lambda answer: group_json(answer.group)),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The group.", schema=ref("Group"))},
        ),
        Operation(
            method="GET",
            path="/v1/classes",
            id="listClasses",
            tag=RULES,
            summary="Count the jobs of all queues of each class, and how many started in time",
            handler=relay(brokers, lambda broker: broker.queues.ListClasses, lambda asked: ListClassesRequest(), classes_json),
            returns={200: Returns(description="The classes that have queues, the most urgent first.", schema=ref("Classes"))},
        ),
        Operation(
            method="POST",
            path=f"{_CLASS}:pause",
            id="pauseClass",
            tag=RULES,
            summary="Stop the delivery of the jobs of all queues of a class",
            handler=relay(brokers, lambda broker: broker.queues.PauseClass, rules.pause_class, lambda answer: {"queues": list(answer.queues)}),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The queues of the class.", schema=ref("ClassQueues"))},
        ),
        Operation(
            method="POST",
            path=f"{_CLASS}:resume",
            id="resumeClass",
            tag=RULES,
            summary="Start it again",
            handler=relay(brokers, lambda broker: broker.queues.ResumeClass, rules.resume_class, lambda answer: {"queues": list(answer.queues)}),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The queues of the class.", schema=ref("ClassQueues"))},
        ),
    ]


def group_json(group: Group) -> dict[str, object]:
    """A group's members, zeros too."""
    return {"waiting": 0, "activeUnits": 0, "paused": False, "weight": group.weight or 1, "express": False, **shown(group)}


def bulk_run_json(run: BulkRun) -> dict[str, object]:
    """A bulk run's members, zeros too."""
    return {"matched": 0, "done": 0, "skipped": 0, **shown(run)}


def classes_json(answer: ListClassesResponse) -> dict[str, object]:
    """All classes."""
    return {"classes": [class_json(stats) for stats in answer.classes]}


def _groups_page(answer: ListGroupsResponse) -> object:
    return page_json("groups", [group_json(group) for group in answer.groups], answer.next_page_token)


def _bulk_runs_page(answer: ListBulkRunsResponse) -> object:
    return page_json("runs", [bulk_run_json(run) for run in answer.runs], answer.next_page_token)


def _failures_page(answer: ListFailuresResponse) -> object:
    groups = [{"count": 0, "resolved": 0, **shown(group)} for group in answer.groups]
    return {**page_json("groups", groups, answer.next_page_token), "total": answer.total}


def _logs_page(answer: ListLogsResponse) -> object:
    return {"lines": [line_json(line) for line in answer.lines], "nextAfter": answer.next_after, "dropped": answer.dropped}
