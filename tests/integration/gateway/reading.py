"""A reader of event streams over real HTTP, and a worker of single calls."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
from jobwire.v1.job_pb2 import Failure, Payload, Progress
from jobwire.v1.worker_service_pb2 import Complete, Delivery, Fail, Finish, FinishJobsRequest, LeaseJobsRequest, ProgressReport, ReportProgressRequest

from tests.support.api import Api

WAIT_S = 15.0
_FINISH_S = 10.0

EVENT_SOURCE = {"Accept": "text/event-stream"}

LARGE = {f"{number:0>63}": "v" * 128 for number in range(16)}
"""Labels that make each frame of a job 3 kB long: few changes are then more than the kernel holds for a reader."""


class Reader:
    """One open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.last_id = ""
        self.retries: list[int] = []
        self.closed = False
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next event's data. Raises StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(WAIT_S):
            async for line in self._lines:
                field, _, value = line.partition(": ")
                if field == "id":
                    self.last_id = value
                elif field == "retry":
                    self.retries.append(int(value))
                elif field == "data":
                    data: dict[str, Any] = json.loads(value)
                    return data
        self.closed = True
        raise StopAsyncIteration

    async def until(self, kind: str, **members: object) -> dict[str, Any]:
        """The next event of a type whose data has such members."""
        seen = []
        try:
            while True:
                seen.append(event := await self.next())
                if event["type"] == kind and all(event.get(name) == value for name, value in members.items()):
                    return event
        except (StopAsyncIteration, TimeoutError):
            raise AssertionError(f"no {kind} with {members} came, but {seen}") from None

    async def rest(self) -> list[dict[str, Any]]:
        """All events to the end of the stream."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events


@asynccontextmanager
async def reading(http: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Reader]:
    """Open a stream as an EventSource does."""
    async with http.stream("GET", path, headers={**EVENT_SOURCE, **{name.replace("_", "-"): value for name, value in headers.items()}}, timeout=60) as response:
        yield Reader(response)


async def enqueue(http: httpx.AsyncClient, queue: str, **members: object) -> dict[str, Any]:
    """Enqueue a job over REST."""
    answer = await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "thumbnail", **members})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def lease(api: Api, queue: str) -> Delivery:
    """Take one job, as a worker does."""
    request = LeaseJobsRequest(queue=queue, max_jobs=1, worker="single calls")
    request.lease_duration.FromSeconds(30)
    request.wait.FromSeconds(10)
    (delivery,) = (await api.workers.LeaseJobs(request)).jobs
    return delivery


async def report(api: Api, job: Delivery, percent: float, message: str = "") -> None:
    """Report progress."""
    progress = Progress(percent=percent, message=message)
    await api.workers.ReportProgress(ReportProgressRequest(reports=[ProgressReport(queue=job.queue, id=job.id, token=job.token, progress=progress)]))


async def complete(api: Api, job: Delivery, result: str = "null") -> None:
    """Let it complete."""
    await _finish(api, Finish(queue=job.queue, id=job.id, token=job.token, complete=Complete(result=Payload(json=result))))


async def fail(api: Api, job: Delivery, message: str) -> None:
    """Let it fail for good."""
    failure = Failure(type="ValueError", message=message)
    await _finish(api, Finish(queue=job.queue, id=job.id, token=job.token, fail=Fail(failure=failure, permanent=True)))


async def _finish(api: Api, finish: Finish) -> None:
    """Send it again while the store is away, as every worker does: the same finish gets the same answer."""
    async with asyncio.timeout(_FINISH_S):
        while True:
            try:
                await api.workers.FinishJobs(FinishJobsRequest(finishes=[finish]))
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
