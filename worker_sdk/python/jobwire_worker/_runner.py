"""Runs handlers: what the session says to start, on the loop of the program or in threads, and tells the session what became of it.

Everything between this loop and the stream's goes through two mailboxes, a batch at a time. A run takes its slot from its start to the very end of its
handler, also when its attempt has ended before: a thread cannot be stopped, and its slot must not be given away while it works.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Protocol

from jobwire.v1 import worker_service_pb2 as pb

from ._cancellation import CancelReason
from ._drivers import Drivers
from ._effects import Effect, GiveUp, Lease, LeasesUncertain, Reason, Start, Welcomed
from ._handlers import Handler, Registry
from ._hooks import Hooks, finish_hooks
from ._job import Job
from ._outcomes import DRAINING, NO_HANDLER, Failed, GroupLimited, Outcome, Snoozed, result_too_large
from ._payloads import encode_result
from ._threads import Threads
from .errors import Cancelled, Limited, PayloadError, Permanent, ResultError, Retry, Snooze

log = logging.getLogger("jobwire.worker")

TIMEOUT_GRACE_S = 5.0
"""How long a handler may take to end after its timeout, before its attempt is reported as failed without it."""

_REASONS = {reason: CancelReason(reason.value) for reason in Reason}

Ended = tuple[Lease, Outcome | None, bool]
"""A lease, the outcome of its attempt (None when it was told before), and whether its slot is free again."""


class Outbox(Protocol):
    """The way to the stream: `Ended`, and jobs that have something to report. From any thread."""

    def put(self, item: Ended | Job[Any], /) -> None: ...


class Run:
    """One handler at work."""

    __slots__ = ("handler", "in_handler", "job", "lease", "reported", "task", "timeout_s", "timer")

    def __init__(self, lease: Lease, job: Job[Any], handler: Handler) -> None:
        self.lease = lease
        self.job = job
        self.handler = handler
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.timeout_s = _timeout_s(lease.delivery, handler)
        self.in_handler = False
        """Cancelling the task reaches the handler, and not our own code around it."""
        self.reported = False
        """The outcome was told; only the slot is still taken."""


class Runner:
    """`take` and the timers run on `loop`. `draining` may be set from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, registry: Registry, hooks: Hooks, outbox: Outbox, concurrency: int) -> None:
        self.draining = False
        self.max_result_bytes = 1024 * 1024
        self.connected = asyncio.Event()
        self._loop = loop
        self._registry = registry
        self._hooks = hooks
        self._outbox = outbox
        self._threads = Threads(concurrency, "jobwire-handler")
        self._drivers = Drivers(loop, self._run_async)

    def take(self, effects: list[Effect]) -> None:
        """Do what the session says."""
        for effect in effects:
            if isinstance(effect, Start):
                for lease in effect.leases:
                    self._start(lease)
            elif isinstance(effect, GiveUp):
                self._give_up(effect)
            elif isinstance(effect, LeasesUncertain):
                self._leases_uncertain(effect)
            elif isinstance(effect, Welcomed):
                self.max_result_bytes = effect.max_result_bytes
                self.connected.set()
        self._drivers.start()

    def stop(self) -> None:
        """Let the threads end. Coroutines that still run are cancelled."""
        self._threads.stop()
        self._drivers.cancel()

    # --- starting ---

    def _start(self, lease: Lease) -> None:
        if self.draining:
            self._outbox.put((lease, DRAINING, True))
            return
        delivery = lease.delivery
        handler = self._registry.find(delivery.job_name)
        if handler is None:
            log.warning("job.no_handler job=queues/%s/jobs/%s job_name=%s", lease.queue, lease.id, delivery.job_name)
            self._outbox.put((lease, NO_HANDLER, True))
            return
        run = Run(lease, Job(delivery, self._outbox, lease), handler)
        lease.run = run
        if run.timeout_s is not None:
            run.timer = self._loop.call_later(run.timeout_s, self._timed_out, run)
        if handler.is_async:
            self._drivers.add(run)
        else:
            self._threads.submit(self._run_in_thread, run)

    async def _run_async(self, run: Run) -> None:
        if self.draining:  # it waited behind others in a loop that was blocked
            self._hand_back(run)
            return
        run.task = asyncio.current_task()
        job, handler, hooks = run.job, run.handler, self._hooks
        outcome: Outcome
        error: BaseException | None = None
        result: Any = None
        try:
            if hooks.started:
                await finish_hooks(hooks.call(hooks.started, job), job)
            arguments = handler.arguments(job, run.lease.delivery.payload)
            run.in_handler = True
            if job.cancelled.definite:  # before it began: a cancel of the task would then have reached us, not it
                raise Cancelled
            result = await handler.function(*arguments)
            run.in_handler = False
            outcome = encode_result(result)
        except (Exception, asyncio.CancelledError, SystemExit) as raised:
            run.in_handler = False
            error = raised
            outcome = self._outcome_of(run, raised)
        outcome = self._fitting(outcome)
        if hooks.completed or hooks.failed:
            await finish_hooks(self._tell_hooks(run, outcome, result, error), job)
        if run.timer is not None:
            run.timer.cancel()
        self._end(run, outcome)

    def _run_in_thread(self, run: Run) -> None:
        if self.draining:
            self._hand_back(run)
            return
        job, handler, hooks = run.job, run.handler, self._hooks
        outcome: Outcome
        error: BaseException | None = None
        result: Any = None
        try:
            if hooks.started:
                self._finish_hooks_from_thread(hooks.call(hooks.started, job), job)
            arguments = handler.arguments(job, run.lease.delivery.payload)
            job.check_cancelled()
            result = handler.function(*arguments)
            outcome = encode_result(result)
        except BaseException as raised:  # in a thread nobody else would hear of it, and the job's end and the thread would be lost
            error = raised
            outcome = self._outcome_of(run, raised)
        outcome = self._fitting(outcome)
        if hooks.completed or hooks.failed:
            self._tell_hooks_from_thread(run, outcome, result, error)
        if run.timer is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(run.timer.cancel)
        self._end(run, outcome)

    def _tell_hooks_from_thread(self, run: Run, outcome: Outcome, result: Any, error: BaseException | None) -> None:
        try:
            self._finish_hooks_from_thread(self._tell_hooks(run, outcome, result, error), run.job)
        except BaseException:  # as above
            log.exception("hook.failed job=%s", run.job.name)

    def _finish_hooks_from_thread(self, waiting: list[Awaitable[Any]], job: Job[Any]) -> None:
        if waiting and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(finish_hooks(waiting, job), self._loop).result()

    # --- ending ---

    def _hand_back(self, run: Run) -> None:
        """It did not start, and the worker takes nothing more."""
        run.reported = True
        run.lease.run = None
        self._outbox.put((run.lease, DRAINING, True))

    def _end(self, run: Run, outcome: Outcome) -> None:
        """The handler is gone."""
        run.lease.run = None
        reported, run.reported = run.reported, True
        self._outbox.put((run.lease, None if reported else outcome, True))

    def _fitting(self, outcome: Outcome) -> Outcome:
        if outcome.result_bytes > self.max_result_bytes:
            return result_too_large(outcome.result_bytes, self.max_result_bytes)
        return outcome

    def _tell_hooks(self, run: Run, outcome: Outcome, result: Any, error: BaseException | None) -> list[Awaitable[Any]]:
        """Hooks hear of ends that count: not of snoozes, cancels or lost leases."""
        hooks, job = self._hooks, run.job
        if run.reported or job.cancelled.reason is CancelReason.STALE_LEASE:
            return []
        if isinstance(outcome, Failed):
            if isinstance(error, Cancelled | asyncio.CancelledError) and job.cancelled.reason is CancelReason.REQUESTED:
                return []
            told = error if error is not None else ResultError(outcome.message)
            return hooks.call(hooks.failed, job, told, final=outcome.permanent or job.last_attempt)
        return [] if error is not None else hooks.call(hooks.completed, job, result)

    def _outcome_of(self, run: Run, error: BaseException) -> Outcome:
        """What a raised error means for the attempt. Logged here and nowhere else."""
        job = run.job
        if isinstance(error, Cancelled | asyncio.CancelledError) and job.cancelled.definite:
            return self._outcome_of_cancel(run)
        if isinstance(error, Snooze):
            return Snoozed(error.after.total_seconds())
        if isinstance(error, Limited):
            return GroupLimited(error.after.total_seconds())
        name, message = type(error).__name__, str(error) or type(error).__name__
        if isinstance(error, Retry):
            log.info("job.retry job=%s attempt=%d after=%s message=%s", job.name, job.attempt, error.after, message)
            return Failed(name, message, retry_after_s=None if error.after is None else error.after.total_seconds())
        permanent = isinstance(error, Permanent | PayloadError | ResultError)
        if permanent:
            log.warning("job.failed job=%s attempt=%d permanent=true error=%s message=%s", job.name, job.attempt, name, message)
        else:
            log.warning("job.failed job=%s attempt=%d permanent=false error=%s message=%s", job.name, job.attempt, name, message, exc_info=error)
        stack = "" if isinstance(error, PayloadError | ResultError) else "".join(traceback.format_exception(error))
        return Failed(name, message, stack=stack, permanent=permanent)

    def _outcome_of_cancel(self, run: Run) -> Outcome:
        reason = run.job.cancelled.reason
        if reason is CancelReason.TIMEOUT:
            return self._timeout_failure(run)
        if reason is CancelReason.SHUTDOWN:
            return DRAINING
        return Failed("Cancelled", "the handler gave up when it was told to")

    # --- giving up ---

    def _give_up(self, effect: GiveUp) -> None:
        reason = _REASONS[effect.reason]
        grace = None if effect.grace_s is None else timedelta(seconds=effect.grace_s)
        for lease in effect.leases:
            run = lease.run
            if isinstance(run, Run):
                log.info("job.cancelled job=%s reason=%s", run.job.name, reason.value)
                self._cancel(run, reason, grace)
                if effect.reason is Reason.TIMEOUT:
                    self._await_end(run)

    def _cancel(self, run: Run, reason: CancelReason, grace: timedelta | None = None) -> None:
        """Threads read `job.cancelled`; coroutines get a CancelledError as well."""
        run.job.cancelled._set(reason, grace)
        if run.task is not None and run.in_handler:
            run.task.cancel()

    def _leases_uncertain(self, effect: LeasesUncertain) -> None:
        """Only told: it may pass, and then what the handlers did must count."""
        for lease in effect.leases:
            run = lease.run
            if isinstance(run, Run):
                if effect.uncertain:
                    run.job.cancelled._set(CancelReason.LEASE_UNCERTAIN)
                else:
                    run.job.cancelled._clear_uncertain()

    def _timed_out(self, run: Run) -> None:
        if run.lease.run is not run or run.job.cancelled.definite:
            return
        self._cancel(run, CancelReason.TIMEOUT, timedelta(seconds=TIMEOUT_GRACE_S))
        self._await_end(run)

    def _await_end(self, run: Run) -> None:
        """Its time is over: it may take this much longer to end."""
        if run.timer is not None:
            run.timer.cancel()
        run.timer = self._loop.call_later(TIMEOUT_GRACE_S, self._fail_without_handler, run)

    def _fail_without_handler(self, run: Run) -> None:
        """The handler does not end: its attempt does, and its slot stays taken."""
        if run.reported:
            return
        run.reported = True
        failure = self._timeout_failure(run)
        log.error("job.stuck job=%s attempt=%d: its handler goes on after its timeout and keeps its slot", run.job.name, run.job.attempt)
        self._outbox.put((run.lease, failure, False))
        waiting = self._hooks.call(self._hooks.failed, run.job, TimeoutError(failure.message), final=run.job.last_attempt)
        if waiting:
            self._loop.create_task(finish_hooks(waiting, run.job))

    @staticmethod
    def _timeout_failure(run: Run) -> Failed:
        bound = "" if run.timeout_s is None else f" of {run.timeout_s:g} s"
        return Failed("Timeout", f"the handler ran longer than its timeout{bound}")


def _timeout_s(delivery: pb.Delivery, handler: Handler) -> float | None:
    """How long a run may take: as the job or its queue says, or its handler if that is less."""
    if not delivery.HasField("timeout"):
        return handler.timeout_s
    bound = delivery.timeout.ToNanoseconds() / 1e9
    return bound if handler.timeout_s is None else min(bound, handler.timeout_s)
