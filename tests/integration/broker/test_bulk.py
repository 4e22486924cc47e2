"""BulkJobs: what a dry run counts is what the run takes, however much changes in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import queue_service_pb2 as queues
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue_all, failed, finish, get, job_name_of, lease, listed, spec
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.api import api as connected

WAITING, DELAYED, ACTIVE = job_pb2.JOB_STATE_WAITING, job_pb2.JOB_STATE_DELAYED, job_pb2.JOB_STATE_ACTIVE
COMPLETED, FAILED, CANCELLED = job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED
CANCEL, RETRY, PROMOTE = pb.BULK_VERB_CANCEL, pb.BULK_VERB_RETRY, pb.BULK_VERB_PROMOTE
DELETE, RESOLVE = pb.BULK_VERB_DELETE, pb.BULK_VERB_RESOLVE


def request(queue: str, verb: "pb.BulkVerb.ValueType", **fields: Any) -> pb.BulkJobsRequest:
    others = {name: fields.pop(name) for name in ("token", "note", "grace") if name in fields}
    return pb.BulkJobsRequest(parent=f"queues/{queue}", verb=verb, filter=pb.JobFilter(**fields), **others)


async def count(api: Api, asked: pb.BulkJobsRequest) -> pb.BulkJobsResponse:
    """The dry run."""
    (answer,) = [answer async for answer in api.jobs.BulkJobs(asked)]
    assert answer.finished
    return answer


async def run(api: Api, asked: pb.BulkJobsRequest, token: str) -> list[pb.BulkJobsResponse]:
    """The run."""
    asked = pb.BulkJobsRequest.FromString(asked.SerializeToString())
    asked.token = token
    return [answer async for answer in api.jobs.BulkJobs(asked)]


async def both(api: Api, asked: pb.BulkJobsRequest) -> tuple[int, int, int]:
    """Dry run and run: matched, done, skipped."""
    dry = await count(api, asked)
    last = (await run(api, asked, dry.token))[-1]
    assert (last.matched, last.finished) == (dry.matched, True)
    return dry.matched, last.done, last.skipped


async def some_of_each(api: Api, queue: str) -> None:
    """Three jobs in each state."""
    await enqueue_all(api, [spec(queue, f"{word}{i}") for word in ("active", "completed", "failed") for i in range(3)])
    jobs = await lease(api, queue, 9)
    await finish(api, *(completed(job) for job in jobs if job.id.startswith("completed")))
    await finish(api, *(failed(job, permanent=True) for job in jobs if job.id.startswith("failed")))
    await enqueue_all(api, [spec(queue, f"{word}{i}") for word in ("waiting", "cancelled") for i in range(3)])
    await enqueue_all(api, [spec(queue, f"delayed{i}", delay=Duration(seconds=60)) for i in range(3)])
    for i in range(3):
        await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, f"cancelled{i}")))


NONE = {"waiting": 3, "active": 3, "delayed": 3, "completed": 3, "failed": 3, "cancelled": 3}


@pytest.mark.parametrize(
    ("verb", "changed"),
    [
        (CANCEL, {"waiting": 0, "delayed": 0, "active": 0, "cancelled": 12}),
        (RETRY, {"failed": 0, "cancelled": 0, "waiting": 9}),
        (PROMOTE, {"delayed": 0, "waiting": 6}),
        (DELETE, {"waiting": 0, "delayed": 0, "completed": 0, "failed": 0, "cancelled": 0}),
        (RESOLVE, {}),
    ],
    ids=str,
)
async def test_a_verb_takes_all_jobs_in_the_states_that_it_fits(api: Api, queue: str, verb: "pb.BulkVerb.ValueType", changed: dict[str, int]) -> None:
    await some_of_each(api, queue)
    asked = request(queue, verb, **({"grace": Duration()} if verb == CANCEL else {"note": "known"} if verb == RESOLVE else {}))
    expected = {CANCEL: 9, RETRY: 6, PROMOTE: 3, DELETE: 15, RESOLVE: 3}[verb]
    dry = await count(api, asked)
    before = await counts(api, queue)
    assert {word: getattr(before, word) for word in NONE} == NONE, "a dry run changes nothing"
    messages = await run(api, asked, dry.token)
    assert (dry.matched, messages[-1].done, messages[-1].skipped) == (expected, expected, 0)
    after = await counts(api, queue)
    assert {word: getattr(after, word) for word in NONE} == NONE | changed
    if verb == RESOLVE:
        assert (await get(api, job_name_of(queue, "failed0"))).resolution.note == "known"


async def test_a_filter_chooses_the_jobs(api: Api, queue: str) -> None:
    specs = [spec(queue, f"j{i}", job_name=f"name{i % 2}", group="acme" if i % 3 == 0 else "", labels={"n": str(i % 5)}) for i in range(30)]
    await enqueue_all(api, specs)
    assert await both(api, request(queue, DELETE, job_name="name0", group="acme", labels={"n": "0"})) == (1, 1, 0)
    assert await both(api, request(queue, DELETE, group="acme", states=[WAITING])) == (9, 9, 0)
    assert sorted(await listed(api, queue, WAITING)) == sorted(f"j{i}" for i in range(30) if i % 3)


async def test_a_group_of_failures_is_redriven_in_the_order_in_which_it_failed(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(10)])
    jobs = await lease(api, queue, 10)
    await finish(api, *(failed(job, "one" if i % 2 else "two", permanent=True) for i, job in enumerate(jobs)))
    fingerprint = (await get(api, job_name_of(queue, "j1"))).fingerprint
    assert await both(api, request(queue, RETRY, fingerprint=fingerprint)) == (5, 5, 0)
    assert await listed(api, queue, WAITING) == ["j1", "j3", "j5", "j7", "j9"]
    assert await listed(api, queue, FAILED) == ["j8", "j6", "j4", "j2", "j0"]


async def test_a_run_takes_only_what_the_dry_run_saw(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(6)])
    asked = request(queue, CANCEL)
    dry = await count(api, asked)
    (job, *_) = await lease(api, queue, 2)
    await finish(api, completed(job))
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=job_name_of(queue, "j3")))
    await enqueue_all(api, [spec(queue, "later")])
    (last,) = [message for message in await run(api, asked, dry.token) if message.finished]
    assert (last.matched, last.done, last.skipped) == (6, 3, 3)
    assert [await listed(api, queue, state) for state in (WAITING, ACTIVE, COMPLETED)] == [["later"], ["j1"], ["j0"]]
    assert sorted(await listed(api, queue, CANCELLED)) == ["j2", "j4", "j5"]


async def test_a_job_that_was_changed_and_changed_back_is_not_taken(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a"), spec(queue, "b")])
    asked = request(queue, DELETE, states=[WAITING])
    dry = await count(api, asked)
    await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, "a")))
    await api.jobs.RetryJob(pb.RetryJobRequest(name=job_name_of(queue, "a")))
    assert [(m.done, m.skipped) for m in (await run(api, asked, dry.token))[-1:]] == [(1, 1)]
    assert await listed(api, queue, WAITING) == ["a"]


async def test_progress_is_no_change_and_a_cancel_reaches_what_runs(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(3)])
    jobs = await lease(api, queue, 3)
    asked = request(queue, CANCEL)
    dry = await count(api, asked)
    report = work.ProgressReport(queue=queue, id=jobs[0].id, token=jobs[0].token, progress=job_pb2.Progress(percent=50))
    await api.workers.ReportProgress(work.ReportProgressRequest(reports=[report]))
    await finish(api, completed(jobs[1]))
    for _ in range(2):
        # The second time, what was asked to stop has been asked, and is not counted twice.
        (last,) = [message for message in await run(api, asked, dry.token) if message.finished]
        assert (last.matched, last.done, last.skipped) == (3, 2, 1)
    shown = [await get(api, job_name_of(queue, job)) for job in ("j0", "j2")]
    assert [(job.state, job.cancel_requested) for job in shown] == [(ACTIVE, True)] * 2
    assert (await count(api, asked)).matched == 0


async def test_five_thousand_jobs_go_in_steps_with_a_message_after_each(api: Api, queue: str) -> None:
    for start in range(0, 5000, 1000):
        await enqueue_all(api, [spec(queue, f"j{i:04}", group="acme" if i % 2 else "") for i in range(start, start + 1000)])
    asked = request(queue, DELETE, group="acme")
    dry = await count(api, asked)
    messages = await run(api, asked, dry.token)
    done = [message.done for message in messages]
    assert (dry.matched, done[-1], messages[-1].skipped) == (2500, 2500, 0)
    assert all(0 < after - before <= 128 for before, after in zip([0, *done], done[:-1], strict=False))
    assert [message.finished for message in messages] == [False] * (len(messages) - 1) + [True]
    assert (await counts(api, queue)).waiting == 2500


async def test_a_closed_call_stops_and_the_same_token_goes_on(api: Api, queue: str) -> None:
    for start in range(0, 3000, 1000):
        await enqueue_all(api, [spec(queue, f"j{i:04}") for i in range(start, start + 1000)])
    asked = request(queue, CANCEL)
    asked.token = (await count(api, asked)).token
    call = api.jobs.BulkJobs(asked)
    first = await call.read()
    assert isinstance(first, pb.BulkJobsResponse)
    call.cancel()
    stopped = await until_steady(api, queue)
    assert first.done <= stopped < 3000
    messages = [message async for message in api.jobs.BulkJobs(asked)]
    assert stopped <= messages[0].done <= stopped + 128
    assert (messages[-1].matched, messages[-1].done, messages[-1].skipped) == (3000, 3000, 0)
    # A token that has done its work does nothing more.
    (last,) = [message async for message in api.jobs.BulkJobs(asked)]
    assert (last.done, last.skipped, last.finished) == (3000, 0, True)


async def until_steady(api: Api, queue: str) -> int:
    """How many of 3,000 jobs wait no more, once it stays so."""
    before, now = -1, 0
    while before != now:
        before, now = now, 3000 - (await counts(api, queue)).waiting
        await asyncio.sleep(0.3)
    return now


@pytest.fixture
async def second_api(second_broker: Broker) -> AsyncIterator[Api]:
    async with connected(second_broker) as api:
        yield api


async def test_jobs_change_under_it_from_another_broker_and_each_ends_once(api: Api, second_api: Api, queue: str) -> None:
    for start in range(0, 2000, 1000):
        await enqueue_all(api, [spec(queue, f"j{i:04}") for i in range(start, start + 1000)])
    asked = request(queue, CANCEL, states=[WAITING])
    dry = await count(api, asked)
    taken = 0

    async def take_all() -> None:
        nonlocal taken
        while jobs := await lease(second_api, queue, 50):
            await finish(second_api, *(completed(job) for job in jobs))
            taken += len(jobs)

    messages, _ = await asyncio.gather(run(api, asked, dry.token), take_all())
    after = await counts(api, queue)
    last = messages[-1]
    assert (dry.matched, last.done + last.skipped) == (2000, 2000)
    # As many as were done are cancelled, and the workers had the others.
    assert (after.completed_total, after.waiting, after.active) == (taken, 0, 0)
    assert last.done == 2000 - taken
    assert after.cancelled == min(last.done, 1000)


async def test_two_runs_of_one_token_share_the_work(api: Api, second_api: Api, queue: str) -> None:
    for start in range(0, 2000, 1000):
        await enqueue_all(api, [spec(queue, f"j{i:04}") for i in range(start, start + 1000)])
    asked = request(queue, DELETE)
    dry = await count(api, asked)
    one, two = await asyncio.gather(run(api, asked, dry.token), run(second_api, asked, dry.token))
    assert max(one[-1].done, two[-1].done) == 2000
    assert (await counts(api, queue)).total == 0


# Tokens -----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_token_is_good_for_its_own_request_alone(api: Api, queue: str) -> None:
    await some_of_each(api, queue)
    token = (await count(api, request(queue, RETRY, states=[FAILED]))).token
    others = [
        request(queue, RETRY),
        request(queue, RETRY, states=[CANCELLED]),
        request(queue, DELETE, states=[FAILED]),
        request(queue, RETRY, states=[FAILED], group="acme"),
        request(queue, RETRY, states=[FAILED], resolved=False),
    ]
    for other in others:
        other.token = token
        refused = await refusal(api.jobs.BulkJobs(other).read())
        assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "BULK_TOKEN_INVALID", ("token",))
    for bad in ("x", token[:-4], token + "AAAA", "A" * len(token), "é"):
        refused = await refusal(api.jobs.BulkJobs(request(queue, RETRY, states=[FAILED], token=bad)).read())
        assert refused.reason == "BULK_TOKEN_INVALID"
    assert (await counts(api, queue)).failed == 3


async def test_a_note_may_be_given_with_the_run(api: Api, queue: str) -> None:
    await some_of_each(api, queue)
    token = (await count(api, request(queue, RESOLVE))).token
    (*_, last) = [message async for message in api.jobs.BulkJobs(request(queue, RESOLVE, token=token, note="later"))]
    assert last.done == 3
    assert (await get(api, job_name_of(queue, "failed1"))).resolution.note == "later"


# What is refused --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "fields", "field"),
    [
        (pb.BULK_VERB_UNSPECIFIED, {}, "verb"),
        (CANCEL, {"states": [COMPLETED]}, "filter.states"),
        (RETRY, {"states": [FAILED, WAITING]}, "filter.states"),
        (PROMOTE, {"states": [ACTIVE]}, "filter.states"),
        (DELETE, {"states": [ACTIVE]}, "filter.states"),
        (RESOLVE, {"states": [CANCELLED]}, "filter.states"),
        (DELETE, {"states": [job_pb2.JOB_STATE_REMOVED]}, "filter.states"),
        (DELETE, {"group": "a/b"}, "filter.group"),
        (RESOLVE, {"note": "x" * 1025}, "note"),
        (RETRY, {"note": "x"}, "note"),
        (CANCEL, {"grace": Duration(seconds=3601)}, "grace"),
        (CANCEL, {"grace": Duration(seconds=-1)}, "grace"),
        (RETRY, {"grace": Duration(seconds=1)}, "grace"),
    ],
)
async def test_a_bad_request_names_its_field(api: Api, queue: str, verb: "pb.BulkVerb.ValueType", fields: dict[str, Any], field: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    refused = await refusal(api.jobs.BulkJobs(request(queue, verb, **fields)).read())
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_an_unknown_state_or_verb_is_refused(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    unknown: Any = 77
    assert (await refusal(api.jobs.BulkJobs(request(queue, unknown)).read())).fields == ("verb",)
    assert (await refusal(api.jobs.BulkJobs(request(queue, DELETE, states=[unknown])).read())).fields == ("filter.states",)


async def test_a_queue_that_never_was_is_not_found(api: Api, queue: str) -> None:
    refused = await refusal(api.jobs.BulkJobs(request(queue, DELETE)).read())
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


async def test_a_bulk_verb_takes_each_job_of_a_limited_name_though_workers_run(api: Api, queue: str) -> None:
    names = {"work": policy_pb2.Limit(concurrency=2)}
    rules = queues.Queue(name=f"queues/{queue}", policy=policy_pb2.QueuePolicy(job_limits=names))
    await api.queues.UpdateQueue(queues.UpdateQueueRequest(queue=rules, update_mask=FieldMask(paths=["policy.job_limits"])))
    await enqueue_all(api, [spec(queue, f"j{i}", labels={"mine": "yes" if i >= 50 else "no"}) for i in range(400)])

    async def work_on() -> None:
        for _ in range(50):
            await finish(api, *(completed(job) for job in await lease(api, queue, 1)))

    working = asyncio.create_task(work_on())
    asked = request(queue, DELETE, labels={"mine": "yes"}, states=[WAITING])
    found = await both(api, asked)
    await working
    assert found == (350, 350, 0)
