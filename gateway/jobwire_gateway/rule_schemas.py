"""The rules of queues, groups and jobs as JSON Schemas: what REST takes, and what it shows of them."""

from collections.abc import Callable, Mapping

from jobwire.v1.job_pb2 import AttemptEnd
from jobwire.v1.job_service_pb2 import BulkRunState, BulkVerb
from jobwire.v1.policy_pb2 import QueueClass

from jobwire_gateway.contract import words_of
from jobwire_gateway.names import BULK_RUN_PATTERN, GROUP_PATTERN, LABEL_PATTERN
from jobwire_gateway.schema_parts import (
    at_least_1ms,
    at_least_1s,
    at_least_100ms,
    at_least_zero,
    closed,
    date,
    given,
    length,
    listing,
    number,
    ref,
    text,
    whole,
)

_KEY_PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
_DAY = 86_400
_YEAR = 365 * _DAY
_ANY_LENGTH = r"^[0-9]+(\.[0-9]{1,9})?s$"

Members = dict[str, object]
Form = Callable[[Members], dict[str, object]]
"""How an object is closed: what is taken may have no other members, what is shown may have more one day."""

PRIORITY: dict[str, object] = {
    "description": "Lower runs first. Default 5. CRITICAL is 0, HIGH 1, NORMAL and MEDIUM 5, LOW 10, BATCH 20.",
    "oneOf": [
        {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
        {"type": "string", "enum": ["CRITICAL", "HIGH", "NORMAL", "MEDIUM", "LOW", "BATCH"]},
    ],
}
CLASSES = words_of(QueueClass.DESCRIPTOR)
LABEL = text("`KEY=VALUE`.", pattern=rf"^{LABEL_PATTERN}=[\s\S]{{0,128}}$")
CLASS = text("The class.", enum=CLASSES)
BULK_RUN = text("The run.", pattern=f"^{BULK_RUN_PATTERN}$", examples=["0f1e2d3c4b5a6978"])
GROUP = text("The group's name.", pattern=f"^{GROUP_PATTERN}$", examples=["acme"])


def labels(description: str, most: int) -> dict[str, object]:
    """Labels, as what is taken."""
    names = {"pattern": f"^{LABEL_PATTERN}$"}
    values = {"type": "string", "maxLength": 128}
    return {"type": "object", "description": description, "propertyNames": names, "additionalProperties": values, "maxProperties": most}


def _names(description: str) -> dict[str, object]:
    items = {"type": "string", "pattern": "^[ -~]{1,128}$"}
    return {"type": "array", "description": description, "items": items, "maxItems": 32}


def _backoff(form: Form) -> dict[str, object]:
    delays = {"type": "array", "description": "The waits one by one, instead of `base` and `factor`; the last holds for all later attempts.", "maxItems": 32}
    members: Members = {
        "base": length("The wait before the second run. Default 2 s; 0 retries at once; less than 7 days.", at_least_zero(7 * _DAY)),
        "factor": number("What each further wait is multiplied by. Default 2; 1 is a fixed wait.", minimum=1, maximum=10),
        "maxDelay": length("No wait is longer. Default a day; less than 30 days.", at_least_zero(30 * _DAY)),
        "jitter": number("The share of the wait that is added at random. Default 0.1; 0 is exact.", minimum=0, maximum=1),
        "delays": {**delays, "items": length("", at_least_zero(30 * _DAY))},
    }
    apart = [{"required": ["delays", other]} for other in ("base", "factor")]
    return {**form(members), "not": {"anyOf": apart}}


BACKOFF = _backoff(closed)

RULES_OF_JOB: dict[str, object] = {
    "group": text("Whose job it is, for example a tenant: shares, limits and pauses hold per group.", pattern=f"^{GROUP_PATTERN}$"),
    "labels": labels("For people and filters. Values of at most 128 bytes.", 16),
    "requiredLabels": labels("Only a worker with all of these gets it.", 8),
    "units": whole("How much it counts in limits. Default 1.", minimum=1, maximum=1000),
    "expiresAt": date("If it has not started by then, it is expired. From 1970 to 9999. Not beside `expiresIn`."),
    "expiresIn": length("The same, counted from the enqueue or the due date. From 100 ms to less than 365 days.", at_least_100ms(_YEAR)),
    "timeout": length("How long one attempt may take. From 100 ms to less than 30 days.", at_least_100ms(30 * _DAY)),
    "totalTimeout": length("How long all attempts and the waits between them may take. From 100 ms to less than 365 days.", at_least_100ms(_YEAR)),
    "permanentErrors": _names("Errors that end it at once, by their type."),
    "retention": length("How long its end is kept; 0 removes it at once. Less than 3,650 days.", at_least_zero(3_650 * _DAY)),
    "idempotency": closed(
        {
            "key": text("The same key with the same content finds the job; with other content it is refused.", pattern=_KEY_PATTERN),
            "ttl": length("How long the key is known. Default a day; from 1 s to less than 30 days.", at_least_1s(30 * _DAY)),
        },
        required=("key",),
    ),
    "unique": closed(
        {"key": text("While a job with it has not ended, it is found. Without: made of job name and payload.", pattern=_KEY_PATTERN)},
    ),
    "debounce": closed(
        {
            "key": text("Each call replaces the waiting job of the same key.", pattern=_KEY_PATTERN),
            "delay": length("How long it waits after the last call. From 1 ms to less than a day.", at_least_1ms(_DAY)),
            "maxWait": length("It starts at the latest so long after the first call. At least `delay`, less than 30 days.", at_least_1ms(30 * _DAY)),
        },
        required=("key", "delay"),
    ),
    "throttle": closed(
        {
            "key": text("The first call in a window wins.", pattern=_KEY_PATTERN),
            "period": length("How long the window is. From 1 ms to less than 30 days.", at_least_1ms(30 * _DAY)),
        },
        required=("key", "period"),
    ),
}

_IDENTITIES = ("idempotency", "unique", "debounce", "throttle")
_APART = (
    ("delay", "delayUntil"),
    ("expiresAt", "expiresIn"),
    *((one, other) for place, one in enumerate(_IDENTITIES) for other in _IDENTITIES[place + 1 :]),
    ("debounce", "delay"),
    ("debounce", "delayUntil"),
)
NOT_TOGETHER = {"not": {"anyOf": [{"required": list(pair)} for pair in _APART]}}
"""Members of a job of which at most one may be there."""


def _limit(form: Form) -> dict[str, object]:
    rate = form(
        {
            "count": whole("How many units may start in any window of `period`.", minimum=1, maximum=1_000_000),
            "period": length("From 1 ms to less than 30 days.", at_least_1ms(30 * _DAY)),
            "burst": whole("How many may start at once. Default 1; at most `count`.", minimum=1, maximum=1_000_000),
        }
    )
    members: Members = {"concurrency": whole("How many units may be leased at once.", minimum=1, maximum=1_000_000), "rate": rate}
    return form(members)


def _taken_limit(members: Members) -> dict[str, object]:
    return closed(members, required=tuple(name for name in ("count", "period") if name in members))


def _kept(form: Form, state: str) -> dict[str, object]:
    return form(
        {
            "count": whole(f"How many {state} jobs are kept; 0 keeps none.", minimum=0, maximum=10_000_000),
            "age": length("How long; 0 keeps none; less than 3,650 days.", at_least_zero(3_650 * _DAY)),
        }
    )


def _policy(form: Form, limit: dict[str, object], retention: dict[str, object]) -> Members:
    return {
        "queueClass": text("The preset that the others are laid over.", enum=CLASSES) if form is closed else text("The preset.", examples=CLASSES),
        "priority": whole("The priority of jobs that name none. Default 5.", minimum=-(2**31), maximum=2**31 - 1),
        "attempts": whole("How many times a job may run. Default 3.", minimum=1, maximum=1000),
        "backoff": _backoff(form),
        "permanentErrors": _names("Errors that end a job at once, by their type."),
        "timeout": length("How long one attempt may take. From 100 ms to less than 30 days.", at_least_100ms(30 * _DAY)),
        "totalTimeout": length("How long all attempts may take. From 100 ms to less than 365 days.", at_least_100ms(_YEAR)),
        "expiresIn": length("How long a job may wait for its first start. From 100 ms to less than 365 days.", at_least_100ms(_YEAR)),
        "retention": retention,
        "limit": limit,
        "jobLimits": {
            "type": "object",
            "description": "The same for single job names.",
            "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}$"},
            "additionalProperties": limit,
            "maxProperties": 100,
        },
        "groupLimit": limit,
        "ageing": length(
            "For each of these that a job waits it goes as if its priority were one lower. From 100 ms to less than 30 days.", at_least_100ms(30 * _DAY)
        ),
        "startTarget": length("Within what time a job should start. Measured. From 1 ms to less than 30 days.", at_least_1ms(30 * _DAY)),
        "maxPayloadBytes": whole("The largest payload. Default 1 MiB, which is also the most.", minimum=1, maximum=1 << 20),
        "maxDepth": whole("How many jobs may wait, be delayed and run in all.", minimum=1, maximum=1_000_000_000),
        "workerSlots": whole("How many of its jobs one worker process may run at once.", minimum=1, maximum=10_000),
    }


def _or_null(members: Members) -> Members:
    """Null takes a rule away, as in a merge patch (RFC 7396)."""
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in members.items()}


_STATES = ("completed", "failed", "cancelled", "expired")
_RETENTION_TAKEN: Members = {state: _kept(closed, state) for state in _STATES}
_POLICY_TAKEN = closed(_or_null(_policy(closed, _limit(_taken_limit), closed(_or_null(_RETENTION_TAKEN), minProperties=1))), minProperties=1)
QUEUE_CHANGE = closed(
    {
        "paused": {"type": "boolean", "description": "Whether delivery is stopped."},
        "policy": {"anyOf": [_POLICY_TAKEN, {"type": "null"}], "description": "The rules to change. Null takes all of them away, null in it one of them."},
    },
    minProperties=1,
)
GROUP_CHANGE = closed(
    _or_null(
        {
            "weight": number("Its share beside other groups'. Default 1.", minimum=0.01, maximum=1000),
            "express": {"type": "boolean", "description": "Whether it goes before all groups that are not."},
            "limit": _limit(_taken_limit),
        }
    ),
    minProperties=1,
)
JOB_CHANGE = closed(
    {
        "payload": {"description": "What the handler receives from now on: any JSON, at most 1 MiB."},
        "priority": PRIORITY,
        "dueTime": {"anyOf": [date("When it comes due, from 1970 to 9999."), {"type": "null"}], "description": "Null, or a date that is past: now."},
        "labels": {"anyOf": [labels("Instead of those it has.", 16), {"type": "null"}]},
    },
    minProperties=1,
)
NOTE = text("For people. At most 1,024 bytes.", maxLength=1024)
FILTER = closed(
    {
        "states": {"type": "array", "items": {"type": "string", "enum": ["waiting", "delayed", "active", *_STATES]}, "description": "Any of these."},
        "jobName": text("This job name.", pattern="^[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}$"),
        "group": text("This group.", pattern=f"^{GROUP_PATTERN}$"),
        "labels": labels("All of these.", 16),
        "createdAfter": date("Enqueued at or after this."),
        "createdBefore": date("Enqueued before this."),
        "finishedAfter": date("Ended at or after this."),
        "finishedBefore": date("Ended before this."),
        "fingerprint": text("Failed with this fingerprint.", pattern="^[0-9a-f]{16}$"),
        "resolved": {"type": "boolean", "description": "Whether a note was left."},
    }
)
BULK = closed(
    {
        "verb": text("What to do.", enum=["cancel", "retry", "promote", "delete", "resolve"]),
        "filter": {**FILTER, "description": "Which jobs. Every member must fit."},
        "token": text("The token of the dry run of this same request. Without: this is the dry run.", maxLength=4096, format="page-token"),
        "note": {**NOTE, "description": "With `resolve`: the note."},
        "grace": length("With `cancel`: how long running handlers may take to give way. Less than an hour.", at_least_zero(3_600)),
    },
    required=("verb",),
    allOf=[
        {"anyOf": [{"not": {"required": ["grace"]}}, {"properties": {"verb": {"const": "cancel"}}}]},
        {"anyOf": [{"not": {"required": ["note"]}}, {"properties": {"verb": {"const": "resolve"}}}]},
    ],
)

_LOG_LINE = given(
    {
        "sequence": whole("Counts from 1 within one lease.", minimum=0),
        "level": text("debug, info, warning or error."),
        "message": text("The line."),
        "timeMs": whole("Milliseconds since 1970 on the worker's own clock."),
        "cursor": whole("Its place in the job's log, over all attempts; grows.", minimum=0),
        "attempt": whole("The run that logged it.", minimum=0),
    },
    required=("sequence", "level", "message", "timeMs"),
)
_ATTEMPT = given(
    {
        "number": whole("Which run it was, from 1.", minimum=0),
        "startTime": date("When it began."),
        "endTime": date("When it ended. Not there while it runs."),
        "worker": text("The worker's label."),
        "end": text("How it ended.", examples=words_of(AttemptEnd.DESCRIPTOR)),
        "failure": ref("Failure"),
        "token": whole("Its fencing token.", minimum=0),
    }
)
_RESOLUTION = given({"note": text("For people."), "resolveTime": date("When.")})
_FAILURE_GROUP = given(
    {
        "fingerprint": text("What they have in common, for filters: 16 hexadecimal digits."),
        "type": text("The error's short name."),
        "message": text("The message of the latest one."),
        "reason": text("Why Jobwire ended them."),
        "jobName": text("Which handler failed."),
        "count": whole("How many are kept.", minimum=0),
        "firstSeen": date("When the first of these failed."),
        "lastSeen": date("When the latest did."),
        "resolved": whole("How many of them are resolved.", minimum=0),
        "latest": text("The latest one: `queues/{queue}/jobs/{id}`."),
    },
    required=("fingerprint",),
)
_GROUP = given(
    {
        "name": text("`queues/{queue}/groups/{group}`."),
        "group": text("The group's name."),
        "waiting": whole("How many of its jobs wait for a worker.", minimum=0),
        "activeUnits": whole("How many units of its jobs are leased, where a limit counts them.", minimum=0),
        "paused": {"type": "boolean", "description": "Whether its delivery is stopped."},
        "weight": number("Its share beside other groups'.", minimum=0),
        "express": {"type": "boolean", "description": "Whether it goes before all groups that are not."},
        "limit": ref("Limit"),
        "limitedUntil": date("Until when nothing of it starts."),
    },
    required=("name", "group", "waiting", "activeUnits", "paused", "weight", "express"),
)
_CLASS = given(
    {
        "queueClass": text("Which class.", examples=CLASSES),
        "queues": {"type": "array", "items": {"type": "string"}, "description": "Its queues, by name."},
        "paused": whole("How many of them are paused.", minimum=0),
        "counts": ref("Counts"),
        "started": whole("How many jobs started, at any broker, while their queue had a class or a target.", minimum=0),
        "startedLate": whole("How many of those started later than their queue's target.", minimum=0),
    },
    required=("queueClass", "queues", "paused", "counts", "started", "startedLate"),
)
_BULK_RUN = given(
    {
        "name": text("`queues/{queue}/bulkRuns/{run}`."),
        "verb": text("What is done.", examples=words_of(BulkVerb.DESCRIPTOR)),
        "filter": ref("JobFilter"),
        "note": text("With `resolve`: the note."),
        "grace": length("With `cancel`: how long running handlers may take to give way.", _ANY_LENGTH),
        "state": text("How it goes. Of one that is abandoned nobody is heard; its token goes on.", examples=words_of(BulkRunState.DESCRIPTOR)),
        "matched": whole("How many jobs the dry run found.", minimum=0),
        "done": whole("How many were acted on so far.", minimum=0),
        "skipped": whole("How many had changed meanwhile, or were gone, so far.", minimum=0),
        "startedBy": text("Who began it. Not there where nobody is asked who they are."),
        "stoppedBy": text("Who stopped it."),
        "startTime": date("When it began."),
        "finishTime": date("When it ended, or was last heard of. Not there while it runs."),
    },
    required=("name", "verb", "state", "matched", "done", "skipped", "startTime"),
)
_FILTER_SHOWN = given(
    {
        "states": {"type": "array", "items": {"type": "string"}, "description": "Any of these."},
        "jobName": text("This job name."),
        "group": text("This group."),
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "description": "All of these."},
        "createdAfter": date("Enqueued at or after this."),
        "createdBefore": date("Enqueued before this."),
        "finishedAfter": date("Ended at or after this."),
        "finishedBefore": date("Ended before this."),
        "fingerprint": text("Failed with this fingerprint."),
        "resolved": {"type": "boolean", "description": "Whether a note was left."},
    }
)
_TOTAL = whole("How many there are in all, without a filter.", minimum=0)


RULE_COMPONENTS: Mapping[str, Mapping[str, object]] = {
    "Attempt": _ATTEMPT,
    "Bulk": given(
        {
            "matched": whole("How many jobs the dry run found.", minimum=0),
            "token": text("For the run. Only in the answer to a dry run."),
            "done": whole("How many were acted on so far.", minimum=0),
            "skipped": whole("How many had changed meanwhile, or were gone, so far.", minimum=0),
            "finished": {"type": "boolean", "description": "Whether this is the last line."},
            "run": text("The run, known once it has begun: `queues/{queue}/bulkRuns/{run}`."),
        },
        required=("matched", "done", "skipped", "finished", "run"),
    ),
    "BulkRun": _BULK_RUN,
    "BulkRuns": listing("runs", ref("BulkRun")),
    "Class": _CLASS,
    "Classes": given({"classes": {"type": "array", "items": ref("Class")}}, required=("classes",)),
    "ClassQueues": given({"queues": {"type": "array", "items": {"type": "string"}, "description": "The queues of the class, by name."}}, required=("queues",)),
    "FailureGroup": _FAILURE_GROUP,
    "Failures": listing("groups", ref("FailureGroup"), total=_TOTAL),
    "Group": _GROUP,
    "Groups": listing("groups", ref("Group")),
    "JobFilter": _FILTER_SHOWN,
    "Limit": _limit(given),
    "LogLine": _LOG_LINE,
    "Logs": given(
        {
            "lines": {"type": "array", "items": ref("LogLine"), "description": "The oldest first."},
            "nextAfter": whole("The cursor to go on from, as `after`.", minimum=0),
            "dropped": whole("How many older lines are kept no more.", minimum=0),
        },
        required=("lines", "nextAfter", "dropped"),
    ),
    "Policy": given(_policy(given, ref("Limit"), given({state: _kept(given, state) for state in _STATES}))),  # type: ignore[arg-type]
    "Resolution": _RESOLUTION,
}
"""What is shown of them, by name."""
