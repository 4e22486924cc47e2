"""What REST takes and gives, as JSON Schemas. Each has a name, under which the OpenAPI document holds it; `ref` points to one.

A test holds them beside the contract: what `jobs.py` can show of a message stands here, and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from jobwire.v1.job_pb2 import CancelStage

from jobwire_gateway.contract import words_of
from jobwire_gateway.jobs import STATES
from jobwire_gateway.names import JOB_ID_PATTERN, JOB_NAME_PATTERN, QUEUE_PATTERN
from jobwire_gateway.rule_schemas import BACKOFF, CLASSES, NOT_TOGETHER, PRIORITY, RULE_COMPONENTS, RULES_OF_JOB
from jobwire_gateway.schema_parts import at_least_zero, closed, date, given, length, listing, number, ref, text, whole

_TEN_YEARS = at_least_zero(3_650 * 86_400)
_ANY_LENGTH = r"^[0-9]+(\.[0-9]{1,9})?s$"
_ONE_HOUR = at_least_zero(3_600)

QUEUE = text("The queue's name.", pattern=f"^{QUEUE_PATTERN}$", examples=["thumbnails"])
JOB_ID = text("The job's id, unique in its queue.", pattern=f"^{JOB_ID_PATTERN}$", examples=["photo-17"])
NO_MEMBERS = closed({})
TOPICS = closed({"topics": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 100}}, required=("topics",))
CANCEL = closed({"grace": length("How long a running handler may take to give way. Default 30 s; at most an hour; 0 ends it at once.", _ONE_HOUR)})
RETRY = closed({"payload": {"description": "What it shall carry from now on: any JSON. Without: what it carried."}})
CLEAN = closed(
    {
        "state": {"description": "Which jobs. Default `completed`.", "type": "string", "enum": ["completed", "failed", "cancelled", "expired"]},
        "grace": length("Jobs that ended less than this ago are kept. Default 0 s; less than 3,650 days.", _TEN_YEARS),
    }
)
CLEANED = closed({"deleted": {"description": "How many jobs were deleted.", "type": "integer", "minimum": 0}}, required=("deleted",))

_DURABILITY = text("How long the answer waits: until the store has it, or until its append-only file has it on disk.", enum=["store", "disk"], default="store")
_JOB_SPEC: dict[str, object] = {
    "jobName": text("Which handler runs it.", pattern=f"^{JOB_NAME_PATTERN}$", examples=["thumbnail"]),
    "payload": {"description": "What the handler receives: any JSON, at most 1 MiB."},
    "id": text("The job's id, if it is to be a certain one. A call with an id may be repeated without harm.", pattern=f"^{JOB_ID_PATTERN}$"),
    "priority": PRIORITY,
    "delay": length("Do not start before this much time from now. Less than 10 years. Not beside `delayUntil`.", _TEN_YEARS),
    "delayUntil": date("Do not start before this date, from 1970 to 9999. Not beside `delay`."),
    "attempts": whole("How many times it may run. Default 3.", minimum=1, maximum=1000),
    "backoff": BACKOFF,
    **RULES_OF_JOB,
}
_MANY_JOBS = {
    "type": "array",
    # One that is no such job is refused by its verdict, and does not hinder the others.
    "items": {"anyOf": [ref("JobSpec"), {}]},
    "minItems": 1,
    "maxItems": 1000,
}

_FAILURE = given(
    {
        "type": text("The error's short name, for example the exception's class."),
        "message": text("One sentence for people."),
        "stack": text("A stack trace."),
        "reason": text("Why Jobwire, and not the worker, ended the attempt: POISON, NO_HANDLER."),
    }
)
_PROGRESS = given(
    {
        "percent": number("Percent done. It never falls within an attempt; completion sets 100.", minimum=0, maximum=100),
        "message": text("One line for people."),
        "data": {"description": "What the handler says to programs: any JSON."},
        "dataText": text("The same where it is no JSON."),
    },
    required=("percent", "message"),
)


def _content(name: str, what: str) -> dict[str, object]:
    return {
        name: {"description": f"{what}, where it is JSON."},
        f"{name}Text": text(f"{what}, where it says that it is JSON and is none."),
        f"{name}Base64": text(f"{what} in base64, where it is something else.", contentEncoding="base64"),
        f"{name}ContentType": text("The media type of those bytes."),
    }


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}, "description": "For people and filters."}
_JOB = given(
    {
        "name": text("`queues/{queue}/jobs/{id}`."),
        "queue": text("The queue's name."),
        "id": text("The id in the queue."),
        "state": text("Where it is in its life. More words may come with later versions.", examples=list(STATES)),
        "revision": whole("Grows with every change: microseconds since 1970, made unique."),
        "priority": whole("Lower runs first."),
        "attempt": whole("The number of the current or last run; 0 before the first.", minimum=0),
        "maxAttempts": whole("How many times it may run.", minimum=0),
        "token": whole("The fencing token of the current or last lease; 0 before the first.", minimum=0),
        "losses": whole("How many times a worker was lost while it held this job.", minimum=0),
        "jobName": text("Which handler runs it."),
        "progress": ref("Progress"),
        **_content("payload", "What it carries"),
        **_content("result", "What the handler gave back"),
        "failure": ref("Failure"),
        "createTime": date("When it was enqueued."),
        "dueTime": date("When it comes due. Only while it is delayed."),
        "startTime": date("When the current or last run began."),
        "finishTime": date("When it ended."),
        "worker": text("Who runs it: the worker's label. Only while it is active."),
        "cancelRequested": {"type": "boolean", "description": "A cancel was asked for while it ran."},
        "cancelDelivered": {"type": "boolean", "description": "The worker has confirmed that it heard of the cancel."},
        "cancelStage": text("How far its cancel is, or how it went.", examples=words_of(CancelStage.DESCRIPTOR)),
        "cancelTime": date("When the cancel was asked for."),
        "group": text("Whose job it is."),
        "labels": _TEXTS,
        "requiredLabels": {**_TEXTS, "description": "What a worker must have to get it."},
        "units": whole("How much it counts in limits.", minimum=0),
        "expireTime": date("When it expires if it has not started. Only before its first start."),
        "timeout": length("How long an attempt may take, where that is not the queue's.", _ANY_LENGTH),
        "totalTimeout": length("How long all attempts may take, where that is not the queue's.", _ANY_LENGTH),
        "attempts": {"type": "array", "items": ref("Attempt"), "description": "Its runs, the oldest first: the last 20. Only where one job is read."},
        **_content("checkpoint", "What its handler left for the next attempt"),
        "fingerprint": text("What its failures have in common with others'. Only in `failed`."),
        "resolution": ref("Resolution"),
        "logLines": whole("How many lines its log has. Only where one job is read.", minimum=0),
    },
    required=("name", "queue", "id", "state", "revision", "priority", "attempt", "maxAttempts", "token", "losses"),
)
_ENQUEUED = {
    "name": text("`queues/{queue}/jobs/{id}`."),
    "id": text("The id in the queue."),
    "verdict": text("`made`: by this call or an earlier try of it. `found`: one with its identity was there. `replaced`: it took another's place."),
    "eventsUrl": text("The path of the job's event stream."),
}
_ITEM_ERROR = given(
    {
        "code": text("The gRPC code that the job alone would have had, in lower case."),
        "reason": text("For programs."),
        "field": text("The member that is wrong."),
        "detail": text("One sentence for people."),
        "retryAfterMs": whole("When to try again, in milliseconds; where there was no room.", minimum=0),
        "accepted": text("Where the store was away: whether the job may have been made: `no`, `unknown`."),
    },
    required=("detail",),
)
_VERDICT = given({**_ENQUEUED, "error": ref("ItemError")}, required=("verdict",))
_COUNT = {"type": "integer", "minimum": 0}
_COUNT_NAMES = ("waiting", "active", "delayed", "blocked", "completed", "failed", "cancelled", "expired", "total", "completedTotal", "failedTotal")
_COUNTS: dict[str, object] = {
    **given(dict.fromkeys(_COUNT_NAMES, _COUNT), required=_COUNT_NAMES),
    "description": "How many jobs are in each state: what a list of that state shows. `total` is their sum; `completedTotal` and `failedTotal` only grow.",
}
_PAUSED = {"type": "boolean", "description": "Whether delivery is stopped."}
_SESSIONS = whole("How many worker processes take jobs from it.", minimum=0)
_HEALTH = given(
    {
        "status": text(
            "`degraded`: the broker answers and its store does not. `down`: no broker answers, or this process is about to end.",
            enum=["ok", "degraded", "down"],
        ),
        "uptime": number("Seconds since the gateway began."),
        "services": given(
            {
                "broker": text("", enum=["ok", "down"]),
                "store": text("", enum=["ok", "down", "unknown"]),
                "queues": {"type": "object", "additionalProperties": given({"waiting": _COUNT, "active": _COUNT})},
            }
        ),
        "streams": whole("Open event streams in this gateway.", minimum=0),
    },
    required=("status", "uptime", "services"),
)
_PROBLEM = given(
    {
        "type": text("Always `about:blank`: the status says what kind of problem it is."),
        "title": text("The status in words."),
        "status": whole("The HTTP status."),
        "detail": text("One sentence for people."),
        "instance": text("The path that was asked for."),
        "code": text("The broker's gRPC code, in lower case."),
        "reason": text("For programs: frozen once given out.", examples=["WRONG_STATE"]),
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}, "description": "More for programs, by reason."},
        "violations": {
            "type": "array",
            "description": "Which members are out of their bounds.",
            "items": given({"field": text("The member."), "description": text("What is wrong with it.")}, required=("field", "description")),
        },
        "quota": {
            "type": "array",
            "description": "What is used up.",
            "items": given(
                {"subject": text("`queues/{queue}`, `store` or `stream`."), "description": text("What the bound is.")}, required=("subject", "description")
            ),
        },
        "retryAfterMs": whole("When to try again, in milliseconds; the header `Retry-After` says it in seconds.", minimum=0),
    },
    required=("type", "title", "status", "detail", "instance"),
)
_WORKER = given(
    {
        "session": text("The session, as 32 hexadecimal digits."),
        "instanceId": text("The label that the worker gave itself."),
        "queues": {"type": "array", "items": {"type": "string"}, "description": "The queues that it takes jobs from."},
        "active": whole("How many jobs it holds.", minimum=0),
        "concurrency": whole("How many it runs at once; 0 when it did not say.", minimum=0),
        "sdk": text("The name and version of its SDK."),
        "brokerId": text("The broker that it is connected to."),
        "connectTime": date("When it connected."),
        "reserved": {"type": "array", "items": ref("Reserve"), "description": "The slots that it keeps for some of its queues."},
    },
    required=("session", "queues", "active", "concurrency"),
)
_RESERVE = given(
    {
        "queue": text("The queue that they are kept for, or"),
        "queueClass": text("the class of all such queues.", examples=CLASSES),
        "slots": whole("How many.", minimum=1),
    },
    required=("slots",),
)
_SERVER = given(
    {
        "brokerId": text("The broker process that answered."),
        "version": text("The version of that broker."),
        "storeAvailable": {"type": "boolean", "description": "Whether its store answers now."},
        "storeVersion": text("The store's product and version."),
        "diskDurability": {"type": "boolean", "description": 'Whether `"durability": "disk"` can be asked for.'},
        "uptime": text("How long the broker has run, in seconds with an `s`."),
        "gatewayVersion": text("The version of the gateway that answered."),
    },
    required=("brokerId", "version", "storeAvailable", "diskDurability", "gatewayVersion"),
)

_HOLDER = given(
    {
        "session": text("The session, as 32 hexadecimal digits."),
        "worker": text("The label that the worker gave itself."),
        "active": whole("How many jobs it holds, of all its queues.", minimum=0),
        "concurrency": whole("How many it runs at once; 0 when it did not say.", minimum=0),
        "alone": {"type": "boolean", "description": "It is kept free for one job, or runs one, that is delivered alone."},
    },
    required=("session", "active"),
)
_HOLD = given(
    {
        "reason": text(
            "What holds it. More words may come with later versions.",
            examples=["none", "queue_paused", "not_due", "no_worker", "jobs_before", "no_credit", "room_kept", "delivered_alone", "active", "final"],
        ),
        "message": text("One sentence for people."),
        "until": date("When this ends by itself: with `not_due`."),
        "since": date("Since when it is so: with `active` and `final`."),
        "jobsBefore": whole("How many waiting jobs go first: with `jobs_before`.", minimum=0),
        "jobsBeforeByPriority": whole("How many of them go first by their priority.", minimum=0),
        "holders": {"type": "array", "items": ref("Holder"), "description": "The workers that are in the way, or the one that runs it; at most 100."},
        "holderCount": whole("How many there are, where that is more than are listed, too.", minimum=0),
        "keptFor": text("With `room_kept`: the name of the job for which the room is kept."),
        "cancelStage": text("With `active`: how far its cancel is.", examples=["requested", "delivered"]),
        "cancelLeft": length("When the job is ended by force.", _ANY_LENGTH),
        "leaseLeft": length("How long its lease lasts if the worker says nothing more.", _ANY_LENGTH),
    },
    required=("reason", "message"),
)
_EXPLANATION = given(
    {
        "summary": text("All of it in one sentence for people."),
        "state": text("The state that is explained."),
        "holds": {"type": "array", "items": ref("Hold"), "description": "What holds the job now, in the order in which each must give way.", "minItems": 1},
    },
    required=("summary", "state", "holds"),
)

COMPONENTS: Mapping[str, Mapping[str, Any]] = {
    **RULE_COMPONENTS,
    "Counts": _COUNTS,
    "EnqueueJob": closed({**_JOB_SPEC, "durability": _DURABILITY}, required=("jobName",), **NOT_TOGETHER),
    "EnqueueJobs": closed({"jobs": _MANY_JOBS, "durability": _DURABILITY}, required=("jobs",)),
    "Enqueued": given(
        {**_ENQUEUED, "job": {**ref("Job"), "description": "The job at its end. Only where the call waited for it."}},
        required=("name", "id", "verdict", "eventsUrl"),
    ),
    "EnqueuedMany": given(
        {
            "jobs": {"type": "array", "items": ref("Verdict"), "description": "In the order of the request."},
            "refused": whole("How many were not made.", minimum=0),
        },
        required=("jobs", "refused"),
    ),
    "Explanation": _EXPLANATION,
    "Failure": _FAILURE,
    "Health": _HEALTH,
    "Hold": _HOLD,
    "Holder": _HOLDER,
    "ItemError": _ITEM_ERROR,
    "Job": _JOB,
    "JobSpec": closed(_JOB_SPEC, required=("jobName",), **NOT_TOGETHER),
    "Jobs": listing("jobs", ref("Job"), total=whole("How many jobs the state has, without the filter.", minimum=0)),
    "Problem": _PROBLEM,
    "Progress": _PROGRESS,
    "Queue": given(
        {
            "name": text("`queues/{queue}`."),
            "queue": text("The queue's name."),
            "paused": _PAUSED,
            "workers": _SESSIONS,
            "oldestWaitingAge": length("How long the job has waited that waits longest. Only where one queue is read.", _ANY_LENGTH),
            "oldestActiveAge": length("How long the job has run that runs longest. Only where one queue is read.", _ANY_LENGTH),
            "moreWorkersHelp": {"type": "boolean", "description": "Whether one more worker would start a job now. Only where one queue is read."},
            "policy": {**ref("Policy"), "description": "Its rules: only what was set. In lists the class alone."},
            "rateIn": number("Jobs enqueued per second, over the last minute. Only where one queue is read.", minimum=0),
            "rateOut": number("Jobs ended per second, over the last minute. Only where one queue is read.", minimum=0),
            "counts": ref("Counts"),
        },
        required=("name", "queue", "paused", "workers", "counts"),
    ),
    "Queues": listing("queues", ref("Queue")),
    "Server": _SERVER,
    "Stats": given(
        {
            "queues": {"type": "object", "additionalProperties": ref("Counts"), "description": "By the queue's name."},
            "classes": {"type": "object", "additionalProperties": ref("Class"), "description": "By the class's word."},
        },
        required=("queues", "classes"),
    ),
    "Status": given({"status": text("", enum=["ok", "down"]), "reason": text("Why it is down.")}, required=("status",)),
    "Verdict": _VERDICT,
    "Worker": _WORKER,
    "Reserve": _RESERVE,
    "Workers": listing("workers", ref("Worker")),
}
"""All that have a name."""
