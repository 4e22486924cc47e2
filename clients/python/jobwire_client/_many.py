"""enqueue_many: jobs in chunks that travel through the same lane as single ones, with a verdict for each."""

import asyncio
from collections.abc import Iterable

from jobwire_client._batches import MAX_BYTES, MAX_JOBS, Lane
from jobwire_client._entries import ManyJobs
from jobwire_client._ids import new_id
from jobwire_client._job import Enqueued
from jobwire_client._spec import JobSpec, encode_spec
from jobwire_client.errors import InvalidRequest, JobwireError, QueueUnavailable, StoreFull


class _Chunk:
    """Jobs that travel together, and where their verdicts belong."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size = 0
        self.ids: list[tuple[str, str]] = []
        self.places: list[int] = []

    def has_room(self, frame: bytes) -> bool:
        return len(self.ids) < MAX_JOBS and (not self.ids or self.size + len(frame) <= MAX_BYTES)

    def add(self, frame: bytes, queue: str, job_id: str, place: int) -> None:
        self.frames.append(frame)
        self.size += len(frame)
        self.ids.append((queue, job_id))
        self.places.append(place)


class _Many:
    """One enqueue_many."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._results: list[Enqueued | None] = []
        self._sent: list[tuple[_Chunk, asyncio.Future[list[Enqueued]]]] = []
        self._outage: QueueUnavailable | None = None

    async def run(self, jobs: Iterable[JobSpec]) -> list[Enqueued]:
        chunk = _Chunk()
        for spec in jobs:
            job_id = new_id() if spec.id is None else spec.id
            try:
                frame = encode_spec(spec, job_id)
            except InvalidRequest as error:
                self._results.append(_enqueued(spec.queue, job_id, error))
                continue
            if not chunk.has_room(frame):
                await self._send(chunk)
                chunk = _Chunk()
            chunk.add(frame, spec.queue, job_id, len(self._results))
            self._results.append(None)
        if chunk.ids:
            await self._send(chunk)
        return await self._answers()

    async def _send(self, chunk: _Chunk) -> None:
        """Hand a chunk to the lane, waiting for room; after an outage was noticed, no more is sent."""
        future: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()
        self._sent.append((chunk, future))
        try:
            if self._outage is not None:
                raise self._outage.again()
            if self._lane.full:
                await self._lane.room(chunk.size)
        except QueueUnavailable as error:
            self._outage = error
            future.set_exception(error)
        else:
            self._lane.put(ManyJobs(b"".join(chunk.frames), chunk.ids, future))
            await asyncio.sleep(0)  # it leaves while the next chunk is encoded

    async def _answers(self) -> list[Enqueued]:
        if self._sent:
            await asyncio.wait([future for _, future in self._sent])
        failures = [failure for chunk, future in self._sent if (failure := self._place(chunk, future)) is not None]
        results = [result for result in self._results if result is not None]
        for failure in failures:
            if not isinstance(failure, QueueUnavailable | StoreFull):
                raise failure
        if outages := [failure for failure in failures if isinstance(failure, QueueUnavailable)]:
            raise _outage(outages[0], results)
        return results

    def _place(self, chunk: _Chunk, future: "asyncio.Future[list[Enqueued]]") -> BaseException | None:
        failure = future.exception()
        answers = future.result() if failure is None else [_enqueued(queue, job_id, failure) for queue, job_id in chunk.ids]
        for place, answer in zip(chunk.places, answers, strict=True):
            self._results[place] = answer
        return failure


async def enqueue_many(lane: Lane, jobs: Iterable[JobSpec]) -> list[Enqueued]:
    """Enqueue `jobs`; `Client.enqueue_many` says what it promises."""
    return await _Many(lane).run(jobs)


def _enqueued(queue: str, job_id: str, failure: BaseException) -> Enqueued:
    error = failure if isinstance(failure, JobwireError) else None
    unknown = isinstance(failure, QueueUnavailable) and failure.accepted == "unknown"
    return Enqueued(queue, job_id, "unknown" if unknown else "refused", error)


def _outage(cause: BaseException, results: list[Enqueued]) -> QueueUnavailable:
    """The error for the whole: "no" only when nothing was made and nothing may have been."""
    nothing = all(result.verdict == "refused" for result in results)
    error = QueueUnavailable(f"not all jobs were enqueued: {cause}", accepted="no" if nothing else "unknown")
    error.results = results
    error.__cause__ = cause
    return error
