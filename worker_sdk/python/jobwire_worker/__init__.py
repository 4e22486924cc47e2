"""Jobwire's worker SDK: receive jobs over one stream, run them, tell how far they are.

from jobwire_worker import Job, Worker

worker = Worker(queues=["thumbnails"])

@worker.handler("thumbnail")
async def thumbnail(job: Job, path: str) -> dict:
    job.progress(40, "resizing")
    return {"path": path}

worker.run()
"""

from ._cancellation import Cancellation, CancelReason
from ._credentials import Credentials
from ._job import Job
from ._reserves import QueueClass
from ._spec import run_from_spec
from ._worker import Worker, WorkerOptions
from .errors import Cancelled, HealthPortError, Limited, Outcome, PayloadError, Permanent, RegistrationError, ResultError, Retry, Snooze, SpecError, WorkerError

__all__ = [
    "CancelReason",
    "Cancellation",
    "Cancelled",
    "Credentials",
    "HealthPortError",
    "Job",
    "Limited",
    "Outcome",
    "PayloadError",
    "Permanent",
    "QueueClass",
    "RegistrationError",
    "ResultError",
    "Retry",
    "Snooze",
    "SpecError",
    "Worker",
    "WorkerError",
    "WorkerOptions",
    "run_from_spec",
]
