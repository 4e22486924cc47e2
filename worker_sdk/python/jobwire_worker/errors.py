"""What goes wrong, and what a handler raises to say how its attempt ends.

    WorkerError
    ├── RegistrationError     (also ValueError)  a worker, handler or hook that cannot work as it was given
    ├── SpecError             (also ValueError)  a `module:worker` that leads nowhere
    ├── HealthPortError       (also OSError)     an address for health checks that can't be listened on
    ├── PayloadError          a payload that does not fit the handler's annotation
    └── ResultError           a return value that cannot be sent

    Outcome                   raised by a handler, on purpose
    ├── Retry                 run this job again
    ├── Permanent             fail this job for good
    ├── Limited               what the job's group needs has had enough for now; the attempt is not counted
    ├── Snooze                run this job later; the attempt is not counted
    └── Cancelled             the handler gave up because it was told to

An `Outcome` is not a `WorkerError`: nothing went wrong with the worker.
"""

from __future__ import annotations

from datetime import timedelta

__all__ = [
    "Cancelled",
    "HealthPortError",
    "Limited",
    "Outcome",
    "PayloadError",
    "Permanent",
    "RegistrationError",
    "ResultError",
    "Retry",
    "Snooze",
    "SpecError",
    "WorkerError",
]

MAX_RETRY_AFTER = timedelta(days=30)
MAX_LIMITED = timedelta(days=1)
MAX_SNOOZE = timedelta(days=365)


class WorkerError(Exception):
    """The base of what this package raises because something went wrong."""


class RegistrationError(WorkerError, ValueError):
    """Raised when a worker, handler or hook is made in a way that cannot work. The sentence says what would."""


class SpecError(WorkerError, ValueError):
    """Raised when `module:worker` does not lead to a `Worker`."""


class HealthPortError(WorkerError, OSError):
    """Raised when a worker starts and the address for its health checks can't be listened on, most often because it is taken."""


class PayloadError(WorkerError):
    """Raised when a payload does not fit the handler's annotation. The job fails for good: another attempt would see the same payload."""


class ResultError(WorkerError):
    """Raised when a handler's return value cannot be sent. The job fails for good: its work is done, and doing it again would not help."""


class Outcome(Exception):
    """The base of what a handler raises to say how its attempt ends."""


class Retry(Outcome):
    """Raised by a handler to fail this attempt and be run again, while attempts are left.

    `after` is how long to wait first, as a timedelta or in seconds, at most 30 days; None takes the job's own backoff.
    """

    def __init__(self, message: str = "the handler asked for another attempt", *, after: timedelta | float | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else _bounded(after, MAX_RETRY_AFTER, "Retry(after=…)")


class Permanent(Outcome):
    """Raised by a handler to fail the job for good, whatever attempts are left."""


class Limited(Outcome):
    """Raised by a handler when what the job's group needs has had enough for now, for example an address that answered 429.

    The job goes back to its place, the attempt is not counted, and nothing of its group starts before `after` is over, at any worker. A job of no group is put
    off alone. `after` is a timedelta or seconds, at most 1 day.
    """

    def __init__(self, after: timedelta | float) -> None:
        self.after = _bounded(after, MAX_LIMITED, "Limited(after)")
        super().__init__(f"limited for {self.after}")


class Snooze(Outcome):
    """Raised by a handler to be run later. The attempt is not counted.

    `after` is how much later, as a timedelta or in seconds, at most 1 year.
    """

    def __init__(self, after: timedelta | float) -> None:
        self.after = _bounded(after, MAX_SNOOZE, "Snooze(after)")
        super().__init__(f"snoozed for {self.after}")


class Cancelled(Outcome):
    """Raised by `Job.check_cancelled()` when the attempt is to be given up. A handler lets it rise."""


def _bounded(value: timedelta | float, limit: timedelta, what: str) -> timedelta:
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{what} must be from 0 to {limit.days} days, got {value!r}") from error
    if not timedelta(0) <= span <= limit:
        raise ValueError(f"{what} must be from 0 to {limit.days} days, got {span}")
    return span
