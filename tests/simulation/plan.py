"""What happens in a run: jobs, verbs and faults, all drawn from one seed. A plan is data, so that parts of it can be left out to shrink a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.worker import Step
from tests.support.chooser import Kind

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
    timeout_s: float = 0.0
    total_s: float = 0.0
    expires_s: float = 0.0
    identity: str = ""
    """idempotency, unique, debounce, throttle."""
    key: str = ""
    """Jobs with the same key have the same content."""
    window_s: float = 0.0
    """Time to live, delay or period of the identity."""
    content: int = 0
    name: str = "work"
    group: str = ""
    units: int = 1
    needs_label: bool = False
    needs_zone: bool = False
    delays_s: tuple[float, ...] = ()
    """The waits between its attempts, instead of what `base_s` says."""
    errors_are_permanent: bool = False
    """It lists the error of its failures as one that ends it."""
    is_forgotten: bool = False
    """Its end is kept by nobody."""
    limited: int = 0
    """So many runs say first that the group is limited."""
    max_wait_s: float = 0.0
    """Of a debounce; 0: none."""
    team: str = ""
    changes_team: bool = False
    """It may get another label while it waits."""
    """A label for filters."""
    kept_s: float = 0.0
    """How long its end is kept; 0: as the queue says."""
    is_durable: bool = False
    """Its caller waits until it is on disk."""

    @property
    def is_timed(self) -> bool:
        """Whether its attempts may be ended by the broker."""
        return bool(self.timeout_s or self.total_s)

    @property
    def kind(self) -> Kind:
        """What its leases are judged by."""
        return Kind(self.name, self.group, self.units, frozenset(self.labels.items()))

    @property
    def labels(self) -> dict[str, str]:
        """Those that its worker must have."""
        return ({"gpu": "yes"} if self.needs_label else {}) | ({"zone": "eu"} if self.needs_zone else {})

    @property
    def payload(self) -> str:
        """What its handler receives, if nobody changes it."""
        return payload_of(self.content)

    def expected(self, attempts: int) -> str:
        """How it ends when nothing is done to it and no worker dies."""
        for step in self.steps[:attempts]:
            if step.outcome in ("complete", "result"):
                return "COMPLETED"
            if step.outcome == "permanent" or (step.outcome == "fail" and self.errors_are_permanent):
                return "FAILED"
        return "FAILED"

    def wait_s(self, attempt: int) -> float:
        """How long it waits after this attempt has failed."""
        if self.delays_s:
            return self.delays_s[min(attempt, len(self.delays_s)) - 1]
        return self.base_s * float(2 ** (attempt - 1))


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit: so many units at once, so many starts in a period. 0: none."""

    concurrency: int = 0
    count: int = 0
    period_s: float = 0.0
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one queue: of all its jobs, of each group, and of those with the name `heavy`."""

    whole: Bound = Bound()
    group: Bound = Bound()
    heavy: Bound = Bound()


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What else holds for one queue, from the beginning on, as far as faults let it."""

    depth: int = 0
    """0: any."""
    slots: int = 0
    """Of one worker; 0: as many as it takes."""
    kept: Mapping[str, int] = field(default_factory=dict)
    """How many ended jobs are kept, by state in the words of the policy. What is not there is kept by the defaults."""


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
    bounds: Mapping[str, tuple[Bounds, ...]] = field(default_factory=dict)
    """By queue. The first are set before anything else happens, as far as faults let them; the others in the course of it."""
    ageing: Mapping[str, float] = field(default_factory=dict)
    """By queue, in seconds. Set as early."""
    rules: Mapping[str, QueueRules] = field(default_factory=dict)
    """By queue."""
    ages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """For how many seconds ended jobs are kept, by queue and state, in the words of the policy. Set at the beginning."""
    moving: frozenset[str] = frozenset()
    """Queues whose depth and slots may change while jobs run."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By queue. The first is set at the beginning, the others in the course of it."""
    reserves: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    """For which queue or class a worker keeps slots, and how many, by its number."""
    cleaned: frozenset[str] = frozenset()
    """Queues whose ended jobs somebody may delete."""

    @property
    def ruled(self) -> frozenset[str]:
        """Queues where more than priority and place decides who goes first."""
        return frozenset(self.bounds) | frozenset(self.ageing)

    def may_forget(self, queue: str) -> bool:
        """Whether a job that has ended may be gone although its state keeps fewer than it may."""
        return queue in self.ages or queue in self.cleaned or any(job.kept_s for job in self.jobs if job.queue == queue)

    def has_label(self, worker: int) -> bool:
        """Whether a worker may run jobs that ask for a label: every second one, if those take jobs from all queues."""
        return worker % 2 == 0 or not any(i % 2 == 0 and queues == self.queues for i, (_, queues) in enumerate(self.workers))

    def labels_of(self, worker: int) -> dict[str, str]:
        """Those of a worker. Who has the one that few have has the other too, so that all jobs find a worker."""
        has_zone = self.has_label(worker) or worker % 4 == 1
        return ({"gpu": "yes"} if self.has_label(worker) else {}) | ({"zone": "eu"} if has_zone else {})

    def without(self, actions: Sequence[Action]) -> Plan:
        """The same with fewer actions."""
        left = tuple(action for action in self.actions if action not in actions)
        return replace(self, actions=left)


def payload_of(content: int) -> str:
    """A payload, which may be so long that it is kept apart from its record."""
    return f'{{"number":{content}}}' if content % 5 else f'"{content:x>700}"'
