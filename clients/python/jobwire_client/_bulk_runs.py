"""Bulk runs, whoever began them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

from jobwire.v1 import job_service_pb2

from jobwire_client._bulk import BulkVerb
from jobwire_client._filter import JobFilter, filter_from
from jobwire_client._job import enum_word

BulkRunState = Literal["running", "finished", "stopped", "abandoned"]
"""How a bulk run goes. Of one that is abandoned nobody is heard; its plan goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRun:
    """A verb for all jobs that a filter finds, under way or past. The last 100 of a queue are known, for a day after their last step."""

    name: str
    """`queues/{queue}/bulkRuns/{run}`."""
    verb: BulkVerb
    """What is done."""
    filter: JobFilter
    """To which jobs."""
    note: str
    """With `resolve`: the note."""
    grace: timedelta | None
    """With `cancel`: how long running handlers may take to give way. None: the default."""
    state: BulkRunState
    """How it goes."""
    matched: int
    """How many jobs the dry run found."""
    done: int
    """How many were acted on so far."""
    skipped: int
    """How many had changed since the dry run, or were gone, so far."""
    started_by: str
    """Who began it; empty at a broker that asks nobody who they are."""
    stopped_by: str
    """Who stopped it."""
    start_time: datetime
    """When it began."""
    finish_time: datetime | None
    """When it ended; of one that is abandoned, when it was last heard of. None while it runs."""


def bulk_run_from(message: job_service_pb2.BulkRun) -> BulkRun:
    """A BulkRun from its message."""
    return BulkRun(
        name=message.name,
        verb=cast(BulkVerb, enum_word(job_service_pb2.BulkVerb.items(), message.verb, "BULK_VERB_")),
        filter=filter_from(message.filter),
        note=message.note,
        grace=message.grace.ToTimedelta() if message.HasField("grace") else None,
        state=cast(BulkRunState, enum_word(job_service_pb2.BulkRunState.items(), message.state, "BULK_RUN_STATE_")),
        matched=message.matched,
        done=message.done,
        skipped=message.skipped,
        started_by=message.started_by,
        stopped_by=message.stopped_by,
        start_time=message.start_time.ToDatetime(UTC),
        finish_time=message.finish_time.ToDatetime(UTC) if message.HasField("finish_time") else None,
    )
