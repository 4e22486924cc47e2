"""Callers that act on many jobs at once: bulk verbs, with their dry run, and purges. What they say is held to what the store has carried out."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
from jobwire.v1 import job_service_pb2 as jobs_pb
from jobwire.v1 import queue_service_pb2
from jobwire_broker.names import id_to_bytes
from jobwire_broker.rules import listing

from tests.simulation.history import WRONG, JobStory
from tests.simulation.network import Refused
from tests.simulation.where import Wanted

if TYPE_CHECKING:
    from tests.simulation.world import World

#: So long after its answer a call may still be carried out by a request that was late on its way.
_LATE_S = 8.0
_PAGE = 4


class Sweeps:
    """All of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._purges: dict[str, list[float]] = {queue: [] for queue in world.plan.queues}
        """Until when each purge may delete what comes."""

    async def bulk(self, queue: str, verb: str, request: jobs_pb.BulkJobsRequest, wanted: Wanted, wait_s: float, stop_s: float | None) -> None:
        """The dry run, and then the run. What nobody had tried to enqueue when the dry run was answered is not taken: no verb of its story says so.

        `stop_s` after it began somebody stops it, if it still goes on.
        """
        world, blame = self._world, self._world.history.blame
        before = self._records(queue)
        seen = await world.persist("BulkJobs", request)
        if isinstance(seen, Refused):
            self.check_unknown(queue, seen)
            return
        found = self._check_count(queue, wanted, before, seen)
        stories = [story for story in self._tried(queue) if wanted.may_find(world.by_id[story.job])]
        await asyncio.sleep(wait_s)
        began_s = world.loop.time()
        for story in stories if verb != "resolve" else ():
            story.verbs.append((verb, began_s, None, ""))
            if verb == "cancel":
                story.graces.append(request.grace.ToMilliseconds() / 1000)
        request.token, run = seen.token, _run_of(seen.token)
        if verb == "resolve":
            request.note = seen.token
            world.watch.verbs.notes[seen.token] = run
        if stop_s is not None:
            world.loop.call_later(stop_s, lambda: world.loop.create_task(self._stop(seen.run, run)))
        answer = await world.persist("BulkJobs", request)
        strangers = world.watch.verbs.offered.get(run, set()) - {story.job for story in stories}
        if strangers:
            blame(WRONG, f"a bulk {verb} has acted on jobs that its filter does not find: {strangers}")
        if isinstance(answer, Refused):
            await self._check_stopped(verb, request, answer)
            return
        world.history.tell(f"the bulk {verb} of {queue} found {answer.matched}, has acted on {answer.done}, and skipped {answer.skipped}")
        if not answer.finished or answer.matched != seen.matched or answer.done + answer.skipped != answer.matched:
            blame(WRONG, f"a bulk {verb} that found {seen.matched} jobs does not add up: {answer}")
        done, was_calm = world.watch.verbs.done[run], world.was_calm(began_s, world.loop.time())
        if answer.done > done or (answer.done < done and was_calm):
            blame(WRONG, f"a bulk {verb} says that it has acted on {answer.done} jobs, and it was {done}")
        if was_calm and run in world.watch.verbs.stopped:
            blame(WRONG, f"a bulk {verb} that was stopped says that it has finished")
        now = self._records(queue)
        # A job is not retried while another holds the key that both want.
        passed = {text for text, record in found.items() if now.get(text) == record and not (verb == "retry" and world.by_id[text].identity == "unique")}
        if passed:
            blame(WRONG, f"a bulk {verb} has passed over jobs that are as its dry run saw them: {passed}")

    async def _stop(self, name: str, run: bytes) -> None:
        """From the answer on nothing more is done."""
        world = self._world
        answer = await world.persist("StopBulkRun", jobs_pb.StopBulkRunRequest(name=name))
        if isinstance(answer, Refused):
            # It has not begun, or has finished.
            if answer.code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                world.history.blame(WRONG, f"the stop of a bulk run was refused: {answer}")
            return
        world.history.tell(f"a bulk run is stopped after {answer.run.done} jobs")
        if answer.run.state != jobs_pb.BULK_RUN_STATE_STOPPED or answer.run.done != world.watch.verbs.done[run]:
            world.history.blame(WRONG, f"a bulk run that was stopped after {world.watch.verbs.done[run]} jobs is shown as {answer.run}")

    async def _check_stopped(self, verb: str, request: jobs_pb.BulkJobsRequest, refused: Refused) -> None:
        """A run ends early because somebody has stopped it, and for good."""
        world, run = self._world, _run_of(request.token)
        if refused.code is not grpc.StatusCode.ABORTED or run not in world.watch.verbs.stopped:
            world.history.blame(WRONG, f"a bulk {verb} with the token of its dry run was refused: {refused}")
        again = await world.persist("BulkJobs", request)
        if not isinstance(again, Refused) or again.code is not grpc.StatusCode.ABORTED:
            world.history.blame(WRONG, f"a bulk {verb} that was stopped has begun again: {again}")

    def _check_count(self, queue: str, wanted: Wanted, before: Mapping[str, bytes], seen: jobs_pb.BulkJobsResponse) -> dict[str, bytes]:
        """A dry run counts what its filter finds; of what changed meanwhile it may count what it likes. The records of those that it has counted for sure."""
        by_id, team_of, now = self._world.by_id, self._world.watch.verbs.team_of, self._records(queue)
        found = {text: record for text, record in now.items() if before.get(text) == record and wanted.finds(by_id[text], team_of(text), record)}
        moved = sum(before.get(text) != now.get(text) and wanted.may_find(by_id[text]) for text in before.keys() | now.keys())
        if not len(found) <= seen.matched <= len(found) + moved:
            self._world.history.blame(WRONG, f"a dry run counts {seen.matched} jobs, and its filter finds {sorted(found)} and at most {moved} more")
        return found

    def _records(self, queue: str) -> dict[str, bytes]:
        texts = [story.job for story in self._tried(queue)]
        base = self._world.base(queue).encode()
        found = self._world.store.real.ask_all([("GET", base + b"j" + id_to_bytes(text, "id")) for text in texts])
        return {text: record for text, record in zip(texts, found, strict=True) if record}

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
            self.check_unknown(queue, answer)
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

    def check_unknown(self, queue: str, refused: Refused) -> None:
        """A queue without jobs may be unknown."""
        if refused.code is not grpc.StatusCode.NOT_FOUND or any(story.acknowledged_s is not None for story in self._tried(queue)):
            self._world.history.blame(WRONG, f"a verb for the jobs of queue {queue} was refused: {refused}")


@contextmanager
def small_pages() -> Iterator[None]:
    """Let a page of a list hold so few jobs that bulk runs take several steps, and may be stopped between two."""
    names = vars(listing)
    real, names["MAX_ITEMS"] = names["MAX_ITEMS"], _PAGE
    try:
        yield
    finally:
        names["MAX_ITEMS"] = real


def _run_of(token: str) -> bytes:
    """The number of a bulk run stands at the end of its token."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[-8:]
