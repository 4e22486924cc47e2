"""Following jobs over streams that break: what the watcher sees goes backward only where the store did, and the end is never missed.

1. No timeout is put around a read: grpc.aio would cancel the whole stream. A task reads, and the watcher waits for what it has read.
2. A stream that is silent may be dead without either side knowing. After 15 s of silence the jobs are asked for by another call; when that fails, or knows
   more than the stream said, the stream is given up.
3. After a break everything is asked for again; revisions tell what is new. A snapshot or an end that is older than what was seen is new too: the store has lost
   its last writes, as a replica may that takes over.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import grpc.aio
from jobwire.v1 import job_service_pb2

from jobwire_client._connections import Connections, Method
from jobwire_client._job import Change, Job, change_from, completed_by, job_from
from jobwire_client.errors import JobNotFound, JobwireError, QueueUnavailable

_WATCH = Method("/jobwire.v1.JobService/WatchJobs", job_service_pb2.WatchJobsResponse.FromString)
_GET = Method("/jobwire.v1.JobService/GetJob", job_service_pb2.GetJobResponse.FromString)

SILENCE_S = 15.0
"""How long a stream may say nothing before it is checked."""
_CHECK_S = 2.0
_BUFFERED_FRAMES = 16
_FIRST_WAIT_S = 0.05
_MAX_WAIT_S = 2.0


class View:
    """What a watcher has seen of each job. Tells what is new, and which jobs are still to be watched."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begin with nothing seen of `names`, which are jobs or queues."""
        self._names = list(dict.fromkeys(names))
        self._seen: dict[str, Job] = {}
        self._ended: set[str] = set()

    @property
    def open(self) -> list[str]:
        """The names that have not ended; queues never do."""
        return [name for name in self._names if name not in self._ended]

    def last(self, name: str) -> Job | None:
        """The job as it was seen last."""
        return self._seen.get(name)

    def take(self, change: Change) -> Change | None:
        """The change as the watcher is to see it; None when it knows it already."""
        if change.type == "log":
            return change
        if change.type == "gap":
            self._forget_others(change.job.queue)
            return change
        if change.type == "not_found":
            return self._lost(change)
        known = self._seen.get(change.job.name)
        if known is not None and (change.job.revision == known.revision or (change.type == "update" and change.job.revision < known.revision)):
            return None
        job = completed_by(change.job, known)
        self._seen[job.name] = job
        if change.type == "final" or job.final:
            self._end(job.name)
        return Change("final" if job.final else change.type, job)

    def _forget_others(self, queue: str) -> None:
        """What was seen of a queue's jobs that are not watched by name may be what the store has lost."""
        named = set(self._names)
        self._seen = {name: job for name, job in self._seen.items() if job.queue != queue or name in named}

    def _lost(self, change: Change) -> Change:
        """A job that was there and is gone ends as `removed`."""
        name = change.job.name
        self._end(name)
        known = self._seen.pop(name, None)
        if known is None:
            return change
        return Change("final", Job(name=name, queue=known.queue, id=known.id, job_name=known.job_name, state="removed", revision=known.revision + 1))

    def _end(self, name: str) -> None:
        if name in self._names:
            self._ended.add(name)
        else:
            self._seen.pop(name, None)  # one of a queue's jobs: what has ended need not be kept


async def watch(connections: Connections, names: Sequence[str], *, patience_s: float, first_patience_s: float) -> AsyncGenerator[Change, None]:
    """Follow `names` until all of them have ended.

    Raises:
        QueueUnavailable: nobody answered for `first_patience_s` at the beginning, or for `patience_s` later.
        JobwireError: the broker refused.
    """
    view = View(names)
    clock = asyncio.get_running_loop().time
    answered, patience = clock(), first_patience_s
    wait_s = _FIRST_WAIT_S
    while view.open:
        try:
            async with contextlib.aclosing(_one_stream(connections, view)) as changes:
                async for change in changes:
                    answered, patience, wait_s = clock(), patience_s, _FIRST_WAIT_S
                    if (news := view.take(change)) is not None:
                        yield news
                    if not view.open:
                        return
        except QueueUnavailable:
            if clock() + wait_s - answered > patience:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, _MAX_WAIT_S)


async def watch_one(changes: AsyncGenerator[Change, None], name: str) -> AsyncGenerator[Job, None]:
    """The states of one job, out of its changes."""
    async with contextlib.aclosing(changes):
        async for change in changes:
            if change.type == "not_found":
                raise JobNotFound(f"there is no job {name}", reason="JOB_NOT_FOUND")
            if change.type not in ("gap", "log"):
                yield change.job


async def _one_stream(connections: Connections, view: View) -> AsyncGenerator[Change, None]:
    """Changes from one stream, until it breaks (QueueUnavailable) or closes."""
    index, call = connections.stream(_WATCH, job_service_pb2.WatchJobsRequest(names=view.open).SerializeToString())
    frames: asyncio.Queue[job_service_pb2.WatchJobsResponse | JobwireError | None] = asyncio.Queue(_BUFFERED_FRAMES)
    reader = asyncio.create_task(_read(connections, index, call, frames))
    try:
        while True:
            frame = await _next(frames, connections, view)
            if frame is None:
                connections.move_on(index)
                return
            if isinstance(frame, JobwireError):
                connections.move_on(index)
                raise frame
            for message in frame.changes:
                yield change_from(message)
    finally:
        call.cancel()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(
    connections: Connections,
    index: int,
    call: "grpc.aio.UnaryStreamCall[bytes, job_service_pb2.WatchJobsResponse]",
    frames: "asyncio.Queue[job_service_pb2.WatchJobsResponse | JobwireError | None]",
) -> None:
    try:
        async for frame in call:
            await frames.put(frame)
    except grpc.aio.AioRpcError as failure:
        await frames.put(connections.failure(index, failure))
    else:
        await frames.put(None)


async def _next(
    frames: "asyncio.Queue[job_service_pb2.WatchJobsResponse | JobwireError | None]", connections: Connections, view: View
) -> "job_service_pb2.WatchJobsResponse | JobwireError | None":
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S):
                return await frames.get()
        if not await _is_alive(connections, view) and frames.empty():
            return QueueUnavailable("the stream was silent, and the broker does not answer or knows more than it said")


async def _is_alive(connections: Connections, view: View) -> bool:
    """Whether what the silent stream said last still holds. One job stands for all; a queue's stream is asked about nothing."""
    name = next((name for name in view.open if "/jobs/" in name), None)
    if name is None:
        return True
    deadline = asyncio.get_running_loop().time() + _CHECK_S
    try:
        answer = await connections.call(_GET, job_service_pb2.GetJobRequest(name=name).SerializeToString(), deadline=deadline)
    except JobwireError:
        return False
    known = view.last(name)
    return known is not None and job_from(answer.job).revision <= known.revision
