"""What can go wrong, as one tree.

    JobwireError
    ├── ClientClosed            the client was closed, or belongs to the process that forked this one
    ├── InvalidRequest          a field is out of its bounds
    │   ├── PayloadTooLarge
    │   ├── BatchTooLarge
    │   ├── BulkTokenInvalid    the token of a bulk is of another request, or too old
    │   └── PageTokenInvalid
    ├── NotFound
    │   ├── JobNotFound
    │   ├── BulkRunNotFound     it has not begun, or is no longer known
    │   └── QueueNotFound
    ├── JobExists               the id is taken by a job with other content
    ├── IdempotencyConflict     the key is that of a job with other content
    ├── WrongState              the verb does not fit the job's state
    ├── BulkRunStopped          somebody stopped the bulk run
    ├── StaleLease              the token is not that of the current lease
    ├── DurabilityUnsupported   the store has no append-only file that is synced
    ├── QueueUnavailable        the broker or its store is away
    ├── QueueFull               the queue is at its maximum depth
    ├── StoreFull               the store is at its memory limit
    ├── Unauthenticated         the broker does not know who calls
    ├── NotPermitted            it knows, and the caller may not do this
    ├── WaitTimeout             the job did not end in time; also a TimeoutError
    └── ServerError             anything else that the server answered

`BY_REASON` says which class stands for which reason of proto/jobwire/v1/error.proto.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from jobwire_client._job import Enqueued

Accepted = Literal["no", "unknown"]
"""Whether the store may have a job all the same."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is out of its bounds."""

    field: str
    """Its path, for example `jobs[3].priority`."""
    description: str
    """What the bound is and what came."""


@dataclass(frozen=True, slots=True)
class UsedUp:
    """One thing of which there is no more."""

    subject: str
    """What: `queues/{queue}` for its depth, `store` for its memory, `stream` for its topics."""
    description: str
    """Which bound was met."""


class JobwireError(Exception):
    """The base of all errors of this package."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
        quota: Sequence[UsedUp] = (),
    ) -> None:
        """Keep what the server said.

        Args:
            message: one sentence for people.
            reason: one of the words of error.proto; empty when the error is the client's own.
            metadata: what the sentence names, for programs.
            violations: which fields are wrong.
            retry_after: how long to wait before the next try, when the server says so.
            quota: what is used up.
        """
        super().__init__(message)
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.quota = tuple(quota)

    def again(self) -> Self:
        """A copy, for one more caller: two callers that raise the same object would mix up their tracebacks."""
        twin = copy.copy(self).with_traceback(None)
        twin.__cause__ = self.__cause__
        return twin

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles keep every attribute."""
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[JobwireError], args: tuple[object, ...], attributes: dict[str, object]) -> JobwireError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ClientClosed(JobwireError):
    """Raised when the client was closed, or was used before this process was forked from another."""


class InvalidRequest(JobwireError):
    """Raised when a field is out of its bounds; `violations` names it. To repeat the call is of no use."""


class PayloadTooLarge(InvalidRequest):
    """Raised when a payload is over the limit. Send a reference to it instead."""


class BatchTooLarge(InvalidRequest):
    """Raised when one call holds too many jobs. `enqueue_many` splits by itself."""


class PageTokenInvalid(InvalidRequest):
    """Raised when a page token is not from this list."""


class BulkTokenInvalid(InvalidRequest):
    """Raised when the token of a bulk is that of another request, or too old. Dry run again."""


class NotFound(JobwireError):
    """Raised when what was named is not there."""


class JobNotFound(NotFound):
    """Raised when there is no such job, or it is gone."""

    @property
    def state(self) -> str | None:
        """The final state, in lower case, when it is still known."""
        state = self.metadata.get("state", "")
        return state.removeprefix("JOB_STATE_").lower() or None


class QueueNotFound(NotFound):
    """Raised when nothing was ever enqueued in that queue."""


class BulkRunNotFound(NotFound):
    """Raised when a bulk run has not begun, or nothing is known of it any more."""


class JobExists(JobwireError):
    """Raised when the id is taken by a job with other content."""


class IdempotencyConflict(JobwireError):
    """Raised when the idempotency key is that of a job with other content."""

    @property
    def differs(self) -> tuple[str, ...]:
        """In which fields, as far as the server says."""
        return tuple(filter(None, self.metadata.get("differs", "").split(",")))


class WrongState(JobwireError):
    """Raised when the verb does not fit the job's state."""

    @property
    def state(self) -> str | None:
        """The job's state, in lower case, when the server says it."""
        state = self.metadata.get("state", "")
        return state.removeprefix("JOB_STATE_").lower() or None


class BulkRunStopped(JobwireError):
    """Raised in the iteration of `run_bulk` when somebody has stopped the run. Its plan does not go on; plan again for what is left."""

    @property
    def by(self) -> str:
        """Who stopped it; empty at a broker that asks nobody who they are."""
        return self.metadata.get("by", "")

    @property
    def done(self) -> int:
        """How many jobs it has acted on."""
        return int(self.metadata.get("done", "0"))


class StaleLease(JobwireError):
    """Raised when a token is not that of the current lease. For programs that lease jobs themselves."""


class DurabilityUnsupported(JobwireError):
    """Raised when `durability="disk"` is asked of a store without a synced append-only file. Nothing was made."""


class StoreFull(JobwireError):
    """Raised when the store is at its memory limit. Nothing was made; `retry_after` says when to try again."""


class QueueFull(JobwireError):
    """Raised when the queue is at its maximum depth. Nothing was made; `retry_after` says when to try again."""


class Unauthenticated(JobwireError):
    """Raised when the broker does not know who calls: no key, an unknown one, or one that has expired. Nothing was done."""


class NotPermitted(JobwireError):
    """Raised when the broker knows who calls, and the caller's scopes do not allow this; `metadata` names `verb` and `queue`. Nothing was done."""


class WaitTimeout(JobwireError, TimeoutError):
    """Raised when the job did not end in the time given. The job goes on."""


class ServerError(JobwireError):
    """Raised when the server answers with an error that no other class names; `reason` then is the gRPC status code's name."""


class QueueUnavailable(JobwireError):
    """Raised when the broker, or its store, could not be reached in time.

    For an enqueue `accepted` says what is known of the job. "no": no try can have reached the store, so running the work directly, or anywhere else, runs it
    once. "unknown": the job may be there; enqueue again with the same `id` once the queue is back, which never makes a second job.
    """

    def __init__(
        self, message: str, *, accepted: Accepted = "unknown", reason: str = "", metadata: Mapping[str, str] | None = None, retry_after: timedelta | None = None
    ) -> None:
        """Keep what is known of the job; the other arguments are those of JobwireError."""
        super().__init__(message, reason=reason, metadata=metadata, retry_after=retry_after)
        self.accepted: Accepted = accepted
        self.id: str | None = None
        """The id of the job that was to be made. None for other calls, and for `enqueue_many`."""
        self.results: Sequence[Enqueued] = ()
        """Only from `enqueue_many`: what is known of each job, as `Enqueued`."""


BY_REASON: Mapping[str, type[JobwireError]] = {
    "INVALID_FIELD": InvalidRequest,
    "PAYLOAD_TOO_LARGE": PayloadTooLarge,
    "BATCH_TOO_LARGE": BatchTooLarge,
    "PAGE_TOKEN_INVALID": PageTokenInvalid,
    "JOB_NOT_FOUND": JobNotFound,
    "QUEUE_NOT_FOUND": QueueNotFound,
    "JOB_EXISTS": JobExists,
    "WRONG_STATE": WrongState,
    "STALE_LEASE": StaleLease,
    "DURABILITY_UNSUPPORTED": DurabilityUnsupported,
    "PROTOCOL_VIOLATION": ServerError,
    "SESSION_MOVED": ServerError,
    "STORE_UNAVAILABLE": QueueUnavailable,
    "SHUTTING_DOWN": QueueUnavailable,
    "STORE_FAULT": ServerError,
    "IDEMPOTENCY_CONFLICT": IdempotencyConflict,
    "BULK_TOKEN_INVALID": BulkTokenInvalid,
    "BULK_RUN_NOT_FOUND": BulkRunNotFound,
    "BULK_RUN_STOPPED": BulkRunStopped,
    "TOO_MANY_BULK_RUNS": ServerError,
    "QUEUE_FULL": QueueFull,
    "STORE_FULL": StoreFull,
    "TOO_MANY_TOPICS": ServerError,
    "NOT_SERVED": ServerError,
    "CREDENTIALS_MISSING": Unauthenticated,
    "CREDENTIALS_INVALID": Unauthenticated,
    "CREDENTIALS_EXPIRED": Unauthenticated,
    "NOT_PERMITTED": NotPermitted,
    "NO_AUTHENTICATION": ServerError,
    "KEYS_UNAVAILABLE": QueueUnavailable,
    "WAIT_TIMEOUT": WaitTimeout,
}
"""ErrorInfo.reason and its class. PROTOCOL_VIOLATION and SESSION_MOVED are for workers; no call of this client gets them."""
