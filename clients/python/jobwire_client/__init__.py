"""Enqueue jobs, look at them, act on them, follow them. Needs grpcio and protobuf alone.

async with Client("localhost:7410") as client:
    job = await client.enqueue("thumbnails", "thumbnail", {"path": "sea.jpg"})
    done = await client.wait(job)
"""

from jobwire_client._client import Client
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
    PageTokenInvalid,
    PayloadTooLarge,
    QueueNotFound,
    QueueUnavailable,
    ServerError,
    StaleLease,
    StoreFull,
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
    "Durability",
    "DurabilityUnsupported",
    "EnqueueVerdict",
    "Enqueued",
    "Failure",
    "FieldViolation",
    "InvalidRequest",
    "Job",
    "JobExists",
    "JobNotFound",
    "JobSpec",
    "JobwireError",
    "LogLine",
    "Named",
    "NotFound",
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
    "WaitTimeout",
    "WorkerSession",
    "WrongState",
]
