"""Errors that a caller gets to see, each with its gRPC status code and reason (proto/jobwire/v1/error.proto lists them).

BrokerError
├── InvalidField          a field is out of its bounds
├── NotFound              there is no such thing
├── JobExists             the id is taken by a job with other content
│   └── IdempotencyConflict   the idempotency key is that of a job with other content
├── WrongState            the verb does not fit the job's state
├── Precondition          what was asked for can't be had here
├── StoreUnavailable      the store is away
├── StoreFull             the store is at its memory limit
├── StoreFailed           a function of the store failed
├── QueueFull             the queue is at its maximum depth
├── TooManyBulkRuns       as many bulk runs of the queue are under way as may be
├── BulkRunStopped        somebody stopped the bulk run
├── TooManyTopics         one stream follows as much as it may
├── NotServed             the contract names the call, and this version does not serve it
├── ShuttingDown          the broker is ending
├── SessionMoved          a newer stream of the session has taken over
└── WaitTimeout           the job did not end in the time given
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc


class BrokerError(Exception):
    """An error with everything that its answer needs."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"
    retry_after_s: float | None = None
    quota: str = ""
    """What is used up: `queues/{queue}`, the store or the stream."""

    def __init__(self, message: str, *, reason: str | None = None, field: str = "", metadata: Mapping[str, str] | None = None, quota: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.quota = quota or self.quota


class InvalidField(BrokerError):
    """Raised when a field is out of its bounds. `field` is its path, and the message begins with it."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def under(self, path: str) -> InvalidField:
        """The same error as seen from outside of the message at `path`. Paths are made only when something is wrong: most calls are right."""
        return InvalidField(f"{path}.{self.message}", reason=self.reason, field=f"{path}.{self.field}", metadata=self.metadata)


class NotFound(BrokerError):
    """Raised when there is no such job or queue."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "JOB_NOT_FOUND"


class JobExists(BrokerError):
    """Raised when the id is taken by a job with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "JOB_EXISTS"


class IdempotencyConflict(JobExists):
    """Raised when the idempotency key is that of a job with other content. Metadata `differs` names what is other, `id` the job."""

    reason = "IDEMPOTENCY_CONFLICT"


class WrongState(BrokerError):
    """Raised when a verb does not fit the job's state."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "WRONG_STATE"


class Precondition(BrokerError):
    """Raised when the store can't promise what was asked for, or a frame came where it may not."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "DURABILITY_UNSUPPORTED"


class StoreUnavailable(BrokerError):
    """Raised when the store is away. `accepted` is "no" when nothing can have been done, else "unknown"."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"
    retry_after_s = 1.0

    def __init__(self, message: str, *, accepted: str) -> None:
        super().__init__(message, metadata={"accepted": accepted})
        self.accepted = accepted


class StoreFull(BrokerError):
    """Raised when the store is at its memory limit. Nothing was made."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"
    retry_after_s = 5.0
    quota = "store"


class QueueFull(BrokerError):
    """Raised when the queue is at its maximum depth. Nothing was made."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"
    retry_after_s = 1.0


class TooManyBulkRuns(BrokerError):
    """Raised when as many bulk runs of a queue are under way as may be. Nothing was done."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_BULK_RUNS"
    retry_after_s = 5.0


class BulkRunStopped(BrokerError):
    """Raised to tell the caller of a bulk run that somebody stopped it. Metadata `by` says who, `done` how many jobs it has acted on."""

    code = grpc.StatusCode.ABORTED
    reason = "BULK_RUN_STOPPED"


class TooManyTopics(BrokerError):
    """Raised when one Subscribe stream has as many topics as it may have."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_TOPICS"
    retry_after_s = 1.0
    quota = "stream"


class NotServed(BrokerError):
    """Raised by calls that the contract names and this version does not serve."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "NOT_SERVED"


class StoreFault(Exception):
    """Raised when a function of the store failed in a way that it should not. Not an answer to anybody: who called decides what it means."""


class StoreFailed(BrokerError):
    """Raised to tell a caller of a StoreFault."""

    reason = "STORE_FAULT"

    def __init__(self, fault: StoreFault) -> None:
        super().__init__(f"the store failed: {fault}")


class ShuttingDown(BrokerError):
    """Raised when the broker is ending."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "SHUTTING_DOWN"
    retry_after_s = 0.5

    def __init__(self, message: str = "this broker is ending", *, accepted: str = "no") -> None:
        super().__init__(message, metadata={"accepted": accepted})


class SessionMoved(BrokerError):
    """Raised when a newer stream of the same session has taken over."""

    code = grpc.StatusCode.ABORTED
    reason = "SESSION_MOVED"


class WaitTimeout(BrokerError):
    """Raised when a job did not end in the time given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "WAIT_TIMEOUT"
