"""A client that enqueues as a careful client does: it mints the ids, repeats what had no answer with the same ids, and tells the History."""

import asyncio
import json
import time
from collections.abc import Sequence

import grpc
import grpc.aio
from jobwire.v1 import job_pb2, queue_service_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.support.api import Api, Refusal
from tests.support.history import History

_CALL_TIMEOUT_S = 5.0
# SDKs repeat for at most 60 s: longer than that, an id that was removed may be made anew.
_GIVE_UP_S = 60.0


def spec(queue: str, job: str, payload: dict[str, float] | None = None, **fields: object) -> job_pb2.JobSpec:
    """A job for the fault tests' worker. The first run is the only one, unless told otherwise: no fault of ours is a failure of the job."""
    made = job_pb2.JobSpec(queue=queue, id=job, job_name="work", attempts=1, payload=job_pb2.Payload(json=json.dumps(payload or {})))
    made.MergeFrom(job_pb2.JobSpec(**fields))  # type: ignore[arg-type]  # the fields are checked by protobuf
    return made


class Producer:
    """Enqueues over any of several brokers."""

    def __init__(self, apis: Sequence[Api], history: History, *, durability: "job_pb2.Durability.ValueType" = job_pb2.DURABILITY_STORE) -> None:
        self._apis = list(apis)
        self._history = history
        self._durability = durability
        self.repeats = 0

    async def enqueue(self, specs: Sequence[job_pb2.JobSpec]) -> None:
        """Enqueue all in one call, repeated until it is answered. Raises the last error after a minute without an answer."""
        jobs = [s.id for s in specs]
        self._history.attempt(jobs)
        give_up = time.monotonic() + _GIVE_UP_S
        request = pb.EnqueueBatchRequest(jobs=specs, durability=self._durability)
        while True:
            try:
                response = await self._apis[0].jobs.EnqueueBatch(request, timeout=_CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or time.monotonic() > give_up:
                    raise
                await self._before_repeat(error)
                continue
            refused = [item for item in response.items if item.verdict != pb.ENQUEUE_VERDICT_MADE]
            assert not refused, refused[:3]
            self._history.acknowledge(jobs)
            return

    async def _before_repeat(self, error: grpc.aio.AioRpcError) -> None:
        self.repeats += 1
        self._apis.append(self._apis.pop(0))
        await asyncio.sleep(min(Refusal.of(error).retry_after_s or 0.1, 0.2))


async def counts(api: Api, queue: str) -> job_pb2.JobCounts:
    """How many jobs of the queue are in each state."""
    request = queue_service_pb2.GetQueueRequest(name=f"queues/{queue}")
    return (await api.queues.GetQueue(request, timeout=_CALL_TIMEOUT_S)).queue.counts


async def settled(api: Api, queue: str, completed: int, timeout: float) -> job_pb2.JobCounts:
    """Wait until so many jobs have completed since the queue was made and no job is anywhere else than in a final state.

    There is no event for that, so it asks ten times a second; a broker or a store that is away is asked again.
    """
    deadline = time.monotonic() + timeout
    last: object = "nothing was answered"
    while time.monotonic() < deadline:
        try:
            now = last = await counts(api, queue)
        except grpc.aio.AioRpcError as error:
            last = error.details()
        else:
            if now.completed_total >= completed and not (now.waiting or now.active or now.delayed or now.blocked):
                return now
        await asyncio.sleep(0.1)
    raise TimeoutError(f"queue {queue} did not settle at {completed} completed jobs within {timeout} s: {last}")
