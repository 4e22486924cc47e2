"""What the broker says of jobs, queues and workers, as frozen values."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import admin_service_pb2, job_pb2, job_service_pb2

from jobwire_client._payload import from_message
from jobwire_client.errors import InvalidRequest, JobwireError

EnqueueVerdict = Literal["made", "found", "replaced", "refused", "unknown"]
"""What became of a job that was to be made. `unknown` only inside QueueUnavailable.results."""

ChangeType = Literal["snapshot", "update", "final", "gap", "not_found", "log"]
"""What a change is to its watcher."""

FINAL_STATES = frozenset({"completed", "failed", "cancelled", "expired", "removed"})
"""States after which nothing comes, unless somebody retries the job."""

_PREFIX = len("JOB_STATE_")
_VERDICTS: dict[int, EnqueueVerdict] = {1: "made", 2: "found", 3: "replaced", 4: "refused"}


class Named(Protocol):
    """Anything with a resource name: a Job, an Enqueued."""

    @property
    def name(self) -> str:
        """`queues/{queue}/jobs/{id}`."""
        ...


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one enqueue."""

    queue: str
    """The queue's name."""
    id: str
    """The id in its queue."""
    verdict: EnqueueVerdict
    """`made`: it is there, by this call or an earlier try of it. From `enqueue_many` also `refused`."""
    error: JobwireError | None = None
    """Why it was refused."""

    @property
    def name(self) -> str:
        """`queues/{queue}/jobs/{id}`: what every other call takes."""
        return f"queues/{self.queue}/jobs/{self.id}"


_set_queue, _set_id, _set_verdict, _set_error = (Enqueued.__dict__[field.name].__set__ for field in fields(Enqueued))


def made(queue: str, job_id: str) -> Enqueued:
    """What became of a job that was made. There is one for each; a frozen dataclass's own __init__ costs three times as much."""
    new = object.__new__(Enqueued)
    _set_queue(new, queue)
    _set_id(new, job_id)
    _set_verdict(new, "made")
    _set_error(new, None)
    return new


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is."""

    percent: float
    """0 to 100. It never falls within an attempt; completion sets 100."""
    message: str = ""
    """One line for people."""
    data: Any = None
    """Small data for programs."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed."""

    type: str
    """The error's short name."""
    message: str
    """One sentence for people."""
    stack: str = ""
    """A stack trace, when the worker sent one."""
    reason: str = ""
    """Why Jobwire, and not the worker, ended the attempt: for example POISON or NO_HANDLER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a job."""

    number: int
    """Which run it was, from 1. One that was not charged has the number of the next."""
    token: int
    """Its fencing token."""
    worker: str = ""
    """The worker's label."""
    start_time: datetime | None = None
    """When it began."""
    end_time: datetime | None = None
    """When it ended; None while it runs."""
    end: str = ""
    """completed, failed, timeout, snoozed, released, lost, cancelled or limited; empty while it runs."""
    failure: Failure | None = None
    """With failed and timeout."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was decided about a failed job."""

    note: str
    """For people."""
    time: datetime | None = None
    """When."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it was at `revision`."""

    name: str
    """`queues/{queue}/jobs/{id}`."""
    queue: str
    """The queue's name."""
    id: str
    """The id in its queue."""
    job_name: str = ""
    """Which handler runs it."""
    state: str = "unspecified"
    """delayed, waiting, blocked, active, completed, failed, cancelled, expired; removed only from a watch. New words may come."""
    revision: int = 0
    """Grows with every change."""
    priority: int = 5
    """Lower runs first."""
    attempt: int = 0
    """The number of the current or last run; 0 before the first."""
    max_attempts: int = 0
    """How many times it may run."""
    progress: Progress | None = None
    """How far it is; None when no run reported anything."""
    payload: Any = None
    """What it carries. Only from `get` and `wait`."""
    result: Any = None
    """What the handler gave back. Only in `completed`, and not in lists."""
    failure: Failure | None = None
    """The last failure; it stays while the next attempt waits or runs."""
    create_time: datetime | None = None
    """When it was enqueued. All dates are in UTC."""
    due_time: datetime | None = None
    """When it comes due; only in `delayed`."""
    start_time: datetime | None = None
    """When the current or last run began."""
    finish_time: datetime | None = None
    """When it ended."""
    token: int = 0
    """The fencing token of the current or last lease; 0 before the first."""
    worker: str = ""
    """Who runs it; only in `active`."""
    expire_time: datetime | None = None
    """When it expires if it has not started; None once it has."""
    timeout: timedelta | None = None
    """How long an attempt may take; None: as the queue says."""
    total_timeout: timedelta | None = None
    """How long all attempts may take; None: as the queue says."""
    attempts: tuple[Attempt, ...] = ()
    """Its runs, the oldest first: the last 20. Only from `get`."""
    checkpoint: Any = None
    """What its handler left for the next attempt. Only from `get`."""
    cancel_stage: str = ""
    """How far its cancel is, or how it went: requested, delivered, done or forced; empty when none was asked for."""
    cancel_time: datetime | None = None
    """When the cancel was asked for."""
    fingerprint: str = ""
    """What its failures have in common with others'; only in `failed`."""
    resolution: Resolution | None = None
    """What was decided about it; only in `failed`."""
    log_lines: int = 0
    """How many lines its log has. Only from `get`."""
    cancel_requested: bool = False
    """Whether a cancel was asked for while it ran."""
    cancel_delivered: bool = False
    """Whether the worker heard of the cancel."""
    losses: int = 0
    """How many times a worker was lost while it held this job."""
    group: str = ""
    """Whose job it is; empty: nobody's."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """For people and filters."""
    required_labels: Mapping[str, str] = field(default_factory=dict)
    """What a worker must have to get it."""
    units: int = 1
    """How much it counts in limits."""

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a handler logged."""

    sequence: int
    """Counts from 1 within one run."""
    level: str
    """debug, info, warning or error."""
    message: str
    """The line."""
    time: datetime
    """By the worker's clock."""
    cursor: int = 0
    """Its place in the job's log, over all runs. Without holes, from 1."""
    attempt: int = 0
    """The run that logged it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one job, from `watch_changes`."""

    type: ChangeType
    """What it is to the watcher."""
    job: Job
    """The job without payload. With `gap` only its queue is set, with `not_found` its address."""
    lines: tuple[LogLine, ...] = ()
    """Only with `log`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Which broker answered, and how its store is."""

    broker_id: str
    """The broker process."""
    version: str
    """The version of Jobwire."""
    store_available: bool
    """Whether the store answers now."""
    store_version: str
    """For example `valkey 9.1.2`; empty before it was first reached."""
    disk_durability: bool
    """Whether `durability="disk"` can be asked for."""
    uptime_s: float
    """How long the process has run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchToken:
    """Lets a page watch something, and do nothing else."""

    token: str = field(repr=False)
    """For the gateway: `?token=…`, or `?ticket=…` when it is good once."""
    expires_at: datetime
    """When it expires."""


# The queue and the id are the broker's to check, but what is no ASCII could not even be sent.
_JOB_NAME = re.compile(r"queues/[ -.0-~]+/jobs/[ -.0-~]+")


def name_of(job: str | Named) -> str:
    """The resource name of a job.

    Raises:
        InvalidRequest: it is none.
    """
    name = job if isinstance(job, str) else getattr(job, "name", job)
    if not isinstance(name, str) or not _JOB_NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not a job's name; it has the form queues/QUEUE/jobs/ID")
    return name


def enum_word(names: Iterable[tuple[str, int]], number: int, prefix: str) -> str:
    """The name of an enum's number in lower case; empty for 0. One that this version does not know is told by its number."""
    return next((name.removeprefix(prefix).lower() for name, known in names if known == number), f"{prefix.lower()}{number}") if number else ""


def state_word(state: int) -> str:
    """`waiting` for JOB_STATE_WAITING; a state that this version does not know comes as `state_N`."""
    try:
        return job_pb2.JobState.Name(job_pb2.JobState.ValueType(state))[_PREFIX:].lower()
    except ValueError:
        return f"state_{state}"


def state_number(word: str) -> job_pb2.JobState.ValueType:
    """JOB_STATE_WAITING for `waiting`.

    Raises:
        InvalidRequest: there is no such state.
    """
    try:
        return job_pb2.JobState.Value(f"JOB_STATE_{word.upper()}")
    except ValueError:
        words = ", ".join(name[_PREFIX:].lower() for name in job_pb2.JobState.keys()[1:-1])
        raise InvalidRequest(f"{word!r} is no state; use one of {words}") from None


def verdict_word(verdict: int) -> EnqueueVerdict:
    """`made` for ENQUEUE_VERDICT_MADE."""
    return _VERDICTS.get(verdict, "made")


def job_from(message: job_pb2.Job) -> Job:
    """A Job from its message."""
    return Job(
        name=message.name or f"queues/{message.queue}/jobs/{message.id}",
        queue=message.queue,
        id=message.id,
        job_name=message.job_name,
        state=state_word(message.state),
        revision=message.revision,
        priority=message.priority,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        progress=_progress(message.progress) if message.HasField("progress") else None,
        payload=from_message(message.payload) if message.HasField("payload") else None,
        result=from_message(message.result) if message.HasField("result") else None,
        failure=_failure(message.failure) if message.HasField("failure") else None,
        create_time=_time(message.create_time) if message.HasField("create_time") else None,
        due_time=_time(message.due_time) if message.HasField("due_time") else None,
        start_time=_time(message.start_time) if message.HasField("start_time") else None,
        finish_time=_time(message.finish_time) if message.HasField("finish_time") else None,
        token=message.token,
        worker=message.worker,
        expire_time=_time(message.expire_time) if message.HasField("expire_time") else None,
        timeout=message.timeout.ToTimedelta() if message.HasField("timeout") else None,
        total_timeout=message.total_timeout.ToTimedelta() if message.HasField("total_timeout") else None,
        attempts=tuple(map(_attempt, message.attempts)),
        checkpoint=from_message(message.checkpoint) if message.HasField("checkpoint") else None,
        cancel_stage=enum_word(job_pb2.CancelStage.items(), message.cancel_stage, "CANCEL_STAGE_"),
        cancel_time=_time(message.cancel_time) if message.HasField("cancel_time") else None,
        fingerprint=message.fingerprint,
        resolution=_resolution(message.resolution) if message.HasField("resolution") else None,
        log_lines=message.log_lines,
        cancel_requested=message.cancel_requested,
        cancel_delivered=message.cancel_delivered,
        losses=message.losses,
        group=message.group,
        labels=dict(message.labels),
        required_labels=dict(message.required_labels),
        units=message.units or 1,
    )


def completed_by(job: Job, known: Job | None) -> Job:
    """`job` with what a later change leaves out because its reader has it already."""
    if known is None or job.job_name:
        return job
    return replace(
        job,
        job_name=known.job_name,
        priority=known.priority,
        max_attempts=job.max_attempts or known.max_attempts,
        create_time=job.create_time or known.create_time,
    )


def change_from(message: job_service_pb2.JobChange) -> Change:
    """A Change from its message."""
    word: Any = job_service_pb2.ChangeType.Name(message.type).removeprefix("CHANGE_TYPE_").lower()
    return Change(word, job_from(message.job), tuple(map(line_from, message.lines)))


def line_from(line: job_pb2.LogLine) -> LogLine:
    """A LogLine from its message."""
    return LogLine(line.sequence, line.level, line.message, datetime.fromtimestamp(line.time_ms / 1000, UTC), line.cursor, line.attempt)


def server_info_from(message: admin_service_pb2.GetServerInfoResponse) -> ServerInfo:
    """A ServerInfo from its message."""
    return ServerInfo(
        broker_id=message.broker_id,
        version=message.version,
        store_available=message.store_available,
        store_version=message.store_version,
        disk_durability=message.disk_durability,
        uptime_s=message.uptime.ToTimedelta().total_seconds(),
    )


def _progress(message: job_pb2.Progress) -> Progress:
    data = from_message(job_pb2.Payload(json=message.data_json)) if message.data_json else None
    return Progress(message.percent, message.message, data)


def _attempt(message: job_pb2.Attempt) -> Attempt:
    return Attempt(
        number=message.number,
        token=message.token,
        worker=message.worker,
        start_time=_time(message.start_time) if message.HasField("start_time") else None,
        end_time=_time(message.end_time) if message.HasField("end_time") else None,
        end=enum_word(job_pb2.AttemptEnd.items(), message.end, "ATTEMPT_END_"),
        failure=_failure(message.failure) if message.HasField("failure") else None,
    )


def _resolution(message: job_pb2.Resolution) -> Resolution:
    return Resolution(message.note, _time(message.resolve_time) if message.HasField("resolve_time") else None)


def _failure(message: job_pb2.Failure) -> Failure:
    return Failure(message.type, message.message, message.stack, message.reason)


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
