"""That there is one job where several callers ask for it, and how long its end is kept: fields 19 to 23 of a JobSpec."""

from dataclasses import dataclass
from datetime import timedelta

from jobwire.v1 import job_pb2

from jobwire_client._wire import duration
from jobwire_client.errors import InvalidRequest


@dataclass(frozen=True)
class Debounce:
    """Each call takes the place of the one before it, as long as that waits still, and starts its delay anew. Once it has started, the next makes another."""

    key: str
    """1 to 255 printable characters of ASCII."""
    delay: timedelta | float
    """How long the job waits after the last call. A number is seconds. From 1 ms to 1 day."""
    max_wait: timedelta | float | None = None
    """It starts at the latest so long after the first call. None: no bound. At least `delay`, at most 30 days."""


@dataclass(frozen=True)
class Throttle:
    """The first call in a window wins: for `period` after a job was made, others with its key are not made."""

    key: str
    """1 to 255 printable characters of ASCII."""
    period: timedelta | float
    """How long. A number is seconds. From 1 ms to 30 days."""


def encode_identity(
    idempotency_key: str | None,
    idempotency_ttl: timedelta | float | None,
    unique: bool | str,
    debounce: Debounce | None,
    throttle: Throttle | None,
    retention: timedelta | float | None,
) -> bytes:
    """The fields as they travel; nothing for a job that asks for none of it.

    Raises:
        InvalidRequest: more than one identity, or a value of the wrong type.
    """
    if idempotency_key is None and idempotency_ttl is None and unique is False and debounce is None and throttle is None and retention is None:
        return b""
    asked = [name for name, given in _asked(idempotency_key, unique, debounce, throttle) if given]
    if len(asked) > 1:
        raise InvalidRequest(f"a job has one identity at most; give {asked[0]} or {asked[1]}")
    if idempotency_ttl is not None and idempotency_key is None:
        raise InvalidRequest("idempotency_ttl needs an idempotency_key")
    try:
        return _spec(idempotency_key, idempotency_ttl, unique, debounce, throttle, retention).SerializeToString()
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidRequest(f"the job can't be sent: {error}") from error


def _asked(idempotency_key: str | None, unique: bool | str, debounce: Debounce | None, throttle: Throttle | None) -> list[tuple[str, bool]]:
    return [
        ("idempotency_key", idempotency_key is not None),
        ("unique", unique is not False),
        ("debounce", debounce is not None),
        ("throttle", throttle is not None),
    ]


def _spec(
    idempotency_key: str | None,
    idempotency_ttl: timedelta | float | None,
    unique: bool | str,
    debounce: Debounce | None,
    throttle: Throttle | None,
    retention: timedelta | float | None,
) -> job_pb2.JobSpec:
    spec = job_pb2.JobSpec(retention=None if retention is None else duration(retention))
    if idempotency_key is not None:
        spec.idempotency.key = idempotency_key
        if idempotency_ttl is not None:
            spec.idempotency.ttl.CopyFrom(duration(idempotency_ttl))
    elif unique is not False:
        spec.unique.SetInParent()
        if unique is not True:
            if not unique:
                raise ValueError("a unique key can't be empty; True means one made of job name and payload")
            spec.unique.key = unique
    elif debounce is not None:
        spec.debounce.CopyFrom(job_pb2.Debounce(key=debounce.key, delay=duration(debounce.delay)))
        if debounce.max_wait is not None:
            spec.debounce.max_wait.CopyFrom(duration(debounce.max_wait))
    elif throttle is not None:
        spec.throttle.CopyFrom(job_pb2.Throttle(key=throttle.key, period=duration(throttle.period)))
    return spec
