"""Many jobs in one call to the broker: a verdict for each, whether it was the gateway or the broker that refused it."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import grpc
from jobwire.v1.job_pb2 import Durability, JobSpec
from jobwire.v1.job_service_pb2 import EnqueueBatchRequest, EnqueueBatchResponse, EnqueueVerdict, ItemError

from jobwire_gateway.brokers import Answer, Brokers
from jobwire_gateway.problems import Problem, in_rest, json_path

_VERDICT = "ENQUEUE_VERDICT_"
_CODES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}


@dataclass(frozen=True)
class Refusal:
    """Why a job was not made."""

    error: dict[str, str | int]


def refusal(problem: Problem) -> Refusal:
    """A job that the gateway refuses."""
    field = problem.violations[0].field if problem.violations else ""
    return _refusal(code="invalid_argument", reason=problem.reason, field=field, detail=problem.detail)


class Batches:
    """How batches are made."""

    def __init__(self, brokers: Brokers, disk_timeout_s: float) -> None:
        self._brokers = brokers
        self._disk_timeout_s = disk_timeout_s

    async def make(self, queue: str, entries: Sequence[JobSpec | Refusal], durability: Durability.ValueType) -> list[dict[str, object]]:
        """Make the jobs of one queue. A verdict for each entry, in their order.

        Raises:
            Problem: of none of them is known what became of it.
        """
        specs = [entry for entry in entries if isinstance(entry, JobSpec)]
        items = iter(await self._ask(specs, durability))
        return [_refused(entry) if isinstance(entry, Refusal) else _verdict(queue, next(items)) for entry in entries]

    async def _ask(self, specs: list[JobSpec], durability: Durability.ValueType) -> Sequence[EnqueueBatchResponse.Item]:
        if not specs:
            return ()
        call = EnqueueBatchRequest(jobs=specs, durability=durability)
        timeout_s = self._disk_timeout_s if durability == Durability.DURABILITY_DISK else None
        return (await making(self._brokers.call(lambda broker: broker.jobs.EnqueueBatch, call, timeout_s=timeout_s))).items


async def making(call: Awaitable[Answer]) -> Answer:
    """Wait for a call that makes jobs. Where no broker answered it, the problem says that nobody knows whether it did."""
    try:
        return await call
    except Problem as problem:
        if problem.status in (503, 504):
            problem.metadata.setdefault("accepted", "unknown")
        raise


def enqueued(name: str, job_id: str, verdict: EnqueueVerdict.ValueType) -> dict[str, object]:
    """What is said of a job that is there."""
    return {"name": name, "id": job_id, "verdict": EnqueueVerdict.Name(verdict).removeprefix(_VERDICT).lower(), "eventsUrl": f"/v1/{name}/events"}


def _verdict(queue: str, item: EnqueueBatchResponse.Item) -> dict[str, object]:
    if item.verdict == EnqueueVerdict.ENQUEUE_VERDICT_REFUSED:
        return _refused(_of_broker(item.error))
    return enqueued(f"queues/{queue}/jobs/{item.id}", item.id, item.verdict)


def _of_broker(error: ItemError) -> Refusal:
    # The broker counts the jobs that it was sent; the place is said by the verdict's own.
    field, detail = json_path(error.field), in_rest(error.message, error.field)
    return _refusal(code=_CODES.get(error.code, ""), reason=error.reason, field=field, detail=detail, retryAfterMs=error.retry_after.ToMilliseconds())


def _refusal(**error: str | int) -> Refusal:
    return Refusal({name: value for name, value in error.items() if value})


def _refused(entry: Refusal) -> dict[str, object]:
    return {"verdict": "refused", "error": entry.error}
