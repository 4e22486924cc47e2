"""One run: brokers, workers, clients and a store under virtual time, until all is quiet; then the judgement."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1 import job_pb2, queue_service_pb2
from jobwire.v1 import job_service_pb2 as jobs_pb
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._reserves import QueueClass, Reserved
from jobwire_worker._session import SessionOptions

from tests.simulation.broker import SimulatedBroker
from tests.simulation.forget_watch import ForgetWatch
from tests.simulation.history import HUNG, LOST, STARVED, WRONG, History, Violation
from tests.simulation.judge import judge
from tests.simulation.network import Network, Refused
from tests.simulation.operators import Operators
from tests.simulation.plan import BUSY_S, Bound, JobPlan, Plan, payload_of
from tests.simulation.power_loss import PowerLoss
from tests.simulation.real_store import RealStore
from tests.simulation.room import KNOWN_S, Room
from tests.simulation.store_line import SharedStore
from tests.simulation.store_watch import StoreWatch
from tests.simulation.sweeps import Sweeps, small_pages
from tests.simulation.virtual_time import Hung, VirtualLoop, clocks_of
from tests.simulation.where import Wanted, Where
from tests.simulation.worker import SimulatedWorker, Step

#: How long the system may take to become quiet after the last fault, beside what handlers take that last for longer than LONG_S.
QUIET_S, LONG_S = 150.0, 3.0
#: A job that could run, and a worker with room for it, may stand beside each other so long while all is well.
STARVED_S = 6
_RETRY_S = 0.3
#: So often a job is sent to a queue that is full.
_FULL_TRIES = 4
#: A job that is due may be delayed so long while all is well.
_LATE_MS = 3000
#: What each class gives.
_ATTEMPTS = {"CRITICAL": 5, "HIGH": 3, "LOW": 1, "BATCH": 1}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
#: The same for all: the length of keys is part of what a run is.
_NAMESPACE = "sim"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    plan: Plan
    violation: Violation | None
    lines: list[tuple[float, str, str]]
    virtual_s: float
    calls: int
    turns: int
    runs: int


def run_plan(plan: Plan, real: RealStore) -> Outcome:
    """Run it. The store is left as it was."""
    loop = VirtualLoop()
    world = World(plan, loop, real, _NAMESPACE)
    calls = real.calls
    try:
        with clocks_of(loop), small_pages():
            try:
                loop.run_until_complete(world.run())
            except Hung as hung:
                world.history.blame(HUNG, str(hung))
            if world.history.violation is None:
                judge(world)
            outcome = Outcome(plan, world.history.violation, world.history.lines, loop.time(), real.calls - calls, loop.turns, world.count_runs())
            loop.end()
    finally:
        real.forget(f"{_NAMESPACE}:")
    return outcome


class World:
    """All that is simulated."""

    def __init__(self, plan: Plan, loop: VirtualLoop, real: RealStore, namespace: str) -> None:
        self.plan = plan
        self.loop = loop
        self.quiet_s = QUIET_S + sum(step.lasts_s for job in plan.jobs for step in job.steps if step.lasts_s > LONG_S)
        self.rng = random.Random(plan.seed * 7919 + 1)
        self.history = History(loop.time)
        self.store = SharedStore(loop, real, random.Random(plan.seed * 7919 + 2), namespace)
        self.watch = StoreWatch(self.store, self.history, {job.id: job for job in plan.jobs}, self._forget_watch())
        self.watch.limited = {self.base(queue) for queue in plan.ruled}
        by_base = {self.base(queue): queue for queue in plan.queues}
        self.watch.labels_with_room = lambda base: self._labels_with_room(by_base[base])
        self.network = Network(loop, random.Random(plan.seed * 7919 + 3))
        self.addresses = [f"unix:broker{i}" for i in range(plan.brokers)]
        self.brokers: list[SimulatedBroker | None] = [None] * plan.brokers
        self.workers: list[SimulatedWorker | None] = [None] * len(plan.workers)
        self.by_id: dict[str, JobPlan] = {job.id: job for job in plan.jobs}
        self.troubles = 0
        """Faults that last now."""
        self.well_since_s = 0.0
        self.calm: list[tuple[float, float]] = []
        """When nothing was wrong, up to now."""
        self.paused: dict[str, int] = {}
        self.was_paused: dict[str, bool] = {}
        self.attempts: dict[str, set[int]] = {queue: {3, *(_ATTEMPTS[name] for name in plan.classes.get(queue, ()))} for queue in plan.queues}
        """What a queue's jobs may have for attempts when they say nothing."""
        self.paused_groups: dict[tuple[str, str], int] = {}
        """Groups that were ever paused, and how many callers want them to be now."""
        self.sweeps = Sweeps(self)
        self.operators = Operators(self)
        self.room = Room(self)
        self.history.classes = plan.classes
        self.power_loss = PowerLoss(self)
        self.thaws: list[tuple[str, str, float]] = []
        """When somebody began to resume a group, which ends a worker's word as well. The call may be repeated, and carried out at any time after it."""
        self._open_calls = 0
        self._names = 0
        self._stop: asyncio.Event = asyncio.Event()
        self.history.on_blame = self._stop.set

    def _forget_watch(self) -> ForgetWatch:
        by_base = {self.base(queue): [job for job in self.plan.jobs if job.queue == queue] for queue in self.plan.queues if self.plan.may_forget(queue)}
        return ForgetWatch(self.store, self.history, by_base, {self.base(queue): rules for queue, rules in self.plan.rules.items()})

    def base(self, queue: str) -> str:
        """What all keys of a queue begin with."""
        return f"{self.store.namespace}:{{{queue}}}:"

    def count_runs(self) -> int:
        """How often a handler began."""
        return sum(len(story.runs) for story in self.history.jobs.values())

    async def run(self) -> None:
        """Begin, let the plan happen, and wait until it is quiet."""
        for i in range(self.plan.brokers):
            self._start_broker(i)
        for i in range(len(self.plan.workers)):
            self._start_worker(i)
        for action in self.plan.actions:
            self.loop.call_at(action.at_s, self._do, action.kind, action.arguments)
        monitor = self.loop.create_task(self._monitor())
        await self._stop.wait()
        monitor.cancel()

    async def _monitor(self) -> None:
        starving = 0
        while True:
            await asyncio.sleep(1.0)
            now = self.loop.time()
            counts = self.watch.counts([self.base(queue) for queue in self.plan.queues])
            if now > BUSY_S and not self.troubles and not self._open_calls and not any(counts):
                self._stop.set()
            if now - max(self.well_since_s, BUSY_S) > self.quiet_s:
                self.history.blame(HUNG, f"after {self.quiet_s:.0f} s without faults {counts[0]} jobs wait, {counts[1]} are delayed, {counts[2]} are active")
            self._undo_late_pauses()
            self.room.look()
            if self._is_well() and any(self.watch.is_late(self.base(queue), _LATE_MS) for queue in self.plan.queues):
                self.history.blame(STARVED, f"a job is still delayed {_LATE_MS} ms after its time, while all is well")
            starving = starving + 1 if self._is_starving() else 0
            if starving > STARVED_S:
                self.history.blame(STARVED, f"jobs wait and a worker has room, for {starving} s, while all is well")

    def _undo_late_pauses(self) -> None:
        """A pause may be carried out after the resume that followed it: whoever sees that resumes again."""
        for queue in self.plan.queues:
            if queue not in self.paused and self.watch.is_paused(self.base(queue)):
                self.do_pause(queue, 0.0)
        for (queue, group), wanted in self.paused_groups.items():
            if not wanted and self.watch.is_group_paused(self.base(queue), group):
                self.do_pause_group(queue, group, 0.0)

    def _is_well(self) -> bool:
        """Whether all has been well for a while."""
        return not self.troubles and self.loop.time() - self.well_since_s >= 2 * self.plan.session_s

    def _is_starving(self) -> bool:
        if not self._is_well():
            return False
        for queue in self.plan.queues:
            if queue in self.paused:
                continue
            if any(self.watch.must_serve(self.base(queue), labels) for labels in self._labels_with_room(queue)):
                return True
        return False

    def _labels_with_room(self, queue: str) -> list[frozenset[tuple[str, str]]]:
        return [frozenset(worker.options.labels.items()) for worker in self.workers if worker is not None and self.room.of(worker, queue) > 0]

    # Processes ----------------------------------------------------------------------------------------------------------------------------------------

    def _start_broker(self, i: int) -> None:
        self.brokers[i] = SimulatedBroker(self.loop, self.store, self.network, self.addresses[i], self.plan.session_s)

    def _start_worker(self, i: int) -> None:
        concurrency, queues = self.plan.workers[i]
        self._names += 1
        options = SessionOptions(
            queues=queues,
            concurrency=concurrency,
            instance_id=f"worker{i}.{self._names}",
            labels=self.plan.labels_of(i),
            session_time_s=self.plan.session_s,
            reserved=_reserved(self.plan, i),
        )
        self.workers[i] = SimulatedWorker(self.loop, self.network, self.history, f"worker{i}.{self._names}", self.addresses, options, self._script)

    def _script(self, delivery: pb.Delivery) -> Step:
        job = self.by_id[delivery.id]
        snoozed = sum(1 for run in self.history.story(job.id).runs if run.outcome == "snooze")
        if snoozed < job.snoozes:
            return Step("snooze", 0.05, 0.5)
        if sum(1 for run in self.history.story(job.id).runs if run.outcome == "limit_group") < job.limited:
            return Step("limit_group", 0.05, 0.5)
        return job.steps[min(delivery.attempt, len(job.steps)) - 1]

    # The plan -----------------------------------------------------------------------------------------------------------------------------------------

    def _do(self, kind: str, arguments: Sequence[Any]) -> None:
        self.history.tell(f"* {kind} {' '.join(map(str, arguments))}")
        name = f"do_{kind}"
        getattr(self if hasattr(self, name) else self.operators, name)(*arguments)

    @contextmanager
    def _trouble(self, for_s: float, undo: Callable[[], None]) -> Any:
        """A fault begins, and is undone after its time."""
        self._begin_trouble()
        yield
        self.loop.call_later(for_s, self._end_trouble, undo)

    def _begin_trouble(self) -> None:
        if not self.troubles:
            self.calm.append((self.well_since_s, self.loop.time()))
        self.troubles += 1

    def was_calm(self, from_s: float, to_s: float) -> bool:
        """Whether nothing was wrong in this time, and had not been for a while before."""
        spans = [*self.calm, (self.well_since_s, self.loop.time())] if not self.troubles else self.calm
        return any(began_s + 2 * self.plan.session_s * (began_s > 0) <= from_s and to_s <= ended_s for began_s, ended_s in spans)

    def had_peace(self, since_s: float, for_s: float) -> bool:
        """Whether nothing was wrong for so long at a time since then, and had not been for a while before."""
        spans = [*self.calm, (self.well_since_s, self.loop.time())] if not self.troubles else self.calm
        return any(ended_s - max(began_s + 2 * self.plan.session_s * (began_s > 0), since_s) >= for_s for began_s, ended_s in spans)

    def _end_trouble(self, undo: Callable[[], None]) -> None:
        undo()
        self.troubles -= 1
        self.well_since_s = self.loop.time()

    def do_enqueue(self, number: int) -> None:
        job = self.plan.jobs[number]
        self._try_enqueue(job)
        self.loop.create_task(self._enqueue(job))

    def do_enqueue_batch(self, *numbers: int) -> None:
        jobs = [self.plan.jobs[number] for number in numbers]
        for job in jobs:
            self._try_enqueue(job)
            self.history.story(job.id).batch = (self.loop.time(), numbers.index(job.number))
        self.loop.create_task(self._enqueue_batch(jobs))

    def _try_enqueue(self, job: JobPlan) -> None:
        story = self.history.story(job.id)
        story.tried_s, story.timeout_s, story.is_timed = self.loop.time(), job.timeout_s, job.is_timed
        story.labels = job.labels
        if self.sweeps.may_delete(job.queue):
            story.verbs.append(("delete", self.loop.time(), None, ""))

    async def _enqueue(self, job: JobPlan) -> None:
        request = jobs_pb.EnqueueRequest(job=spec_of(job), durability=_durability((job,)))
        for _ in range(_FULL_TRIES):
            answer = await self.persist("Enqueue", request)
            if not isinstance(answer, Refused):
                self._acknowledged(job, answer, job.is_durable)
                return
            self._refused(job, answer.code, str(answer))
            await asyncio.sleep(1.0)
        self._give_up(job)

    def _give_up(self, job: JobPlan) -> None:
        story = self.history.story(job.id)
        story.is_surely_refused = self.was_calm(story.tried_s or 0.0, self.loop.time())

    async def _enqueue_batch(self, jobs: Sequence[JobPlan]) -> None:
        """Those that are refused because their queue is full come again alone."""
        request = jobs_pb.EnqueueBatchRequest(jobs=map(spec_of, jobs), durability=_durability(jobs))
        answer = await self.persist("EnqueueBatch", request)
        if isinstance(answer, Refused) or len(answer.items) != len(jobs):
            self.history.blame(WRONG, f"a good batch of {len(jobs)} jobs was answered with {answer}")
            return
        full: dict[str, JobPlan] = {}
        for job, item in zip(jobs, answer.items, strict=True):
            if item.verdict == jobs_pb.ENQUEUE_VERDICT_REFUSED:
                self._refused(job, _CODES[item.error.code], item.error.message)
                full[job.id] = job
            else:
                self._acknowledged(job, item, request.durability == job_pb2.DURABILITY_DISK)
        for job in full.values():
            if self.history.story(job.id).acknowledged_s is None:
                self.loop.create_task(self._enqueue(job))

    def _refused(self, job: JobPlan, code: grpc.StatusCode, text: str) -> None:
        self.history.story(job.id).refused = text
        self.history.tell(f"refused: {text}", job.id)
        if code is not grpc.StatusCode.RESOURCE_EXHAUSTED or not self._depth(job.queue):
            self.history.blame(WRONG, f"a good job was refused: {text}", job.id)

    def _acknowledged(self, job: JobPlan, answer: Any, is_durable: bool) -> None:
        story = self.history.story(job.id)
        story.acknowledged_s = self.loop.time()
        story.alias = answer.id if answer.id != job.id else ""
        self.history.tell(f"enqueued{f', as {answer.id}' if story.alias else ''}", job.id)
        if (answer.verdict == jobs_pb.ENQUEUE_VERDICT_MADE) == bool(story.alias) or answer.name != f"queues/{job.queue}/jobs/{answer.id}":
            self.history.blame(WRONG, f"the answer to an enqueue does not fit: {answer}", job.id)
        made_us = self.watch.verbs.made_us.get(job.id, 0)
        if is_durable and not story.alias and self.store.synced_us < made_us:
            self.history.blame(LOST, f"{job.id} is said to be on disk, and was not brought there since it was made", job.id)

    def _depth(self, queue: str) -> int:
        """0 when no job may be refused because of it."""
        return 1 if queue in self.plan.moving else self.plan.rules[queue].depth if queue in self.plan.rules else 0

    def do_set_rules(self, queue: str) -> None:
        rules = self.plan.rules[queue]
        request = queue_service_pb2.UpdateQueueRequest(queue=queue_service_pb2.Queue(name=f"queues/{queue}"))
        policy = request.queue.policy
        policy.max_depth, policy.worker_slots = rules.depth, rules.slots
        for state, count in rules.kept.items():
            getattr(policy.retention, state).count = count
        request.update_mask.paths.extend(("policy.max_depth", "policy.worker_slots", *(f"policy.retention.{state}.count" for state in rules.kept)))
        self.loop.create_task(self._set_rules(queue, request))

    async def _set_rules(self, queue: str, request: queue_service_pb2.UpdateQueueRequest) -> None:
        await self.update_queue(request)
        rules = self.plan.rules[queue]
        self.history.tell(f"the rules of {queue} are in force: {rules}")
        if queue in self.plan.moving:
            return
        if rules.depth:
            self.watch.verbs.hold_to_depth(self.base(queue), rules.depth)
        if rules.slots:
            self.history.slots[queue] = (self.loop.time() + KNOWN_S, rules.slots)

    def do_set_policy(self, queue: str, attempts: int, base_s: float) -> None:
        self.attempts[queue].add(attempts)
        request = queue_service_pb2.UpdateQueueRequest(queue=queue_service_pb2.Queue(name=f"queues/{queue}"))
        request.queue.policy.attempts = attempts
        request.queue.policy.backoff.base.CopyFrom(duration_of(base_s))
        request.update_mask.paths.extend(("policy.attempts", "policy.backoff"))
        self.loop.create_task(self.update_queue(request))

    def do_set_limits(self, queue: str, number: int) -> None:
        bounds = self.plan.bounds[queue][number]
        request = queue_service_pb2.UpdateQueueRequest(queue=queue_service_pb2.Queue(name=f"queues/{queue}"))
        policy = request.queue.policy
        for bound, limit in ((bounds.whole, policy.limit), (bounds.group, policy.group_limit), (bounds.heavy, policy.job_limits["heavy"])):
            limit.concurrency = bound.concurrency
            if bound.count:
                limit.rate.count, limit.rate.burst = bound.count, bound.burst
                limit.rate.period.CopyFrom(duration_of(bound.period_s))
        if bounds.heavy == Bound():
            del policy.job_limits["heavy"]
        request.update_mask.paths.extend(("policy.limit", "policy.group_limit", "policy.job_limits"))
        self.loop.create_task(self._limit(queue, request))

    async def _limit(self, queue: str, request: queue_service_pb2.UpdateQueueRequest) -> None:
        await self.update_queue(request)
        self.history.tell(f"the limits of {queue} are in force")
        # A call that is repeated late may bring earlier limits back: where they change, the reference chooser alone judges them, by what the store has.
        if len(self.plan.bounds[queue]) == 1:
            self.watch.bounds[self.base(queue)] = (self.loop.time(), self.plan.bounds[queue][0])

    def do_set_ageing(self, queue: str, ageing_s: float) -> None:
        request = queue_service_pb2.UpdateQueueRequest(queue=queue_service_pb2.Queue(name=f"queues/{queue}"))
        request.queue.policy.ageing.CopyFrom(duration_of(ageing_s))
        request.update_mask.paths.append("policy.ageing")
        self.loop.create_task(self.update_queue(request))

    def do_set_group(self, queue: str, group: str, weight: float, express: bool, concurrency: int | None) -> None:
        request = queue_service_pb2.UpdateGroupRequest(group=queue_service_pb2.Group(name=f"queues/{queue}/groups/{group}", weight=weight, express=express))
        if concurrency is not None:
            request.group.limit.concurrency = concurrency
            self.watch.own_limits.add((self.base(queue), group))
        request.update_mask.paths.extend(("weight", "express", "limit"))
        self.loop.create_task(self._set_group(request))

    async def _set_group(self, request: queue_service_pb2.UpdateGroupRequest) -> None:
        answer = await self.persist("UpdateGroup", request)
        if isinstance(answer, Refused):
            self.history.blame(WRONG, f"good rules of a group were refused: {answer}")
        elif (answer.group.weight, answer.group.express, answer.group.limit) != (request.group.weight, request.group.express, request.group.limit):
            self.history.blame(WRONG, f"a group got other rules than were asked for: {answer.group}")

    def do_pause_group(self, queue: str, group: str, for_s: float) -> None:
        self.loop.create_task(self._pause_group(queue, group, for_s))

    async def _pause_group(self, queue: str, group: str, for_s: float) -> None:
        name = f"queues/{queue}/groups/{group}"
        self.paused_groups[queue, group] = self.paused_groups.get((queue, group), 0) + 1
        await self.persist("PauseGroup", queue_service_pb2.PauseGroupRequest(name=name))
        await asyncio.sleep(for_s)
        self.thaws.append((queue, group, self.loop.time()))
        await self.persist("ResumeGroup", queue_service_pb2.ResumeGroupRequest(name=name))
        self.paused_groups[queue, group] -= 1

    async def update_queue(self, request: queue_service_pb2.UpdateQueueRequest) -> None:
        """Change a policy, however often that must be tried."""
        answer = await self.persist("UpdateQueue", request)
        if isinstance(answer, Refused):
            self.history.blame(WRONG, f"a good policy was refused: {answer}")

    async def persist(self, method: str, request: Any) -> Any:
        """Repeat a call until it is answered. The answer, or what it was refused with."""
        self._open_calls += 1
        try:
            while True:
                try:
                    return await self.network.call(self.rng.choice(self.addresses), method, request)
                except Refused as refused:
                    if refused.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        return refused
                await asyncio.sleep(_RETRY_S * (0.5 + self.rng.random()))
        finally:
            self._open_calls -= 1

    def do_cancel(self, number: int, grace_s: float) -> None:
        name = self._name(number)
        self.history.story(self.plan.jobs[number].id).graces.append(grace_s)
        self._verb("cancel", number, "CancelJob", jobs_pb.CancelJobRequest(name=name, grace=duration_of(grace_s)))

    def do_retry(self, number: int) -> None:
        self._verb("retry", number, "RetryJob", jobs_pb.RetryJobRequest(name=self._name(number)))

    def do_promote(self, number: int) -> None:
        self._verb("promote", number, "PromoteJob", jobs_pb.PromoteJobRequest(name=self._name(number)))

    def do_delete(self, number: int) -> None:
        self._verb("delete", number, "DeleteJob", jobs_pb.DeleteJobRequest(name=self._name(number)))

    def do_update(self, number: int, priority: int) -> None:
        job = job_pb2.Job(name=self._name(number), priority=priority)
        self.history.story(self.plan.jobs[number].id).priorities.append(priority)
        self._verb("update", number, "UpdateJob", jobs_pb.UpdateJobRequest(job=job, update_mask=FieldMask(paths=["priority"])))

    def do_change_payload(self, number: int, content: int) -> None:
        job = job_pb2.Job(name=self._name(number), payload=job_pb2.Payload(json=payload_of(content)))
        self._verb("change", number, "UpdateJob", jobs_pb.UpdateJobRequest(job=job, update_mask=FieldMask(paths=["payload"])))

    def do_change_team(self, number: int, team: str) -> None:
        job = job_pb2.Job(name=self._name(number), labels={"team": team} if team else {})
        self._verb("change", number, "UpdateJob", jobs_pb.UpdateJobRequest(job=job, update_mask=FieldMask(paths=["labels"])))

    def do_change_due(self, number: int, in_s: float) -> None:
        job = job_pb2.Job(name=self._name(number))
        job.due_time.FromMicroseconds(self.store.now_us() + round(in_s * 1e6))
        self._verb("change", number, "UpdateJob", jobs_pb.UpdateJobRequest(job=job, update_mask=FieldMask(paths=["due_time"])))

    def do_retry_with(self, number: int, content: int) -> None:
        self._verb("retry", number, "RetryJob", jobs_pb.RetryJobRequest(name=self._name(number), payload=job_pb2.Payload(json=payload_of(content))))

    def _name(self, number: int) -> str:
        job = self.plan.jobs[number]
        return f"queues/{job.queue}/jobs/{job.id}"

    def _verb(self, verb: str, number: int, method: str, request: Any) -> None:
        self.loop.create_task(self._act(verb, self.plan.jobs[number], method, request))

    async def _act(self, verb: str, job: JobPlan, method: str, request: Any) -> None:
        story = self.history.story(job.id)
        place = len(story.verbs)
        tried_s = self.loop.time()
        story.verbs.append((verb, tried_s, None, ""))
        answer = await self.persist(method, request)
        if isinstance(answer, Refused):
            word = answer.code.name
        else:
            word = job_pb2.JobState.Name(answer.job.state).removeprefix("JOB_STATE_") if verb != "delete" else "OK"
        story.verbs[place] = (verb, tried_s, self.loop.time(), word)
        self.history.tell(f"{verb} answered: {word}", job.id)

    def do_bulk(self, queue: str, verb: str, where: Where, grace_s: float, wait_s: float, stop_s: float | None = None) -> None:
        wanted = Wanted(where, verb, self.store.now_us())
        request = jobs_pb.BulkJobsRequest(parent=f"queues/{queue}", verb=jobs_pb.BulkVerb.Value(f"BULK_VERB_{verb.upper()}"), filter=wanted.message())
        if verb == "cancel":
            request.grace.CopyFrom(duration_of(grace_s))
        self.loop.create_task(self.sweeps.bulk(queue, verb, request, wanted, wait_s, stop_s))

    def do_purge(self, queue: str) -> None:
        self.loop.create_task(self.sweeps.purge(queue))

    def do_pause(self, queue: str, for_s: float) -> None:
        self.loop.create_task(self._pause(queue, for_s))

    async def _pause(self, queue: str, for_s: float) -> None:
        name = f"queues/{queue}"
        self.begin_pause(queue)
        await self.persist("PauseQueue", queue_service_pb2.PauseQueueRequest(name=name))
        self.is_paused(queue)
        await asyncio.sleep(for_s)
        self.watch.paused.discard(self.base(queue))
        await self.persist("ResumeQueue", queue_service_pb2.ResumeQueueRequest(name=name))
        self.end_pause(queue)

    def begin_pause(self, queue: str) -> None:
        """Somebody tries to pause a queue."""
        self.paused[queue] = self.paused.get(queue, 0) + 1

    def is_paused(self, queue: str) -> None:
        """It was paused. A late request of somebody who resumed it before may still undo this, so it is looked at only when nobody did."""
        if not self.was_paused.get(queue):
            self.watch.paused.add(self.base(queue))
        self.was_paused[queue] = True

    def end_pause(self, queue: str) -> None:
        """It was resumed."""
        self.paused[queue] -= 1
        if not self.paused[queue]:
            del self.paused[queue]
        if not self.troubles:
            self.calm.append((self.well_since_s, self.loop.time()))
        self.well_since_s = self.loop.time()

    # Faults -------------------------------------------------------------------------------------------------------------------------------------------

    def do_kill_broker(self, i: int, for_s: float) -> None:
        broker = self.brokers[i]
        if broker is None:
            return
        self.brokers[i] = None
        with self._trouble(for_s, lambda: self._start_broker(i)):
            broker.process.kill()

    def do_stop_broker(self, i: int, for_s: float) -> None:
        broker = self.brokers[i]
        if broker is None:
            return
        self.brokers[i] = None
        self._begin_trouble()
        self.loop.create_task(self._stop_broker(i, broker, for_s))

    async def _stop_broker(self, i: int, broker: SimulatedBroker, for_s: float) -> None:
        await asyncio.wait([broker.process.run(broker.stop())], timeout=15)
        broker.process.kill()
        await asyncio.sleep(for_s)
        self._end_trouble(lambda: self._start_broker(i))

    def do_freeze_broker(self, i: int, for_s: float) -> None:
        broker = self.brokers[i]
        if broker is None or broker.process.frozen:
            return
        with self._trouble(for_s, broker.process.thaw):
            broker.process.freeze()

    def do_kill_worker(self, i: int, for_s: float) -> None:
        worker = self.workers[i]
        if worker is None:
            return
        self.workers[i] = None
        with self._trouble(for_s, lambda: self._start_worker(i)):
            worker.process.kill()

    def do_drain_worker(self, i: int, for_s: float) -> None:
        worker = self.workers[i]
        if worker is None:
            return
        self.workers[i] = None
        with self._trouble(for_s + 1.0, lambda: self._start_worker(i)):
            worker.drain(min(for_s, 2.0))

    def do_freeze_worker(self, i: int, for_s: float) -> None:
        worker = self.workers[i]
        if worker is None or worker.process.is_stopped:
            return
        with self._trouble(for_s, worker.process.thaw):
            worker.process.freeze()

    def do_partition(self, pair: tuple[int, int], for_s: float) -> None:
        worker = self.workers[pair[0]]
        if worker is None:
            return
        split = (worker.name, self.addresses[pair[1]])
        with self._trouble(for_s, lambda: self.network.heal(*split)):
            self.network.part(*split)

    def do_silence_streams(self, for_s: float) -> None:
        with self._trouble(for_s, lambda: None):
            for link in self._some_streams():
                link.is_silent = True

    def do_break_streams(self, for_s: float) -> None:
        with self._trouble(for_s, lambda: None):
            for link in self._some_streams():
                link.break_off()

    def _some_streams(self) -> list[Any]:
        streams = list(self.network.streams)
        return self.rng.sample(streams, self.rng.randint(0, len(streams)))

    def do_store_down(self, for_s: float) -> None:
        with self._trouble(for_s, self.store.come_back):
            self.store.go_down(swallows=False)

    def do_store_swallows(self, for_s: float) -> None:
        with self._trouble(for_s, self.store.come_back):
            self.store.go_down(swallows=True)

    def do_write_to_disk(self) -> None:
        self.power_loss.write()

    def do_lose_power(self, for_s: float) -> None:
        with self._trouble(for_s, self.store.come_back):
            self.store.go_down(swallows=False)
            self.store.starts += 1
            self.power_loss.strike()

    def _weather(self, for_s: float, name: str, value: float) -> None:
        with self._trouble(for_s, lambda: setattr(self.store.weather, name, 0.0)):
            setattr(self.store.weather, name, value)

    def do_lose_store_requests(self, for_s: float) -> None:
        self._weather(for_s, "lost_requests", self.rng.choice((0.02, 0.1, 0.4)))

    def do_lose_store_answers(self, for_s: float) -> None:
        self._weather(for_s, "lost_answers", self.rng.choice((0.02, 0.1, 0.4)))

    def do_delay_store_requests(self, for_s: float) -> None:
        self._weather(for_s, "late_requests", self.rng.choice((0.02, 0.1, 0.3)))

    def do_lose_messages(self, for_s: float) -> None:
        self._weather(for_s, "lost_messages", self.rng.choice((0.3, 1.0)))

    def do_slow_store(self, for_s: float) -> None:
        self._weather(for_s, "slow_s", self.rng.choice((0.01, 0.1, 0.5)))

    def do_slow_network(self, for_s: float) -> None:
        self._set_network(for_s, "slow_s", self.rng.choice((0.02, 0.3, 1.0)))

    def do_lose_calls(self, for_s: float) -> None:
        self._set_network(for_s, "lost_calls", self.rng.choice((0.1, 0.5)))

    def do_repeat_calls(self, for_s: float) -> None:
        self._set_network(for_s, "repeated_calls", self.rng.choice((0.1, 0.5)))

    def _set_network(self, for_s: float, name: str, value: float) -> None:
        with self._trouble(for_s, lambda: setattr(self.network, name, 0.0)):
            setattr(self.network, name, value)


def _reserved(plan: Plan, worker: int) -> Reserved:
    if worker not in plan.reserves:
        return {}
    name, slots = plan.reserves[worker]
    return {name if name in plan.queues else QueueClass[name]: slots}


def spec_of(job: JobPlan) -> job_pb2.JobSpec:
    """The job as its caller sends it."""
    spec = job_pb2.JobSpec(queue=job.queue, id=job.id, job_name=job.name, priority=job.priority, attempts=job.attempts, group=job.group)
    if job.units > 1:
        spec.units = job.units
    spec.required_labels.update(job.labels)
    spec.payload.json = job.payload
    if job.errors_are_permanent:
        spec.permanent_errors.append("Error")
    if job.is_forgotten or job.kept_s:
        spec.retention.CopyFrom(duration_of(job.kept_s))
    if job.team:
        spec.labels["team"] = job.team
    if job.delays_s:
        for delay_s in job.delays_s:
            spec.backoff.delays.add().CopyFrom(duration_of(delay_s))
        spec.backoff.jitter = 0.1
    elif job.attempts:
        spec.backoff.base.CopyFrom(duration_of(job.base_s))
        spec.backoff.jitter = 0.1
    for name, seconds in (("delay", job.delay_s), ("timeout", job.timeout_s), ("total_timeout", job.total_s), ("expires_in", job.expires_s)):
        if seconds:
            getattr(spec, name).CopyFrom(duration_of(seconds))
    if job.identity:
        identity: Any = getattr(spec, job.identity)
        identity.key = job.key
        field = {"idempotency": "ttl", "debounce": "delay", "throttle": "period"}.get(job.identity)
        if field is not None:
            getattr(identity, field).CopyFrom(duration_of(job.window_s))
        if job.max_wait_s:
            identity.max_wait.CopyFrom(duration_of(job.max_wait_s))
    return spec


def _durability(jobs: Sequence[JobPlan]) -> job_pb2.Durability.ValueType:
    return job_pb2.DURABILITY_DISK if any(job.is_durable for job in jobs) else job_pb2.DURABILITY_UNSPECIFIED


def duration_of(seconds: float) -> Duration:
    """As the contract has it."""
    made = Duration()
    made.FromMilliseconds(round(seconds * 1000))
    return made
