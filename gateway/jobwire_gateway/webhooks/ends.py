"""Which queues are followed on the feed, and what of the feed is an end. A plain object: the feed's responses go in, ends and doubts come out.

A queue is *in doubt* whenever its ends may have been missed: when it begins to be followed, on each new stream, and after a gap. Then somebody must look back.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_pb2 import Job
from jobwire.v1.job_service_pb2 import ChangeType, JobChange

from jobwire_gateway.names import queue_name, queue_of
from jobwire_gateway.webhooks.endpoints import EVENT_OF

_log = logging.getLogger("jobwire.webhooks")


class Ends:
    """`on_end` is called with each job at its end.

    `on_doubt` is called with the name of a queue of which ends may have been missed, `on_lost` with that of one of which no more is heard.
    """

    def __init__(self, on_end: Callable[[Job], None], on_doubt: Callable[[str], None], on_lost: Callable[[str], None]) -> None:
        self.on_demand: Callable[[], None] = _nothing
        self.trouble: str | None = None
        self._on_end = on_end
        self._on_doubt = on_doubt
        self._on_lost = on_lost
        self.live = asyncio.Event()
        """Set while everything that is followed is heard."""
        self._queues: set[str] = set()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()

    def follow(self, queue: str) -> None:
        """Hear of a queue from now on. To follow twice is no error."""
        if queue not in self._queues:
            self._queues.add(queue)
            self.live.clear()
            self.on_demand()

    def plug(self) -> Iterator[None]:
        """A new stream is open."""
        self._asked.clear()
        self._confirmed.clear()
        self.trouble = None
        self.on_demand()
        yield

    def unplug(self, reason: str) -> Iterator[None]:
        """The stream is broken."""
        self.trouble = reason
        self.live.clear()
        for queue in self._confirmed:
            self._on_lost(queue)
        yield

    def demand(self) -> tuple[list[str], list[str]]:
        """The topics that were not asked for on this stream."""
        new = sorted(self._queues - self._asked)
        self._asked.update(new)
        return [queue_name(queue) for queue in new], []

    def apply(self, response: SubscribeResponse) -> Iterator[None]:
        """Take what the broker says."""
        for topic in response.added:
            self._on_doubt(queue_of(topic))
            self._confirmed.add(queue_of(topic))
        for change in response.changes:
            self._apply_change(change)
            yield
        if response.HasField("store_available"):
            self.trouble = None if response.store_available else "store_unavailable"
        if self._confirmed >= self._queues:
            self.live.set()

    def _apply_change(self, change: JobChange) -> None:
        job = change.job
        if change.type == ChangeType.CHANGE_TYPE_GAP:
            _log.info("webhooks.gap queue=%s", job.queue)
            self._on_doubt(job.queue)
        elif change.type == ChangeType.CHANGE_TYPE_FINAL and job.state in EVENT_OF and job.HasField("finish_time"):
            self._on_end(job)


def _nothing() -> None: ...
