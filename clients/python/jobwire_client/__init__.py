"""Enqueue jobs, look at them, act on them, follow them. Needs grpcio and protobuf alone.

async with Client("localhost:7410") as client:
    job = await client.enqueue("thumbnails", "thumbnail", {"path": "sea.jpg"})
    done = await client.wait(job)
"""

from jobwire_client._bulk import BulkPlan, BulkProgress, BulkVerb
from jobwire_client._bulk_runs import BulkRun, BulkRunState
from jobwire_client._client import Client
from jobwire_client._credentials import Credentials
from jobwire_client._explain import Explanation, Hold, Holder
from jobwire_client._failures import FailureGroup
from jobwire_client._filter import JobFilter
from jobwire_client._identity import Debounce, Throttle
from jobwire_client._job import (
    Attempt,
    Change,
    ChangeType,
    Enqueued,
    EnqueueVerdict,
    Failure,
    Job,
    LogLine,
    Named,
    Progress,
    Resolution,
    ServerInfo,
    WatchToken,
)
from jobwire_client._limits import Group, Limit, RateLimit
from jobwire_client._payload import NotJson
from jobwire_client._policy import QueuePolicy, Retention
from jobwire_client._queues import ClassStats, Queue, QueueCounts
from jobwire_client._spec import Backoff, Durability, JobSpec, Priority
from jobwire_client._sync import SyncClient
from jobwire_client._workers import Reserve, WorkerSession
from jobwire_client.errors import (
    Accepted,
    BatchTooLarge,
    BulkRunNotFound,
    BulkRunStopped,
    BulkTokenInvalid,
    ClientClosed,
    DurabilityUnsupported,
    FieldViolation,
    IdempotencyConflict,
    InvalidRequest,
    JobExists,
    JobNotFound,
    JobwireError,
    NotFound,
    NotPermitted,
    PageTokenInvalid,
    PayloadTooLarge,
    QueueFull,
    QueueNotFound,
    QueueUnavailable,
    ServerError,
    StaleLease,
    StoreFull,
    Unauthenticated,
    UsedUp,
    WaitTimeout,
    WrongState,
)

__all__ = [
    "Accepted",
    "Attempt",
    "Backoff",
    "BatchTooLarge",
    "BulkPlan",
    "BulkProgress",
    "BulkRun",
    "BulkRunNotFound",
    "BulkRunState",
    "BulkRunStopped",
    "BulkTokenInvalid",
    "BulkVerb",
    "Change",
    "ChangeType",
    "ClassStats",
    "Client",
    "ClientClosed",
    "Credentials",
    "Debounce",
    "Durability",
    "DurabilityUnsupported",
    "EnqueueVerdict",
    "Enqueued",
    "Explanation",
    "Failure",
    "FailureGroup",
    "FieldViolation",
    "Group",
    "Hold",
    "Holder",
    "IdempotencyConflict",
    "InvalidRequest",
    "Job",
    "JobExists",
    "JobFilter",
    "JobNotFound",
    "JobSpec",
    "JobwireError",
    "Limit",
    "LogLine",
    "Named",
    "NotFound",
    "NotJson",
    "NotPermitted",
    "PageTokenInvalid",
    "PayloadTooLarge",
    "Priority",
    "Progress",
    "Queue",
    "QueueCounts",
    "QueueFull",
    "QueueNotFound",
    "QueuePolicy",
    "QueueUnavailable",
    "RateLimit",
    "Reserve",
    "Resolution",
    "Retention",
    "ServerError",
    "ServerInfo",
    "StaleLease",
    "StoreFull",
    "SyncClient",
    "Throttle",
    "Unauthenticated",
    "UsedUp",
    "WaitTimeout",
    "WatchToken",
    "WorkerSession",
    "WrongState",
]
