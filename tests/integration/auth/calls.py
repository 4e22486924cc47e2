"""Every RPC of the contract as a call about one queue, and the verb that it is. Written by hand, beside services/verbs.py: a test compares what both say."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from jobwire.v1 import admin_service_pb2 as admin
from jobwire.v1 import event_service_pb2 as events
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import queue_service_pb2 as queues
from jobwire.v1 import worker_service_pb2 as work

from tests.support.api import Api, Refusal

NO_JOB = "no-such-job"
WITHIN_S = 10

Metadata = list[tuple[str, str]] | None
Call = Callable[[Api, str, Metadata], Awaitable[Any]]


@dataclass(frozen=True)
class Rpc:
    """One RPC. `verb` None: any credentials will do. `everywhere`: it needs its verb on all queues. `lists`: it shows what the caller may see."""

    call: Call
    verb: str | None
    everywhere: bool = False
    lists: bool = False


def unary(pick: Callable[[Api], Any], request: Callable[[str], Any]) -> Call:
    async def call(api: Api, queue: str, metadata: Metadata) -> Any:
        return await pick(api)(request(queue), metadata=metadata, timeout=WITHIN_S)

    return call


def stream(pick: Callable[[Api], Any], first: Callable[[str], Any], *, reads: bool) -> Call:
    """Open it, and take its first answer."""

    async def call(api: Api, queue: str, metadata: Metadata) -> Any:
        opened = pick(api)(metadata=metadata, timeout=WITHIN_S) if reads else pick(api)(first(queue), metadata=metadata, timeout=WITHIN_S)
        try:
            if reads:
                await opened.write(first(queue))
            answer = await opened.read()
            while isinstance(answer, events.SubscribeResponse) and not answer.added:
                answer = await opened.read()
            if answer is grpc.aio.EOF:
                # It ended: with an error, or because there was nothing to say.
                code = await opened.code()
                if code is not grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(code, await opened.initial_metadata(), await opened.trailing_metadata(), await opened.details())
            return answer
        except (grpc.aio.UsageError, grpc.aio.InternalError):
            raise grpc.aio.AioRpcError(await opened.code(), await opened.initial_metadata(), await opened.trailing_metadata(), await opened.details()) from None
        finally:
            opened.cancel()

    return call


def job(queue: str) -> str:
    return f"queues/{queue}/jobs/{NO_JOB}"


def bulk_run(queue: str) -> str:
    return f"queues/{queue}/bulkRuns/{'0' * 16}"


def whole(queue: str) -> str:
    return f"queues/{queue}"


def spec(queue: str) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(queue=queue, job_name="work")


def held(queue: str) -> Any:
    return work.Held(queue=queue, id=NO_JOB, token=1)


def _fails(queue: str) -> work.Finish:
    return work.Finish(queue=queue, id=NO_JOB, token=1, release=work.Release())


RPCS: dict[str, Rpc] = {
    "Enqueue": Rpc(unary(lambda api: api.jobs.Enqueue, lambda q: jobs.EnqueueRequest(job=spec(q))), "enqueue"),
    "EnqueueBatch": Rpc(unary(lambda api: api.jobs.EnqueueBatch, lambda q: jobs.EnqueueBatchRequest(jobs=[spec(q)])), "enqueue"),
    "EnqueueStream": Rpc(stream(lambda api: api.jobs.EnqueueStream, lambda q: jobs.EnqueueStreamRequest(number=1, jobs=[spec(q)]), reads=True), "enqueue"),
    "GetJob": Rpc(unary(lambda api: api.jobs.GetJob, lambda q: jobs.GetJobRequest(name=job(q))), "read"),
    "ListJobs": Rpc(unary(lambda api: api.jobs.ListJobs, lambda q: jobs.ListJobsRequest(parent=whole(q), state=job_pb2.JOB_STATE_FAILED)), "read"),
    "ExplainJob": Rpc(unary(lambda api: api.jobs.ExplainJob, lambda q: jobs.ExplainJobRequest(name=job(q))), "read"),
    "CancelJob": Rpc(unary(lambda api: api.jobs.CancelJob, lambda q: jobs.CancelJobRequest(name=job(q))), "control"),
    "RetryJob": Rpc(unary(lambda api: api.jobs.RetryJob, lambda q: jobs.RetryJobRequest(name=job(q))), "control"),
    "PromoteJob": Rpc(unary(lambda api: api.jobs.PromoteJob, lambda q: jobs.PromoteJobRequest(name=job(q))), "control"),
    "UpdateJob": Rpc(unary(lambda api: api.jobs.UpdateJob, lambda q: jobs.UpdateJobRequest(job=job_pb2.Job(name=job(q)))), "control"),
    "DeleteJob": Rpc(unary(lambda api: api.jobs.DeleteJob, lambda q: jobs.DeleteJobRequest(name=job(q))), "control"),
    "BulkJobs": Rpc(stream(lambda api: api.jobs.BulkJobs, lambda q: jobs.BulkJobsRequest(parent=whole(q)), reads=False), "control"),
    "ListBulkRuns": Rpc(unary(lambda api: api.jobs.ListBulkRuns, lambda q: jobs.ListBulkRunsRequest(parent=whole(q))), "read"),
    "GetBulkRun": Rpc(unary(lambda api: api.jobs.GetBulkRun, lambda q: jobs.GetBulkRunRequest(name=bulk_run(q))), "read"),
    "StopBulkRun": Rpc(unary(lambda api: api.jobs.StopBulkRun, lambda q: jobs.StopBulkRunRequest(name=bulk_run(q))), "control"),
    "ListFailures": Rpc(unary(lambda api: api.jobs.ListFailures, lambda q: jobs.ListFailuresRequest(parent=whole(q))), "read"),
    "ResolveJob": Rpc(unary(lambda api: api.jobs.ResolveJob, lambda q: jobs.ResolveJobRequest(name=job(q))), "control"),
    "ListLogs": Rpc(unary(lambda api: api.jobs.ListLogs, lambda q: jobs.ListLogsRequest(name=job(q))), "read"),
    "WaitJob": Rpc(unary(lambda api: api.jobs.WaitJob, lambda q: jobs.WaitJobRequest(name=job(q))), "watch"),
    "WatchJobs": Rpc(stream(lambda api: api.jobs.WatchJobs, lambda q: jobs.WatchJobsRequest(names=[job(q)]), reads=False), "watch"),
    "Work": Rpc(
        stream(lambda api: api.workers.Work, lambda q: work.WorkRequest(hello=work.Hello(session=os.urandom(16), epoch=1, queues=[q])), reads=True), "work"
    ),
    "LeaseJobs": Rpc(unary(lambda api: api.workers.LeaseJobs, lambda q: work.LeaseJobsRequest(queue=q + ".empty")), "work"),
    "FinishJobs": Rpc(unary(lambda api: api.workers.FinishJobs, lambda q: work.FinishJobsRequest(finishes=[_fails(q)])), "work"),
    "ExtendLeases": Rpc(unary(lambda api: api.workers.ExtendLeases, lambda q: work.ExtendLeasesRequest(leases=[held(q)])), "work"),
    "ReportProgress": Rpc(
        unary(
            lambda api: api.workers.ReportProgress,
            lambda q: work.ReportProgressRequest(reports=[work.ProgressReport(queue=q, id=NO_JOB, token=1, progress=job_pb2.Progress(percent=1))]),
        ),
        "work",
    ),
    "ListQueues": Rpc(unary(lambda api: api.queues.ListQueues, lambda q: queues.ListQueuesRequest(page_size=1000)), "read", lists=True),
    "GetQueue": Rpc(unary(lambda api: api.queues.GetQueue, lambda q: queues.GetQueueRequest(name=whole(q))), "read"),
    "UpdateQueue": Rpc(unary(lambda api: api.queues.UpdateQueue, lambda q: queues.UpdateQueueRequest(queue=queues.Queue(name=whole(q)))), "manage"),
    "PauseQueue": Rpc(unary(lambda api: api.queues.PauseQueue, lambda q: queues.PauseQueueRequest(name=whole(q))), "manage"),
    "ResumeQueue": Rpc(unary(lambda api: api.queues.ResumeQueue, lambda q: queues.ResumeQueueRequest(name=whole(q))), "manage"),
    "CleanQueue": Rpc(unary(lambda api: api.queues.CleanQueue, lambda q: queues.CleanQueueRequest(name=whole(q))), "manage"),
    "PurgeQueue": Rpc(unary(lambda api: api.queues.PurgeQueue, lambda q: queues.PurgeQueueRequest(name=whole(q))), "manage"),
    "ListGroups": Rpc(unary(lambda api: api.queues.ListGroups, lambda q: queues.ListGroupsRequest(parent=whole(q))), "read"),
    "PauseGroup": Rpc(unary(lambda api: api.queues.PauseGroup, lambda q: queues.PauseGroupRequest(name=f"{whole(q)}/groups/g")), "manage"),
    "ResumeGroup": Rpc(unary(lambda api: api.queues.ResumeGroup, lambda q: queues.ResumeGroupRequest(name=f"{whole(q)}/groups/g")), "manage"),
    "UpdateGroup": Rpc(
        unary(lambda api: api.queues.UpdateGroup, lambda q: queues.UpdateGroupRequest(group=queues.Group(name=f"{whole(q)}/groups/g"))), "manage"
    ),
    "ListClasses": Rpc(unary(lambda api: api.queues.ListClasses, lambda q: queues.ListClassesRequest()), "read", lists=True),
    "PauseClass": Rpc(unary(lambda api: api.queues.PauseClass, lambda q: queues.PauseClassRequest()), "manage", everywhere=True),
    "ResumeClass": Rpc(unary(lambda api: api.queues.ResumeClass, lambda q: queues.ResumeClassRequest()), "manage", everywhere=True),
    "Subscribe": Rpc(stream(lambda api: api.events.Subscribe, lambda q: events.SubscribeRequest(add=[whole(q)]), reads=True), "watch"),
    "ListWorkers": Rpc(unary(lambda api: api.admin.ListWorkers, lambda q: admin.ListWorkersRequest()), "admin", everywhere=True),
    "DrainWorker": Rpc(unary(lambda api: api.admin.DrainWorker, lambda q: admin.DrainWorkerRequest()), "admin", everywhere=True),
    "CheckConsistency": Rpc(unary(lambda api: api.admin.CheckConsistency, lambda q: admin.CheckConsistencyRequest()), "admin", everywhere=True),
    "GetServerInfo": Rpc(unary(lambda api: api.admin.GetServerInfo, lambda q: admin.GetServerInfoRequest()), None),
    "GetIdentity": Rpc(unary(lambda api: api.admin.GetIdentity, lambda q: admin.GetIdentityRequest()), None),
    "CreateSessionToken": Rpc(unary(lambda api: api.admin.CreateSessionToken, lambda q: admin.CreateSessionTokenRequest()), None),
    "CreateWatchToken": Rpc(unary(lambda api: api.admin.CreateWatchToken, lambda q: admin.CreateWatchTokenRequest(names=[whole(q)])), "watch"),
}


async def outcome(name: str, api: Api, queue: str, metadata: Metadata) -> str:
    """`in`, or the reason of the refusal. Errors that come from behind the door are `in` as well."""
    try:
        answer = await RPCS[name].call(api, queue, metadata)
    except grpc.aio.AioRpcError as error:
        refusal = Refusal.of(error)
        if refusal.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return refusal.reason
        return "in" if refusal.reason or refusal.code is grpc.StatusCode.UNIMPLEMENTED else f"{refusal.code}: {refusal.message}"
    if isinstance(answer, jobs.EnqueueStreamResponse) and answer.error.code:
        return {7: "NOT_PERMITTED"}.get(answer.error.code, "in")
    return "in"
