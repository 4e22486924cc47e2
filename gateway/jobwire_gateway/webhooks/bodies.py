"""What a request says: `{type, timestamp, data}` of Standard Webhooks, with the job as REST shows it."""

from jobwire.v1.job_pb2 import Job

from jobwire_gateway.jobs import job_json, without_contents
from jobwire_gateway.json_text import encoded
from jobwire_gateway.webhooks.endpoints import EVENT_OF

MAX_BYTES = 20_000
"""As the standard asks. A job that is larger goes without its payload, result, stack and attempts, and says so (`truncated`)."""


def body_of(job: Job) -> bytes:
    """The body for a job at its end."""
    members = job_json(job)
    body = _encoded(job, members)
    return body if len(body) <= MAX_BYTES else _encoded(job, without_contents(members))


def _encoded(job: Job, members: dict[str, object]) -> bytes:
    return encoded({"type": EVENT_OF[job.state], "timestamp": job.finish_time.ToJsonString(), "data": members})
