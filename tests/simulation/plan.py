"""What happens in a run: jobs, verbs and faults, all drawn from one seed. A plan is data, so that parts of it can be left out to shrink a failure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.worker import Step

#: Nothing new begins after this; faults are over by then.
BUSY_S = 14.0


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job: how it is enqueued, and what its handlers do."""

    number: int
    id: str
    queue: str
    priority: int
    delay_s: float
    attempts: int
    base_s: float
    steps: tuple[Step, ...]
    """By attempt."""
    snoozes: int = 0
    """So many runs snooze first."""

    def expected(self) -> str:
        """How it ends when nothing is done to it and no worker dies."""
        for step in self.steps[: self.attempts]:
            if step.outcome in ("complete", "result"):
                return "COMPLETED"
            if step.outcome == "permanent":
                return "FAILED"
        return "FAILED"


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens at a time. `kind` names a method of the world."""

    at_s: float
    kind: str
    arguments: tuple[object, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:7.3f} s  {self.kind} {' '.join(map(str, self.arguments))}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it."""

    seed: int
    session_s: float
    brokers: int
    workers: tuple[tuple[int, tuple[str, ...]], ...]
    """Concurrency and queues of each."""
    queues: tuple[str, ...]
    jobs: tuple[JobPlan, ...]
    actions: tuple[Action, ...] = field(default=())

    def without(self, actions: Sequence[Action]) -> Plan:
        """The same with fewer actions."""
        left = tuple(action for action in self.actions if action not in actions)
        return replace(self, actions=left)


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    return _Planner(seed).plan()


class _Planner:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.actions: list[Action] = []

    def plan(self) -> Plan:
        rng = self.rng
        queues = ("a", "b")[: rng.choice((1, 1, 2))]
        brokers = rng.choice((1, 2, 2, 3))
        workers = tuple((rng.choice((1, 2, 3, 5)), queues if rng.random() < 0.8 else (rng.choice(queues),)) for _ in range(rng.choice((1, 2, 3, 4))))
        if not all(any(queue in taken for _, taken in workers) for queue in queues):
            workers = (*workers, (2, queues))
        jobs = tuple(self._job(number, queues) for number in range(rng.randint(12, 45)))
        for job in jobs:
            self._add(rng.random() ** 2 * BUSY_S * 0.8, "enqueue", job.number)
        self._verbs(jobs, queues)
        self._faults(brokers, len(workers))
        self.actions.sort(key=lambda action: (action.at_s, str(action)))
        return Plan(self.seed, rng.choice((3.0, 5.0, 10.0)), brokers, workers, queues, jobs, tuple(self.actions))

    def _add(self, at_s: float, kind: str, *arguments: object) -> None:
        self.actions.append(Action(round(at_s, 4), kind, arguments))

    def _job(self, number: int, queues: Sequence[str]) -> JobPlan:
        rng = self.rng
        attempts = rng.choice((1, 2, 3, 3, 3, 4))
        steps = tuple(self._step() for _ in range(attempts))
        id_ = f"{number:x}".rjust(4, "0") + rng.randbytes(14).hex() if rng.random() < 0.8 else f"chosen-{number}"
        return JobPlan(
            number,
            id_,
            rng.choice(list(queues)),
            rng.choice((5, 5, 5, 5, 1, 0, 10, -3)),
            rng.choice((0, 0, 0, 0, 0, 0.05, 1.0, 4.0)),
            attempts,
            rng.choice((0.0, 0.1, 0.5, 2.0)),
            steps,
            rng.choice((0, 0, 0, 0, 0, 0, 1, 2)),
        )

    def _step(self) -> Step:
        rng = self.rng
        outcome = rng.choices(("complete", "result", "fail", "permanent"), (10, 3, 4, 1))[0]
        lasts_s = rng.choice((0.0, 0.01, 0.05, 0.2, 0.2, 0.5, 1.0, 3.0))
        wait_s = rng.choice((0.0, 0.3, 1.0)) if outcome == "fail" and rng.random() < 0.2 else None
        return Step(outcome, lasts_s, wait_s, rng.random() < 0.7, rng.choice((0, 0, 0, 1, 3)))

    def _verbs(self, jobs: Sequence[JobPlan], queues: Sequence[str]) -> None:
        rng = self.rng
        for _ in range(rng.choice((0, 0, 1, 3, 6))):
            verb = rng.choice(("cancel", "cancel", "cancel", "retry", "promote", "delete"))
            self._add(rng.random() * BUSY_S, verb, rng.choice(jobs).number, *((rng.choice((0.0, 0.5, 3.0)),) if verb == "cancel" else ()))
        if rng.random() < 0.2:
            at_s = rng.random() * BUSY_S * 0.8
            queue = rng.choice(list(queues))
            self._add(at_s, "pause", queue)
            self._add(at_s + rng.random() * 3, "resume", queue)

    def _faults(self, brokers: int, workers: int) -> None:
        rng = self.rng
        kinds = rng.sample(sorted(_FAULTS), rng.choice((0, 1, 1, 2, 2, 3, 4)))
        for kind in kinds:
            for _ in range(rng.choice((1, 1, 2, 3))):
                at_s = rng.random() * BUSY_S * 0.8
                for_s = min(rng.choice((0.05, 0.3, 1.0, 3.0, 7.0)) * (0.5 + rng.random()), BUSY_S - at_s)
                target = {"broker": rng.randrange(brokers), "worker": rng.randrange(workers), "pair": (rng.randrange(workers), rng.randrange(brokers))}
                what = _FAULTS[kind]
                if what == "":
                    self._add(at_s, kind, round(for_s, 3))
                else:
                    self._add(at_s, kind, target[what], round(for_s, 3))


#: What each fault strikes.
_FAULTS = {
    "kill_broker": "broker",
    "stop_broker": "broker",
    "freeze_broker": "broker",
    "kill_worker": "worker",
    "drain_worker": "worker",
    "freeze_worker": "worker",
    "partition": "pair",
    "silence_streams": "",
    "break_streams": "",
    "store_down": "",
    "store_swallows": "",
    "lose_store_requests": "",
    "lose_store_answers": "",
    "delay_store_requests": "",
    "lose_messages": "",
    "slow_store": "",
    "slow_network": "",
    "lose_calls": "",
    "repeat_calls": "",
}
