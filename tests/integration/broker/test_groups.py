"""Groups, limits and labels through the broker: their calls, what they hold and for how long, and what is said of it."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import queue_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, finish, get, job_name_of, lease, listed, span, spec
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker, complete

WAITING = job_pb2.JOB_STATE_WAITING


async def set_policy(api: Api, queue: str, **policy: Any) -> None:
    changed = pb.Queue(name=f"queues/{queue}", policy=policy_pb2.QueuePolicy(**policy))
    await api.queues.UpdateQueue(pb.UpdateQueueRequest(queue=changed, update_mask=FieldMask(paths=["policy"])))


async def update(api: Api, name: str, *paths: str, **fields: Any) -> pb.Group:
    request = pb.UpdateGroupRequest(group=pb.Group(name=name, **fields), update_mask=FieldMask(paths=paths))
    return (await api.queues.UpdateGroup(request)).group


async def groups_of(api: Api, queue: str, size: int = 0) -> list[pb.Group]:
    found: list[pb.Group] = []
    token = ""
    while True:
        page = await api.queues.ListGroups(pb.ListGroupsRequest(parent=f"queues/{queue}", page_size=size, page_token=token))
        found += page.groups
        token = page.next_page_token
        if not token:
            return found


async def holds_of(api: Api, name: str) -> dict[str, jobs.JobHold]:
    found = await api.jobs.ExplainJob(jobs.ExplainJobRequest(name=name))
    return {jobs.HoldReason.Name(hold.reason).removeprefix("HOLD_REASON_"): hold for hold in found.holds}


async def more_workers_help(api: Api, queue: str) -> bool:
    return (await api.queues.GetQueue(pb.GetQueueRequest(name=f"queues/{queue}"))).queue.more_workers_help


# The calls ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_groups_are_listed_by_name_with_what_waits_and_runs(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"{group}{i}", group=group) for group in ("b", "a", "c") for i in range(2)])
    (job,) = await lease(api, queue)
    limit = policy_pb2.Limit(concurrency=2, rate=policy_pb2.RateLimit(count=5, period=span(1), burst=2))
    await update(api, f"queues/{queue}/groups/quiet", "weight", "limit", weight=2.5, limit=limit)
    found = await groups_of(api, queue, 2)
    assert [(group.group, group.waiting, group.active_units) for group in found] == [("a", 1, 1), ("b", 2, 0), ("c", 2, 0), ("quiet", 0, 0)]
    assert found[3] == pb.Group(name=f"queues/{queue}/groups/quiet", group="quiet", weight=2.5, limit=limit)
    assert (found[0].weight, found[0].HasField("limit")) == (1, False)
    await finish(api, completed(job))


async def test_a_paused_group_waits_until_it_is_resumed(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "a", group="acme")
    group = f"queues/{queue}/groups/acme"
    assert (await api.queues.PauseGroup(pb.PauseGroupRequest(name=group))).group.paused
    await enqueue(api, queue, "b", group="other")
    assert [job.id for job in await lease(api, queue, 5)] == ["b"]
    assert "GROUP_PAUSED" in await holds_of(api, name)
    assert not await more_workers_help(api, queue)
    assert not (await api.queues.ResumeGroup(pb.ResumeGroupRequest(name=group))).group.paused
    assert [job.id for job in await lease(api, queue, 5)] == ["a"]


async def test_a_resumed_group_starts_at_once_at_a_worker_that_waits(api: Api, shared_broker: Broker, queue: str) -> None:
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=5)
        await api.queues.PauseGroup(pb.PauseGroupRequest(name=f"queues/{queue}/groups/acme"))
        await enqueue(api, queue, "a", group="acme")
        await api.queues.ResumeGroup(pb.ResumeGroupRequest(name=f"queues/{queue}/groups/acme"))
        (job,) = await worker.jobs(1)
        assert (job.id, job.group) == ("a", "acme")


async def test_a_field_that_is_absent_goes_back_to_its_default(api: Api, queue: str) -> None:
    name = f"queues/{queue}/groups/acme"
    await update(api, name, "weight", "express", "limit", weight=3, express=True, limit=policy_pb2.Limit(concurrency=1))
    assert (await update(api, name, "express")).express is False
    found = await update(api, name, "weight", "limit")
    assert (found.weight, found.HasField("limit")) == (1, False)
    assert await groups_of(api, queue) == []


@pytest.mark.parametrize(
    ("fields", "paths", "field"),
    [
        ({"name": "queues/q/groups/a/b"}, ["weight"], "group.name"),
        ({"name": "queues/q/groups/-"}, ["weight"], "group.name"),
        ({}, [], "update_mask"),
        ({}, ["paused"], "update_mask"),
        ({"weight": 0.001}, ["weight"], "group.weight"),
        ({"weight": 1001}, ["weight"], "group.weight"),
        ({"weight": float("nan")}, ["weight"], "group.weight"),
        ({"limit": policy_pb2.Limit(concurrency=-1)}, ["limit"], "group.limit.concurrency"),
        ({"limit": policy_pb2.Limit(rate=policy_pb2.RateLimit(count=5))}, ["limit"], "group.limit.rate.period"),
        ({"limit": policy_pb2.Limit(rate=policy_pb2.RateLimit(count=5, period=span(1), burst=6))}, ["limit"], "group.limit.rate.burst"),
    ],
)
async def test_a_bad_rule_of_a_group_is_refused(api: Api, queue: str, fields: dict[str, Any], paths: list[str], field: str) -> None:
    group = pb.Group(**{"name": f"queues/{queue}/groups/acme", **fields})
    error = await refusal(api.queues.UpdateGroup(pb.UpdateGroupRequest(group=group, update_mask=FieldMask(paths=paths))))
    assert (error.code, error.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))
    assert await groups_of(api, queue) == []


# Limits -------------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_used_up_limit_names_who_holds_it(api: Api, queue: str) -> None:
    await set_policy(api, queue, limit=policy_pb2.Limit(concurrency=1))
    await enqueue(api, queue, "a")
    name = await enqueue(api, queue, "b")
    (job,) = await lease(api, queue, 5)
    hold = (await holds_of(api, name))["CONCURRENCY_LIMITED"]
    assert ([(holder.worker, holder.active) for holder in hold.holders], hold.holder_count) == ([("asking", 1)], 1)
    assert hold.message == f"the concurrency limit of the queue {queue} is used up by asking (1)"
    assert not await more_workers_help(api, queue)
    await finish(api, completed(job))
    assert await more_workers_help(api, queue)


@pytest.mark.parametrize("kind", ["group", "name"])
async def test_the_limit_of_a_group_or_a_name_is_named_as_well(api: Api, queue: str, kind: str) -> None:
    limit = policy_pb2.Limit(concurrency=1)
    await set_policy(api, queue, **({"group_limit": limit} if kind == "group" else {"job_limits": {"work": limit}}))
    await enqueue(api, queue, "a", group="acme")
    name = await enqueue(api, queue, "b", group="acme")
    assert len(await lease(api, queue, 5)) == 1
    assert [holder.worker for holder in (await holds_of(api, name))["CONCURRENCY_LIMITED"].holders] == ["asking"]
    assert await listed(api, queue, WAITING) == ["b"]
    assert (await counts(api, queue)).waiting == 1


async def test_a_rate_says_until_when(api: Api, queue: str) -> None:
    await set_policy(api, queue, limit=policy_pb2.Limit(rate=policy_pb2.RateLimit(count=1, period=span(60))))
    await enqueue(api, queue, "a")
    name = await enqueue(api, queue, "b")
    assert len(await lease(api, queue, 5)) == 1
    until = (await holds_of(api, name))["RATE_LIMITED"].until.ToDatetime(UTC)
    assert 50 < (until - datetime.now(UTC)).total_seconds() < 61


async def test_a_rate_goes_on_by_itself_at_a_worker_that_waits(api: Api, shared_broker: Broker, queue: str) -> None:
    await set_policy(api, queue, limit=policy_pb2.Limit(rate=policy_pb2.RateLimit(count=20, period=span(0.4))))
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(15)])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=100)
        tokens = [job.token for job in await worker.jobs(15)]
    assert tokens[-1] - tokens[0] < 950_000, "leases waited for the pulse"


async def test_a_limited_group_is_put_back_and_frozen(api: Api, shared_broker: Broker, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a", group="acme"), spec(queue, "b", group="other")])
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        limited = work.Finish(queue=queue, id=job.id, token=job.token, limit_group=work.LimitGroup(delay=span(60)))
        (ack,) = await worker.finish(limited)
        assert (ack.verdict, ack.state) == (work.VERDICT_OK, WAITING)
        assert (await get(api, job_name_of(queue, job.id))).attempt == 1 - 1
        assert "RATE_LIMITED" in await holds_of(api, job_name_of(queue, job.id))
        (group,) = [group for group in await groups_of(api, queue) if group.group == job.group]
        assert group.HasField("limited_until")
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=5)))
        (other,) = await worker.jobs(1)
        assert other.group != job.group
        await worker.finish(complete(other))


async def test_a_limit_of_a_group_needs_its_time(api: Api, queue: str) -> None:
    await enqueue(api, queue, "a")
    (job,) = await lease(api, queue)
    for delay in ({}, {"delay": span(86_401)}):
        bad = work.Finish(queue=queue, id=job.id, token=job.token, limit_group=work.LimitGroup(**delay))
        error = await refusal(api.workers.FinishJobs(work.FinishJobsRequest(finishes=[bad])))
        assert error.fields == ("finishes[0].limit_group.delay",)


async def test_who_waits_beside_room_is_told_for_which_job_it_is_kept(api: Api, queue: str) -> None:
    await set_policy(api, queue, limit=policy_pb2.Limit(concurrency=3))
    await enqueue_all(api, [spec(queue, "a"), spec(queue, "big", units=3), spec(queue, "b")])
    await lease(api, queue, 3)
    hold = (await holds_of(api, job_name_of(queue, "b")))["ROOM_KEPT"]
    big = job_name_of(queue, "big")
    assert (hold.kept_for, hold.message) == (big, f"the room that is left under the limit of the queue {queue} is kept for {big}, which needs 3 units")
    hold = (await holds_of(api, big))["CONCURRENCY_LIMITED"]
    assert hold.message == f"the concurrency limit of the queue {queue} has no room for its 3 units beside asking (1)"


# Labels and order -------------------------------------------------------------------------------------------------------------------------------------------


async def test_only_a_worker_with_the_labels_gets_a_job(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, "a", required_labels={"gpu": "a100"})
    assert await lease(api, queue, 5) == []
    hold = (await holds_of(api, name))["NO_LABELED_WORKER"]
    assert hold.message == f"no connected worker of {queue} has the labels that it requires (gpu=a100)"
    assert await listed(api, queue, WAITING) == ["a"]
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.send(work.WorkRequest(hello=work.Hello(session=worker.session, epoch=1, queues=[queue], labels={"gpu": "a100", "zone": "eu"})))
        await worker.send(work.WorkRequest(credit=work.Credit(jobs=5)))
        (job,) = await worker.jobs(1)
        assert job.id == "a"


async def test_labels_of_a_single_call_count_as_well(api: Api, queue: str) -> None:
    await enqueue(api, queue, "a", required_labels={"gpu": ""})
    found = await api.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue, labels={"gpu": ""}))
    assert [job.id for job in found.jobs] == ["a"]
    error = await refusal(api.workers.LeaseJobs(work.LeaseJobsRequest(queue=queue, labels={"a b": ""})))
    assert error.fields == ("labels",)


async def test_other_groups_have_their_turn_first(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"{group}{i}", group=group) for group in "abc" for i in range(3)])
    await lease(api, queue, 1)
    hold = (await holds_of(api, job_name_of(queue, "a1")))["GROUPS_BEFORE"]
    assert hold.message == "2 groups go before its own"


async def test_all_that_waits_is_listed_once_page_by_page(api: Api, queue: str) -> None:
    made = [spec(queue, f"{group or 'x'}{i}", group=group) for group in ("", "a", "b") for i in range(5)]
    made += [spec(queue, "u", units=3), spec(queue, "l", required_labels={"gpu": ""})]
    await enqueue_all(api, made)
    for size in (1, 3, 1000):
        assert sorted(await listed(api, queue, WAITING, size)) == sorted(job.id for job in made)
    assert (await counts(api, queue)).waiting == len(made)
