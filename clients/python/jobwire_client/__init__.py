"""Enqueue jobs, look at them, act on them, follow them. Needs grpcio and protobuf alone.

async with Client("localhost:7410") as client:
    job = await client.enqueue("thumbnails", "thumbnail", {"path": "sea.jpg"})
    done = await client.wait(job)
"""

from jobwire_client._client import Client
from jobwire_client._credentials import Credentials
from jobwire_client._explain import Explanation, Hold, Holder
from jobwire_client._job import (
    Change,
    ChangeType,
    Enqueued,
    EnqueueVerdict,
    Failure,
    Job,
    LogLine,
    Named,
    Progress,
    Queue,
    QueueCounts,
    ServerInfo,
    WatchToken,
    WorkerSession,
)
from jobwire_client._spec import Backoff, Durability, JobSpec, Priority
from jobwire_client._sync import SyncClient
from jobwire_client.errors import (
    Accepted,
    BatchTooLarge,
    ClientClosed,
    DurabilityUnsupported,
    FieldViolation,
    InvalidRequest,
    JobExists,
    JobNotFound,
    JobwireError,
    NotFound,
    NotPermitted,
    PageTokenInvalid,
    PayloadTooLarge,
    QueueNotFound,
    QueueUnavailable,
    ServerError,
    StaleLease,
    StoreFull,
    Unauthenticated,
    WaitTimeout,
    WrongState,
)

__all__ = [
    "Accepted",
    "Backoff",
    "BatchTooLarge",
    "Change",
    "ChangeType",
    "Client",
    "ClientClosed",
    "Credentials",
    "Durability",
    "DurabilityUnsupported",
    "EnqueueVerdict",
    "Enqueued",
    "Explanation",
    "Failure",
    "FieldViolation",
    "Hold",
    "Holder",
    "InvalidRequest",
    "Job",
    "JobExists",
    "JobNotFound",
    "JobSpec",
    "JobwireError",
    "LogLine",
    "Named",
    "NotFound",
    "NotPermitted",
    "PageTokenInvalid",
    "PayloadTooLarge",
    "Priority",
    "Progress",
    "Queue",
    "QueueCounts",
    "QueueNotFound",
    "QueueUnavailable",
    "ServerError",
    "ServerInfo",
    "StaleLease",
    "StoreFull",
    "SyncClient",
    "Unauthenticated",
    "WaitTimeout",
    "WatchToken",
    "WorkerSession",
    "WrongState",
]
