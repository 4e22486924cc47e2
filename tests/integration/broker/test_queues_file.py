"""`jobwire broker --queues FILE`: what the file says holds before the first call is served."""

import asyncio
from pathlib import Path

import pytest
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


async def test_a_file_with_mistakes_keeps_the_broker_from_starting_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  good: {attempts: 2}\n  bad: {attempts: -2}\n")
    with pytest.raises(ProcessEnded) as ended:
        async with Broker(store, extra=["--queues", str(file)]):
            pass
    assert f"{file}:3: bad: attempts must be from 1 to 1000" in str(ended.value)
    async with Broker(store) as broker, connect(broker) as api:
        assert await queues(api) == {}
