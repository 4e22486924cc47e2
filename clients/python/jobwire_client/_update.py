"""What is to change of a job that waits."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any, TypeAlias

from jobwire.v1 import job_service_pb2

from jobwire_client._payload import payload_message
from jobwire_client._spec import priority_number
from jobwire_client._wire import sendable
from jobwire_client.errors import InvalidRequest

Due: TypeAlias = datetime | timedelta | float | None
"""When a job is due: a date with its time zone, a time from now (a number is seconds), or None for now."""


def update_request(
    name: str, payload: Any, priority: int | str | EllipsisType, due: Due | EllipsisType, labels: Mapping[str, str] | EllipsisType
) -> job_service_pb2.UpdateJobRequest:
    """The request; what is `...` stays as it is.

    Raises:
        InvalidRequest: nothing is to change, or a value is of the wrong type.
    """
    request = job_service_pb2.UpdateJobRequest()
    request.job.name = name
    paths = request.update_mask.paths
    try:
        if payload is not ...:
            paths.append("payload")
            if payload is not None:
                request.job.payload.CopyFrom(payload_message(payload))
        if priority is not ...:
            paths.append("priority")
            request.job.priority = priority_number(priority)
        if due is not ...:
            paths.append("due_time")
            if due is not None:
                request.job.due_time.FromDatetime(_date(due))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the change can't be sent: {error}") from error
    if labels is not ...:
        paths.append("labels")
        with sendable("labels"):
            request.job.labels.update(labels)
    if not paths:
        raise InvalidRequest("say what to change: payload, priority, due or labels")
    return request


def _date(due: datetime | timedelta | float) -> datetime:
    if isinstance(due, datetime):
        if due.tzinfo is None:
            raise ValueError("due needs a time zone, for example datetime.now(UTC)")
        return due.astimezone(UTC)
    return datetime.now(UTC) + (due if isinstance(due, timedelta) else timedelta(seconds=due))
