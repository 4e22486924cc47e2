"""Operators: what they change of queues while jobs run, and what they delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2, queue_service_pb2

from tests.simulation.history import WRONG
from tests.simulation.network import Refused

if TYPE_CHECKING:
    from tests.simulation.world import World


class Operators:
    """All of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cleans = dict.fromkeys(world.plan.queues, 0)
        """How many callers delete ended jobs now, by queue."""

    def do_set_ages(self, queue: str) -> None:
        """For how long the queue keeps ended jobs."""
        request = _update(queue)
        for state, age_s in self._world.plan.ages[queue].items():
            _set(getattr(request.queue.policy.retention, state).age, age_s)
            request.update_mask.paths.append(f"policy.retention.{state}.age")
        if request.update_mask.paths:
            self._world.loop.create_task(self._world.update_queue(request))

    def do_set_room(self, queue: str, depth: int, slots: int) -> None:
        """How many jobs the queue takes, and each of its workers."""
        request = _update(queue)
        request.queue.policy.max_depth, request.queue.policy.worker_slots = depth, slots
        request.update_mask.paths.extend(("policy.max_depth", "policy.worker_slots"))
        self._world.loop.create_task(self._world.update_queue(request))

    def do_set_class(self, queue: str, number: int) -> None:
        """Which class the queue is of from now on."""
        request = _update(queue)
        request.queue.policy.queue_class = policy_pb2.QueueClass.Value(f"QUEUE_CLASS_{self._world.plan.classes[queue][number]}")
        request.update_mask.paths.append("policy.queue_class")
        self._world.loop.create_task(self._world.update_queue(request))

    def do_pause_class(self, name: str, for_s: float) -> None:
        """Pause the queues of a class for a time."""
        self._world.loop.create_task(self._pause_class(name, for_s))

    async def _pause_class(self, name: str, for_s: float) -> None:
        world, queue_class = self._world, policy_pb2.QueueClass.Value(f"QUEUE_CLASS_{name}")
        queues = [queue for queue in world.plan.queues if name in world.plan.classes[queue]]
        before = world.room.members(name)
        for queue in queues:
            world.begin_pause(queue)
        answer = await world.persist("PauseClass", queue_service_pb2.PauseClassRequest(queue_class=queue_class))
        now = world.room.members(name)
        known = {queue for queue, since_s in before.items() if now.get(queue) == since_s}
        if not known <= set(answer.queues) <= set(queues):
            world.history.blame(WRONG, f"a pause of class {name}, which is that of {known} and may be that of {queues}, has paused {answer.queues}")
        for queue in answer.queues:
            world.is_paused(queue)
        await asyncio.sleep(for_s)
        for queue in queues:
            # What was not paused when it was tried may be paused by a request that comes late, and be resumed now.
            world.was_paused[queue] = True
            world.watch.paused.discard(world.base(queue))
        await world.persist("ResumeClass", queue_service_pb2.ResumeClassRequest(queue_class=queue_class))
        for queue in queues:
            world.end_pause(queue)

    def do_clean(self, queue: str, state: str, grace_s: float) -> None:
        """Delete ended jobs of a state, '' for the one that is meant when none is said."""
        request = queue_service_pb2.CleanQueueRequest(name=f"queues/{queue}")
        if state:
            request.state = job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}")
        if grace_s:
            _set(request.grace, grace_s)
        self._world.loop.create_task(self._clean(queue, request))

    async def _clean(self, queue: str, request: queue_service_pb2.CleanQueueRequest) -> None:
        world = self._world
        cleaned, base = world.watch.forgetting.cleaned, world.base(queue)
        began_s, before = world.loop.time(), cleaned[base]
        self._cleans[queue] += 1
        was_alone = self._cleans[queue] == 1
        answer = await world.persist("CleanQueue", request)
        self._cleans[queue] -= 1
        if isinstance(answer, Refused):
            world.sweeps.check_unknown(queue, answer)
            return
        deleted = cleaned[base] - before
        world.history.tell(f"the clean of {queue} has deleted {answer.deleted}")
        is_short = answer.deleted < deleted and was_alone and not self._cleans[queue] and world.was_calm(began_s, world.loop.time())
        if answer.deleted > deleted or is_short:
            world.history.blame(WRONG, f"a clean says that it has deleted {answer.deleted} jobs, and it was {deleted}")


def _update(queue: str) -> queue_service_pb2.UpdateQueueRequest:
    return queue_service_pb2.UpdateQueueRequest(queue=queue_service_pb2.Queue(name=f"queues/{queue}"))


def _set(duration: Duration, seconds: float) -> None:
    duration.FromMilliseconds(round(seconds * 1000))
