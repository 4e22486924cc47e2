"""`jobwire broker --queues FILE`: what the file says holds before the first call is served."""

import asyncio
from pathlib import Path

import pytest
import redis.asyncio
from jobwire.v1 import policy_pb2
from jobwire.v1 import queue_service_pb2 as pb

from tests.support import Broker, Store
from tests.support.api import Api
from tests.support.api import api as connect
from tests.support.process import ProcessEnded


async def queues(api: Api) -> dict[str, pb.Queue]:
    names = [queue.name for queue in (await api.queues.ListQueues(pb.ListQueuesRequest())).queues]
    found = await asyncio.gather(*(api.queues.GetQueue(pb.GetQueueRequest(name=name)) for name in names))
    return {answer.queue.queue: answer.queue for answer in found}


async def test_the_policies_of_a_file_are_set_when_the_broker_starts_and_only_what_differs(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  mail:\n    class: high\n    attempts: 7\n  exports: {paused: true, workerSlots: 3}\n")
    async with Broker(store, extra=["--queues", str(file)]) as broker, connect(broker) as api:
        found = await queues(api)
        assert found["mail"].policy == policy_pb2.QueuePolicy(queue_class=policy_pb2.QUEUE_CLASS_HIGH, attempts=7)
        assert (found["exports"].policy, found["exports"].paused) == (policy_pb2.QueuePolicy(worker_slots=3), True)
        await api.queues.ResumeQueue(pb.ResumeQueueRequest(name="queues/exports"))
        await api.queues.PauseQueue(pb.PauseQueueRequest(name="queues/mail"))
    # What the file says goes before what was set meanwhile; where it says nothing, all stays as it was.
    file.write_text("queues:\n  mail: {class: low}\n  exports: {paused: true, workerSlots: 3}\n")
    async with Broker(store, extra=["--queues", str(file)]) as broker, connect(broker) as api:
        found = await queues(api)
        assert (found["mail"].policy, found["mail"].paused) == (policy_pb2.QueuePolicy(queue_class=policy_pb2.QUEUE_CLASS_LOW), True)
        assert found["exports"].paused


async def groups(api: Api, queue: str) -> dict[str, tuple[float, bool, bool, int]]:
    """Weight, express, paused and concurrency of each."""
    found = (await api.queues.ListGroups(pb.ListGroupsRequest(parent=f"queues/{queue}"))).groups
    return {group.group: (group.weight, group.express, group.paused, group.limit.concurrency) for group in found}


async def test_the_groups_of_a_file_have_its_rules_and_others_are_left_alone(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  mail:\n    groups:\n      acme: {weight: 3, express: true, limit: {concurrency: 2}}\n      beta: {paused: true}\n")
    async with Broker(store, extra=["--queues", str(file)]) as broker, connect(broker) as api:
        assert await groups(api, "mail") == {"acme": (3, True, False, 2), "beta": (1, False, True, 0)}
        await api.queues.PauseGroup(pb.PauseGroupRequest(name="queues/mail/groups/acme"))
        await api.queues.PauseGroup(pb.PauseGroupRequest(name="queues/mail/groups/other"))
    file.write_text("queues:\n  mail:\n    groups:\n      acme: {weight: 2}\n      beta: {paused: false}\n")
    async with Broker(store, extra=["--queues", str(file)]) as broker, connect(broker) as api:
        assert await groups(api, "mail") == {"acme": (2, False, True, 0), "other": (1, False, True, 0)}


async def test_a_queue_that_can_not_have_its_policy_is_logged_and_the_others_have_theirs(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  broken: {attempts: 2}\n  mail: {attempts: 7}\n")
    async with redis.asyncio.Redis.from_url(store.url) as raw:
        await raw.set("jw:{broken}:m", "no hash")
    async with Broker(store, extra=["--queues", str(file)]) as broker, connect(broker) as api:
        policy = (await api.queues.GetQueue(pb.GetQueueRequest(name="queues/mail"))).queue.policy
        assert policy.attempts == 7
        (line,) = [line for line in broker.lines() if "queues.not_applied" in line]
        assert "broken" in line


async def test_a_file_with_mistakes_keeps_the_broker_from_starting_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  good: {attempts: 2}\n  bad: {attempts: -2}\n")
    with pytest.raises(ProcessEnded) as ended:
        async with Broker(store, extra=["--queues", str(file)]):
            pass
    assert f"{file}:3: bad: attempts must be from 1 to 1000" in str(ended.value)
    async with Broker(store) as broker, connect(broker) as api:
        assert await queues(api) == {}
