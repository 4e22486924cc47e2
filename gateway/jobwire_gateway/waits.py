"""Waiting for a job's end in a plain request: `Prefer: wait=N`.

A wait is an open answer like a stream: it counts among them, and ends early when the process drains, as it does when the one who asked goes away.
"""

import asyncio
import time

from jobwire.v1.job_pb2 import Job
from jobwire.v1.job_service_pb2 import WaitJobRequest
from starlette.requests import Request

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.frames import Frame
from jobwire_gateway.problems import Problem
from jobwire_gateway.streams import Streams

_SLACK_S = 2.0
"""How much longer than the wait itself the call to the broker may take."""


class Wait:
    """One wait, as the registry of open streams sees it."""

    def __init__(self) -> None:
        self.last_write = time.monotonic()
        self.over = asyncio.Event()

    def heartbeat(self) -> None:
        """Nothing can be said before the answer."""

    def drain(self, reconnect_ms: int) -> None:
        self.over.set()

    def say(self, frame: Frame) -> None:
        """Nothing of the gateway's own has a place in this answer."""

    def expire(self, frame: Frame) -> None:
        self.close()

    def close(self) -> None:
        self.over.set()


class Waits:
    """How waits are made. `longest_s` bounds what may be asked for."""

    def __init__(self, brokers: Brokers, streams: Streams, longest_s: float) -> None:
        self.longest_s = longest_s
        self._brokers = brokers
        self._streams = streams

    async def end_of(self, request: Request, name: str, wait_s: float) -> Job | None:
        """The job once it has ended; None when it has not in that time, or when the wait had to be given up.

        Raises:
            Problem: there is no such job, or the broker or its store is away.
        """
        if self._streams.full:
            return None
        wait = Wait()
        self._streams.add(wait)
        roles = [asyncio.create_task(role) for role in (self._ask(name, wait_s), wait.over.wait(), _gone(request))]
        try:
            await asyncio.wait(roles, return_when=asyncio.FIRST_COMPLETED)
            asked = roles[0]
            return asked.result() if asked.done() else None  # type: ignore[return-value]
        finally:
            self._streams.remove(wait)
            for role in roles:
                role.cancel()
            await asyncio.gather(*roles, return_exceptions=True)

    async def _ask(self, name: str, wait_s: float) -> Job | None:
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            request = WaitJobRequest(name=name)
            request.timeout.FromMilliseconds(round(left_s * 1000))
            try:
                return (await self._brokers.call(lambda broker: broker.jobs.WaitJob, request, timeout_s=left_s + _SLACK_S)).job
            except Problem as problem:
                if problem.reason == "WAIT_TIMEOUT":
                    return None
                # With several brokers each gets a share of the time; one that has used its share up is asked again.
                if problem.status != 504:
                    raise
        return None


async def _gone(request: Request) -> None:
    """Return when the one who asked has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
