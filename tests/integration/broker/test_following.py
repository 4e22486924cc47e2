"""WaitJob and WatchJobs: the end is always learnt, and nothing older comes after something newer."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, enqueue, enqueue_all, failed, finish, get, job_name_of, lease, span, spec, wait_for
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker

State = job_pb2.JobState


class Watch:
    """A WatchJobs stream, read change by change."""

    def __init__(self, api: Api, *names: str) -> None:
        self._call = api.jobs.WatchJobs(pb.WatchJobsRequest(names=names))
        self._changes = self._read()

    async def _read(self) -> AsyncIterator[pb.JobChange]:
        async for response in self._call:
            for change in response.changes:
                yield change

    async def next(self) -> pb.JobChange:
        """The next change; within 5 s, or the test fails."""
        async with asyncio.timeout(5):
            return await anext(self._changes)

    async def until(self, state: "job_pb2.JobState.ValueType") -> pb.JobChange:
        """The first change with this state."""
        while (change := await self.next()).job.state != state:
            pass
        return change

    async def rest(self) -> list[pb.JobChange]:
        """All changes until the stream closes; within 5 s."""
        async with asyncio.timeout(5):
            return [change async for change in self._changes]

    def close(self) -> None:
        """Leave."""
        self._call.cancel()


# Wait ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_wait_answers_at_once_with_a_job_that_has_ended(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    await finish(api, completed(job, '{"ok": true}'))
    for timeout_s in (0, 5):
        ended = await wait_for(api, name, timeout_s)
        assert (ended.state, ended.result.json) == (State.JOB_STATE_COMPLETED, '{"ok": true}')


async def test_wait_answers_when_the_job_ends(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    waiting = [asyncio.create_task(wait_for(api, name)) for _ in range(5)]
    # One without a timeout of its own is bound by the call's deadline alone.
    waiting.append(asyncio.create_task(_wait_without_timeout(api, name)))
    (job,) = await lease(api, queue)
    assert not (await asyncio.wait(waiting, timeout=0.1))[0]
    began = time.monotonic()
    await finish(api, failed(job, permanent=True))
    for ended in await asyncio.gather(*waiting):
        assert (ended.state, ended.failure.message) == (State.JOB_STATE_FAILED, "it broke")
    assert time.monotonic() - began < 1


async def _wait_without_timeout(api: Api, name: str) -> job_pb2.Job:
    return (await api.jobs.WaitJob(pb.WaitJobRequest(name=name), timeout=10)).job


async def test_wait_for_a_job_that_does_not_end_in_time_says_so(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    for timeout_s in (0, 0.2):
        began = time.monotonic()
        refused = await refusal(wait_for(api, name, timeout_s))
        assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "WAIT_TIMEOUT")
        assert timeout_s <= time.monotonic() - began < timeout_s + 1


async def test_wait_for_an_unknown_job_is_not_found(api: Api, queue: str) -> None:
    refused = await refusal(wait_for(api, job_name_of(queue, "none")))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_wait_learns_the_end_of_a_job_that_was_removed_since(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    (job,) = await lease(api, queue)
    await finish(api, completed(job))
    revision = (await get(api, name)).revision
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    ended = await wait_for(api, name)
    assert (ended.name, ended.state) == (name, State.JOB_STATE_COMPLETED)
    assert ended.revision >= revision


async def test_who_waits_learns_of_a_deletion(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    waiting = asyncio.create_task(wait_for(api, name))
    await asyncio.wait([waiting], timeout=0.1)
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    assert (await waiting).state == State.JOB_STATE_REMOVED


# Watch -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_watch_begins_with_the_job_as_it_is_then_tells_each_change_and_its_end_and_closes(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, payload=job_pb2.Payload(json="{}"))
    watch = Watch(api, name)
    snapshot = await watch.next()
    assert (snapshot.type, snapshot.job.state, snapshot.job.name, snapshot.job.job_name) == (pb.CHANGE_TYPE_SNAPSHOT, State.JOB_STATE_WAITING, name, "work")
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        active = await watch.next()
        assert (active.type, active.job.state, active.job.attempt) == (pb.CHANGE_TYPE_UPDATE, State.JOB_STATE_ACTIVE, 1)
        report = work.ProgressReport(queue=queue, id=job.id, token=job.token, progress=job_pb2.Progress(percent=40.25, message="half", data_json='{"a":1}'))
        await worker.send(work.WorkRequest(progress=[report]))
        moved = await watch.next()
        assert (moved.type, moved.job.progress) == (pb.CHANGE_TYPE_UPDATE, report.progress)
        line = job_pb2.LogLine(sequence=1, level="info", message="hello", time_ms=5)
        await worker.send(work.WorkRequest(logs=[work.LogReport(queue=queue, id=job.id, token=job.token, lines=[line])]))
        logged = await watch.next()
        line.cursor, line.attempt = 1, 1
        assert (logged.type, list(logged.lines)) == (pb.CHANGE_TYPE_LOG, [line])
        await worker.finish(completed(job, "7"))
    (final,) = await watch.rest()
    assert (final.type, final.job.state, final.job.result.json, final.job.progress.percent) == (pb.CHANGE_TYPE_FINAL, State.JOB_STATE_COMPLETED, "7", 100)
    revisions = [change.job.revision for change in (snapshot, active, moved, final)]
    assert revisions == sorted(set(revisions))
    assert not any(change.job.HasField("payload") for change in (snapshot, active, moved, final))


async def test_progress_and_a_finish_in_one_frame_are_both_counted(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, attempts=1)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        report = work.ProgressReport(queue=queue, id=job.id, token=job.token, progress=job_pb2.Progress(percent=73))
        await worker.send(work.WorkRequest(progress=[report], finishes=[failed(job)]))
        await worker.receive(lambda frame: bool(frame.acks))
    ended = await get(api, name)
    assert (ended.state, ended.progress.percent) == (State.JOB_STATE_FAILED, 73)


async def test_progress_never_falls_within_an_attempt(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, backoff=job_pb2.Backoff(base=span(0)))
    (job,) = await lease(api, queue)
    for percent in (50, 20):
        report = work.ProgressReport(queue=queue, id=job.id, token=job.token, progress=job_pb2.Progress(percent=percent, message=f"at {percent}"))
        (ack,) = (await api.workers.ReportProgress(work.ReportProgressRequest(reports=[report]))).acks
        assert ack.verdict == work.VERDICT_OK
    assert (await get(api, name)).progress == job_pb2.Progress(percent=50, message="at 20")
    await finish(api, failed(job))
    await lease(api, queue, wait_s=3)
    assert (await get(api, name)).progress.percent == 0


async def test_a_watch_of_a_job_that_has_ended_tells_its_end_and_closes(api: Api, queue: str) -> None:
    name = await enqueue(api, queue)
    await api.jobs.CancelJob(pb.CancelJobRequest(name=name))
    (final,) = await Watch(api, name).rest()
    assert (final.type, final.job.state) == (pb.CHANGE_TYPE_FINAL, State.JOB_STATE_CANCELLED)


async def test_a_watch_of_an_unknown_job_says_not_found_and_closes(api: Api, queue: str) -> None:
    name = job_name_of(queue, "none")
    (change,) = await Watch(api, name).rest()
    assert (change.type, change.job.name, change.job.queue, change.job.id) == (pb.CHANGE_TYPE_NOT_FOUND, name, queue, "none")


async def test_a_watch_of_several_jobs_closes_after_the_last_end_and_sees_one_that_was_retried(api: Api, queue: str) -> None:
    first, second = await enqueue(api, queue, "first"), await enqueue(api, queue, "second")
    watch = Watch(api, first, second, first)
    assert {(await watch.next()).job.id, (await watch.next()).job.id} == {"first", "second"}
    await api.jobs.CancelJob(pb.CancelJobRequest(name=first))
    final = await watch.next()
    assert (final.type, final.job.id) == (pb.CHANGE_TYPE_FINAL, "first")
    await api.jobs.RetryJob(pb.RetryJobRequest(name=first))
    again = await watch.next()
    assert (again.type, again.job.id, again.job.state) == (pb.CHANGE_TYPE_UPDATE, "first", State.JOB_STATE_WAITING)
    await api.jobs.CancelJob(pb.CancelJobRequest(name=second))
    assert [(change.type, change.job.id) for change in await watch.rest()] == [(pb.CHANGE_TYPE_FINAL, "second")]


@pytest.mark.parametrize("ended", [False, True], ids=["waiting", "ended"])
async def test_a_deletion_is_the_last_change_with_state_removed(api: Api, queue: str, ended: bool) -> None:
    name, other = await enqueue(api, queue, "one"), await enqueue(api, queue, "other", delay=span(60))
    if ended:
        await api.jobs.CancelJob(pb.CancelJobRequest(name=name))
    watch = Watch(api, name, other)
    await watch.next()
    await watch.next()
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    removed = await watch.next()
    assert (removed.type, removed.job.state, removed.job.name) == (pb.CHANGE_TYPE_FINAL, State.JOB_STATE_REMOVED, name)
    watch.close()


async def test_a_watch_of_a_queue_tells_every_job_s_changes_and_stays_open(api: Api, queue: str) -> None:
    watch = Watch(api, f"queues/{queue}", job_name_of(queue, "none"))
    assert (await watch.next()).type == pb.CHANGE_TYPE_NOT_FOUND
    for job in ("a", "b"):
        await enqueue(api, queue, job)
        made = await watch.next()
        assert (made.type, made.job.id, made.job.state, made.job.job_name) == (pb.CHANGE_TYPE_UPDATE, job, State.JOB_STATE_WAITING, "work")
        await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, job)))
        end = await watch.next()
        assert (end.type, end.job.id, end.job.state) == (pb.CHANGE_TYPE_FINAL, job, State.JOB_STATE_CANCELLED)
    watch.close()


async def test_changes_of_state_are_not_skipped_however_much_progress_there_is(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, attempts=2, backoff=job_pb2.Backoff(base=span(0.05), jitter=0))
    watch = Watch(api, name)
    states = [(await watch.next()).job.state]
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=2)
        for _ in range(2):
            (job,) = await worker.jobs(1)
            for percent in range(100):
                progress = work.ProgressReport(queue=queue, id=job.id, token=job.token, progress=job_pb2.Progress(percent=percent))
                await worker.send(work.WorkRequest(progress=[progress]))
            await worker.finish(failed(job))
    states += [change.job.state for change in await watch.rest()]
    steps = [state for i, state in enumerate(states) if i == 0 or states[i - 1] != state]
    waiting, active, delayed, lost = State.JOB_STATE_WAITING, State.JOB_STATE_ACTIVE, State.JOB_STATE_DELAYED, State.JOB_STATE_FAILED
    assert [s for s in steps if s != waiting] == [active, delayed, active, lost]


@pytest.mark.parametrize(
    ("names", "field"),
    [([], "names"), (["queues/q/jobs/x"] * 101, "names"), (["queues/q", "q"], "names[1]"), (["queues/q/jobs/"], "names[0]"), (["queues"], "names[0]")],
    ids=["none", "101", "no address", "no id", "queues"],
)
async def test_a_watch_out_of_its_bounds_is_refused(api: Api, names: list[str], field: str) -> None:
    refused = await refusal(Watch(api, *names).rest())
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_large_results_that_come_at_once_are_all_told(api: Api, queue: str) -> None:
    ids = [f"j{i}" for i in range(5)]
    await enqueue_all(api, [spec(queue, job) for job in ids])
    jobs = await lease(api, queue, 5)
    call = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[job_name_of(queue, job) for job in ids]), timeout=20)
    frame = await call.read()
    assert isinstance(frame, pb.WatchJobsResponse)
    ends = [completed(job) for job in jobs]
    for end in ends:
        # Too long for an event, so they are read, and more than one call reads.
        end.complete.result.data = bytes(400_000)
    await finish(api, *ends)
    finals = [change for change in await rest(call) if change.type == pb.CHANGE_TYPE_FINAL]
    assert sorted((change.job.id, len(change.job.result.data)) for change in finals) == [(job, 400_000) for job in ids]


async def rest(call: "grpc.aio.UnaryStreamCall[pb.WatchJobsRequest, pb.WatchJobsResponse]") -> list[pb.JobChange]:
    """All changes up to the end of the stream."""
    found: list[pb.JobChange] = []
    while isinstance(frame := await call.read(), pb.WatchJobsResponse):
        found += frame.changes
    return found
