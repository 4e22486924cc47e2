"""Looking back: the ends of a queue that nobody here heard of, newest first, until they are older than `look_back`.

Done for each queue that is in doubt, one after the other: after the start, on a new stream to a broker, after a gap. What has a delivery already is found, and
not made again.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from datetime import timedelta

from jobwire.v1.job_pb2 import Job, JobState
from jobwire.v1.job_service_pb2 import ListJobsRequest, ListJobsResponse

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.names import queue_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.webhooks.deliveries import Deliveries
from jobwire_gateway.webhooks.endpoints import EVENT_OF, Endpoints

_log = logging.getLogger("jobwire.webhooks")

_PAGE = 200
_RETRY_S = 2.0


class LookBack:
    """Looks where `doubt` says."""

    def __init__(self, brokers: Brokers, endpoints: Endpoints, deliveries: Deliveries, look_back: timedelta) -> None:
        self._brokers = brokers
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._span_s = look_back.total_seconds()
        # From when on, in seconds since 1970: of queues to be looked at, and of those that are followed no more until a broker is back.
        self._doubted: dict[str, float] = {}
        self._lost: dict[str, float] = {}
        # What was said last of queues that can't be looked at: for as long as it stays the same, it is not said again.
        self._said: dict[str, str] = {}
        self._arrived = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing is in doubt."""
        self.idle.set()

    def lose(self, queue: str) -> None:
        """From now on this queue is not heard of. However long that lasts, it is looked back to here once it is."""
        self._lost.setdefault(queue, time.time() - self._span_s)

    def doubt(self, queue: str) -> None:
        """Ends of this queue may have been missed."""
        self._look_from(queue, min(time.time() - self._span_s, self._lost.pop(queue, math.inf)))

    def _look_from(self, queue: str, since: float) -> None:
        self._doubted[queue] = min(since, self._doubted.get(queue, math.inf))
        self.idle.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._doubted:
                queue = next(iter(self._doubted))
                since = self._doubted.pop(queue)
                try:
                    await self._look(queue, since)
                except (Problem, ValueError) as error:
                    if str(error) != self._said.get(queue):
                        _log.warning("webhooks.look_back_failed queue=%s error=%s", queue, error)
                    self._said[queue] = str(error)
                    self._look_from(queue, since)
                    await asyncio.sleep(random.uniform(0.5, 1.0) * _RETRY_S)
                else:
                    self._said.pop(queue, None)
            self.idle.set()

    async def _look(self, queue: str, since: float) -> None:
        events = self._endpoints.events_of(queue)
        for state in (state for state, event in EVENT_OF.items() if event in events):
            async for jobs in self._ended(queue, state, since):
                await self._deliveries.make(jobs)

    async def _ended(self, queue: str, state: "JobState.ValueType", since: float) -> AsyncIterator[list[Job]]:
        """The jobs of a final state that ended since then, in pages. Raises Problem."""
        token = ""
        while True:
            request = ListJobsRequest(parent=queue_name(queue), state=state, page_size=_PAGE, page_token=token)
            response: ListJobsResponse = await self._brokers.call(lambda broker: broker.jobs.ListJobs, request)
            late = [job for job in response.jobs if job.finish_time.ToNanoseconds() / 1e9 >= since]
            yield late
            token = response.next_page_token
            if len(late) < len(response.jobs) or not token:
                return
