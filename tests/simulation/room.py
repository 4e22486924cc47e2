"""How much room there is for the jobs of a queue, where that changes while jobs run: its depth, and its slots and reserves on each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobwire.v1 import policy_pb2
from jobwire_broker.store.policy import policy_from_text

from tests.simulation.worker import SimulatedWorker

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Every broker that is well knows a policy so long after it was set.
KNOWN_S = 3.0


class Room:
    """That of all queues."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queues = {world.base(queue): queue for queue in world.plan.queues if queue in world.plan.moving}
        self._slots: dict[str, list[tuple[float, int]]] = {queue: [(0.0, 0)] for queue in world.plan.moving}
        """By queue: since when there are how many, with those before as long as some broker may not know better."""
        self._classes: dict[str, str] = {}
        """By queue: that of now."""
        world.watch.on_policy = self._changed

    def _changed(self, base: str) -> None:
        """The store has another policy."""
        if base not in self._queues:
            return
        queue, world = self._queues[base], self._world
        policy = policy_from_text((world.store.real.ask("HGET", base + "m", "policy") or b"").decode())
        self._slots[queue].append((world.loop.time(), policy.slots))
        self._classes[queue] = policy_pb2.QueueClass.Name(policy.queue_class).removeprefix("QUEUE_CLASS_")
        world.history.slots.pop(queue, None)
        world.watch.verbs.hold_to_depth(base, policy.rules.max_depth)

    def look(self) -> None:
        """Find out whether all brokers know the policies of now."""
        history, now_s = self._world.history, self._world.loop.time()
        for queue in self._slots:
            if self.is_known(queue):
                self._slots[queue] = self._slots[queue][-1:]
                slots = self._slots[queue][0][1]
                if slots:
                    history.slots.setdefault(queue, (now_s, slots))

    def is_known(self, queue: str) -> bool:
        """Whether all has been well for long enough since the policy of a queue was changed for the last time. Each class gives slots."""
        since_s, slots = self._slots[queue][-1]
        return bool(slots or queue not in self._world.plan.classes) and self._world.had_peace(since_s, KNOWN_S)

    def of(self, worker: SimulatedWorker, queue: str) -> int:
        """How many more jobs of a queue a worker would take, and gets for sure if there are some."""
        if queue not in worker.options.queues or any(self._world.watch.runs_alone(run.job, run.token) for run in worker.running()):
            return 0
        room, slots = worker.room - self._kept_from(worker, queue), self._least_slots(queue)
        return min(room, slots - worker.held_in(queue)) if slots else room

    def _least_slots(self, queue: str) -> int:
        if queue not in self._slots:
            return self._world.plan.rules[queue].slots if queue in self._world.plan.rules else 0
        return min((slots for _, slots in self._slots[queue] if slots), default=0)

    def _kept_from(self, worker: SimulatedWorker, queue: str) -> int:
        kept = 0
        for key, slots in worker.options.reserved.items():
            members = {key} if isinstance(key, str) else self.members(key.name).keys()
            if queue not in members:
                # A handler that goes on after its attempt was given up takes room, and no slot of those that are kept: brokers count it no more.
                kept += max(0, slots - sum(map(worker.running_in, members)))
        return kept

    def members(self, class_name: str) -> dict[str, float]:
        """The queues that all brokers know to be of a class; since when their policies have been as they are."""
        return {queue: self._slots[queue][-1][0] for queue, name in self._classes.items() if name == class_name and self.is_known(queue)}
