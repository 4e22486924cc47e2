"""Failed jobs in groups."""

from dataclasses import dataclass
from datetime import UTC, datetime

from jobwire.v1 import job_service_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Jobs of a queue that failed alike."""

    fingerprint: str
    """What they have in common, for JobFilter: made of job name, error type, reason, and the message without numbers, ids and quoted text."""
    job_name: str
    """Which handler failed."""
    type: str
    """The error's short name."""
    message: str
    """The message of the latest one."""
    reason: str
    """Why Jobwire ended them; empty when their workers did."""
    count: int
    """How many are kept."""
    resolved: int
    """How many of them are resolved."""
    first_seen: datetime
    """When the first of those that are kept failed."""
    last_seen: datetime
    """When the latest did."""
    latest: str
    """The name of the latest one."""


def failure_group_from(message: job_service_pb2.FailureGroup) -> FailureGroup:
    """A FailureGroup from its message."""
    return FailureGroup(
        fingerprint=message.fingerprint,
        job_name=message.job_name,
        type=message.type,
        message=message.message,
        reason=message.reason,
        count=message.count,
        resolved=message.resolved,
        first_seen=message.first_seen.ToDatetime(UTC),
        last_seen=message.last_seen.ToDatetime(UTC),
        latest=message.latest,
    )
