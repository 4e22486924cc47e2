"""Every call of the HTTP face, as data. The order is that of the page at /docs."""

from collections.abc import Sequence

from jobwire.v1.admin_service_pb2 import ListWorkersResponse
from jobwire.v1.job_service_pb2 import DeleteJobRequest, ExplainJobRequest, ListJobsResponse, PromoteJobRequest
from jobwire.v1.queue_service_pb2 import GetQueueRequest, ListQueuesResponse, PauseQueueRequest, ResumeQueueRequest
from starlette.types import ASGIApp

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.bulk import Bulk
from jobwire_gateway.explanations import explanation_json
from jobwire_gateway.health import Health
from jobwire_gateway.jobs import STATES, counts_json, job_json, queue_json, worker_json
from jobwire_gateway.logs import Logs
from jobwire_gateway.operations import Operation, Parameter, Reads, Returns, of_request, relay
from jobwire_gateway.requests import JSON, NDJSON
from jobwire_gateway.rest import Rest, cancel_request, clean_request, list_request, page_json, queues_request, workers_request
from jobwire_gateway.rule_table import CURSOR, FILTERS, PAGE, job_operations, queue_operations
from jobwire_gateway.rules import retry_request
from jobwire_gateway.schema_parts import ref
from jobwire_gateway.schemas import CANCEL, CLEAN, CLEANED, NO_MEMBERS, RETRY, TOPICS
from jobwire_gateway.stats import Stats

JOBS, QUEUES, SYSTEM, STREAMS = "Jobs", "Queues", "System", "Streams"

_QUEUE = "/v1/queues/{queue}"
_JOBS = f"{_QUEUE}/jobs"
_JOB = f"{_JOBS}/{{id}}"

_STATE = Parameter(name="state", description="The state to list.", schema={"type": "string", "enum": list(STATES)}, required=True)
_WAIT = Parameter(
    name="Prefer",
    where="header",
    description="`wait=N` waits up to N seconds, at most 60, for the job's end (RFC 7240). Closing the call leaves the job alone.",
    schema={"type": "string", "examples": ["wait=30"]},
)
_KEY = Parameter(
    name="Idempotency-Key",
    where="header",
    description="Makes the call safe to repeat: the same key gives jobs without an `id` the same ids in this queue. The same content is then the same job, "
    "other content a 409, for as long as the job is kept.",
    schema={"type": "string", "pattern": "^[!-~]{1,255}$"},
)
_DURABILITY = Parameter(
    name="durability",
    description="How long the answer waits, where the body does not say it, as lines cannot: `store` or `disk`. It may not say another one than the body.",
    schema={"type": "string", "enum": ["store", "disk"]},
)
_IF_NONE_MATCH = Parameter(name="If-None-Match", where="header", description="The `ETag` of an answer before: if the job is still the same, the answer is 304.")
_TOPIC = Parameter(
    name="topic",
    description="`queues/QUEUE`, or behind that `/jobs/ID`, `/groups/GROUP` or `/labels/KEY=VALUE`; may be there up to 100 times.",
    schema={"type": "array", "items": {"type": "string", "examples": ["queues/thumbnails"]}, "minItems": 1, "maxItems": 100},
    required=True,
)

_ENQUEUE = (
    "The answer says that the job is there; it runs when a worker has room. A body with `jobs` makes up to 1,000, with a verdict for each: one that is refused "
    "does not hinder the others. Up to 100,000 are sent as `application/x-ndjson`, one job in each line; the answer has a line for each, and a last line that "
    "counts them."
)
_NO_JOB = "There is no such job, or it is gone: `metadata.state` then says how it ended."
_WRONG_STATE = "The job's state does not allow it (`WRONG_STATE`); `metadata.state` says which it is."


def operations(
    brokers: Brokers, rest: Rest, stats: Stats, health: Health, bulk: Bulk, logs: Logs, *, job_events: ASGIApp, queue_events: ASGIApp, many_events: ASGIApp
) -> Sequence[Operation]:
    """All of them."""
    calls = [*_jobs(brokers, rest), *job_operations(brokers, bulk, logs), *_queues(brokers), *queue_operations(brokers)]
    return [*calls, *_streams(stats, job_events, queue_events, many_events), *_system(brokers, rest, stats, health)]


def _jobs(brokers: Brokers, rest: Rest) -> list[Operation]:
    return [
        Operation(
            method="POST",
            path=_JOBS,
            id="enqueue",
            tag=JOBS,
            summary="Enqueue one job, or many",
            description=_ENQUEUE,
            handler=rest.enqueue,
            reads=Reads.ITSELF,
            parameters=(_DURABILITY, _KEY, _WAIT),
            body={JSON: {"oneOf": [ref("EnqueueJob"), ref("EnqueueJobs")]}, NDJSON: {"type": "string", "description": "A JobSpec in each line."}},
            example={"jobName": "thumbnail", "payload": {"path": "a.jpg"}},
            returns={
                202: Returns(
                    description="It is there.", schema={"oneOf": [ref("Enqueued"), ref("EnqueuedMany")]}, headers={"Location": "The job's path; for one job."}
                ),
                200: Returns(
                    description="With `Prefer: wait`: it has ended. For lines: a verdict for each, and a last line that counts them.",
                    schema=ref("Enqueued"),
                    others={NDJSON: {"type": "string"}},
                ),
            },
            fails={
                409: "The id is taken by a job with other content (`JOB_EXISTS`).",
                429: "The store is full (`STORE_FULL`), or the queue is at its maximum depth (`QUEUE_FULL`).",
            },
        ),
        Operation(
            method="GET",
            path=_JOBS,
            id="listJobs",
            tag=JOBS,
            summary="List the jobs of a queue in one state, without payloads and results",
            description="Ended jobs come newest first, those that wait in the order in which they will run, or line by line where groups are "
            "used. A page may have fewer jobs than were asked for, or none, and still not be the last: look at `nextPageToken`.",
            handler=relay(brokers, lambda broker: broker.jobs.ListJobs, list_request, _jobs_page),
            parameters=(_STATE, *FILTERS, *PAGE),
            returns={200: Returns(description="A page.", schema=ref("Jobs"))},
        ),
        Operation(
            method="GET",
            path=_JOB,
            id="getJob",
            tag=JOBS,
            summary="Read a job, payload and all",
            handler=rest.get,
            parameters=(_IF_NONE_MATCH, _WAIT),
            returns={
                200: Returns(description="The job.", schema=ref("Job"), headers={"ETag": "The job's revision."}),
                304: Returns(description="It is as it was."),
            },
            fails={404: _NO_JOB},
        ),
        Operation(
            method="GET",
            path=f"{_JOB}/explain",
            id="explainJob",
            tag=JOBS,
            summary="Say why a job does not run",
            description="Everything that holds it now. One that runs or has ended is explained as well.",
            handler=relay(brokers, lambda broker: broker.jobs.ExplainJob, lambda asked: ExplainJobRequest(name=asked.job), explanation_json),
            returns={200: Returns(description="What holds it.", schema=ref("Explanation"))},
            fails={404: _NO_JOB},
        ),
        Operation(
            method="DELETE",
            path=_JOB,
            id="deleteJob",
            tag=JOBS,
            summary="Delete a job that does not run",
            handler=relay(brokers, lambda broker: broker.jobs.DeleteJob, lambda asked: DeleteJobRequest(name=asked.job), lambda _: None),
            returns={204: Returns(description="It is gone.")},
            fails={404: _NO_JOB, 409: "It runs (`WRONG_STATE`): cancel it first."},
        ),
        Operation(
            method="POST",
            path=f"{_JOB}:cancel",
            id="cancelJob",
            tag=JOBS,
            summary="Cancel a job",
            description="One that has not started is cancelled at once. One that runs is told, and has the grace to give way; if it completes before that, "
            "it is completed.",
            handler=relay(brokers, lambda broker: broker.jobs.CancelJob, cancel_request, lambda answer: job_json(answer.job)),
            reads=Reads.OPTIONAL,
            body={JSON: CANCEL},
            example={"grace": "30s"},
            returns={200: Returns(description="The job after the call.", schema=ref("Job"))},
            fails={404: _NO_JOB, 409: _WRONG_STATE},
        ),
        Operation(
            method="POST",
            path=f"{_JOB}:retry",
            id="retryJob",
            tag=JOBS,
            summary="Put back a job that failed, was cancelled or expired, with another payload if one is given",
            handler=relay(brokers, lambda broker: broker.jobs.RetryJob, retry_request, lambda answer: job_json(answer.job)),
            reads=Reads.OPTIONAL,
            body={JSON: RETRY},
            returns={200: Returns(description="The job, waiting, with all its attempts before it again.", schema=ref("Job"))},
            fails={404: _NO_JOB, 409: _WRONG_STATE},
        ),
        Operation(
            method="POST",
            path=f"{_JOB}:promote",
            id="promoteJob",
            tag=JOBS,
            summary="Let a delayed job wait for a worker now",
            handler=relay(brokers, lambda broker: broker.jobs.PromoteJob, lambda asked: PromoteJobRequest(name=asked.job), lambda answer: job_json(answer.job)),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The job, waiting.", schema=ref("Job"))},
            fails={404: _NO_JOB, 409: _WRONG_STATE},
        ),
    ]


def _queues(brokers: Brokers) -> list[Operation]:
    no_queue = {404: "Nothing was ever enqueued there (`QUEUE_NOT_FOUND`)."}
    return [
        Operation(
            method="GET",
            path="/v1/queues",
            id="listQueues",
            tag=QUEUES,
            summary="List all queues by name, with their counts",
            handler=relay(brokers, lambda broker: broker.queues.ListQueues, queues_request, _queues_page),
            parameters=PAGE,
            returns={200: Returns(description="A page.", schema=ref("Queues"))},
        ),
        Operation(
            method="GET",
            path=_QUEUE,
            id="getQueue",
            tag=QUEUES,
            summary="Read a queue with its counts",
            handler=relay(
                brokers, lambda broker: broker.queues.GetQueue, lambda asked: GetQueueRequest(name=asked.queue), lambda answer: queue_json(answer.queue)
            ),
            returns={200: Returns(description="The queue.", schema=ref("Queue"))},
            fails=no_queue,
        ),
        Operation(
            method="GET",
            path=f"{_QUEUE}/stats",
            id="getQueueStats",
            tag=QUEUES,
            summary="Read the counts of a queue alone",
            handler=relay(
                brokers, lambda broker: broker.queues.GetQueue, lambda asked: GetQueueRequest(name=asked.queue), lambda answer: counts_json(answer.queue.counts)
            ),
            returns={200: Returns(description="The counts.", schema=ref("Counts"))},
            fails=no_queue,
        ),
        Operation(
            method="POST",
            path=f"{_QUEUE}:pause",
            id="pauseQueue",
            tag=QUEUES,
            summary="Stop the delivery of new jobs",
            description="What runs goes on, nothing is moved, and enqueueing works as before. To pause twice is no error.",
            handler=relay(
                brokers, lambda broker: broker.queues.PauseQueue, lambda asked: PauseQueueRequest(name=asked.queue), lambda answer: queue_json(answer.queue)
            ),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The queue, paused.", schema=ref("Queue"))},
        ),
        Operation(
            method="POST",
            path=f"{_QUEUE}:resume",
            id="resumeQueue",
            tag=QUEUES,
            summary="Start delivery again",
            handler=relay(
                brokers, lambda broker: broker.queues.ResumeQueue, lambda asked: ResumeQueueRequest(name=asked.queue), lambda answer: queue_json(answer.queue)
            ),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={200: Returns(description="The queue.", schema=ref("Queue"))},
        ),
        Operation(
            method="POST",
            path=f"{_QUEUE}:clean",
            id="cleanQueue",
            tag=QUEUES,
            summary="Delete jobs that have ended",
            description="Those that had ended in one state when the call began, the oldest first. What was deleted when the call is cut off stays deleted.",
            handler=relay(brokers, lambda broker: broker.queues.CleanQueue, clean_request, lambda answer: {"deleted": answer.deleted}),
            reads=Reads.OPTIONAL,
            body={JSON: CLEAN},
            example={"state": "failed", "grace": "604800s"},
            returns={200: Returns(description="How many were deleted.", schema=CLEANED)},
            fails=no_queue,
        ),
    ]


def _streams(stats: Stats, job_events: ASGIApp, queue_events: ASGIApp, many_events: ASGIApp) -> list[Operation]:
    frames = {200: Returns(description="Server-sent events: `id` and `data` lines.", schema={"type": "string"}, media_type="text/event-stream")}
    return [
        Operation(
            method="GET",
            path=f"{_JOB}/events",
            id="watchJob",
            tag=STREAMS,
            summary="Follow a job to its end",
            app=job_events,
            parameters=CURSOR,
            returns={**frames, 204: Returns(description="After the end: there is nothing more to come.")},
            fails={404: "There is no such job. An EventSource gets 200 and an `error` frame instead."},
        ),
        Operation(
            method="GET",
            path=f"{_QUEUE}/events",
            id="watchQueue",
            tag=STREAMS,
            summary="Follow all jobs of a queue",
            app=queue_events,
            parameters=CURSOR,
            returns=frames,
        ),
        Operation(
            method="GET",
            path="/v1/events",
            id="watchMany",
            tag=STREAMS,
            summary="Follow many jobs and queues on one stream",
            description="Each topic begins with a `connected` of its own. The stream ends when it is of jobs alone, and all of them have ended.",
            app=many_events,
            parameters=(_TOPIC, *CURSOR),
            returns={**frames, 204: Returns(description="After the end: there is nothing more to come.")},
        ),
        Operation(
            method="POST",
            path="/v1/events",
            id="watchManyOfBody",
            tag=STREAMS,
            summary="The same for lists of topics that no address can hold",
            app=many_events,
            parameters=CURSOR,
            reads=Reads.OBJECT,
            body={JSON: TOPICS},
            example={"topics": ["queues/thumbnails", "queues/mail/jobs/welcome-17"]},
            returns={**frames, 204: Returns(description="After the end: there is nothing more to come.")},
        ),
        Operation(
            method="GET",
            path="/v1/stats/stream",
            id="watchStats",
            tag=STREAMS,
            summary="Follow the counts of all queues",
            handler=of_request(stats.stream),
            parameters=CURSOR,
            returns=frames,
        ),
    ]


def _system(brokers: Brokers, rest: Rest, stats: Stats, health: Health) -> list[Operation]:
    return [
        Operation(
            method="GET",
            path="/v1/stats",
            id="getStats",
            tag=SYSTEM,
            summary="Read the counts of all queues",
            handler=of_request(stats.once),
            returns={200: Returns(description="The counts by queue.", schema=ref("Stats"))},
        ),
        Operation(
            method="GET",
            path="/v1/workers",
            id="listWorkers",
            tag=SYSTEM,
            summary="List the worker processes that are connected",
            handler=relay(brokers, lambda broker: broker.admin.ListWorkers, workers_request, _workers_page),
            parameters=PAGE,
            returns={200: Returns(description="A page.", schema=ref("Workers"))},
        ),
        Operation(
            method="GET",
            path="/v1/server",
            id="getServer",
            tag=SYSTEM,
            summary="Say which broker and gateway answer, and how the store is",
            handler=rest.server,
            returns={200: Returns(description="It answers when the store is away, too.", schema=ref("Server"))},
        ),
        Operation(
            method="GET",
            path="/health",
            id="getHealth",
            tag=SYSTEM,
            summary="Say how all is, for people and monitors",
            handler=of_request(health.health),
            returns={200: Returns(description="`ok` or `degraded`.", schema=ref("Health")), 503: Returns(description="`down`.", schema=ref("Health"))},
        ),
        Operation(
            method="GET",
            path="/readyz",
            id="getReadiness",
            tag=SYSTEM,
            summary="Say whether new requests should come here; quick to fail",
            handler=of_request(health.ready),
            returns={200: Returns(description="They should.", schema=ref("Status")), 503: Returns(description="They should not.", schema=ref("Status"))},
        ),
        Operation(
            method="GET",
            path="/livez",
            id="getLiveness",
            tag=SYSTEM,
            summary="Say that the process answers; slow to fail",
            handler=of_request(health.live),
            returns={200: Returns(description="It does.", schema=ref("Status"))},
        ),
    ]


def _jobs_page(answer: ListJobsResponse) -> object:
    return {**page_json("jobs", [job_json(job) for job in answer.jobs], answer.next_page_token), "total": answer.total}


def _queues_page(answer: ListQueuesResponse) -> object:
    return page_json("queues", [queue_json(queue) for queue in answer.queues], answer.next_page_token)


def _workers_page(answer: ListWorkersResponse) -> object:
    return page_json("workers", [worker_json(worker) for worker in answer.workers], answer.next_page_token)
