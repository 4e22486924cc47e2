"""What REST takes and gives, as JSON Schemas. Each has a name, under which the OpenAPI document holds it; `ref` points to one.

A test holds them beside the contract: what `jobs.py` can show of a message stands here, and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from jobwire_gateway.jobs import STATES
from jobwire_gateway.names import JOB_ID_PATTERN, JOB_NAME_PATTERN, QUEUE_PATTERN

_INT32_MAX = 2**31 - 1
_TEN_YEARS = r"^(0|[1-9][0-9]{0,7}|[12][0-9]{8}|30[0-9]{7}|31[0-4][0-9]{6}|315[0-2][0-9]{5}|3153[0-5][0-9]{4})(\.[0-9]{1,9})?s$"
_SEVEN_DAYS = r"^(0|[1-9][0-9]{0,4}|[1-5][0-9]{5}|60[0-3][0-9]{3}|604[0-7][0-9]{2})(\.[0-9]{1,9})?s$"
_THIRTY_DAYS = r"^(0|[1-9][0-9]{0,5}|1[0-9]{6}|2[0-4][0-9]{5}|25[0-8][0-9]{4}|259[01][0-9]{3})(\.[0-9]{1,9})?s$"
_ANY_LENGTH = r"^[0-9]+(\.[0-9]{1,9})?s$"
_ONE_HOUR = r"^(0|[1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2})(\.[0-9]{1,9})?s$"


def ref(name: str) -> dict[str, str]:
    """A pointer to the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Mapping[str, object], *, required: tuple[str, ...] = (), **more: object) -> dict[str, object]:
    """An object with these members and no others: what a request may hold."""
    return {**given(properties, required=required), "additionalProperties": False, **more}


def given(properties: Mapping[str, object], *, required: tuple[str, ...] = ()) -> dict[str, object]:
    """An object with these members: what an answer holds. Later versions may add some."""
    schema: dict[str, object] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": list(required)} if required else schema


def text(description: str, **more: object) -> dict[str, object]:
    """A string."""
    return {"type": "string", "description": description, **more}


def whole(description: str, **more: object) -> dict[str, object]:
    """A whole number."""
    return {"type": "integer", "description": description, **more}


def number(description: str, **more: object) -> dict[str, object]:
    """A number."""
    return {"type": "number", "description": description, **more}


def length(description: str, pattern: str) -> dict[str, object]:
    """A length of time."""
    return text(description, pattern=pattern, examples=["1.5s"])


def date(description: str) -> dict[str, object]:
    """A date of RFC 3339."""
    return text(description, format="date-time")


def listing(name: str, item: object) -> dict[str, object]:
    """One page of a list."""
    token = text("For the next page, as `pageToken`. Not there on the last.")
    return given({name: {"type": "array", "items": item}, "nextPageToken": token}, required=(name,))


QUEUE = text("The queue's name.", pattern=f"^{QUEUE_PATTERN}$", examples=["thumbnails"])
JOB_ID = text("The job's id, unique in its queue.", pattern=f"^{JOB_ID_PATTERN}$", examples=["photo-17"])
NO_MEMBERS = closed({})
TOPICS = closed({"topics": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 100}}, required=("topics",))
CANCEL = closed({"grace": length("How long a running handler may take to give way. Default 30 s; at most an hour; 0 ends it at once.", _ONE_HOUR)})
CLEAN = closed(
    {
        "state": {"description": "Which jobs. Default `completed`.", "type": "string", "enum": ["completed", "failed", "cancelled", "expired"]},
        "grace": length("Jobs that ended less than this ago are kept. Default 0 s; less than 3,650 days.", _TEN_YEARS),
    }
)
CLEANED = closed({"deleted": {"description": "How many jobs were deleted.", "type": "integer", "minimum": 0}}, required=("deleted",))

_BACKOFF = closed(
    {
        "base": length("The wait before the second run. Default 2 s; 0 retries at once; less than 7 days.", _SEVEN_DAYS),
        "factor": number("What each further wait is multiplied by. Default 2; 1 is a fixed wait.", minimum=1, maximum=10),
        "maxDelay": length("No wait is longer. Default a day; less than 30 days.", _THIRTY_DAYS),
        "jitter": number("The share of the wait that is added at random. Default 0.1; 0 is exact.", minimum=0, maximum=1),
    }
)
_PRIORITY = {
    "description": "Lower runs first. Default 5. CRITICAL is 0, HIGH 1, NORMAL and MEDIUM 5, LOW 10, BATCH 20.",
    "oneOf": [
        {"type": "integer", "minimum": -_INT32_MAX - 1, "maximum": _INT32_MAX},
        {"type": "string", "enum": ["CRITICAL", "HIGH", "NORMAL", "MEDIUM", "LOW", "BATCH"]},
    ],
}
_DURABILITY = text("How long the answer waits: until the store has it, or until its append-only file has it on disk.", enum=["store", "disk"], default="store")
_JOB_SPEC: dict[str, object] = {
    "jobName": text("Which handler runs it.", pattern=f"^{JOB_NAME_PATTERN}$", examples=["thumbnail"]),
    "payload": {"description": "What the handler receives: any JSON, at most 1 MiB."},
    "id": text("The job's id, if it is to be a certain one. A call with an id may be repeated without harm.", pattern=f"^{JOB_ID_PATTERN}$"),
    "priority": _PRIORITY,
    "delay": length("Do not start before this much time from now. Less than 10 years. Not beside `delayUntil`.", _TEN_YEARS),
    "delayUntil": date("Do not start before this date, from 1970 to 9999. Not beside `delay`."),
    "attempts": whole("How many times it may run. Default 3.", minimum=1, maximum=1000),
    "backoff": _BACKOFF,
}
_ONE_DELAY = {"not": {"required": ["delay", "delayUntil"]}}
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
    },
    required=("session", "queues", "active", "concurrency"),
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
            examples=["none", "queue_paused", "not_due", "no_worker", "jobs_before", "no_credit", "delivered_alone", "active", "final"],
        ),
        "message": text("One sentence for people."),
        "until": date("When this ends by itself: with `not_due`."),
        "since": date("Since when it is so: with `active` and `final`."),
        "jobsBefore": whole("How many waiting jobs go first: with `jobs_before`.", minimum=0),
        "jobsBeforeByPriority": whole("How many of them go first by their priority.", minimum=0),
        "holders": {"type": "array", "items": ref("Holder"), "description": "The workers that are in the way, or the one that runs it; at most 100."},
        "holderCount": whole("How many there are, where that is more than are listed, too.", minimum=0),
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
    "Counts": _COUNTS,
    "EnqueueJob": closed({**_JOB_SPEC, "durability": _DURABILITY}, required=("jobName",), **_ONE_DELAY),
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
    "JobSpec": closed(_JOB_SPEC, required=("jobName",), **_ONE_DELAY),
    "Jobs": listing("jobs", ref("Job")),
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
            "counts": ref("Counts"),
        },
        required=("name", "queue", "paused", "workers", "counts"),
    ),
    "Queues": listing("queues", ref("Queue")),
    "Server": _SERVER,
    "Stats": given({"queues": {"type": "object", "additionalProperties": ref("Counts"), "description": "By the queue's name."}}, required=("queues",)),
    "Status": given({"status": text("", enum=["ok", "down"]), "reason": text("Why it is down.")}, required=("status",)),
    "Verdict": _VERDICT,
    "Worker": _WORKER,
    "Workers": listing("workers", ref("Worker")),
}
"""All that have a name."""
