"""The policy of a queue, as a caller sets and sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2

from jobwire_client._bounds import fitting
from jobwire_client._limits import Limit, limit_from, limit_to
from jobwire_client._spec import Backoff, backoff_message, priority_number
from jobwire_client._wire import duration, sendable
from jobwire_client.errors import InvalidRequest

Span = timedelta | float
_PREFIX = "QUEUE_CLASS_"
_STATES = ("completed", "failed", "cancelled", "expired")
_SPANS = ("timeout", "total_timeout", "expires_in", "ageing", "start_target")
_NUMBERS = ("attempts", "max_payload_bytes", "max_depth", "worker_slots")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many ended jobs are kept, and for how long. None: the default of the state."""

    count: int | None = None
    """How many; 0 keeps none; at most 10,000,000."""
    age: Span | None = None
    """How long. A number is seconds; 0 keeps none; at most 3,650 days."""


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """What holds for all jobs of a queue that do not say otherwise. What is None or empty is as the class says, or the default."""

    queue_class: str | None = None
    """critical, high, medium (or normal), low or batch: the preset that the other fields are laid over."""
    priority: int | str | None = None
    """The priority of jobs that name none, a number or a name of Priority. Default 5."""
    attempts: int | None = None
    """How many times a job may run, from 1 to 1,000. Default 3."""
    backoff: Backoff | None = None
    """The waits between attempts."""
    permanent_errors: Sequence[str] = ()
    """Errors that end a job at once, by their names. At most 32."""
    timeout: Span | None = None
    """How long one attempt may take. A number is seconds, here and below. From 100 ms to 30 days; default: no limit."""
    total_timeout: Span | None = None
    """How long a job may take over all its attempts. From 100 ms to 365 days; default: no limit."""
    expires_in: Span | None = None
    """How long a job may wait for its first start. From 100 ms to 365 days; default: no limit."""
    retention: Mapping[str, Retention] = field(default_factory=dict)
    """How long ended jobs are kept, by state: completed, failed, cancelled, expired."""
    limit: Limit | None = None
    """What the whole queue may do."""
    job_limits: Mapping[str, Limit] = field(default_factory=dict)
    """The same for single job names. At most 100."""
    group_limit: Limit | None = None
    """What each group may do that has no limit of its own."""
    ageing: Span | None = None
    """For each of these that a job has waited it goes as if its priority were one lower. From 100 ms to 30 days; default: never."""
    start_target: Span | None = None
    """Within what time a job should start. From 1 ms to 30 days; default: no target."""
    max_payload_bytes: int | None = None
    """The largest payload. Default 1 MiB, which is also the most."""
    max_depth: int | None = None
    """How many jobs may wait, be delayed and run in all. Default: no limit."""
    worker_slots: int | None = None
    """How many of its jobs one worker process may run at once, up to 10,000. Default: as many as it takes."""

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> Self:
        """A policy from its members as REST has them: `{"queueClass": "high", "timeout": "30s"}`. Raises InvalidRequest."""
        given = dict(members)
        _check_members(given, policy_pb2.QueuePolicy.DESCRIPTOR, "")
        if "queueClass" in given:
            given["queueClass"] = class_number(str(given["queueClass"]))
        try:
            return cls(**_fields_of(json_format.ParseDict(given, policy_pb2.QueuePolicy())))
        except json_format.ParseError as error:
            raise InvalidRequest(f"this is no policy: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Its members as REST has them; what says nothing is left out."""
        found: dict[str, Any] = json_format.MessageToDict(self.message())
        if self.queue_class is not None:
            found["queueClass"] = class_word(class_number(self.queue_class))
        return found

    def message(self) -> policy_pb2.QueuePolicy:
        """The policy as it travels. Raises InvalidRequest for a word that is none, or a value of the wrong type."""
        message = policy_pb2.QueuePolicy()
        with sendable("permanent_errors"):
            message.permanent_errors.extend(self.permanent_errors)
        for name in _NUMBERS:
            with sendable(name):
                setattr(message, name, fitting(getattr(self, name) or 0, "QueuePolicy", name, "it"))
        if self.queue_class is not None:
            message.queue_class = class_number(self.queue_class)
        if self.priority is not None:
            with sendable("priority"):
                message.priority = priority_number(self.priority)
        if self.backoff is not None:
            with sendable("backoff"):
                message.backoff.CopyFrom(backoff_message(self.backoff))
        for name in _SPANS:
            if (span := getattr(self, name)) is not None:
                with sendable(name):
                    getattr(message, name).CopyFrom(duration(span))
        with sendable("retention"):
            for state, retention in self.retention.items():
                if state not in _STATES:
                    raise InvalidRequest(f"retention is for {', '.join(_STATES)}, not for {state!r}")
                _set_retention(getattr(message.retention, state), retention, state)
        for name in ("limit", "group_limit"):
            if (limit := getattr(self, name)) is not None:
                with sendable(name):
                    getattr(message, name).CopyFrom(limit_to(limit))
        with sendable("job_limits"):
            for job_name, limit in self.job_limits.items():
                message.job_limits[job_name].CopyFrom(limit_to(limit))
        return message


def class_number(word: str) -> policy_pb2.QueueClass.ValueType:
    """The number of a class. Raises InvalidRequest."""
    name = _PREFIX + ("MEDIUM" if word.upper() == "NORMAL" else word.upper())
    if name not in list(policy_pb2.QueueClass.keys()) or name == _PREFIX + "UNSPECIFIED":
        raise InvalidRequest(f"{word!r} is no class; there are critical, high, medium, low and batch")
    return policy_pb2.QueueClass.Value(name)


def class_word(number: policy_pb2.QueueClass.ValueType) -> str:
    """The word for a class; for one of a later version its number."""
    if number not in policy_pb2.QueueClass.values():
        return str(number)
    return policy_pb2.QueueClass.Name(number).removeprefix(_PREFIX).lower()


def _check_members(members: Mapping[str, Any], of: Descriptor, path: str) -> None:
    """Raises InvalidRequest for a member that is no field, for a number that has no room, and for one value where several have a name."""
    fields = {field.json_name: field for field in of.fields}
    for name, value in members.items():
        if name not in fields:
            raise InvalidRequest(f"there is no field {path + name!r} in a policy; there {'are' if len(fields) > 1 else 'is'} {', '.join(sorted(fields))}")
        inner = fields[name].message_type
        if inner is None:
            _check_number(value, of.name, fields[name].name, path + name)
        elif inner.GetOptions().map_entry and isinstance(value, Mapping):
            for key, of_key in value.items():
                _check_inner(of_key, inner.fields_by_name["value"].message_type, f"{path}{name}.{key}")
        elif inner.file.package == of.file.package and not fields[name].is_repeated:
            _check_inner(value, inner, path + name)


def _check_inner(value: Any, of: Descriptor | None, path: str) -> None:
    if of is None:
        return
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{path} is made of {', '.join(sorted(field.json_name for field in of.fields))}; it can't be {value!r}")
    _check_members(value, of, f"{path}.")


def _check_number(value: Any, message: str, field: str, path: str) -> None:
    if isinstance(value, Mapping):
        raise InvalidRequest(f"{path} is one value; it can't be {value!r}")
    try:
        fitting(value, message, field, path)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def policy_from(message: policy_pb2.QueuePolicy) -> QueuePolicy:
    """A QueuePolicy from its message."""
    return QueuePolicy(**_fields_of(message))


def _fields_of(message: policy_pb2.QueuePolicy) -> dict[str, Any]:
    given = {field.name for field, _ in message.ListFields()}
    fields: dict[str, Any] = {name: getattr(message, name) or None for name in _NUMBERS}
    fields |= {name: _span(getattr(message, name)) for name in _SPANS if name in given}
    if message.queue_class:
        fields["queue_class"] = class_word(message.queue_class)
    if message.HasField("priority"):
        fields["priority"] = message.priority
    if message.HasField("backoff"):
        fields["backoff"] = _backoff(message.backoff)
    fields["permanent_errors"] = tuple(message.permanent_errors)
    fields["retention"] = {field.name: _retention(kept) for field, kept in message.retention.ListFields()}
    for name in ("limit", "group_limit"):
        if name in given:
            fields[name] = limit_from(getattr(message, name))
    fields["job_limits"] = {name: limit_from(message.job_limits[name]) for name in sorted(message.job_limits)}
    return fields


def _span(message: Duration) -> timedelta:
    return message.ToTimedelta()


def _backoff(message: job_pb2.Backoff) -> Backoff:
    return Backoff(
        base=_span(message.base) if message.HasField("base") else 2.0,
        factor=message.factor or 2.0,
        max_delay=_span(message.max_delay) if message.HasField("max_delay") else None,
        jitter=message.jitter if message.HasField("jitter") else None,
        delays=tuple(map(_span, message.delays)),
    )


def _retention(message: policy_pb2.Retention) -> Retention:
    return Retention(count=message.count if message.HasField("count") else None, age=_span(message.age) if message.HasField("age") else None)


def _set_retention(message: policy_pb2.Retention, retention: Retention, state: str) -> None:
    message.SetInParent()
    if retention.count is not None:
        message.count = fitting(retention.count, "Retention", "count", f"{state}.count")
    if retention.age is not None:
        message.age.CopyFrom(duration(retention.age))
