"""The client for threads: an asyncio client on a thread of its own, shared by all who call."""

import asyncio
import atexit
import concurrent.futures
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import EllipsisType, TracebackType
from typing import Any, Literal, TypeVar

from jobwire_client._bulk import BulkPlan, BulkProgress, BulkVerb
from jobwire_client._bulk_runs import BulkRun
from jobwire_client._client import Client
from jobwire_client._credentials import Credentials
from jobwire_client._explain import Explanation
from jobwire_client._failures import FailureGroup
from jobwire_client._filter import JobFilter
from jobwire_client._fork import generation
from jobwire_client._identity import Debounce, Throttle, encode_identity
from jobwire_client._ids import new_id
from jobwire_client._job import Change, Enqueued, Job, LogLine, Named, ServerInfo, WatchToken
from jobwire_client._limits import Group, Limit
from jobwire_client._policy import QueuePolicy
from jobwire_client._poller import quiet_poller
from jobwire_client._queues import ClassStats, Queue
from jobwire_client._spec import Backoff, Durability, JobSpec, encode, encode_rules, encode_times
from jobwire_client._update import Due
from jobwire_client._workers import WorkerSession
from jobwire_client.errors import ClientClosed

T = TypeVar("T")
_Handed = tuple[bytes, str, str, Durability, "concurrent.futures.Future[Enqueued]"]


class SyncClient:
    """Client for programs without asyncio. `with SyncClient("localhost:7410") as client:`.

    One client serves all threads of a process, and enqueues of different threads share requests. Each method is that of Client, with the same arguments, errors
    and results; `watch` and `list_jobs` are plain iterators. Its thread starts at the first call, so a client that is made before a fork (a preloaded web
    server) works in each child; one that was used before the fork raises ClientClosed in the child.
    """

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        credentials: Credentials | None = None,
        timeout: timedelta | float = 2.0,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Prepare a client; the arguments are those of Client."""
        self._make: Callable[[], Client] = lambda: Client(
            target, credentials=credentials, timeout=timeout, max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes
        )
        self._make()  # a target that is none is refused here, and not in another thread
        self._start_lock = threading.Lock()
        self._thread: _ClientThread | None = None
        self._closed = False

    def __enter__(self) -> "SyncClient":
        """The client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Flush and close."""
        self.close()

    def close(self) -> None:
        """Wait until every enqueue that was begun has its answer, then close. To close twice is no error."""
        with self._start_lock:
            thread, self._thread, self._closed = self._thread, None, True
        if thread is not None:
            thread.close()

    def enqueue(
        self,
        queue: str,
        job_name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        priority: int | str | None = None,
        delay: timedelta | float | None = None,
        delay_until: datetime | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        group: str | None = None,
        labels: Mapping[str, str] | None = None,
        required_labels: Mapping[str, str] | None = None,
        units: int | None = None,
        timeout: timedelta | float | None = None,
        total_timeout: timedelta | float | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | float | None = None,
        permanent_errors: Sequence[str] = (),
        idempotency_key: str | None = None,
        idempotency_ttl: timedelta | float | None = None,
        unique: bool | str = False,
        debounce: Debounce | None = None,
        throttle: Throttle | None = None,
        retention: timedelta | float | None = None,
        durability: Durability = "store",
    ) -> Enqueued:
        """Make one job, as Client.enqueue does."""
        job_id = new_id() if id is None else id
        rules = encode_rules(group, labels, required_labels, units)
        rules += encode_times(timeout, total_timeout, expires_at, expires_in, permanent_errors)
        rules += encode_identity(idempotency_key, idempotency_ttl, unique, debounce, throttle, retention)
        frame = encode(queue, job_name, payload, job_id, priority, delay, delay_until, attempts, backoff, rules)
        return self._started().enqueue(frame, queue, job_id, durability)

    def enqueue_many(self, jobs: Iterable[JobSpec], *, durability: Durability = "store") -> list[Enqueued]:
        """Make many jobs, as Client.enqueue_many does."""
        return self._run(lambda client: client.enqueue_many(jobs, durability=durability))

    def get(self, job: str | Named) -> Job:
        """Read a job."""
        return self._run(lambda client: client.get(job))

    def explain(self, job: str | Named) -> Explanation:
        """Say why a job does not run."""
        return self._run(lambda client: client.explain(job))

    def cancel(self, job: str | Named, *, grace: timedelta | float | None = None) -> Job:
        """Cancel a job."""
        return self._run(lambda client: client.cancel(job, grace=grace))

    def retry(self, job: str | Named, *, payload: Any = None) -> Job:
        """Put a failed, cancelled or expired job back."""
        return self._run(lambda client: client.retry(job, payload=payload))

    def resolve(self, job: str | Named, note: str = "") -> Job:
        """Note what was decided about a failed job."""
        return self._run(lambda client: client.resolve(job, note))

    def update(
        self,
        job: str | Named,
        *,
        payload: Any = ...,
        priority: int | str | EllipsisType = ...,
        due: Due | EllipsisType = ...,
        labels: Mapping[str, str] | EllipsisType = ...,
    ) -> Job:
        """Change a job that waits or is delayed."""
        return self._run(lambda client: client.update(job, payload=payload, priority=priority, due=due, labels=labels))

    def promote(self, job: str | Named) -> Job:
        """Let a delayed job start now."""
        return self._run(lambda client: client.promote(job))

    def delete(self, job: str | Named) -> None:
        """Delete a job that does not run."""
        self._run(lambda client: client.delete(job))

    def wait(self, job: str | Named, *, timeout: timedelta | float | None = None) -> Job:
        """Wait until a job has ended."""
        return self._run(lambda client: client.wait(job, timeout=timeout))

    def watch(self, job: str | Named) -> Iterator[Job]:
        """Follow a job to its end."""
        return self._iterate(lambda client: client.watch(job))

    def watch_changes(self, names: Iterable[str | Named]) -> Iterator[Change]:
        """Follow many jobs or queues."""
        return self._iterate(lambda client: client.watch_changes(names))

    def logs(self, job: str | Named, *, after: int = 0, follow: bool = False) -> Iterator[LogLine]:
        """What the handlers of a job logged."""
        return self._iterate(lambda client: client.logs(job, after=after, follow=follow))

    def list_jobs(self, queue: str, state: str, *, filter: JobFilter | None = None, limit: int | None = None) -> Iterator[Job]:
        """The jobs of one queue in one state."""
        return self._iterate(lambda client: client.list_jobs(queue, state, filter=filter, limit=limit))

    def failures(self, queue: str, *, filter: JobFilter | None = None, limit: int | None = None) -> Iterator[FailureGroup]:
        """The failed jobs of a queue in groups."""
        return self._iterate(lambda client: client.failures(queue, filter=filter, limit=limit))

    def plan_bulk(self, queue: str, verb: BulkVerb, filter: JobFilter | None = None, *, note: str = "", grace: timedelta | float | None = None) -> BulkPlan:
        """Count the jobs that a verb would act on."""
        return self._run(lambda client: client.plan_bulk(queue, verb, filter, note=note, grace=grace))

    def run_bulk(self, plan: BulkPlan) -> Iterator[BulkProgress]:
        """Act on those that a dry run saw."""
        return self._iterate(lambda client: client.run_bulk(plan))

    def bulk_runs(self, queue: str, *, limit: int | None = None) -> Iterator[BulkRun]:
        """The bulk runs of a queue."""
        return self._iterate(lambda client: client.bulk_runs(queue, limit=limit))

    def bulk_run(self, run: str | Named) -> BulkRun:
        """Read a bulk run."""
        return self._run(lambda client: client.bulk_run(run))

    def stop_bulk_run(self, run: str | Named) -> BulkRun:
        """Stop a bulk run, whoever began it."""
        return self._run(lambda client: client.stop_bulk_run(run))

    def queues(self) -> list[Queue]:
        """All queues."""
        return self._run(lambda client: client.queues())

    def queue(self, queue: str) -> Queue:
        """One queue."""
        return self._run(lambda client: client.queue(queue))

    def pause_queue(self, queue: str) -> Queue:
        """Stop the delivery of new jobs."""
        return self._run(lambda client: client.pause_queue(queue))

    def resume_queue(self, queue: str) -> Queue:
        """Start delivery again."""
        return self._run(lambda client: client.resume_queue(queue))

    def purge_queue(self, queue: str) -> int:
        """Delete the jobs that wait or are delayed."""
        return self._run(lambda client: client.purge_queue(queue))

    def update_queue(self, queue: str, policy: QueuePolicy, *, fields: Iterable[str] | None = None) -> Queue:
        """Change the policy of a queue."""
        return self._run(lambda client: client.update_queue(queue, policy, fields=fields))

    def classes(self) -> list[ClassStats]:
        """The queues of each class together."""
        return self._run(lambda client: client.classes())

    def pause_class(self, queue_class: str) -> list[str]:
        """Stop delivery in all queues of a class."""
        return self._run(lambda client: client.pause_class(queue_class))

    def resume_class(self, queue_class: str) -> list[str]:
        """Start delivery again in all queues of a class."""
        return self._run(lambda client: client.resume_class(queue_class))

    def clean_queue(self, queue: str, *, state: str = "completed", grace: timedelta | float = 0.0) -> int:
        """Delete jobs that have ended; how many those were."""
        return self._run(lambda client: client.clean_queue(queue, state=state, grace=grace))

    def groups(self, queue: str) -> list[Group]:
        """The groups of a queue."""
        return self._run(lambda client: client.groups(queue))

    def pause_group(self, queue: str, group: str) -> Group:
        """Stop the delivery of a group's jobs."""
        return self._run(lambda client: client.pause_group(queue, group))

    def resume_group(self, queue: str, group: str) -> Group:
        """Start it again."""
        return self._run(lambda client: client.resume_group(queue, group))

    def update_group(
        self, queue: str, group: str, *, weight: float | None = None, express: bool | None = None, limit: Limit | Literal["default"] | None = None
    ) -> Group:
        """Change rules of a group."""
        return self._run(lambda client: client.update_group(queue, group, weight=weight, express=express, limit=limit))

    def workers(self) -> list[WorkerSession]:
        """All worker processes."""
        return self._run(lambda client: client.workers())

    def server_info(self) -> ServerInfo:
        """Which broker answers."""
        return self._run(lambda client: client.server_info())

    def watch_token(self, names: Sequence[str | Named], *, ttl: timedelta | float | None = None, single_use: bool = False) -> WatchToken:
        """Make a token that lets a page in a browser watch jobs and queues."""
        return self._run(lambda client: client.watch_token(names, ttl=ttl, single_use=single_use))

    def _started(self) -> "_ClientThread":
        thread = self._thread
        if thread is None:
            with self._start_lock:
                if self._closed:
                    raise ClientClosed("the client is closed")
                thread = self._thread = self._thread or _ClientThread(self._make)
        if thread.process != generation():
            raise ClientClosed("the client was used before this process was forked; make one after the fork")
        return thread

    def _run(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        return self._started().run(call)

    def _iterate(self, call: Callable[[Client], AsyncGenerator[T, None]]) -> Iterator[T]:
        return self._started().iterate(call)


class _ClientThread:
    """The event loop, its thread, and the client that lives there."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self.process = generation()
        self._client = make()
        self._loop = asyncio.new_event_loop()
        quiet_poller(self._loop)
        self._handed: deque[_Handed] = deque()
        self._told = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobwire-client", daemon=True)
        self._thread.start()
        self._at_exit = _closer(weakref.ref(self))
        atexit.register(self._at_exit)

    def enqueue(self, frame: bytes, queue: str, job_id: str, durability: Durability) -> Enqueued:
        """Hand a job over and wait for its verdict. The loop is woken once for all that is handed over before it looks."""
        future: concurrent.futures.Future[Enqueued] = concurrent.futures.Future()
        self._handed.append((frame, queue, job_id, durability, future))
        if not self._told:
            self._told = True
            self._call_soon(self._take)
        return future.result()

    def run(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Await a call of the client from this thread."""
        coroutine = call(self._client)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError as error:
            coroutine.close()
            raise ClientClosed("the client is closed") from error
        try:
            return future.result()
        finally:
            future.cancel()  # no effect on what is done; after a KeyboardInterrupt the call need not go on

    def iterate(self, call: Callable[[Client], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Iterate over what an async iterator gives."""
        values = call(self._client)
        end = object()

        async def step(_: Client) -> Any:
            return await anext(values, end)

        async def stop(_: Client) -> None:
            await values.aclose()

        try:
            while (value := self.run(step)) is not end:
                yield value
        finally:
            self.run(stop)

    def close(self) -> None:
        """Flush, close and end the thread."""
        atexit.unregister(self._at_exit)
        if self.process != generation():
            return  # the thread is the parent's
        self.run(lambda client: client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._take()  # what was handed over meanwhile is refused by the closed client

    def _call_soon(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # closed in this moment
            callback()

    def _take(self) -> None:
        self._told = False
        while self._handed:
            frame, queue, job_id, durability, future = self._handed.popleft()
            try:
                self._client.enqueue_from_thread(frame, queue, job_id, durability, future)
            except Exception as error:
                future.set_exception(error)


def _closer(thread: "weakref.ref[_ClientThread]") -> Callable[[], None]:
    def close() -> None:
        if (living := thread()) is not None:
            living.close()

    return close
