"""A worker that runs one job and logs for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from jobwire.v1 import worker_service_pb2 as work
from jobwire.v1.job_pb2 import LogLine

from tests.support import Broker
from tests.support.raw_worker import RawWorker, complete

from .reading import Reader, enqueue


class Talker:
    """The worker, with its job `a`."""

    def __init__(self, worker: RawWorker, job: work.Delivery) -> None:
        self._worker = worker
        self._job = job
        self._sequence = 0

    async def say(self, *messages: str) -> None:
        lines = []
        for message in messages:
            self._sequence += 1
            lines.append(LogLine(sequence=self._sequence, level="info", message=message, time_ms=5))
        report = work.LogReport(queue=self._job.queue, id=self._job.id, token=self._job.token, lines=lines)
        await self._worker.send(work.WorkRequest(logs=[report]))

    async def end(self) -> None:
        await self._worker.finish(complete(self._job))


@asynccontextmanager
async def talking(http: httpx.AsyncClient, broker: Broker, queue: str) -> AsyncIterator[Talker]:
    """Enqueue the job, and take it."""
    await enqueue(http, queue, id="a", group="acme", labels={"order": "17"})
    async with RawWorker(broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        yield Talker(worker, job)


def messages(events: list[dict[str, Any]]) -> list[str]:
    """All lines of these events."""
    return [line["message"] for event in events if event["type"] == "log" for line in event["lines"]]


async def until_line(reader: Reader, message: str) -> list[str]:
    """Read until this line has come. Gives all that came."""
    heard: list[str] = []
    while message not in heard:
        heard += messages([await reader.next()])
    return heard
