"""The asyncio client."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from datetime import UTC, datetime, timedelta
from types import EllipsisType, TracebackType
from typing import Any, Literal

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from jobwire.v1 import admin_service_pb2, job_service_pb2, queue_service_pb2

from jobwire_client import _watch
from jobwire_client._batches import Lane
from jobwire_client._bulk import BulkPlan, BulkProgress, BulkVerb, bulk_request, plan_bulk, run_bulk
from jobwire_client._bulk_runs import BulkRun, bulk_run_from
from jobwire_client._connections import Answer, Connections, Method
from jobwire_client._credentials import Credentials
from jobwire_client._enqueue_stream import Tell
from jobwire_client._entries import OneJob
from jobwire_client._explain import Explanation, explanation_from
from jobwire_client._failures import FailureGroup, failure_group_from
from jobwire_client._filter import JobFilter
from jobwire_client._fork import generation, watch_forks
from jobwire_client._identity import Debounce, Throttle, encode_identity
from jobwire_client._ids import new_id
from jobwire_client._job import (
    Change,
    Enqueued,
    Job,
    LogLine,
    Named,
    ServerInfo,
    WatchToken,
    job_from,
    name_of,
    server_info_from,
    state_number,
)
from jobwire_client._limits import Group, Limit, group_from, group_update
from jobwire_client._logs import followed_lines, kept_lines
from jobwire_client._many import enqueue_many
from jobwire_client._payload import payload_message
from jobwire_client._policy import QueuePolicy, class_number
from jobwire_client._poller import quiet_poller
from jobwire_client._queues import ClassStats, Queue, class_stats_from, queue_from
from jobwire_client._spec import Backoff, Durability, JobSpec, encode, encode_rules, encode_times
from jobwire_client._update import Due, update_request
from jobwire_client._wire import duration, sendable
from jobwire_client._workers import WorkerSession, worker_from
from jobwire_client.errors import ClientClosed, InvalidRequest, QueueUnavailable, WaitTimeout

_DISK = b"\x10\x02"
"""`durability: DURABILITY_DISK` of an EnqueueStreamRequest, as it stands on the wire behind its jobs."""
_WAIT_STEP_S = 20.0
"""How long one WaitJob call lasts; a broker that has gone silent is noticed after this time."""
_OUTAGE_S = 60.0
"""How long `wait` and `watch` go on although nobody answers, once somebody has."""
_MAX_ENQUEUE_S = 60.0
"""How long an enqueue is repeated at most. A broker knows the id of a job that is gone for 120 s from its making; a try after that makes a second one."""
_MAX_PAGE = 1_000

_JOBS, _QUEUES, _ADMIN = "/jobwire.v1.JobService/", "/jobwire.v1.QueueService/", "/jobwire.v1.AdminService/"
_GET = Method(_JOBS + "GetJob", job_service_pb2.GetJobResponse.FromString)
_EXPLAIN = Method(_JOBS + "ExplainJob", job_service_pb2.ExplainJobResponse.FromString)
_LIST = Method(_JOBS + "ListJobs", job_service_pb2.ListJobsResponse.FromString)
_LOGS = Method(_JOBS + "ListLogs", job_service_pb2.ListLogsResponse.FromString)
_CANCEL = Method(_JOBS + "CancelJob", job_service_pb2.CancelJobResponse.FromString)
_RETRY = Method(_JOBS + "RetryJob", job_service_pb2.RetryJobResponse.FromString)
_UPDATE = Method(_JOBS + "UpdateJob", job_service_pb2.UpdateJobResponse.FromString)
_PROMOTE = Method(_JOBS + "PromoteJob", job_service_pb2.PromoteJobResponse.FromString)
_DELETE = Method(_JOBS + "DeleteJob", job_service_pb2.DeleteJobResponse.FromString)
_RESOLVE = Method(_JOBS + "ResolveJob", job_service_pb2.ResolveJobResponse.FromString)
_FAILURES = Method(_JOBS + "ListFailures", job_service_pb2.ListFailuresResponse.FromString)
_BULK_RUNS = Method(_JOBS + "ListBulkRuns", job_service_pb2.ListBulkRunsResponse.FromString)
_BULK_RUN = Method(_JOBS + "GetBulkRun", job_service_pb2.GetBulkRunResponse.FromString)
_STOP_BULK_RUN = Method(_JOBS + "StopBulkRun", job_service_pb2.StopBulkRunResponse.FromString)
_WAIT = Method(_JOBS + "WaitJob", job_service_pb2.WaitJobResponse.FromString)
_LIST_QUEUES = Method(_QUEUES + "ListQueues", queue_service_pb2.ListQueuesResponse.FromString)
_GET_QUEUE = Method(_QUEUES + "GetQueue", queue_service_pb2.GetQueueResponse.FromString)
_LIST_GROUPS = Method(_QUEUES + "ListGroups", queue_service_pb2.ListGroupsResponse.FromString)
_PAUSE_GROUP = Method(_QUEUES + "PauseGroup", queue_service_pb2.PauseGroupResponse.FromString)
_RESUME_GROUP = Method(_QUEUES + "ResumeGroup", queue_service_pb2.ResumeGroupResponse.FromString)
_UPDATE_GROUP = Method(_QUEUES + "UpdateGroup", queue_service_pb2.UpdateGroupResponse.FromString)
_PAUSE = Method(_QUEUES + "PauseQueue", queue_service_pb2.PauseQueueResponse.FromString)
_RESUME = Method(_QUEUES + "ResumeQueue", queue_service_pb2.ResumeQueueResponse.FromString)
_PURGE = Method(_QUEUES + "PurgeQueue", queue_service_pb2.PurgeQueueResponse.FromString)
_UPDATE_QUEUE = Method(_QUEUES + "UpdateQueue", queue_service_pb2.UpdateQueueResponse.FromString)
_CLASSES = Method(_QUEUES + "ListClasses", queue_service_pb2.ListClassesResponse.FromString)
_PAUSE_CLASS = Method(_QUEUES + "PauseClass", queue_service_pb2.PauseClassResponse.FromString)
_RESUME_CLASS = Method(_QUEUES + "ResumeClass", queue_service_pb2.ResumeClassResponse.FromString)
_CLEAN = Method(_QUEUES + "CleanQueue", queue_service_pb2.CleanQueueResponse.FromString)
_LIST_WORKERS = Method(_ADMIN + "ListWorkers", admin_service_pb2.ListWorkersResponse.FromString)
_SERVER_INFO = Method(_ADMIN + "GetServerInfo", admin_service_pb2.GetServerInfoResponse.FromString)
_WATCH_TOKEN = Method(_ADMIN + "CreateWatchToken", admin_service_pb2.CreateWatchTokenResponse.FromString)


class Client:
    """Enqueues jobs, looks at them and acts on them. `async with Client("localhost:7410") as client:`.

    One client serves a whole process: concurrent `enqueue` calls share requests. It belongs to one event loop and one process. Made before a fork it may be
    used after it; used before a fork it raises ClientClosed in the child, because gRPC's connections do not survive a fork.
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
        """Prepare a client; it connects when it is first used.

        Args:
            target: `host:port`, several with commas between, or a sequence. One broker is used at a time, the next when it does not answer. None means
                the variable JOBWIRE_TARGET, then localhost:7410.
            credentials: the key to send, and what TLS needs. None means the variables that `Credentials.from_environment` names.
            timeout: how long a call may go without an answer before it raises QueueUnavailable. Calls are repeated within this time. A number is seconds.
                Enqueues are given up after 60 s, however long it is: brokers know the id of a job that is gone for 120 s, and a later try could make a second.
            max_waiting: how many enqueued jobs may wait in this process to be sent; beyond it `enqueue` itself waits.
            max_waiting_bytes: the same bound in bytes.

        Raises:
            InvalidRequest: the target names no broker, the credentials in the environment do not fit, or nothing could be sent within these bounds.
        """
        self._connections = Connections(target, credentials)
        self._timeout_s = _timeout_s(timeout)
        _check_room("max_waiting", max_waiting)
        _check_room("max_waiting_bytes", max_waiting_bytes)
        self._lanes = {
            "store": Lane(self._send_batch, max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes),
            "disk": Lane(self._send_disk_batch, max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes),
        }
        self._closed = False
        self._process: int | None = None  # known at the first use
        self._make_loud: Callable[[], None] | None = None
        watch_forks()

    async def __aenter__(self) -> "Client":
        """The client itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Flush and close."""
        await self.close()

    async def close(self) -> None:
        """Wait until every enqueue that was begun has its answer, then close the connections. Takes no longer than enqueues may; to close twice is no error."""
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes.values():
            await lane.flush()
        await self._connections.close()
        if self._make_loud is not None:
            self._make_loud()

    # ------------------------------------------------------------------ enqueue

    async def enqueue(
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
        """Make one job, and return when the store has it.

        The id is minted before the first try, so the tries of one call never make two jobs. Cancelled before the job was sent, nothing is made;
        cancelled later, the job may be there.

        Args:
            queue: the queue's name.
            job_name: which handler runs it.
            payload: anything that JSON can say, a dataclass, or bytes.
            id: the id in its queue, when the caller chooses it. Enqueueing the same content again with it finds the job instead of making another.
            priority: a number, lower first, or a name of Priority. Default NORMAL, 5.
            delay: do not start before this much time from now. A number is seconds.
            delay_until: do not start before this date, which needs a time zone.
            attempts: how many times it may run. Default 3.
            backoff: the waits between attempts. Default 2 s, then twice as long each time, plus up to a tenth.
            group: whose job it is, for example a tenant: fair shares, limits and pauses hold per group.
            labels: for people and filters: at most 16; keys of 1 to 63 of [A-Za-z0-9._/-], values of at most 128 bytes.
            required_labels: only a worker with all of these labels gets it. At most 8.
            units: how much it counts in limits, from 1 to 1,000. Default 1.
            timeout: how long one attempt may take: then it has failed, whatever its worker does. From 0.1 s to 30 days.
            total_timeout: how long it may take over all attempts and the waits between them, from its first start. From 0.1 s to 365 days.
            expires_at: if it has not started by this date, which needs a time zone, it is EXPIRED.
            expires_in: the same, counted from the enqueue or the due date. From 0.1 s to 365 days.
            permanent_errors: errors that end it at once, by their type, beside those of the queue. At most 32.
            idempotency_key: the same key with the same content finds the job (verdict `found`), whatever has become of it.
            idempotency_ttl: how long that key is known. A number is seconds. Default 1 day.
            unique: while a job with this key has not ended, it is found. True: a key made of job name and payload.
            debounce: a later call takes the place of an earlier one that waits still (verdict `replaced`).
            throttle: the first call in a window wins.
            retention: how long its end is kept; 0 removes it at once. A number is seconds. Default: as its queue says.
            durability: `store` answers when the store has it in memory; `disk` when it is in the append-only file on disk, up to a second later.

        Raises:
            QueueUnavailable: nobody answered in time; `accepted` says whether the job may be there, `id` is its id.
            InvalidRequest: a field is out of its bounds.
            JobExists: the id is taken by a job with other content.
            IdempotencyConflict: the idempotency key is that of a job with other content.
            QueueFull: the queue is at its maximum depth.
            StoreFull: the store takes nothing more for now.
            DurabilityUnsupported: `disk` was asked of a store that can't.
        """
        job_id = new_id() if id is None else id
        rules = encode_rules(group, labels, required_labels, units)
        rules += encode_times(timeout, total_timeout, expires_at, expires_in, permanent_errors)
        rules += encode_identity(idempotency_key, idempotency_ttl, unique, debounce, throttle, retention)
        frame = encode(queue, job_name, payload, job_id, priority, delay, delay_until, attempts, backoff, rules)
        lane = self._lane(durability)
        if lane.full:
            await lane.room(len(frame))
        future = lane.future()
        lane.put(OneJob(frame, queue, job_id, future))
        return await future

    async def enqueue_many(self, jobs: Iterable[JobSpec], *, durability: Durability = "store") -> list[Enqueued]:
        """Make many jobs, in calls of at most 1,000 jobs and 8 MiB.

        Returns a verdict for each, in the order given: `refused` with `error` for those that can't be encoded or that
        the broker did not take, also because its store or a queue is full; the others are made.

        Raises:
            QueueUnavailable: at least one call got no answer; `results` says what is known of each job, so that those that are `unknown`, and those that are
                `refused` for this reason, can be enqueued again with their ids.
            DurabilityUnsupported: `disk` was asked of a store that can't.
        """
        return await enqueue_many(self._lane(durability), jobs)

    def enqueue_from_thread(self, frame: bytes, queue: str, job_id: str, durability: Durability, future: "ThreadFuture[Enqueued]") -> None:
        """Put a job that another thread has encoded. Runs on the event loop; for SyncClient, which bounds what waits by itself."""
        try:
            self._lane(durability).put(OneJob(frame, queue, job_id, future))
        except ClientClosed as error:
            future.set_exception(error)

    # ------------------------------------------------------------------ one job

    async def get(self, job: str | Named) -> Job:
        """Read a job, payload and all.

        Raises:
            JobNotFound: there is none, or it is gone; `state` is the final state when that is still known.
        """
        return job_from((await self._call(_GET, job_service_pb2.GetJobRequest(name=name_of(job)))).job)

    async def explain(self, job: str | Named) -> Explanation:
        """Say why a job does not run: everything that holds it now.

        Raises:
            JobNotFound: as in `get`.
        """
        name = name_of(job)
        return explanation_from(name, await self._call(_EXPLAIN, job_service_pb2.ExplainJobRequest(name=name)))

    async def cancel(self, job: str | Named, *, grace: timedelta | float | None = None) -> Job:
        """Cancel a job. One that runs is told, and has `grace` to give way (default 30 s, at most 1 hour); it may still complete. Returns the job as it is now.

        Raises:
            JobNotFound: there is none.
            WrongState: it has already ended otherwise.
        """
        with sendable("grace"):
            request = job_service_pb2.CancelJobRequest(name=name_of(job), grace=None if grace is None else duration(grace))
        return job_from((await self._call(_CANCEL, request)).job)

    async def retry(self, job: str | Named, *, payload: Any = None) -> Job:
        """Put a failed, cancelled or expired job back, with all its attempts before it again.

        Args:
            job: which job.
            payload: what it shall carry from now on. None: what it carried.

        Raises:
            JobNotFound: there is none.
            WrongState: it runs, or has completed.
        """
        request = job_service_pb2.RetryJobRequest(name=name_of(job))
        if payload is not None:
            request.payload.CopyFrom(payload_message(payload))
        return job_from((await self._call(_RETRY, request)).job)

    async def resolve(self, job: str | Named, note: str = "") -> Job:
        """Note what was decided about a failed job, in at most 1,024 bytes. It stays failed, and is counted and listed as resolved. A second note replaces
        the first.

        Raises:
            JobNotFound: there is none.
            WrongState: it has not failed.
        """
        with sendable("note"):
            request = job_service_pb2.ResolveJobRequest(name=name_of(job), note=note)
        return job_from((await self._call(_RESOLVE, request)).job)

    async def update(
        self,
        job: str | Named,
        *,
        payload: Any = ...,
        priority: int | str | EllipsisType = ...,
        due: Due | EllipsisType = ...,
        labels: Mapping[str, str] | EllipsisType = ...,
    ) -> Job:
        """Change a job that waits or is delayed. What is not given stays as it is.

        Args:
            job: which job.
            payload: what it shall carry from now on.
            priority: a number, lower first, or a name of Priority.
            due: not to start before: a date with its time zone, a time from now (a number is seconds), or None for now.
            labels: all of its labels.

        Raises:
            JobNotFound: there is none.
            WrongState: it runs, or has ended.
        """
        return job_from((await self._call(_UPDATE, update_request(name_of(job), payload, priority, due, labels))).job)

    async def promote(self, job: str | Named) -> Job:
        """Let a delayed job start now.

        Raises:
            JobNotFound: there is none.
            WrongState: it runs, or has ended.
        """
        return job_from((await self._call(_PROMOTE, job_service_pb2.PromoteJobRequest(name=name_of(job)))).job)

    async def delete(self, job: str | Named) -> None:
        """Delete a job that does not run.

        Raises:
            JobNotFound: there is none. After a lost answer that may be the work of an earlier try of the same call.
            WrongState: it runs; cancel it first.
        """
        await self._call(_DELETE, job_service_pb2.DeleteJobRequest(name=name_of(job)))

    async def wait(self, job: str | Named, *, timeout: timedelta | float | None = None) -> Job:
        """Wait until a job has ended, and return it, result and all. The wait goes on over an outage of up to a minute.

        Args:
            job: which job.
            timeout: how long to wait. None: as long as it takes. 0 asks once.

        Raises:
            WaitTimeout: it has not ended in time. It goes on.
            JobNotFound: there is none, or nothing is known of it any more.
            QueueUnavailable: nobody answered, at first within the client's timeout, later for a minute.
        """
        name = name_of(job)
        clock = asyncio.get_running_loop().time
        timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        until = float("inf") if timeout_s is None else clock() + timeout_s
        # The first call is short, so that a broker that says nothing is noticed soon.
        answered, patience_s, step_s = clock(), self._timeout_s / 2, self._timeout_s / 2
        while True:
            try:
                return await self._wait_once(name, max(0.0, min(step_s, until - clock())))
            except WaitTimeout:
                answered, patience_s, step_s = clock(), _OUTAGE_S, _WAIT_STEP_S
                if clock() >= until:
                    raise
            except QueueUnavailable:
                if clock() >= min(until, answered + patience_s):
                    raise

    def watch(self, job: str | Named) -> AsyncGenerator[Job, None]:
        """Follow a job: first as it is now, then every change of state and, where time allows, of progress; ends after its end.

        A broken stream is resumed elsewhere, and what was seen never goes backward, unless the store has lost its last writes. A job that is
        deleted ends as `removed`. Payload and, before the end, result are left out.

        Raises:
            JobNotFound: there is none.
            QueueUnavailable: nobody answered, at first within the client's timeout, later for a minute.
        """
        name = name_of(job)
        return _watch.watch_one(self.watch_changes([name]), name)

    def watch_changes(self, names: Iterable[str | Named]) -> AsyncGenerator[Change, None]:
        """Follow up to 100 jobs or queues (`queues/{queue}`) on one stream, with what their handlers log. Ends when all jobs have; a queue never ends."""
        wanted = [name if isinstance(name, str) else name.name for name in names]
        return _watch.watch(self._open(), wanted, patience_s=_OUTAGE_S, first_patience_s=self._timeout_s)

    def logs(self, job: str | Named, *, after: int = 0, follow: bool = False) -> AsyncGenerator[LogLine, None]:
        """What the handlers of a job logged, the oldest line first: at most the last 1,000 lines and 256 KiB are kept.

        Args:
            job: the job.
            after: begin behind the line with this `cursor`; all lines where the log does not reach so far.
            follow: go on with each line as it comes, until the job has ended. A broken stream is resumed elsewhere, and no line that is kept is left out.

        Raises:
            JobNotFound: there is no such job.
            QueueUnavailable: as in `watch`.
        """
        name = name_of(job)
        if follow:
            return followed_lines(self._list_logs, self.watch_changes([name]), name, after)
        return kept_lines(self._list_logs, name, after)

    # ------------------------------------------------------------------ lists

    async def list_jobs(self, queue: str, state: str, *, filter: JobFilter | None = None, limit: int | None = None) -> AsyncGenerator[Job, None]:
        """The jobs of one queue in one state, without payloads and results: final states newest first, `active` by worker, `delayed` by due date, `waiting` in
        the order in which they will run, or line by line where groups, units or required labels are used.

        Args:
            queue: the queue's name.
            state: delayed, waiting, blocked, active, completed, failed, cancelled or expired.
            filter: which of them; its `states` must be empty. None: all.
            limit: how many at most. None: all.
        """
        wanted = None if filter is None else filter.message()
        token, left = "", limit
        while left is None or left > 0:
            size = _MAX_PAGE if left is None else min(left, _MAX_PAGE)
            request = job_service_pb2.ListJobsRequest(parent=f"queues/{queue}", state=state_number(state), page_size=size, page_token=token, filter=wanted)
            page = await self._call(_LIST, request)
            for job in page.jobs:
                yield job_from(job)
            token, left = page.next_page_token, None if left is None else left - len(page.jobs)
            if not token:
                return

    async def failures(self, queue: str, *, filter: JobFilter | None = None, limit: int | None = None) -> AsyncGenerator[FailureGroup, None]:
        """The failed jobs of a queue, grouped by what they have in common; the group that failed last comes first.

        Args:
            queue: the queue's name.
            filter: only jobs of its `job_name`, and of the time of its `finished_after` and `finished_before`; counts and dates are then of these alone.
            limit: how many groups at most. None: all.

        Raises:
            InvalidRequest: the filter says more than that.
        """
        token, left = "", limit
        wanted = None if filter is None else filter.message()
        while left is None or left > 0:
            size = _MAX_PAGE if left is None else min(left, _MAX_PAGE)
            page = await self._call(_FAILURES, job_service_pb2.ListFailuresRequest(parent=f"queues/{queue}", page_size=size, page_token=token, filter=wanted))
            for group in page.groups:
                yield failure_group_from(group)
            token, left = page.next_page_token, None if left is None else left - len(page.groups)
            if not token:
                return

    # ------------------------------------------------------------------ many jobs

    async def plan_bulk(
        self, queue: str, verb: BulkVerb, filter: JobFilter | None = None, *, note: str = "", grace: timedelta | float | None = None
    ) -> BulkPlan:
        """Count exactly the jobs that a verb would act on, and change nothing: the dry run of `run_bulk`.

        Args:
            queue: the queue's name.
            verb: cancel, retry, promote, delete or resolve.
            filter: which jobs. None: all in the states that the verb fits.
            note: with `resolve`: the note, at most 1,024 bytes.
            grace: with `cancel`: how long running handlers may take to give way, as in `cancel`.

        Raises:
            InvalidRequest: the verb does not fit the states, or a field is out of its bounds.
            QueueNotFound: nothing was ever enqueued there.
        """
        request = bulk_request(queue, verb, filter, note, grace)
        return await plan_bulk(self._open(), queue, verb, request, patience_s=self._timeout_s)

    def run_bulk(self, plan: BulkPlan) -> AsyncGenerator[BulkProgress, None]:
        """Act on those jobs that a dry run saw and that have not changed since, in steps of at most 128; says after each how far it is.

        To leave the iteration stops the run after the step that is under way; the same plan goes on from there. A broken connection does not stop it: it goes
        on elsewhere.

        Raises:
            BulkTokenInvalid: the plan is older than an hour, and its run has not begun.
            BulkRunStopped: somebody has stopped the run.
            QueueUnavailable: nobody answered, at first within the client's timeout, later for a minute.
        """
        return run_bulk(self._open(), plan, patience_s=_OUTAGE_S, first_patience_s=self._timeout_s)

    async def bulk_runs(self, queue: str, *, limit: int | None = None) -> AsyncGenerator[BulkRun, None]:
        """The bulk runs of a queue, whoever began them; the one that began last comes first.

        Args:
            queue: the queue's name.
            limit: how many at most. None: all.
        """
        token, left = "", limit
        while left is None or left > 0:
            size = _MAX_PAGE if left is None else min(left, _MAX_PAGE)
            page = await self._call(_BULK_RUNS, job_service_pb2.ListBulkRunsRequest(parent=f"queues/{queue}", page_size=size, page_token=token))
            for run in page.runs:
                yield bulk_run_from(run)
            token, left = page.next_page_token, None if left is None else left - len(page.runs)
            if not token:
                return

    async def bulk_run(self, run: str | Named) -> BulkRun:
        """Read a bulk run.

        Args:
            run: its name (`BulkPlan.run`), or a BulkRun.

        Raises:
            BulkRunNotFound: it has not begun, or nothing is known of it any more.
        """
        return bulk_run_from((await self._call(_BULK_RUN, job_service_pb2.GetBulkRunRequest(name=_run_name(run)))).run)

    async def stop_bulk_run(self, run: str | Named) -> BulkRun:
        """Stop a bulk run, whoever began it: when this returns, no further job is acted on. Whoever began it is told with BulkRunStopped.

        Raises:
            BulkRunNotFound: as in `bulk_run`.
            WrongState: it has finished.
        """
        return bulk_run_from((await self._call(_STOP_BULK_RUN, job_service_pb2.StopBulkRunRequest(name=_run_name(run)))).run)

    # ------------------------------------------------------------------ queues

    async def queues(self) -> list[Queue]:
        """All queues with their counts, by name."""
        found: list[Queue] = []
        token = ""
        while True:
            page = await self._call(_LIST_QUEUES, queue_service_pb2.ListQueuesRequest(page_size=_MAX_PAGE, page_token=token))
            found += map(queue_from, page.queues)
            token = page.next_page_token
            if not token:
                return found

    async def queue(self, queue: str) -> Queue:
        """One queue with its counts.

        Raises:
            QueueNotFound: nothing was ever enqueued there.
        """
        return queue_from((await self._call(_GET_QUEUE, queue_service_pb2.GetQueueRequest(name=f"queues/{queue}"))).queue)

    async def pause_queue(self, queue: str) -> Queue:
        """Stop the delivery of new jobs; what runs goes on."""
        return queue_from((await self._call(_PAUSE, queue_service_pb2.PauseQueueRequest(name=f"queues/{queue}"))).queue)

    async def resume_queue(self, queue: str) -> Queue:
        """Start delivery again."""
        return queue_from((await self._call(_RESUME, queue_service_pb2.ResumeQueueRequest(name=f"queues/{queue}"))).queue)

    async def purge_queue(self, queue: str) -> int:
        """Delete the jobs that wait or are delayed, and return how many. What runs goes on. A purge that the timeout cuts off has deleted some: call again.

        Raises:
            QueueNotFound: nothing was ever enqueued there.
        """
        return (await self._call(_PURGE, queue_service_pb2.PurgeQueueRequest(name=f"queues/{queue}"))).deleted

    async def update_queue(self, queue: str, policy: QueuePolicy, *, fields: Iterable[str] | None = None) -> Queue:
        """Change the policy of a queue. A queue that does not exist is made.

        Args:
            queue: its name.
            policy: what to set.
            fields: which of its fields to take, for example `["attempts", "retention.failed"]`: those that are None in `policy` go back to their defaults,
                and all others stay as they are. None: all, so that the queue has this policy and nothing else.

        Raises:
            InvalidRequest: a field is out of its bounds, or there is none of that name. Nothing was changed.
        """
        if isinstance(fields, str):
            raise InvalidRequest(f"fields must be several names, not one text: [{fields!r}]")
        paths = ["policy"] if fields is None else [f"policy.{name}" for name in fields]
        wanted = queue_service_pb2.Queue(name=f"queues/{queue}", policy=policy.message())
        request = queue_service_pb2.UpdateQueueRequest(queue=wanted, update_mask=FieldMask(paths=paths))
        return queue_from((await self._call(_UPDATE_QUEUE, request)).queue)

    async def classes(self) -> list[ClassStats]:
        """The queues of each class together, the most urgent class first."""
        return list(map(class_stats_from, (await self._call(_CLASSES, queue_service_pb2.ListClassesRequest())).classes))

    async def pause_class(self, queue_class: str) -> list[str]:
        """Stop the delivery of new jobs in all queues of a class. The names of the queues."""
        return list((await self._call(_PAUSE_CLASS, queue_service_pb2.PauseClassRequest(queue_class=class_number(queue_class)))).queues)

    async def resume_class(self, queue_class: str) -> list[str]:
        """Start delivery again in all queues of a class. The names of the queues."""
        return list((await self._call(_RESUME_CLASS, queue_service_pb2.ResumeClassRequest(queue_class=class_number(queue_class)))).queues)

    async def clean_queue(self, queue: str, *, state: str = "completed", grace: timedelta | float = 0.0) -> int:
        """Delete the jobs that had ended in `state` when the call began; how many those were.

        Args:
            queue: Its name.
            state: `completed`, `failed`, `cancelled` or `expired`.
            grace: Jobs that ended less than this ago are kept; seconds or a timedelta, at most 3,650 days. 0 keeps none.

        Raises:
            InvalidRequest: the state is none in which a job has ended, or the grace is out of its bounds.
            QueueNotFound: nothing was ever enqueued there.
        """
        with sendable("grace"):
            request = queue_service_pb2.CleanQueueRequest(name=f"queues/{queue}", state=state_number(state), grace=duration(grace))
        return (await self._call(_CLEAN, request)).deleted

    async def groups(self, queue: str) -> list[Group]:
        """The groups of a queue that have jobs or a rule of their own, by name."""
        found: list[Group] = []
        token = ""
        while True:
            request = queue_service_pb2.ListGroupsRequest(parent=f"queues/{queue}", page_size=_MAX_PAGE, page_token=token)
            page = await self._call(_LIST_GROUPS, request)
            found += map(group_from, page.groups)
            token = page.next_page_token
            if not token:
                return found

    async def pause_group(self, queue: str, group: str) -> Group:
        """Stop the delivery of a group's jobs; what runs goes on."""
        request = queue_service_pb2.PauseGroupRequest(name=f"queues/{queue}/groups/{group}")
        return group_from((await self._call(_PAUSE_GROUP, request)).group)

    async def resume_group(self, queue: str, group: str) -> Group:
        """Start it again, also when a worker had said that the group is limited."""
        request = queue_service_pb2.ResumeGroupRequest(name=f"queues/{queue}/groups/{group}")
        return group_from((await self._call(_RESUME_GROUP, request)).group)

    async def update_group(
        self, queue: str, group: str, *, weight: float | None = None, express: bool | None = None, limit: Limit | Literal["default"] | None = None
    ) -> Group:
        """Change rules of a group: those that are given.

        Args:
            queue: Its name.
            group: Its name.
            weight: its share beside other groups', from 0.01 to 1,000.
            express: whether it goes before all groups that are not, and takes the next free slot.
            limit: what it may do; `"default"` is what all groups of the queue may.

        Raises:
            InvalidRequest: nothing was given, or a value is out of its bounds.
        """
        request = group_update(f"queues/{queue}/groups/{group}", {"weight": weight, "express": express, "limit": limit})
        return group_from((await self._call(_UPDATE_GROUP, request)).group)

    async def workers(self) -> list[WorkerSession]:
        """All worker processes that any broker knows of."""
        found: list[WorkerSession] = []
        token = ""
        while True:
            page = await self._call(_LIST_WORKERS, admin_service_pb2.ListWorkersRequest(page_size=_MAX_PAGE, page_token=token))
            found += map(worker_from, page.workers)
            token = page.next_page_token
            if not token:
                return found

    async def server_info(self) -> ServerInfo:
        """Which broker answers, and how its store is."""
        return server_info_from(await self._call(_SERVER_INFO, admin_service_pb2.GetServerInfoRequest()))

    async def watch_token(self, names: Sequence[str | Named], *, ttl: timedelta | float | None = None, single_use: bool = False) -> WatchToken:
        """Make a token that lets a page in a browser watch jobs and queues, and do nothing else.

        Args:
            names: 1 to 20 of `queues/{queue}/jobs/{id}` (or what `enqueue` returned), `queues/{queue}`, or `queues` for all.
            ttl: how long it is good: 1 s to 1 h. None: 5 minutes; 30 s for a ticket, which lives for 60 s at most.
            single_use: make a ticket, which opens one stream, once.

        Raises:
            NotPermitted: this client may not watch all of them.
        """
        request = admin_service_pb2.CreateWatchTokenRequest(names=[name if isinstance(name, str) else name.name for name in names], single_use=single_use)
        if ttl is not None:
            request.ttl.FromTimedelta(ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl))
        answer = await self._call(_WATCH_TOKEN, request)
        return WatchToken(token=answer.token, expires_at=answer.expire_time.ToDatetime(UTC))

    # ------------------------------------------------------------------ details

    async def _list_logs(self, request: job_service_pb2.ListLogsRequest) -> job_service_pb2.ListLogsResponse:
        return await self._call(_LOGS, request)

    def _open(self) -> Connections:
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._process != generation():
            if self._process is None:
                self._begin()
                return self._connections
            raise ClientClosed("the client was used before this process was forked; make one after the fork")
        return self._connections

    def _begin(self) -> None:
        self._process = generation()
        with contextlib.suppress(RuntimeError):  # a thread of SyncClient, whose loop is quiet already
            self._make_loud = quiet_poller(asyncio.get_running_loop())

    def _lane(self, durability: Durability) -> Lane:
        self._open()
        try:
            return self._lanes[durability]
        except KeyError:
            raise InvalidRequest(f"durability is 'store' or 'disk', not {durability!r}") from None

    async def _call(self, method: Method[Answer], request: Message) -> Answer:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        return await self._open().call(method, request.SerializeToString(), deadline=deadline)

    async def _wait_once(self, name: str, step_s: float) -> Job:
        request = job_service_pb2.WaitJobRequest(name=name, timeout=duration(step_s))
        retry_until = asyncio.get_running_loop().time() + self._timeout_s
        answer = await self._open().call(_WAIT, request.SerializeToString(), deadline=retry_until + step_s, retry_until=retry_until)
        return job_from(answer.job)

    def _send_batch(self, frames: bytes, tell: Tell) -> None:
        self._connections.enqueue(frames, min(self._timeout_s, _MAX_ENQUEUE_S), tell)

    def _send_disk_batch(self, frames: bytes, tell: Tell) -> None:
        self._send_batch(frames + _DISK, tell)


def _run_name(run: str | Named) -> str:
    return run if isinstance(run, str) else run.name


def _timeout_s(timeout: timedelta | float) -> float:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidRequest(f"timeout must be a timedelta or seconds above 0, got {timeout!r}")
    return float(seconds)


def _check_room(name: str, value: object) -> None:
    """With none, `enqueue` would wait for ever."""
    if not isinstance(value, int) or value < 1:
        raise InvalidRequest(f"{name} must be a whole number from 1 on, got {value!r}")
