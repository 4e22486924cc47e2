"""The pulse of one queue: renews this broker's sessions, and has the store do what is due (RULES 2).

With sessions or watchers it beats once a second, and besides exactly when the next date or deadline comes. Without any it beats only while something is due
within the sweep's interval; the registry's sweep covers the rest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from jobwire.v1 import worker_service_pb2 as pb

from jobwire_broker.errors import BrokerError, SessionMoved, StoreFault, StoreUnavailable
from jobwire_broker.names import id_to_text
from jobwire_broker.rules.partition import Partition, Stream
from jobwire_broker.store.answers import PulseReport, Word
from jobwire_broker.store.arguments import Renewal

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
SWEEP_S = 4.0
#: How far one pulse moves the clock at most (lua/pulse.lua): 2 s, or this share of a shorter session time. A beat takes half of that.
MAX_STEP_S, STEP_SHARE = 2.0, 5
RETRY_S = 0.05
#: A pulse never follows another sooner.
MIN_GAP_S = 0.005


class Pulse:
    """Beats for one partition."""

    def __init__(self, partition: Partition, session_ms: int) -> None:
        self.partition = partition
        self.session_ms = session_ms
        step_s = min(MAX_STEP_S, session_ms / 1000 / STEP_SHARE)
        self.interval_s = min(INTERVAL_S, step_s / 2)
        # Without sessions of its own, a broker has only to keep the clock going; who has them beats more often.
        self._lone_interval_s = step_s * 0.95
        self.last_success = time.monotonic()
        self.is_watched: Callable[[], bool] = lambda: False
        self.on_report: Callable[[PulseReport], None] = lambda report: None
        self.report: PulseReport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._stopped = False
        self._uneven: dict[bytes, int] = {}
        partition.on_delayed = self.beat_soon
        partition.on_deadline = self.schedule

    def stop(self) -> None:
        """Beat no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def beat(self) -> None:
        """Beat now, or right after the beat that is under way."""
        if self._stopped:
            return
        if self._task is not None:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = asyncio.create_task(self._beat())

    def beat_soon(self) -> None:
        """Something was put off: learn when it is due."""
        self.schedule(MIN_GAP_S)

    def schedule(self, delay_s: float) -> None:
        """Beat in `delay_s`, unless a beat is set for earlier."""
        if self._stopped:
            return
        at = asyncio.get_running_loop().time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.beat()

    async def _beat(self) -> None:
        delay: float | None = self.interval_s
        try:
            delay = await self._beat_once()
        except BrokerError as error:
            # After a beat whose answer was lost the next one follows soon: what it was to find has waited long enough. A store that is away is not hurried.
            if isinstance(error, StoreUnavailable) and error.accepted == "unknown":
                delay = min(self.interval_s, RETRY_S)
        except StoreFault as error:
            log.error("pulse.failed queue=%s error=%s", self.partition.queue, error)
        except Exception:
            # An answer that is none, say of a newer broker's functions: without another beat the sessions of this queue would all be lost.
            log.exception("pulse.failed queue=%s", self.partition.queue)
        finally:
            self._task = None
        if self._again:
            self._again = False
            delay = MIN_GAP_S
        if delay is not None:
            self.schedule(delay)

    async def _beat_once(self) -> float | None:
        streams = list(self.partition.streams.values())
        began = time.monotonic()
        renewals = [self._renewal(stream, began) for stream in streams]
        report = await self.partition.store.pulse(self.session_ms, renewals, self.partition.policy.version)
        self.last_success = began
        self.report = report
        if report.policy is not None:
            self.partition.learn_policy(report.policy)
        self.on_report(report)
        for stream, renewal, word, held in zip(streams, renewals, report.words, report.held, strict=True):
            # A worker that has been silent for a whole session is being reaped: to attach for it again would only put that off, and count a second loss.
            if renewal.age_ms >= 0 or word == Word.SESSION_MOVED:
                self._check(stream, word, held)
        for cancel in report.cancels:
            work = streams[cancel.at].work
            work.cancel(self.partition.queue, id_to_text(cancel.raw_id), cancel.token, pb.CANCEL_REASON_REQUESTED, cancel.grace_ms)
            streams[cancel.at].wake_writer()
        for at, raw_id, token in report.timeouts:
            work = streams[at].work
            work.drop(self.partition.queue, raw_id, token)
            work.cancel(self.partition.queue, id_to_text(raw_id), token, pb.CANCEL_REASON_TIMEOUT)
            streams[at].wake_writer()
        self.partition.pulsed(report.seq, report.waiting)
        return self._next_delay(report)

    def _renewal(self, stream: Stream, now: float) -> Renewal:
        age_ms = int((now - stream.work.last_received) * 1000)
        return Renewal(stream.work.session, stream.work.epoch, age_ms if age_ms < self.session_ms else -1)

    def _check(self, stream: Stream, word: str, held: int) -> None:
        if word == Word.SESSION_MOVED:
            stream.end(SessionMoved("a newer stream of this session has taken over"))
        elif word == Word.NO_SESSION:
            stream.reattach(self.partition.queue)
        else:
            self._compare(stream, held)

    def _compare(self, stream: Stream, held: int) -> None:
        """Both sides count alike, or twice in a row they don't while no call is under way: then compare in full (RULES 3)."""
        session = stream.work.session
        own = stream.work.held_in(self.partition.queue)
        if own == held or not self.partition.is_quiet():
            self._uneven.pop(session, None)
        elif self._uneven.get(session):
            del self._uneven[session]
            stream.reattach(self.partition.queue)
        else:
            self._uneven[session] = 1

    def _next_delay(self, report: PulseReport) -> float | None:
        if report.more:
            return MIN_GAP_S
        dues = [ms / 1000 for ms in (report.due_ms, report.deadline_ms) if ms >= 0]
        if self.partition.streams or self.is_watched():
            return max(MIN_GAP_S, min([self.interval_s, *dues]))
        if report.active or report.deadline_ms >= 0:
            return max(MIN_GAP_S, min([self._lone_interval_s, *dues]))
        return max(MIN_GAP_S, min(dues)) if dues and min(dues) < SWEEP_S else None
