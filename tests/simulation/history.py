"""What happened in a run, as clients, workers and the store tell it, and what must never have happened.

`blame` is called as soon as something is wrong, so that the history ends there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The sins that a run is judged by.
LOST, REPEATED, OVER_ADMITTED, HUNG, OUT_OF_ORDER, STARVED, WRONG = (
    "lost",
    "repeated without cause",
    "over-admitted",
    "hung",
    "out of order",
    "starved",
    "wrong",
)


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never happen."""

    sin: str
    text: str
    at_s: float
    job: str = ""

    def __str__(self) -> str:
        return f"{self.sin} at {self.at_s:.3f} s: {self.text}"


class Blamed(Exception):
    """Raised to end a run in which something went wrong."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


@dataclass(slots=True, eq=False)
class Run:
    """One start of a job by a worker."""

    job: str
    token: int
    attempt: int
    worker: Any
    started_s: float
    queue: str = ""
    ended_s: float | None = None
    outcome: str = ""
    """complete, fail, permanent, snooze, release; empty while it runs."""
    wait_s: float | None = None
    """What the worker asked to wait before the next one."""
    verdict: str = ""
    acked_s: float = math.inf
    checkpoint: str = ""
    """The one that it has left."""
    lines: int = 0
    """So many it has logged."""
    lost_s: float | None = None
    """When its worker was told that the lease is over."""
    is_given_up: bool = False
    """The worker was told to end it, or has lost it."""


@dataclass(slots=True)
class JobStory:
    """One job."""

    job: str
    tried_s: float | None = None
    acknowledged_s: float | None = None
    refused: str = ""
    is_surely_refused: bool = False
    """No earlier try of the call can be on its way."""
    runs: list[Run] = field(default_factory=list)
    verbs: list[tuple[str, float, float | None, str]] = field(default_factory=list)
    """verb, when it was tried, when answered, the answer."""
    priorities: list[int] = field(default_factory=list)
    """That it was to get."""
    graces: list[float] = field(default_factory=list)
    """Of the cancels among them."""
    alias: str = ""
    """The id that the call was answered with, when it was another's."""
    timeout_s: float = 0.0
    """How long an attempt may take; 0: for ever."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """That its worker must have."""
    is_timed: bool = False
    """The broker may end its attempts."""
    batch: tuple[float, int] | None = None
    """Of one that came with others: when the call was tried, and its place in it."""

    def count(self, wanted: str) -> int:
        """How often a verb was tried."""
        return sum(verb == wanted for verb, *_ in self.verbs)

    def had(self, *verbs: str) -> bool:
        """Whether one of these was ever tried."""
        return any(verb in verbs for verb, *_ in self.verbs)


class History:
    """Collects, and blames at once where one event is enough to tell."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.jobs: dict[str, JobStory] = defaultdict(lambda: JobStory(""))
        self.lines: list[tuple[float, str, str]] = []
        self.violation: Violation | None = None
        self.uncertain: set[str] = set()
        """Jobs of which a store that lost its power does not know all that was done to them."""
        self.on_blame: Callable[[], None] = lambda: None
        self.payloads: dict[tuple[str, int], bytes] = {}
        """What a run must receive, by job and token."""
        self.classes: Mapping[str, Sequence[str]] = {}
        """By queue: all that it may be of."""
        self.slots: dict[str, tuple[float, int]] = {}
        """How many jobs of a queue one worker may run, and since when every broker knows it."""

    def tell(self, text: str, job: str = "") -> None:
        """A line of the history that is printed."""
        self.lines.append((self.now(), job, text))

    def blame(self, sin: str, text: str, job: str = "") -> None:
        """Something must not have happened. The first of it counts."""
        if self.violation is None and job not in self.uncertain:
            self.violation = Violation(sin, text, self.now(), job)
            self.tell(f"!!! {sin}: {text}", job)
            self.on_blame()

    def story(self, job: str) -> JobStory:
        """That of one job."""
        story = self.jobs[job]
        story.job = job
        return story

    # Workers say --------------------------------------------------------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        """A handler begins."""
        story = self.story(run.job)
        self.tell(f"{run.worker.name} starts attempt {run.attempt} (token …{run.token % 1_000_000_000})", run.job)
        if story.tried_s is None:
            self.blame(WRONG, f"{run.job} runs, and nobody enqueued it", run.job)
        for before in story.runs:
            self._check_second_start(story, before, run)
        story.runs.append(run)
        self._check_charge(story, run)

    def _check_second_start(self, story: JobStory, before: Run, run: Run) -> None:
        if before.token == run.token:
            self.blame(REPEATED, f"{run.job} was started twice under one token", run.job)
        if story.is_timed and before.token > run.token:
            # The delivery took longer than the attempt may: another had its turn meanwhile.
            return
        if before.outcome == "complete" and before.verdict == "OK":
            self.blame(REPEATED, f"{run.job} runs again, and was completed", run.job)
        if before.token > run.token:
            # It was leased before; the delivery was on its way. Its worker cannot know.
            return
        if before.is_given_up or before.outcome not in ("", "complete") or story.had("cancel", "retry", "delete"):
            return
        if story.timeout_s and (run.token - before.token) / 1_000_000 >= story.timeout_s:
            return
        if before.worker.was_sure_since(before.started_s):
            what = "still runs it" if not before.outcome else "has completed it"
            self.blame(REPEATED, f"{run.worker.name} starts {run.job}, and {before.worker.name} {what} and is sure of its lease", run.job)

    def _check_charge(self, story: JobStory, run: Run) -> None:
        """Only failures count as attempts."""
        if story.had("retry") or story.is_timed:
            return
        failed = sum(1 for before in story.runs if before.outcome == "fail")
        sure = sum(1 for before in story.runs if before.outcome == "fail" and before.verdict == "OK")
        if run.attempt - 1 > failed:
            self.blame(REPEATED, f"{run.job} is at attempt {run.attempt} after {failed} failures: a hand-back was charged", run.job)
        if run.attempt - 1 < sure:
            self.blame(WRONG, f"{run.job} is at attempt {run.attempt} after {sure} failures that count", run.job)

    def found_checkpoint(self, run: Run, checkpoint: str) -> None:
        """An attempt finds what an earlier one has left; what the last one left for sure, if its end counts."""
        before = [earlier for earlier in self.story(run.job).runs if earlier.token < run.token]
        left = {earlier.checkpoint for earlier in before if earlier.checkpoint}
        if checkpoint and checkpoint not in left:
            self.blame(WRONG, f"{run.job} finds a checkpoint that none of its attempts has left: {checkpoint}", run.job)
        if not before or self.story(run.job).had("retry"):
            return
        last = max(before, key=lambda earlier: earlier.token)
        if last.verdict == "OK" and last.outcome in ("fail", "snooze") and last.checkpoint and last.checkpoint != checkpoint:
            self.blame(LOST, f"{run.job} has lost the checkpoint {last.checkpoint}, and finds {checkpoint or 'none'}", run.job)

    def found_payload(self, run: Run, payload: str) -> None:
        """An attempt receives what the job had when it was leased."""
        right = self.payloads.get((run.job, run.token))
        if right is not None and right != payload.encode():
            self.blame(WRONG, f"{run.job} runs with {payload[-40:]}, and had {right.decode()[-40:]} when it was leased", run.job)

    def check_slots(self, worker: Any, queue: str, running: int) -> None:
        """No worker runs more jobs of a queue than its slots, while brokers can tell what it runs."""
        since_s, slots = self.slots.get(queue, (math.inf, 0))
        if running > slots and since_s < self.now():
            self.blame(OVER_ADMITTED, f"{worker.name} runs {running} jobs of queue {queue}, and has {slots} slots there")

    def check_reserve(self, worker: Any) -> None:
        """The slots that a worker keeps for a queue or a class are taken by no other."""
        for key, slots in worker.options.reserved.items():
            name = key if isinstance(key, str) else key.name
            others = sum(worker.running_in(queue) for queue in worker.options.queues if name not in (queue, *self.classes.get(queue, ())))
            if others > worker.options.concurrency - slots:
                self.blame(OVER_ADMITTED, f"{worker.name} keeps {slots} of {worker.options.concurrency} slots for {name}, and runs {others} jobs of others")

    def end(self, run: Run, outcome: str, wait_s: float | None = None) -> None:
        """A handler has ended."""
        run.outcome, run.ended_s, run.wait_s = outcome, self.now(), wait_s
        self.tell(f"{run.worker.name} ends attempt {run.attempt}: {outcome}{'' if wait_s is None else f' {wait_s:g} s'}", run.job)

    def give_up(self, run: Run, why: str) -> None:
        """A worker is told to end a run."""
        story = self.story(run.job)
        if why == "stale_lease" and not story.verbs and not story.is_timed and run.worker.was_sure_since(run.started_s):
            self.blame(REPEATED, f"{run.worker.name} is told that {run.job} is not its own, and had every right to hold it", run.job)
        run.is_given_up = True
        if why == "stale_lease":
            run.lost_s = self.now()
        self.tell(f"{run.worker.name} is to give up attempt {run.attempt}: {why}", run.job)
