"""Why a job does not run, as frozen values."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2, job_service_pb2

from jobwire_client._job import enum_word


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A worker that holds jobs."""

    session: str
    """The session, as 32 hexadecimal digits."""
    worker: str
    """The label that it gave itself."""
    active: int
    """How many jobs it holds, of all its queues."""
    concurrency: int
    """How many it runs at once; 0 when it did not say."""
    alone: bool
    """It is kept free for one job, or runs one, that is delivered alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One thing that holds a job."""

    reason: str
    """none, queue_paused, not_due, no_worker, jobs_before, no_credit, room_kept, delivered_alone, active, final. New words may come."""
    message: str
    """One sentence for people."""
    until: datetime | None = None
    """When this ends by itself; with `not_due`. All dates are in UTC."""
    since: datetime | None = None
    """Since when it is so; with `active` and `final`."""
    jobs_before: int = 0
    """How many waiting jobs go first; with `jobs_before`."""
    jobs_before_by_priority: int = 0
    """How many of them go first by their priority."""
    holders: tuple[Holder, ...] = ()
    """The workers that are in the way, or the one that runs it; at most 100, those with most jobs first."""
    holder_count: int = 0
    """How many there are, where that is more than are listed, too."""
    kept_for: str = ""
    """With `room_kept`: the name of the job for which the room is kept."""
    cancel_stage: str = ""
    """With `active`, when a cancel was asked for: requested or delivered."""
    cancel_left: timedelta | None = None
    """With a cancel: when the job is ended by force."""
    lease_left: timedelta | None = None
    """With `active`: how long its lease lasts if the worker says nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job does not run, or that it does."""

    name: str
    """`queues/{queue}/jobs/{id}`."""
    state: str
    """The state that is explained."""
    summary: str
    """All of it in one sentence for people."""
    holds: tuple[Hold, ...]
    """What holds the job now, in the order in which each must give way. Never empty."""


def explanation_from(name: str, message: job_service_pb2.ExplainJobResponse) -> Explanation:
    """An Explanation from its message."""
    state = enum_word(job_pb2.JobState.items(), message.state, "JOB_STATE_")
    return Explanation(name=name, state=state, summary=message.summary, holds=tuple(map(_hold, message.holds)))


def _hold(message: job_service_pb2.JobHold) -> Hold:
    return Hold(
        reason=enum_word(job_service_pb2.HoldReason.items(), message.reason, "HOLD_REASON_"),
        message=message.message,
        until=_time(message.until) if message.HasField("until") else None,
        since=_time(message.since) if message.HasField("since") else None,
        jobs_before=message.jobs_before,
        jobs_before_by_priority=message.jobs_before_by_priority,
        holders=tuple(Holder(session=h.session, worker=h.worker, active=h.active, concurrency=h.concurrency, alone=h.alone) for h in message.holders),
        holder_count=message.holder_count,
        kept_for=message.kept_for,
        cancel_stage=enum_word(job_pb2.CancelStage.items(), message.cancel_stage, "CANCEL_STAGE_"),
        cancel_left=_span(message.cancel_left) if message.HasField("cancel_left") else None,
        lease_left=_span(message.lease_left) if message.HasField("lease_left") else None,
    )


def _time(date: Timestamp) -> datetime:
    return date.ToDatetime(UTC)


def _span(length: Duration) -> timedelta:
    return length.ToTimedelta()
