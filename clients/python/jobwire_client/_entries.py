"""What a caller of enqueue waits on."""

import asyncio
import concurrent.futures
from collections.abc import Sequence

from jobwire_client._enqueue_stream import Item, Verdicts
from jobwire_client._job import Enqueued, made, verdict_word
from jobwire_client._status import error_of_item
from jobwire_client.errors import JobwireError, QueueUnavailable

_REFUSED = 4


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

    def made(self) -> None:
        """Tell the caller that its job is there."""
        if not self.future.done():
            self.future.set_result(made(self.queue, self.id))

    def deliver(self, verdicts: Verdicts, at: int) -> None:
        """Give the verdict to the caller; a refusal is an error."""
        item = verdicts.get(at)
        if item is None:
            self.made()
        elif self.future.done():
            return
        elif item.verdict == _REFUSED:
            self.future.set_exception(error_of_item(item.error))
        else:
            self.future.set_result(_enqueued(self.queue, self.id, item))

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

    def made(self) -> None:
        """Tell the caller that its jobs are there."""
        if not self.future.done():
            self.future.set_result([made(queue, job_id) for queue, job_id in self.ids])

    def deliver(self, verdicts: Verdicts, at: int) -> None:
        """Give the verdicts to the caller; a refusal is one of them."""
        if not self.future.done():
            self.future.set_result([_enqueued(queue, job_id, verdicts.get(at + i)) for i, (queue, job_id) in enumerate(self.ids)])

    def fail(self, error: JobwireError) -> None:
        """Give the error to the caller."""
        if not self.future.done():
            self.future.set_exception(error)

    def abandoned(self) -> bool:
        """Whether the caller was cancelled before its jobs were sent."""
        return self.future.cancelled()


def _enqueued(queue: str, job_id: str, item: Item | None) -> Enqueued:
    if item is None:
        return made(queue, job_id)
    job_id = item.id or job_id
    error = error_of_item(item.error) if item.verdict == _REFUSED else None
    return Enqueued(queue, job_id, verdict_word(item.verdict), error)
