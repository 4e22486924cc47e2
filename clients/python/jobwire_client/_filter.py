"""Which jobs of a queue, as a caller says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_service_pb2

from jobwire_client._job import state_number, state_word
from jobwire_client._wire import sendable
from jobwire_client.errors import InvalidRequest


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs. Every field that is set must fit."""

    states: Sequence[str] = ()
    """Any of these, for `plan_bulk` alone: `list_jobs` has its own. Empty: all that the verb fits."""
    job_name: str | None = None
    """This job name."""
    group: str | None = None
    """This group."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these labels."""
    created_after: datetime | None = None
    """Enqueued at or after this. All dates need a time zone."""
    created_before: datetime | None = None
    """Enqueued before this."""
    finished_after: datetime | None = None
    """Ended at or after this."""
    finished_before: datetime | None = None
    """Ended before this."""
    fingerprint: str | None = None
    """Failed with this fingerprint: `Job.fingerprint`, `FailureGroup.fingerprint`."""
    resolved: bool | None = None
    """Failed, and a note was left with `resolve`, or (False) none was."""

    def message(self) -> job_service_pb2.JobFilter:
        """The filter as it travels.

        Raises:
            InvalidRequest: a value is of the wrong type, or an empty text, which on the wire would ask for any. The bounds are the broker's to check.
        """
        message = job_service_pb2.JobFilter(states=[state_number(word) for word in self.states])
        for name in ("job_name", "group", "fingerprint", "resolved"):
            value = getattr(self, name)
            if value == "":
                raise InvalidRequest(f"{name} must not be empty; None asks for any")
            if value is not None:
                with sendable(name):
                    setattr(message, name, value)
        with sendable("labels"):
            message.labels.update(self.labels)
        for name in ("created_after", "created_before", "finished_after", "finished_before"):
            date = getattr(self, name)
            if date is not None:
                with sendable(name):
                    getattr(message, name).CopyFrom(_date(date))
        return message


def filter_from(message: job_service_pb2.JobFilter) -> JobFilter:
    """A JobFilter from its message."""
    return JobFilter(
        states=tuple(state_word(state) for state in message.states),
        job_name=message.job_name or None,
        group=message.group or None,
        labels=dict(message.labels),
        created_after=message.created_after.ToDatetime(UTC) if message.HasField("created_after") else None,
        created_before=message.created_before.ToDatetime(UTC) if message.HasField("created_before") else None,
        finished_after=message.finished_after.ToDatetime(UTC) if message.HasField("finished_after") else None,
        finished_before=message.finished_before.ToDatetime(UTC) if message.HasField("finished_before") else None,
        fingerprint=message.fingerprint or None,
        resolved=message.resolved if message.HasField("resolved") else None,
    )


def _date(moment: datetime) -> Timestamp:
    if moment.tzinfo is None:
        raise ValueError("a date needs a time zone, for example datetime.now(UTC)")
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message
