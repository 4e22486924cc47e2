"""QueueService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from jobwire.v1 import job_pb2
from jobwire.v1 import queue_service_pb2 as pb
from jobwire.v1.queue_service_pb2_grpc import QueueServiceServicer

from jobwire_broker.auth.caller import permitted
from jobwire_broker.errors import InvalidField
from jobwire_broker.names import parse_queue
from jobwire_broker.rules.hands import hands_of, is_short
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.rules.sweeps import purge
from jobwire_broker.services.answers import queue_not_found, queue_of, unary
from jobwire_broker.services.classes import check_class, members_by_class, pause_class, stats_of
from jobwire_broker.services.groups import list_groups, pause_group, update_group
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.services.policies import change_policy, check_mask, update_of
from jobwire_broker.store.policy import policy_from_text

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_GRACE_MS = 3_650 * 86_400_000
_ENDED = (job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_EXPIRED)


class QueueService(QueueServiceServicer):
    """Look at queues, pause them, resume them, clean them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @unary
    async def ListQueues(self, request: pb.ListQueuesRequest, context: Context) -> pb.ListQueuesResponse:
        """List all queues by name."""
        size = page_size(request.page_size)
        after = read_token("queues", request.page_token).decode(errors="replace")
        visible = permitted("read")
        names = [name for name in await self._registry.known() if name > after and visible(name)]
        page = names[:size]
        stats = await asyncio.gather(*(self._registry.get(name).store.stats() for name in page))
        token = make_token("queues", page[-1].encode()) if len(names) > size else ""
        return pb.ListQueuesResponse(queues=[queue_of(*pair) for pair in zip(page, stats, strict=True)], next_page_token=token)

    @unary
    async def GetQueue(self, request: pb.GetQueueRequest, context: Context) -> pb.GetQueueResponse:
        """Read one queue."""
        name = await self._known(request.name)
        queue, oldest = await asyncio.gather(self._read(name), self._registry.get(name).store.oldest())
        for age, since_us in ((queue.oldest_waiting_age, oldest.waiting_us), (queue.oldest_active_age, oldest.active_us)):
            if since_us:
                age.FromMicroseconds(max(0, oldest.now_us - since_us))
        queue.more_workers_help = oldest.open and not queue.paused and is_short(await hands_of(self._registry, name, oldest.crew))
        return pb.GetQueueResponse(queue=queue)

    @unary
    async def UpdateQueue(self, request: pb.UpdateQueueRequest, context: Context) -> pb.UpdateQueueResponse:
        """Change the policy."""
        name = parse_queue(request.queue.name, "queue.name")
        paths = check_mask(request.update_mask)
        paused = request.queue.paused if "paused" in paths else None
        await change_policy(self._registry, name, lambda current: update_of(request, current, paths), paused)
        return pb.UpdateQueueResponse(queue=await self._read(name))

    @unary
    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Context) -> pb.PauseQueueResponse:
        """Stop delivery."""
        return pb.PauseQueueResponse(queue=await self._pause(request.name, True))

    @unary
    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Context) -> pb.ResumeQueueResponse:
        """Start delivery again."""
        return pb.ResumeQueueResponse(queue=await self._pause(request.name, False))

    @unary
    async def CleanQueue(self, request: pb.CleanQueueRequest, context: Context) -> pb.CleanQueueResponse:
        """Delete ended jobs."""
        state = request.state or job_pb2.JOB_STATE_COMPLETED
        if state not in _ENDED:
            raise InvalidField(f"state must be COMPLETED, FAILED, CANCELLED or EXPIRED; it is {_state_name(state)}", field="state")
        grace_ms = duration_ms(request.grace, "grace", low_ms=0, high_ms=_MAX_GRACE_MS)
        store = self._registry.get(await self._known(request.name)).store
        step = await store.clean(state, grace_ms)
        deleted = step.forgotten
        while step.more:
            step = await store.clean(state, grace_ms, step.newest)
            deleted += step.forgotten
        return pb.CleanQueueResponse(deleted=deleted)

    @unary
    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:
        """List the groups of a queue."""
        return await list_groups(self._registry, request)

    @unary
    async def PauseGroup(self, request: pb.PauseGroupRequest, context: Context) -> pb.PauseGroupResponse:
        """Stop the delivery of a group's jobs."""
        return pb.PauseGroupResponse(group=await pause_group(self._registry, request.name, True))

    @unary
    async def ResumeGroup(self, request: pb.ResumeGroupRequest, context: Context) -> pb.ResumeGroupResponse:
        """Start it again."""
        return pb.ResumeGroupResponse(group=await pause_group(self._registry, request.name, False))

    @unary
    async def UpdateGroup(self, request: pb.UpdateGroupRequest, context: Context) -> pb.UpdateGroupResponse:
        """Change the rules of a group."""
        return pb.UpdateGroupResponse(group=await update_group(self._registry, request))

    @unary
    async def ListClasses(self, request: pb.ListClassesRequest, context: Context) -> pb.ListClassesResponse:
        """Count the queues of each class together."""
        visible = permitted("read")
        found = await members_by_class(self._registry, filter(visible, await self._registry.known()))
        return pb.ListClassesResponse(classes=[stats_of(*pair) for pair in found.items()])

    @unary
    async def PauseClass(self, request: pb.PauseClassRequest, context: Context) -> pb.PauseClassResponse:
        """Stop delivery in all queues of a class."""
        return pb.PauseClassResponse(queues=await pause_class(self._registry, check_class(request.queue_class), True))

    @unary
    async def ResumeClass(self, request: pb.ResumeClassRequest, context: Context) -> pb.ResumeClassResponse:
        """Start it again."""
        return pb.ResumeClassResponse(queues=await pause_class(self._registry, check_class(request.queue_class), False))

    @unary
    async def PurgeQueue(self, request: pb.PurgeQueueRequest, context: Context) -> pb.PurgeQueueResponse:
        """Delete jobs that wait."""
        store = self._registry.get(await self._known(request.name)).store
        return pb.PurgeQueueResponse(deleted=await purge(store))

    async def _known(self, name: str) -> str:
        queue = parse_queue(name)
        if queue not in await self._registry.known():
            raise queue_not_found(queue)
        return queue

    async def _pause(self, name: str, paused: bool) -> pb.Queue:
        queue = await self._registry.register(parse_queue(name))
        await queue.store.pause(paused)
        if not paused:
            queue.partition.wake()
        return await self._read(queue.name)

    async def _read(self, name: str) -> pb.Queue:
        stats = await self._registry.get(name).store.stats()
        queue = queue_of(name, stats)
        queue.policy.CopyFrom(policy_from_text(stats.policy).rules)
        queue.rate_in, queue.rate_out = stats.rate_in_milli / 1000, stats.rate_out_milli / 1000
        return queue


def _state_name(state: job_pb2.JobState.ValueType) -> str:
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_") if state in job_pb2.JobState.values() else str(state)
