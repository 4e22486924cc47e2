"""Changes of jobs that wait: what a mask may name, in the form of the store."""

from __future__ import annotations

from collections.abc import Callable

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.labels import MAX_LABELS, check_labels
from jobwire_broker.services.specs import payload_of
from jobwire_broker.services.timing import date_ms
from jobwire_broker.store.codec import SECTION, TAG_LABELS, TAG_PAYLOAD, encode_labels

Value = str | bytes | int


def changes_of(request: pb.UpdateJobRequest) -> list[Value]:
    """Pairs of what and to what. Raises InvalidField when the mask names nothing, or what can't be changed, or a field is out of its bounds."""
    paths = list(request.update_mask.paths)
    if not paths:
        raise InvalidField(f"update_mask must name what to change: {_CHANGEABLE}", field="update_mask")
    changes: list[Value] = []
    for i, path in enumerate(paths):
        if path not in _FIELDS:
            raise InvalidField(f"update_mask.paths[{i}] is {path[:100]!r}; only {_CHANGEABLE} can be changed", field=f"update_mask.paths[{i}]")
        try:
            changes += _FIELDS[path](request.job)
        except InvalidField as error:
            raise error.under("job") from None
    return changes


def payload_section(payload: job_pb2.Payload) -> bytes:
    """The section of a record; empty for no payload. Raises InvalidField."""
    return _section(TAG_PAYLOAD, payload_of(payload))


def _payload(job: job_pb2.Job) -> tuple[Value, Value]:
    return "payload", payload_section(job.payload)


def _priority(job: job_pb2.Job) -> tuple[Value, Value]:
    return "priority", job.priority


def _due_time(job: job_pb2.Job) -> tuple[Value, Value]:
    return "due", date_ms(job.due_time, "due_time") if job.HasField("due_time") else 0


def _labels(job: job_pb2.Job) -> tuple[Value, Value]:
    return "labels", _section(TAG_LABELS, encode_labels(check_labels(job.labels, "labels", MAX_LABELS)))


def _section(tag: int, content: bytes) -> bytes:
    return SECTION.pack(tag, len(content)) + content if content else b""


_FIELDS: dict[str, Callable[[job_pb2.Job], tuple[Value, Value]]] = {"payload": _payload, "priority": _priority, "due_time": _due_time, "labels": _labels}
_CHANGEABLE = "`payload`, `priority`, `due_time` and `labels`"
