"""How the plan of a seed is drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.operations import Operations
from tests.simulation.plan import BUSY_S, Action, Bound, Bounds, JobPlan, Plan, QueueRules
from tests.simulation.where import Where
from tests.simulation.worker import Step


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    return _Planner(seed).plan()


class _Planner:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # What MORE_RULES add is drawn apart, so that the plans of seeds that have none of them stay as they are.
        self.more = random.Random(seed * 7919 + 4)
        self.seed = seed
        self.actions: list[Action] = []
        self.bounds: dict[str, tuple[Bounds, ...]] = {}
        self.ageing: dict[str, float] = {}
        self.rules: dict[str, QueueRules] = {}

    def plan(self) -> Plan:
        rng = self.rng
        queues = ("a", "b")[: rng.choice((1, 1, 2))]
        brokers = rng.choice((1, 2, 2, 3))
        workers = tuple((rng.choice((1, 2, 3, 5)), queues if rng.random() < 0.8 else (rng.choice(queues),)) for _ in range(rng.choice((1, 2, 3, 4))))
        if not all(any(queue in taken for _, taken in workers) for queue in queues):
            workers = (*workers, (2, queues))
        rules = frozenset(rng.sample(RULES, rng.choice((0, 1, 1, 2, 2, 3))))
        jobs = self._jobs(queues, rules)
        for job in jobs:
            self._add(rng.random() ** 2 * BUSY_S * 0.8, "enqueue", job.number)
        if "policy" in rules:
            self._policies(queues)
        if "limits" in rules:
            self._limit(queues)
        if "ageing" in rules:
            self._age(queues)
        if "cancels" in rules:
            for _ in range(12):
                self._add(rng.random() * BUSY_S, "cancel", rng.choice(jobs).number, rng.choice((0.5, 0.5, 3.0)))
        self._verbs(jobs, queues)
        self._faults(brokers, len(workers))
        jobs = self._add_more(jobs, queues)
        session_s = rng.choice((3.0, 5.0, 10.0))
        plan = Plan(self.seed, session_s, brokers, workers, queues, jobs, tuple(self.actions), self.bounds, self.ageing, self.rules)
        plan = Operations(self.seed, plan).added()
        return replace(plan, actions=tuple(sorted(plan.actions, key=lambda action: (action.at_s, str(action)))))

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
            content=number,
        )

    def _jobs(self, queues: Sequence[str], rules: frozenset[str]) -> tuple[JobPlan, ...]:
        rng = self.rng
        jobs = [self._job(number, queues) for number in range(rng.randint(12, 45))]
        if "times" in rules:
            jobs = [self._timed(job) for job in jobs]
        if "ends" in rules:
            jobs = [self._ending(job) for job in jobs]
        if "policy" in rules:
            jobs = [replace(job, attempts=0, steps=tuple(self._step() for _ in range(6))) if rng.random() < 0.6 else job for job in jobs]
        if "cancels" in rules:
            jobs = [replace(job, steps=tuple(self._stubborn(step) for step in job.steps)) for job in jobs]
        if "limits" in rules:
            jobs = [self._grouped(job) for job in jobs]
        if "identity" in rules:
            jobs = self._identical(jobs)
        return tuple(jobs)

    def _timed(self, job: JobPlan) -> JobPlan:
        rng = self.rng
        if rng.random() < 0.4:
            job = replace(job, timeout_s=rng.choice((0.3, 1.0, 2.0)))
        if rng.random() < 0.3:
            job = replace(job, total_s=rng.choice((1.0, 4.0)))
        if rng.random() < 0.3:
            job = replace(job, expires_s=rng.choice((0.2, 1.0, 5.0)))
        return job

    def _ending(self, job: JobPlan) -> JobPlan:
        """Waits from a list, errors that end it, an end that is not kept, checkpoints."""
        rng = self.rng
        if rng.random() < 0.4:
            job = replace(job, delays_s=tuple(rng.choice((0.1, 0.4, 1.5)) for _ in range(rng.choice((1, 2, 3)))))
        checkpoints = tuple(rng.random() < 0.6 for _ in job.steps)
        steps = tuple(replace(step, checkpoints=wanted) for step, wanted in zip(job.steps, checkpoints, strict=True))
        return replace(job, errors_are_permanent=rng.random() < 0.2, is_forgotten=rng.random() < 0.2, steps=steps)

    def _stubborn(self, step: Step) -> Step:
        """A handler that takes long, and does not care to be told to end."""
        return replace(step, lasts_s=self.rng.choice((4.0, 9.0)), obeys=False) if self.rng.random() < 0.6 else step

    def _identical(self, jobs: Sequence[JobPlan]) -> list[JobPlan]:
        """Let some of the jobs be asked for by several calls: each has an id of its own, and all else of the first."""
        rng = self.rng
        made: list[JobPlan] = []
        firsts: dict[str, JobPlan] = {}
        for job in jobs:
            key = f"key{rng.randrange(4)}" if rng.random() < 0.6 else ""
            if key not in firsts:
                kind = rng.choice(("idempotency", "unique", "debounce", "throttle"))
                firsts[key] = replace(job, identity=kind, key=key, delay_s=0.0, snoozes=0, window_s=rng.choice((1.0, 3.0, 60.0)) if kind != "debounce" else 0.5)
            made.append(replace(firsts[key], number=job.number, id=job.id) if key else job)
        return made

    def _grouped(self, job: JobPlan) -> JobPlan:
        rng = self.rng
        steps = tuple(
            replace(step, outcome="limit_group", wait_s=rng.choice((0.3, 1.0))) if rng.random() < 0.1 and i + 1 < len(job.steps) else step
            for i, step in enumerate(job.steps)
        )
        group = rng.choice(("", "", "g0", "g1", "g2", "g3"))
        return replace(
            job,
            name=rng.choice(("work", "work", "heavy")),
            group=group,
            units=rng.choice((1, 1, 1, 2)),
            needs_label=rng.random() < 0.1,
            limited=int(any(step.outcome == "limit_group" for step in steps)),
            steps=tuple(replace(step, outcome="fail", wait_s=None) if step.outcome == "limit_group" else step for step in steps),
        )

    def _limit(self, queues: Sequence[str]) -> None:
        rng = self.rng
        for queue in queues:
            changes = rng.choice((0, 0, 1, 2))
            self.bounds[queue] = tuple(self._bounds() for _ in range(1 + changes))
            for number in range(1 + changes):
                self._add(rng.random() * BUSY_S * 0.7 if number else 0.0, "set_limits", queue, number)
            for _ in range(rng.choice((0, 0, 1, 2))):
                at_s, group = rng.random() * BUSY_S * 0.6, f"g{rng.randrange(4)}"
                self._add(at_s, "pause_group", queue, group, round(rng.random() * 3, 3))
            for _ in range(rng.choice((0, 0, 2, 4))):
                at_s, group = rng.random() ** 3 * BUSY_S * 0.7, f"g{rng.randrange(4)}"
                self._add(at_s, "set_group", queue, group, rng.choice((1.0, 1.0, 0.25, 3.0)), rng.random() < 0.3, rng.choice((None, None, 1, 2)))

    def _bounds(self) -> Bounds:
        rng = self.rng
        whole = Bound(rng.choice((0, 1, 2, 3)), *rng.choice(((), (), (3, 1.0, 1), (4, 2.0, 3))))
        return Bounds(whole, Bound(rng.choice((0, 1, 2)), *rng.choice(((), (), (2, 1.0)))), Bound(rng.choice((0, 1)), *rng.choice(((), (), (2, 0.5)))))

    def _age(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self.ageing[queue] = self.rng.choice((0.2, 1.0))
            self._add(0.0, "set_ageing", queue, self.ageing[queue])

    def _policies(self, queues: Sequence[str]) -> None:
        """Rules of the queues that change while jobs run."""
        rng = self.rng
        for queue in queues:
            for _ in range(rng.choice((1, 2, 3))):
                self._add(rng.random() * BUSY_S * 0.7, "set_policy", queue, rng.choice((1, 2, 3, 5)), rng.choice((0.1, 1.0)))

    def _add_more(self, jobs: tuple[JobPlan, ...], queues: Sequence[str]) -> tuple[JobPlan, ...]:
        rng = self.more
        rules = frozenset(rng.sample(MORE_RULES, rng.choice((0, 1, 1, 2))))
        if "queue" in rules:
            for queue in queues:
                self.rules[queue] = self._queue_rules()
                self._add(0.0, "set_rules", queue)
        if "sweeps" in rules:
            for _ in range(rng.choice((1, 2, 4))):
                self._sweep(rng.choice(list(queues)))
        if "changes" in rules:
            for _ in range(rng.choice((4, 8, 16))):
                self._change(rng.choice(jobs).number)
        if "logs" in rules:
            jobs = tuple(replace(job, steps=tuple(replace(step, lines=rng.choice((0, 1, 3))) for step in job.steps)) for job in jobs)
        if "debounce" in rules:
            jobs = self._debounced(jobs)
        if self.bounds and rng.random() < 0.3:
            jobs = tuple(replace(job, needs_zone=not job.identity and rng.random() < (0.5 if job.needs_label else 0.1)) for job in jobs)
        return jobs

    def _queue_rules(self) -> QueueRules:
        rng = self.more
        kept = {state: rng.choice((0, 1, 4)) for state in ("completed", "failed", "cancelled", "expired") if rng.random() < 0.3}
        return QueueRules(rng.choice((0, 2, 5, 10)), rng.choice((0, 1, 1, 2)), kept)

    def _sweep(self, queue: str) -> None:
        """A verb for many jobs at once."""
        rng = self.more
        at_s = rng.random() * BUSY_S
        verb = rng.choice(("cancel", "cancel", "retry", "promote", "delete", "purge"))
        if verb == "purge":
            self._add(at_s, "purge", queue)
        else:
            self._add(
                at_s,
                "bulk",
                queue,
                verb,
                Where(rng.choice(("", "", "heavy"))),
                rng.choice((0.0, 0.0, 1.0)),
                round(rng.choice((0.0, 0.2, 2.0)) * rng.random(), 4),
            )

    def _change(self, number: int) -> None:
        """A job gets another payload, while it waits or when it is retried, or another due date."""
        rng = self.more
        at_s, kind = rng.random() ** 2 * BUSY_S, rng.choice(("change_payload", "change_payload", "retry_with", "change_due"))
        self._add(at_s, kind, number, round(rng.random() * 3, 3) if kind == "change_due" else rng.randrange(1000, 2000))

    def _debounced(self, jobs: Sequence[JobPlan]) -> tuple[JobPlan, ...]:
        """All that have the same key wait for as long."""
        rng = self.more
        waits = {f"key{number}": (rng.choice((0.5, 2.0)), rng.choice((2.0, 3.0))) for number in range(4)}
        return tuple(replace(job, window_s=waits[job.key][0], max_wait_s=waits[job.key][1]) if job.identity == "debounce" else job for job in jobs)

    def _step(self) -> Step:
        rng = self.rng
        outcome = rng.choices(("complete", "result", "fail", "permanent"), (10, 3, 4, 1))[0]
        lasts_s = rng.choice((0.0, 0.01, 0.05, 0.2, 0.2, 0.5, 1.0, 3.0))
        wait_s = rng.choice((0.0, 0.3, 1.0)) if outcome == "fail" and rng.random() < 0.2 else None
        return Step(outcome, lasts_s, wait_s, rng.random() < 0.7, rng.choice((0, 0, 0, 1, 3)))

    def _verbs(self, jobs: Sequence[JobPlan], queues: Sequence[str]) -> None:
        rng = self.rng
        for _ in range(rng.choice((0, 0, 1, 3, 6))):
            verb = rng.choice(("cancel", "cancel", "cancel", "retry", "promote", "delete", "update", "update"))
            more = {"cancel": (rng.choice((0.0, 0.5, 3.0)),), "update": (rng.choice((-5, 2, 7)),)}.get(verb, ())
            self._add(rng.random() * BUSY_S, verb, rng.choice(jobs).number, *more)
        if rng.random() < 0.2:
            at_s = rng.random() * BUSY_S * 0.8
            queue = rng.choice(list(queues))
            self._add(at_s, "pause", queue, round(rng.random() * 3, 3))

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


#: Of these a plan has some.
RULES = ("times", "policy", "identity", "limits", "limits", "ageing", "cancels", "ends")
#: And in a share of the seeds one or two of these.
MORE_RULES = ("queue", "queue", "sweeps", "changes", "logs", "debounce")
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
