"""What a caller of enqueue waits on."""

import asyncio
import concurrent.futures
from collections.abc import Sequence

from jobwire_client._batches import Item, Items
from jobwire_client._job import Enqueued, verdict_word
from jobwire_client._status import error_of_item
from jobwire_client.errors import JobwireError, QueueUnavailable

_REFUSED = 4
_MADE = 1


class OneJob:
    """One job of one caller. `future` is asyncio's, or, for a caller in another thread, that of concurrent.futures."""

    __slots__ = ("count", "frames", "future", "id", "queue")

    def __init__(self, frame: bytes, queue: str, job_id: str, future: "asyncio.Future[Enqueued] | concurrent.futures.Future[Enqueued]") -> None:
        """Keep what the answer needs."""
        self.frames = frame
        self.count = 1
        self.queue = queue
        self.id = job_id
        self.future = future

    def deliver(self, items: Items, at: int) -> None:
        """Give the verdict to the caller; a refusal is an error."""
        item = items[at]
        verdict = item.verdict
        future = self.future
        if future.done():
            return
        if verdict == _REFUSED:
            future.set_exception(error_of_item(item.error))
            return
        job_id = item.id or self.id
        future.set_result(Enqueued(f"queues/{self.queue}/jobs/{job_id}", job_id, self.queue, "made" if verdict == _MADE else verdict_word(verdict)))

    def fail(self, error: JobwireError) -> None:
        """Give the error to the caller."""
        if isinstance(error, QueueUnavailable):
            error.id = self.id
        if not self.future.done():
            self.future.set_exception(error)

    def abandoned(self) -> bool:
        """Whether the caller was cancelled before its job was sent."""
        return self.future.cancelled()


class ManyJobs:
    """Up to 1,000 jobs of one enqueue_many."""

    __slots__ = ("count", "frames", "future", "ids")

    def __init__(self, frames: bytes, ids: Sequence[tuple[str, str]], future: asyncio.Future[list[Enqueued]]) -> None:
        """Keep the (queue, id) of each job."""
        self.frames = frames
        self.count = len(ids)
        self.ids = ids
        self.future = future

    def deliver(self, items: Items, at: int) -> None:
        """Give the verdicts to the caller; a refusal is one of them."""
        if not self.future.done():
            self.future.set_result([_enqueued(queue, job_id, item) for (queue, job_id), item in zip(self.ids, items[at : at + self.count], strict=True)])

    def fail(self, error: JobwireError) -> None:
        """Give the error to the caller."""
        if not self.future.done():
            self.future.set_exception(error)

    def abandoned(self) -> bool:
        """Whether the caller was cancelled before its jobs were sent."""
        return self.future.cancelled()


def _enqueued(queue: str, job_id: str, item: Item) -> Enqueued:
    job_id = item.id or job_id
    error = error_of_item(item.error) if item.verdict == _REFUSED else None
    return Enqueued(f"queues/{queue}/jobs/{job_id}", job_id, queue, verdict_word(item.verdict), error)
