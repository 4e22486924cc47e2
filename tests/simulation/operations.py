"""What operators do to queues, and callers to many jobs at once: the part of a plan that is drawn last, so that all others stay as they are without it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.plan import BUSY_S, Action, Bound, Bounds, JobPlan, Plan
from tests.simulation.where import Where
from tests.simulation.worker import Step

#: Of these a plan has some.
LAST_RULES = ("batches", "filters", "cleans", "ages", "races")
_STATES = ("completed", "failed", "cancelled", "expired")
_FAILURES = ("it failed", "it failed for good")


class Operations:
    """Those of one plan. Beside them, handlers that end just when their time is over."""

    def __init__(self, seed: int, plan: Plan) -> None:
        self.rng = random.Random(seed * 7919 + 5)
        self.plan = plan
        self.jobs: Sequence[JobPlan] = plan.jobs
        self.actions: list[Action] = list(plan.actions)

    def added(self) -> Plan:
        """The plan with them."""
        rules = frozenset(self.rng.sample(LAST_RULES, self.rng.choice((0, 1, 1, 2))))
        if "batches" in rules:
            self._batch()
        if "filters" in rules:
            self._filter()
            self._change_teams()
        if "cleans" in rules:
            self._clean()
        if "ages" in rules:
            self._age()
        if "races" in rules:
            self.jobs = [self._racing(job) for job in self.jobs]
        if self.rng.random() < 0.2:
            self._move()
        if self.rng.random() < 0.2:
            self._classify()
            self._reclassify()
        self._contend()
        self._stop_some()
        self._lose_power()
        return replace(self.plan, jobs=tuple(self.jobs), actions=tuple(self.actions))

    def _add(self, at_s: float, kind: str, *arguments: object) -> None:
        self.actions.append(Action(round(at_s, 4), kind, arguments))

    def _batch(self) -> None:
        """Let jobs come together in one call, some of them twice; some callers wait until their jobs are on disk."""
        rng = self.rng
        self.jobs = [replace(job, is_durable=rng.random() < 0.4) for job in self.jobs]
        singles = [action for action in self.actions if action.kind == "enqueue"]
        others = [action for action in self.actions if action.kind != "enqueue"]
        rng.shuffle(singles)
        while singles:
            some, singles = singles[: (size := rng.choice((1, 1, 2, 4, 8)))], singles[size:]
            if size == 1:
                others += some
                continue
            numbers = [action.arguments[0] for action in some]
            if rng.random() < 0.2:
                numbers.insert(rng.randrange(len(numbers)), rng.choice(numbers))
            others.append(Action(some[0].at_s, "enqueue_batch", tuple(numbers)))
        self.actions = others

    def _filter(self) -> None:
        """Bulk verbs for jobs of a group, with a label, in some states, of some time, with one cause of failure, with a note or without."""
        rng = self.rng
        self.jobs = [replace(job, team=rng.choice(("", "red", "blue")) if not job.identity else "") for job in self.jobs]
        for _ in range(rng.choice((2, 4, 8))):
            verb = rng.choice(("cancel", "retry", "promote", "delete", "resolve"))
            wait_s = round(rng.choice((0.0, 0.2, 2.0)) * rng.random(), 4)
            self._add(rng.random() * BUSY_S, "bulk", rng.choice(self.plan.queues), verb, self._where(verb), rng.choice((0.0, 1.0)), wait_s)

    def _stop_some(self) -> None:
        """Let somebody stop some of the bulk runs soon after they began. Drawn apart."""
        rng = random.Random(self.plan.seed * 7919 + 8)
        for i, action in enumerate(self.actions):
            if action.kind == "bulk" and rng.random() < 0.4:
                self.actions[i] = replace(action, arguments=(*action.arguments, round(rng.choice((0.005, 0.03, 0.5)) * rng.random(), 4)))

    def _lose_power(self) -> None:
        """Let the store lose its last writes, where no rules of queues and no bulk runs are lost with them. Drawn apart."""
        rng, plan = random.Random(self.plan.seed * 7919 + 10), self.plan
        has_rules = plan.ruled or plan.moving or plan.rules or plan.ages or plan.cleaned or any(job.identity for job in self.jobs)
        if rng.random() >= 0.35 or has_rules or any(action.kind in ("bulk", "purge") for action in self.actions):
            return
        self.jobs = [replace(job, is_durable=job.is_durable or rng.random() < 0.3) for job in self.jobs]
        at_s = 2 + rng.random() * (BUSY_S * 0.8 - 2)
        self._add(at_s - rng.choice((0.1, 1.0, 2.0)) * (0.5 + rng.random() / 2), "write_to_disk")
        self._add(at_s, "lose_power", round(rng.choice((0.1, 1.0, 3.0)) * (0.5 + rng.random()), 3))

    def _change_teams(self) -> None:
        """Jobs that get another label while they wait. Drawn apart, so that the rest of the plan stays as it is without it."""
        rng = random.Random(self.plan.seed * 7919 + 6)
        chosen = {job.number for job in self.jobs if not job.identity and rng.random() < 0.4}
        self.jobs = [replace(job, changes_team=job.number in chosen) for job in self.jobs]
        for number in sorted(chosen):
            self._add(rng.random() ** 2 * BUSY_S, "change_team", number, rng.choice(("", "red", "blue")))

    def _where(self, verb: str) -> Where:
        rng = self.rng
        where = Where(name=rng.choice(("", "", "", "heavy", "work")))
        if rng.random() < 0.3:
            where = replace(where, group=rng.choice(("g0", "g1")))
        if rng.random() < 0.4:
            where = replace(where, team=rng.choice(("red", "blue")))
        if rng.random() < 0.3:
            after_s = rng.random() * BUSY_S
            where = replace(where, created_after_s=after_s, created_before_s=rng.choice((None, after_s * rng.random())))
        if verb in ("cancel", "promote"):
            return replace(where, states=(rng.choice(("WAITING", "DELAYED", "ACTIVE")),)) if verb == "cancel" and rng.random() < 0.3 else where
        if rng.random() < 0.3:
            where = replace(where, finished_before_s=rng.random() * 4, finished_after_s=rng.choice((None, 4 + rng.random() * 4)))
        if verb in ("retry", "resolve") and rng.random() < 0.4:
            where = replace(where, failure=rng.choice(_FAILURES))
        if verb in ("retry", "resolve") and rng.random() < 0.3:
            where = replace(where, resolved=rng.random() < 0.5)
        if verb == "delete" and rng.random() < 0.5:
            where = replace(where, states=tuple(rng.sample(("WAITING", "DELAYED", "COMPLETED", "FAILED", "CANCELLED"), 2)))
        return where

    def _racing(self, job: JobPlan) -> JobPlan:
        """A handler that ends just when its time is over, and a job that does not wait for its next attempt."""
        lasts_s = job.steps[0].lasts_s
        return replace(job, timeout_s=lasts_s, base_s=0.0, delays_s=()) if lasts_s >= 0.2 and not job.identity and self.rng.random() < 0.5 else job

    def _clean(self) -> None:
        rng = self.rng
        for _ in range(rng.choice((2, 4, 8))):
            self._add(rng.random() * BUSY_S * 1.2, "clean", rng.choice(self.plan.queues), rng.choice(("", "", *_STATES)), rng.choice((0.0, 0.0, 0.5, 3.0)))
        self.plan = replace(self.plan, cleaned=frozenset(self.plan.queues))

    def _age(self) -> None:
        """For how long ended jobs are kept, by queue, and by some jobs themselves."""
        rng = self.rng
        self.jobs = [replace(job, kept_s=rng.choice((1.0, 4.0)) if not (job.identity or job.is_forgotten) and rng.random() < 0.3 else 0.0) for job in self.jobs]
        ages = {queue: {state: rng.choice((0.5, 2.0, 6.0)) for state in _STATES if rng.random() < 0.7} for queue in self.plan.queues}
        for queue in self.plan.queues:
            self._add(0.0, "set_ages", queue)
        self.plan = replace(self.plan, ages=ages)

    def _move(self) -> None:
        """Depths and slots that change while jobs run."""
        rng = self.rng
        for queue in self.plan.queues:
            for _ in range(rng.choice((1, 2, 3))):
                self._add(rng.random() * BUSY_S * 0.8, "set_room", queue, rng.choice((0, 2, 5, 10)), rng.choice((0, 1, 2, 3)))
        self.plan = replace(self.plan, moving=frozenset(self.plan.queues))

    def _contend(self) -> None:
        """Let a job wait for its name and its group while others, which fail all the time, use up the one and the other. Drawn apart, as changed labels."""
        rng, queue = random.Random(self.plan.seed * 7919 + 7), self.plan.queues[0]
        if rng.random() >= 0.5 or queue in {*self.plan.ruled, *self.plan.moving, *self.plan.rules}:
            return
        group, lasts_s = rng.choice(((Bound(1), 0.3), (Bound(0, 1, 0.3), 0.0), (Bound(2, 1, 0.3), 0.1)))
        job = JobPlan(0, "", queue, 5, 0.0, 25, 0.0, (Step("fail", lasts_s, 0.0),) * 25, group="g0")
        first = replace(job, name="heavy", attempts=1, steps=(Step("complete", 0.05),))
        rival = replace(job, name="heavy", group="", steps=(Step("fail", 0.25, 0.0),) * 25)
        for i, made in enumerate((rival, first, job, job)):
            number = len(self.jobs)
            self.jobs = [*self.jobs, replace(made, number=number, id=f"contends-{number}", content=number)]
            self._add(0.5 + i * 0.01, "enqueue", number)
        self._add(0.0, "set_limits", queue, 0)
        bounds = {**self.plan.bounds, queue: (Bounds(group=group, heavy=Bound(1)),)}
        self.plan = replace(self.plan, bounds=bounds, workers=(*self.plan.workers, (4, (queue,))))

    def _classify(self) -> None:
        """Queues with a class, which gives them slots; pauses of a class; workers that keep slots for a queue or a class."""
        rng, queues = self.rng, self.plan.queues
        classes = {queue: rng.choice(("CRITICAL", "HIGH", "LOW", "BATCH")) for queue in queues}
        for queue in queues:
            self._add(0.0, "set_class", queue, 0)
        for _ in range(rng.choice((0, 1, 1, 2))):
            self._add(rng.random() * BUSY_S * 0.8, "pause_class", rng.choice(list(classes.values())), round(rng.random() * 3, 3))
        reserves = {}
        for i, (concurrency, own) in enumerate(self.plan.workers):
            if len(own) > 1 and concurrency > 1 and rng.random() < 0.7:
                reserves[i] = rng.choice((*queues, *classes.values())), rng.randint(1, concurrency - 1)
        by_queue = {queue: (name,) for queue, name in classes.items()}
        self.plan = replace(self.plan, classes=by_queue, reserves=reserves, moving=frozenset(queues))

    def _reclassify(self) -> None:
        """Classes that change while jobs run, and pauses of what they are then. Drawn apart."""
        rng, classes = random.Random(self.plan.seed * 7919 + 9), dict(self.plan.classes)
        for queue in self.plan.queues:
            for number in range(1, 1 + rng.choice((0, 1, 1, 2))):
                classes[queue] = *classes[queue], rng.choice(("CRITICAL", "HIGH", "LOW", "BATCH"))
                self._add(rng.random() * BUSY_S * 0.8, "set_class", queue, number)
            if len(classes[queue]) > 1 and rng.random() < 0.5:
                self._add(rng.random() * BUSY_S * 0.8, "pause_class", classes[queue][-1], round(rng.random() * 3, 3))
        self.plan = replace(self.plan, classes=classes)
