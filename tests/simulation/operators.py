"""Operators: what they change of queues while jobs run, and what they delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, queue_service_pb2

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
