"""Callers that act on many jobs at once: bulk verbs, with their dry run, and purges. What they say is held to what the store has carried out."""

from __future__ import annotations

import asyncio
import base64
import math
from typing import TYPE_CHECKING

import grpc
from jobwire.v1 import job_service_pb2 as jobs_pb
from jobwire.v1 import queue_service_pb2

from tests.simulation.history import WRONG, JobStory
from tests.simulation.network import Refused

if TYPE_CHECKING:
    from tests.simulation.world import World

#: So long after its answer a call may still be carried out by a request that was late on its way.
_LATE_S = 8.0


class Sweeps:
    """All of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._purges: dict[str, list[float]] = {queue: [] for queue in world.plan.queues}
        """Until when each purge may delete what comes."""

    async def bulk(self, queue: str, verb: str, request: jobs_pb.BulkJobsRequest, wait_s: float) -> None:
        """The dry run, and then the run. What nobody had tried to enqueue when the dry run was answered is not taken: no verb of its story says so."""
        world, blame = self._world, self._world.history.blame
        seen = await world.persist("BulkJobs", request)
        if isinstance(seen, Refused):
            self._check_unknown(queue, seen)
            return
        stories = self._tried(queue)
        await asyncio.sleep(wait_s)
        began_s = world.loop.time()
        for story in stories:
            story.verbs.append((verb, began_s, None, ""))
            if verb == "cancel":
                story.graces.append(request.grace.ToMilliseconds() / 1000)
        request.token = seen.token
        answer = await world.persist("BulkJobs", request)
        if isinstance(answer, Refused):
            blame(WRONG, f"a bulk {verb} with the token of its dry run was refused: {answer}")
            return
        world.history.tell(f"the bulk {verb} of {queue} found {answer.matched}, has acted on {answer.done}, and skipped {answer.skipped}")
        if not answer.finished or answer.matched != seen.matched or answer.done + answer.skipped != answer.matched:
            blame(WRONG, f"a bulk {verb} that found {seen.matched} jobs does not add up: {answer}")
        done = world.watch.verbs.done[_run_of(seen.token)]
        if answer.done > done or (answer.done < done and world.was_calm(began_s, world.loop.time())):
            blame(WRONG, f"a bulk {verb} says that it has acted on {answer.done} jobs, and it was {done}")

    async def purge(self, queue: str) -> None:
        """Delete what waits."""
        world, purged, purges = self._world, self._world.watch.verbs.purged, self._purges[queue]
        for story in self._tried(queue):
            story.verbs.append(("delete", world.loop.time(), None, ""))
        began_s, before, place = world.loop.time(), purged[world.base(queue)], len(purges)
        purges.append(math.inf)
        answer = await world.persist("PurgeQueue", queue_service_pb2.PurgeQueueRequest(name=f"queues/{queue}"))
        was_calm = world.was_calm(began_s, world.loop.time())
        # A request that is late on its way deletes what is there when it comes.
        purges[place] = world.loop.time() + (0.0 if was_calm else _LATE_S)
        if isinstance(answer, Refused):
            self._check_unknown(queue, answer)
            return
        deleted = purged[world.base(queue)] - before
        world.history.tell(f"the purge of {queue} has deleted {answer.deleted}")
        if answer.deleted > deleted or (answer.deleted < deleted and was_calm and len(purges) == 1):
            world.history.blame(WRONG, f"a purge says that it has deleted {answer.deleted} jobs, and it was {deleted}")

    def may_delete(self, queue: str) -> bool:
        """Whether a purge may delete what comes now."""
        return any(self._world.loop.time() < until_s for until_s in self._purges[queue])

    def _tried(self, queue: str) -> list[JobStory]:
        stories = [self._world.history.story(job.id) for job in self._world.plan.jobs if job.queue == queue]
        return [story for story in stories if story.tried_s is not None]

    def _check_unknown(self, queue: str, refused: Refused) -> None:
        """A queue without jobs may be unknown."""
        if refused.code is not grpc.StatusCode.NOT_FOUND or any(story.acknowledged_s is not None for story in self._tried(queue)):
            self._world.history.blame(WRONG, f"a verb for the jobs of queue {queue} was refused: {refused}")


def _run_of(token: str) -> bytes:
    """The number of a bulk run stands at the end of its token."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[-8:]
