"""A worker of the simulation: the real session and the real driver of its stream, with handlers that follow a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._backoff import Backoff
from jobwire_worker._effects import Effect, GiveUp, Lease, Reason, Refused, Start
from jobwire_worker._mailbox import Mailbox
from jobwire_worker._outcomes import DRAINING, NO_HANDLER, NO_RESULT, NOT_RUN, Completed, Failed, GroupLimited, Outcome, Snoozed
from jobwire_worker._session import Session, SessionOptions
from jobwire_worker._stream import Stream
from jobwire_worker._targets import Targets

from tests.simulation.history import OVER_ADMITTED, REPEATED, History, Run
from tests.simulation.network import Network, Reach
from tests.simulation.virtual_time import Process, VirtualLoop

_OUTCOMES: dict[str, Callable[[], Outcome]] = {
    "complete": lambda: NO_RESULT,
    "result": lambda: Completed(json='{"ok":true}'),
    "fail": lambda: Failed("Error", "it failed"),
    "permanent": lambda: Failed("Error", "it failed for good", permanent=True),
    "release": lambda: NOT_RUN,
    "drain": lambda: DRAINING,
    "no_handler": lambda: NO_HANDLER,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What a handler does with one run of a job."""

    outcome: str
    lasts_s: float
    wait_s: float | None = None
    """Of a failure: retry_after; of a snooze: its delay."""
    obeys: bool = True
    """It ends when it is told to."""
    reports: int = 0
    checkpoints: bool = False
    """It leaves one for the next attempt."""
    lines: int = 0
    """So many it logs."""


def _made(outcome: str, wait_s: float | None) -> Outcome | None:
    if outcome == "snooze":
        return Snoozed(wait_s or 0.0)
    if outcome == "limit_group":
        return GroupLimited(wait_s or 0.0)
    if outcome == "fail" and wait_s is not None:
        return Failed("Error", "it failed", retry_after_s=wait_s)
    return _OUTCOMES[outcome]() if outcome else None


Script = Callable[[pb.Delivery], Step]


class _WatchedSession(Session):
    """Tells of acks."""

    on_ack: Callable[[pb.Ack], None]
    on_unsure: Callable[[], None]
    on_too_many: Callable[[pb.Delivery], None]

    def opened(self, now: float) -> None:
        self._look(now)
        super().opened(now)

    def received(self, frame: pb.WorkResponse, now: float) -> list[Effect]:
        self._look(now)
        return super().received(frame, now)

    def superseded(self) -> list[Effect]:
        self.on_unsure()
        return super().superseded()

    def _look(self, now: float) -> None:
        """Before anything can make the leases sure again."""
        if self._uncertain or self._lease_until <= now:
            self.on_unsure()

    def _deliver(self, stream: Any, lease: Lease) -> Lease | None:
        if stream.delivered >= stream.credit_sent and not self.draining:
            self.on_too_many(lease.delivery)
        return super()._deliver(stream, lease)

    def _take_acks(self, frame: pb.WorkResponse, effects: list[Effect]) -> None:
        for ack in frame.acks:
            self.on_ack(ack)
        super()._take_acks(frame, effects)

    def _take_held_verdicts(self, welcome: pb.Welcome) -> list[Effect]:
        for ack in welcome.held:
            self.on_ack(ack)
        return super()._take_held_verdicts(welcome)


class SimulatedWorker:
    """One process."""

    def __init__(
        self, loop: VirtualLoop, network: Network, history: History, name: str, addresses: Sequence[str], options: SessionOptions, script: Script
    ) -> None:
        self.name = name
        self.process = Process(loop, name)
        self.options = options
        self.runs: dict[tuple[str, int], Run] = {}
        self.busy = 0
        self._unsure_s = -1.0
        self._loop = loop
        self._history = history
        self._script = script
        self._network = network
        self._timers: dict[Run, list[asyncio.TimerHandle]] = {}
        self._rng = random.Random(network.rng.random())
        self.process.cut_links.append(self._cut)
        self.process.context.copy().run(self._build, addresses)
        self.process.run(self._main())

    def _build(self, addresses: Sequence[str]) -> None:
        targets = Targets(addresses, random.Random(self._rng.random()))
        self.stream = Stream(self.options, targets, self._take, None, Reach.of(self._network, self.process))
        self.stream._loop.close()  # it is that of a thread which nobody starts
        self.stream._loop, self.stream.outbox = self._loop, Mailbox(self._loop, self.stream._take)
        self.session = _WatchedSession(self.options, lambda: self._rng.randbytes(16))
        self.session.on_ack = self._acked
        self.session.on_unsure = self._note_unsure
        self.session.on_too_many = self._blame_credit
        self.stream._session = self.session
        self.stream._backoff = Backoff(random.Random(self._rng.random()))

    async def _main(self) -> None:
        await self.stream._main()
        if not self.process.dead:
            self._history.tell(f"{self.name} has ended")
            self.process.kill()

    def drain(self, grace_s: float) -> None:
        """End in order."""
        self.process.post(self._loop.time(), self.stream._start_draining, grace_s)

    def was_sure_since(self, since_s: float) -> bool:
        """Whether this worker, which may be frozen, has had every right to hold its leases since then."""
        now = self._loop.time()
        return not (self.process.dead or self.session.uncertain or self.session.lease_left_s(now) <= 0 or self._unsure_s >= since_s)

    def _note_unsure(self) -> None:
        self._unsure_s = self._loop.time()

    def _blame_credit(self, delivery: pb.Delivery) -> None:
        self._history.blame(OVER_ADMITTED, f"{self.name} gets a job beyond its credit", delivery.id)

    @property
    def room(self) -> int:
        """How many more jobs it would take."""
        if self.process.is_stopped or self.session.draining or not self.session.connected or self.session.uncertain:
            return 0
        return self.options.concurrency - self.busy

    def running(self) -> list[Run]:
        """What its handlers run."""
        return list(self._timers)

    def held_in(self, queue: str) -> int:
        """How many jobs of a queue take its slots there, as brokers may see it."""
        return sum(run.queue == queue for run in self._timers)

    def running_in(self, queue: str) -> int:
        """How many jobs of a queue it runs, and has every right to, as far as it knows."""
        return sum(run.queue == queue and not run.is_given_up for run in self._timers)

    def _cut(self) -> None:
        for link in list(self._network.streams):
            if link.worker is self.process:
                link.break_off()

    # Effects ------------------------------------------------------------------------------------------------------------------------------------------

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                for lease in effect.leases:
                    self._start(lease)
            elif isinstance(effect, GiveUp):
                for lease in effect.leases:
                    self._give_up(lease, effect.reason)
            elif isinstance(effect, Refused):
                self._history.tell(f"{self.name} hears that its finish did not count: {pb.Verdict.Name(effect.verdict)}", effect.lease.id)

    def _start(self, lease: Lease) -> None:
        delivery = lease.delivery
        run = Run(lease.id, lease.token, delivery.attempt, self, self._loop.time(), lease.queue)
        if (lease.id, lease.token) in self.runs:
            self._history.blame(REPEATED, f"{self.name} starts {lease.id} twice under one token", lease.id)
        self.runs[lease.id, lease.token] = run
        self.busy += 1
        if self.busy > self.options.concurrency:
            self._history.blame(OVER_ADMITTED, f"{self.name} runs {self.busy} jobs, and has {self.options.concurrency} slots", lease.id)
        self._history.start(run)
        if not self._history.story(lease.id).labels.items() <= self.options.labels.items():
            self._history.blame(OVER_ADMITTED, f"{self.name} gets {lease.id}, and lacks a label that it asks for", lease.id)
        self._history.found_checkpoint(run, delivery.checkpoint.json)
        self._history.found_payload(run, delivery.payload.json)
        step = self._script(delivery)
        later = self._loop.call_later
        self._timers[run] = [
            later(step.lasts_s * part / (step.reports + 1), self._report, lease, 100 * part / (step.reports + 1)) for part in range(1, step.reports + 1)
        ]
        if step.checkpoints:
            self._timers[run].append(later(step.lasts_s / 2, self._leave_checkpoint, lease, run))
        for number in range(1, step.lines + 1):
            self._timers[run].append(later(step.lasts_s * number / (step.lines + 1), self._log, lease, run))
        self._timers[run].append(later(step.lasts_s, self._end, lease, run, step.outcome, step.wait_s))
        self._history.check_slots(self, lease.queue, self.running_in(lease.queue))
        self._history.check_reserve(self)

    def _report(self, lease: Lease, percent: float) -> None:
        self.session.reported(lease, job_pb2.Progress(percent=percent, message=f"{percent:.0f}"))
        self.stream._note_change()

    def _log(self, lease: Lease, run: Run) -> None:
        run.lines += 1
        self.session.reported(lease, None, [job_pb2.LogLine(sequence=run.lines, level="info", message=f"{lease.token}:{run.lines}")])
        self.stream._note_change()

    def _leave_checkpoint(self, lease: Lease, run: Run) -> None:
        run.checkpoint = f'{{"token":{lease.token}}}'
        self.session.reported(lease, None, (), job_pb2.Payload(json=run.checkpoint))
        self.stream._note_change()

    def _end(self, lease: Lease, run: Run, outcome: str, wait_s: float | None) -> None:
        """The handler is gone. An empty outcome: its lease was lost, and nobody asks."""
        for timer in self._timers.pop(run, ()):
            timer.cancel()
        self.busy -= 1
        if outcome:
            self._history.end(run, "complete" if outcome == "result" else outcome, wait_s)
        self.stream.outbox.put((lease, _made(outcome, wait_s), True))

    def _give_up(self, lease: Lease, reason: Reason) -> None:
        run = self.runs[lease.id, lease.token]
        self._history.give_up(run, reason.value)
        if run not in self._timers:
            return
        if reason is Reason.STALE_LEASE:
            self._end(lease, run, "", None)
        elif self._script(lease.delivery).obeys:
            self._timers[run].append(
                self._loop.call_later(self._rng.random() * 0.2, self._give_way, lease, run, "drain" if reason is Reason.SHUTDOWN else "fail")
            )

    def _give_way(self, lease: Lease, run: Run, outcome: str) -> None:
        if run in self._timers:
            self._end(lease, run, outcome, None)

    def _acked(self, ack: pb.Ack) -> None:
        run = self.runs.get((ack.id, ack.token))
        verdict = pb.Verdict.Name(ack.verdict).removeprefix("VERDICT_")
        if run is not None:
            run.verdict, run.acked_s = verdict, min(run.acked_s, self._loop.time())
            self._history.tell(f"{self.name} gets its ack: {verdict}", ack.id)
