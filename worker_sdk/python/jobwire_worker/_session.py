"""The worker's side of the Work protocol, without I/O: frames and moments in, frames and effects out.

It never reads a clock, opens a connection or runs a handler; `_stream.py` does the first two and `_runner.py` the third. All moments are seconds of one
monotonic clock.

What holds at every moment (`check()` says so, the tests call it after each step):
1. What is delivered on a stream never exceeds the credit granted on it, and a granted credit never falls.
2. Each delivered job is in `held` until its finish is acked, or until the broker says that the lease is lost; `hello` lists exactly these.
3. A finish is sent on each stream until it is acked, at most once per stream; before it the latest checkpoint of the job.
4. A job is started at most once per (job, token).
5. Nothing starts while the lease may have run out, nor after a drain.

Who is authoritative: the broker alone says whether a lease is lost. Local time decides two things, both harmless when wrong: not to start what was just
delivered, and to tell handlers that the lease is uncertain.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from ._effects import Cause, Close, Effect, GiveUp, Key, Lease, LeasesUncertain, Reason, Refused, Start, Welcomed
from ._outcomes import DRAINING, NOT_RUN, Outcome, result_too_large
from ._reports import PendingReports
from ._reserves import Reserved, add_reserved

FRAME_LIMIT_BYTES = 3 * 1024 * 1024
MAX_CREDIT = 2**40
MAX_WELCOME_TIME_S = 10.0
_LOST = {pb.CANCEL_REASON_STALE_LEASE: Reason.STALE_LEASE, pb.CANCEL_REASON_TIMEOUT: Reason.TIMEOUT}
"""Cancels after which what the handler still does will not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOptions:
    """What a session says of itself and what it takes."""

    queues: tuple[str, ...]
    """The queues to take jobs from, 1 to 100."""
    concurrency: int
    """How many jobs run at once, from 1."""
    queue_limits: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of one queue run at once, for queues with a limit of their own."""
    instance_id: str = ""
    """A label for people, at most 128 characters."""
    sdk: str = ""
    """The name and version of the SDK, at most 128 characters."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels, at most 32."""
    reserved: Reserved = field(default_factory=dict)
    """Slots that are kept for queues or classes: at most `concurrency` in all."""
    session_time_s: float = 10.0
    """What is assumed of the session time until a broker says it. Seconds."""


class _Stream:
    """What is known of the one stream that is open."""

    __slots__ = (
        "bad",
        "credit_due",
        "credit_sent",
        "delivered",
        "delivered_by_queue",
        "draining_sent",
        "finishes",
        "hello_at",
        "last_received",
        "last_sent",
        "opened_at",
        "queue_credit_sent",
        "welcomed",
    )

    def __init__(self, now: float) -> None:
        self.opened_at = now
        self.hello_at: float | None = None
        self.welcomed = False
        self.bad = False
        """To be closed: nothing more is read from it or written to it."""
        self.credit_due = True
        """The totals are to be sent even if they did not grow."""
        self.last_received = now
        self.last_sent = now
        self.delivered = 0
        self.delivered_by_queue: dict[str, int] = {}
        self.credit_sent = 0
        self.queue_credit_sent: dict[str, int] = {}
        self.draining_sent = False
        self.finishes: deque[Lease] = deque()
        """Ends of attempts that were not yet sent on this stream."""


class Session:
    """One worker process, as brokers see it. `new_id` makes 16 random bytes."""

    def __init__(self, options: SessionOptions, new_id: Callable[[], bytes]) -> None:
        self.options = options
        self.session_time_s = options.session_time_s
        self.heartbeat_s = options.session_time_s / 5
        self.max_result_bytes = 1024 * 1024
        self.draining = False
        self.broker_id = ""
        self.epoch = 0
        self.id = new_id()
        self._new_id = new_id
        self._max_kept = 1000 + 10 * options.concurrency
        self._held: dict[Key, Lease] = {}
        self._busy = 0
        self._busy_by_queue = dict.fromkeys(options.queue_limits, 0)
        self._parked: list[Lease] = []
        self._stream: _Stream | None = None
        self._lease_until = math.inf
        self._uncertain = False
        self._moved_at = -math.inf
        self._welcomes_missed = 0
        self._broker_drains = False
        self._reports = PendingReports()
        self._receipts: list[Key] = []
        self._pong: int | None = None
        self._goodbye = False

    # --- what others may ask ---

    @property
    def held(self) -> int:
        """How many jobs are delivered and not yet acked."""
        return len(self._held)

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return self._busy

    @property
    def connected(self) -> bool:
        """Whether a stream is open and welcomed."""
        return self._stream is not None and self._stream.welcomed

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits to be sent or acked."""
        return not self._held and not self._busy and not self._reports

    @property
    def uncertain(self) -> bool:
        """Whether the leases may have run out."""
        return self._uncertain

    def lease_left_s(self, now: float) -> float:
        """How long the leases surely last; 0 when they may have run out."""
        return max(0.0, self._lease_until - now)

    def alive(self, now: float) -> bool:
        """Whether a frame came within the session time on a stream that is open."""
        return self._stream is not None and self._stream.welcomed and now - self._stream.last_received < self.session_time_s

    # --- the stream opens and ends ---

    def opened(self, now: float) -> None:
        """A connection was made. The next frame is the hello."""
        self.epoch += 1
        self._stream = _Stream(now)
        self._broker_drains = False
        self._pong = None
        self._goodbye = False

    def closed(self) -> None:
        """The connection is gone. What is held is kept, and its leases run down until a stream is open again."""
        self._stream = None

    def superseded(self) -> list[Effect]:
        """Another stream took the session over. A new session begins: what runs is lost, what ended is still sent, since a finish needs only its token."""
        self.closed()
        self.id = self._new_id()
        self.epoch = 0
        running = [lease for lease in self._held.values() if lease.outcome is None]
        for lease in self._held.values():
            lease.listed = False
        return self._lose(running, Reason.STALE_LEASE)

    # --- a frame comes ---

    def received(self, frame: pb.WorkResponse, now: float) -> list[Effect]:
        """Take a frame from the broker."""
        stream = self._stream
        if stream is None or stream.bad:
            return []
        stream.last_received = now
        if stream.welcomed == frame.HasField("welcome"):
            stream.bad = True
            return [Close(Cause.VIOLATION)]
        effects: list[Effect] = []
        if frame.HasField("welcome"):
            effects += self._welcome(stream, frame.welcome, now)
        self._take_acks(frame, effects)
        if frame.HasField("ping"):
            effects += self._take_ping(frame.ping, now)
        self._take_jobs(stream, frame, effects)
        if frame.cancels:
            effects += self._take_cancels(frame)
        if frame.HasField("drain"):
            self._broker_drains = True
        if frame.HasField("resume"):
            self._broker_drains = False
            stream.credit_due = True
        if frame.HasField("go_away"):
            stream.bad = True
            effects.append(Close(Cause.GO_AWAY, frame.go_away.retry_after.ToNanoseconds() / 1e9))
        return effects

    def _welcome(self, stream: _Stream, welcome: pb.Welcome, now: float) -> list[Effect]:
        stream.welcomed = True
        self._welcomes_missed = 0
        self.broker_id = welcome.broker_id
        self.session_time_s = welcome.session_time.ToNanoseconds() / 1e9 or self.options.session_time_s
        self.heartbeat_s = welcome.heartbeat_interval.ToNanoseconds() / 1e9 or self.session_time_s / 5
        self.max_result_bytes = welcome.max_result_bytes or self.max_result_bytes
        lost = self._take_held_verdicts(welcome)
        stream.finishes.extend(lease for lease in self._held.values() if lease.outcome is not None)
        for lease in self._held.values():
            if lease.checkpoint is not None:
                self._reports.note(lease, None, (), lease.checkpoint)
        # The broker renewed the leases when it took the hello, so they last from when the hello was sent.
        hello_at = stream.opened_at if stream.hello_at is None else stream.hello_at
        self._lease_until = max(hello_at + self.session_time_s, now)
        return [Welcomed(self.broker_id, self.max_result_bytes, len(welcome.held)), *lost, *self._leases_sure()]

    def _take_held_verdicts(self, welcome: pb.Welcome) -> list[Effect]:
        """Any verdict on a held job ends the keeping of it: it had been acked, or it is another's."""
        lost: dict[Reason, list[Lease]] = {}
        for ack in welcome.held:
            lease = self._held.get((ack.queue, ack.id, ack.token))
            if lease is not None:
                reason = Reason.REQUESTED if ack.verdict == pb.VERDICT_CANCELLED else Reason.STALE_LEASE
                lost.setdefault(reason, []).append(lease)
        return [effect for reason, leases in lost.items() for effect in self._lose(leases, reason)]

    def _take_acks(self, frame: pb.WorkResponse, effects: list[Effect]) -> None:
        held = self._held
        for ack in frame.acks:
            lease = held.pop((ack.queue, ack.id, ack.token), None)
            if lease is None:
                continue
            if lease.outcome is None:  # an answer to a finish that was never given
                effects += self._lose([lease], Reason.STALE_LEASE)
            elif ack.verdict != pb.VERDICT_OK:
                effects.append(Refused(lease, ack.verdict))

    def _take_jobs(self, stream: _Stream, frame: pb.WorkResponse, effects: list[Effect]) -> None:
        leases = [self._deliver(stream, Lease(delivery)) for delivery in frame.jobs]
        fresh = [lease for lease in leases if lease is not None]
        if not fresh:
            return
        if self._uncertain:
            self._parked += fresh
        else:
            effects.append(Start(fresh))

    def _deliver(self, stream: _Stream, lease: Lease) -> Lease | None:
        """The lease if it is to be started. Counted as delivered in any case: the broker counts it too."""
        queue = lease.queue
        stream.delivered += 1
        stream.delivered_by_queue[queue] = stream.delivered_by_queue.get(queue, 0) + 1
        if lease.key in self._held:
            return None
        self._held[lease.key] = lease
        if self.draining or stream.delivered > stream.credit_sent:
            lease.running = False
            self._settle(lease, DRAINING if self.draining else NOT_RUN)
            return None
        self._busy += 1
        if queue in self._busy_by_queue:
            self._busy_by_queue[queue] += 1
        return lease

    def _take_cancels(self, frame: pb.WorkResponse) -> list[Effect]:
        effects: list[Effect] = []
        for cancel in frame.cancels:
            key = (cancel.queue, cancel.id, cancel.token)
            lease = self._held.get(key)
            if cancel.reason in _LOST:
                effects += self._lose([lease] if lease is not None and lease.outcome is None else [], _LOST[cancel.reason])
                continue
            self._receipts.append(key)
            if lease is None or lease.outcome is not None:
                continue
            if self._unpark(lease):
                self._settle(lease, NOT_RUN)
            else:
                effects.append(GiveUp([lease], Reason.REQUESTED, cancel.grace.ToNanoseconds() / 1e9 or None))
        return effects

    def _take_ping(self, ping: pb.Ping, now: float) -> list[Effect]:
        self._pong = ping.number
        self._lease_until = now + (ping.lease_left.ToNanoseconds() / 1e9 if ping.HasField("lease_left") else self.session_time_s)
        return self._leases_sure() if self._lease_until > now else self._leases_uncertain()

    def _lose(self, leases: list[Lease], reason: Reason) -> list[Effect]:
        """Forget these: the broker says they are not ours. Those that run are told, and what comes of them is dropped."""
        told: list[Lease] = []
        for lease in leases:
            self._held.pop(lease.key, None)
            self._reports.forget(lease)
            if lease.outcome is None and not self._unpark(lease):
                told.append(lease)
        return [GiveUp(told, reason)] if told else []

    def _unpark(self, lease: Lease) -> bool:
        """Take back a job that waits to be started; False when it is not among these."""
        if lease not in self._parked:
            return False
        self._parked.remove(lease)
        self.freed(lease)
        return True

    # --- time passes ---

    def ticked(self, now: float, *, other_brokers: bool) -> list[Effect]:
        """Look at the clock. `other_brokers` says whether another address may be tried."""
        effects: list[Effect] = []
        if self._lease_until <= now:
            effects += self._leases_uncertain()
        stream = self._stream
        if stream is None or stream.bad:
            return effects
        if now >= self._silent_at(stream):
            stream.bad = True
            self._welcomes_missed += not stream.welcomed
            effects.append(Close(Cause.SILENT))
        elif stream.welcomed and other_brokers and self._should_move(now):
            stream.bad = True
            self._moved_at = now
            effects.append(Close(Cause.MOVE))
        return effects

    def next_tick(self, now: float) -> float:
        """When `ticked` or `next_frame` has something to do next, if nothing happens before."""
        moments = [now + self.session_time_s]
        if not self._uncertain:
            moments.append(self._lease_until)
        stream = self._stream
        if stream is not None and not stream.bad:
            moments.append(self._silent_at(stream))
            if stream.welcomed:
                moments.append(stream.last_sent + self._send_at_least_every_s)
                moments += [moment for moment in (self._half_lease_at, self._moved_at + self.session_time_s) if moment > now]
                if self._reports:
                    moments.append(self._reports.due_at)
        return min(moments)

    def _silent_at(self, stream: _Stream) -> float:
        """Half the session time without a frame: what is left must do for coming back.

        A welcome has a third, since the next address must have its turn; twice that after each that did not come, so that a slow broker has its chance.
        """
        if not stream.welcomed:
            return stream.opened_at + min(MAX_WELCOME_TIME_S, self.session_time_s / 3 * 2.0 ** min(self._welcomes_missed, 16))
        return stream.last_received + max(self.session_time_s / 2, min(2.5 * self.heartbeat_s, self.session_time_s))

    @property
    def _half_lease_at(self) -> float:
        return self._lease_until - self.session_time_s / 2

    @property
    def _send_at_least_every_s(self) -> float:
        return self.heartbeat_s * 0.75

    def _should_move(self, now: float) -> bool:
        """At most once per session time: when no broker reaches the store, moving about helps nobody."""
        return now >= self._half_lease_at and now - self._moved_at >= self.session_time_s

    def _leases_uncertain(self) -> list[Effect]:
        if self._uncertain:
            return []
        self._uncertain = True
        return self._about_leases(uncertain=True)

    def _leases_sure(self) -> list[Effect]:
        if not self._uncertain:
            return []
        self._uncertain = False
        effects = self._about_leases(uncertain=False)
        parked, self._parked = self._parked, []
        return [*effects, Start(parked)] if parked else effects

    def _about_leases(self, *, uncertain: bool) -> list[Effect]:
        leases = [lease for lease in self._held.values() if lease.outcome is None and lease not in self._parked]
        return [LeasesUncertain(leases, uncertain)] if leases else []

    # --- what becomes of the jobs ---

    def ended(self, lease: Lease, outcome: Outcome) -> None:
        """The attempt ended. Ignored for a lease that is lost, or that has ended before."""
        if lease.outcome is None and self._held.get(lease.key) is lease:
            self._settle(lease, outcome)

    def freed(self, lease: Lease) -> None:
        """The handler is gone and its slot is free. A handler may outlive its attempt, but never gives its slot away before its end."""
        if lease.running:
            lease.running = False
            self._busy -= 1
            if lease.queue in self._busy_by_queue:
                self._busy_by_queue[lease.queue] -= 1

    def _settle(self, lease: Lease, outcome: Outcome) -> None:
        lease.outcome = outcome
        stream = self._stream
        if stream is not None and stream.welcomed:
            stream.finishes.append(lease)

    def reported(
        self, lease: Lease, progress: job_pb2.Progress | None, lines: Iterable[job_pb2.LogLine] = (), checkpoint: job_pb2.Payload | None = None
    ) -> None:
        """The handler says how far it is. Of several reports of progress the latest is sent."""
        if lease.outcome is not None or self._held.get(lease.key) is not lease:
            return
        if checkpoint is not None:
            lease.checkpoint = checkpoint
            lease.checkpoints += 1
        self._reports.note(lease, progress, lines, checkpoint)

    def drain(self) -> None:
        """Take nothing more. What was delivered and not started goes back."""
        if self.draining:
            return
        self.draining = True
        for lease in list(self._parked):
            self._unpark(lease)
            self._settle(lease, DRAINING)

    def give_up(self) -> list[Effect]:
        """The grace for what runs is over: tell all of it to end."""
        running = [lease for lease in self._held.values() if lease.outcome is None]
        return [GiveUp(running, Reason.SHUTDOWN)] if running else []

    def say_goodbye(self) -> None:
        """Send what is there and then the goodbye, which hands back all else."""
        self._goodbye = True

    # --- a frame goes ---

    def next_frame(self, now: float) -> pb.WorkRequest | None:
        """All that is ready to be sent, as one frame of at most 3 MiB; None when there is nothing."""
        stream = self._stream
        if stream is None or stream.bad:
            return None
        if stream.hello_at is None:
            stream.hello_at = stream.last_sent = now
            return pb.WorkRequest(hello=self._hello())
        if not stream.welcomed:
            return None
        frame = pb.WorkRequest()
        if not self._fill(frame, stream, now) and now - stream.last_sent < self._send_at_least_every_s:
            return None
        stream.last_sent = now
        return frame

    def _hello(self) -> pb.Hello:
        options = self.options
        hello = pb.Hello(
            session=self.id,
            epoch=self.epoch,
            instance_id=options.instance_id,
            queues=options.queues,
            sdk=options.sdk,
            concurrency=options.concurrency,
            labels=options.labels,
        )
        add_reserved(hello, options.reserved)
        for lease in self._held.values():
            if lease.listed:
                lease.write_identity(hello.held.add())
        return hello

    def _fill(self, frame: pb.WorkRequest, stream: _Stream, now: float) -> bool:
        """Put in all that is ready. False when there was nothing."""
        if self._add_receipts(frame):  # alone: in one frame a finish is handled before a receipt, and the cancel would look as if it had not arrived
            return True
        room = FRAME_LIMIT_BYTES
        if self._reports and (stream.finishes or self._goodbye or now >= self._reports.due_at):
            room = self._reports.write(frame, room, now)
        if stream.finishes and not self._reports:  # a job's reports go before its end
            room = self._add_finishes(frame, stream, room)
        filled = room < FRAME_LIMIT_BYTES
        filled |= self._add_credit(frame, stream)
        if self._pong is not None:
            frame.pong.number = self._pong
            self._pong = None
            filled = True
        if self._goodbye and not stream.finishes and not self._reports:
            frame.goodbye.SetInParent()
            stream.bad = True
            filled = True
        return filled

    def _add_finishes(self, frame: pb.WorkRequest, stream: _Stream, room: int) -> int:
        finishes = stream.finishes
        add = frame.finishes.add
        while finishes:
            lease = finishes[0]
            outcome = lease.outcome
            if outcome is None or self._held.get(lease.key) is not lease:  # acked or lost meanwhile
                finishes.popleft()
                continue
            if outcome.result_bytes > self.max_result_bytes:
                lease.outcome = outcome = result_too_large(outcome.result_bytes, self.max_result_bytes)
            if outcome.size_bytes > room and room < FRAME_LIMIT_BYTES:
                break
            finishes.popleft()
            room -= outcome.size_bytes
            finish = add()
            finish.queue = lease.queue
            finish.id = lease.id
            finish.token = lease.token
            outcome.write(finish)
        return room

    def _add_credit(self, frame: pb.WorkRequest, stream: _Stream) -> bool:
        """The totals, when they grew. After a drain the one word `draining` sets them to what was sent."""
        if self.draining:
            if stream.draining_sent:
                return False
            stream.draining_sent = True
            frame.draining.SetInParent()
            return True
        total = self._credit(stream)
        by_queue = {queue: self._queue_credit(stream, queue) for queue in self._busy_by_queue}
        if self._broker_drains or (total == stream.credit_sent and by_queue == stream.queue_credit_sent and not stream.credit_due):
            return False
        stream.credit_due = False
        stream.credit_sent = frame.credit.jobs = total
        stream.queue_credit_sent = by_queue
        for queue, jobs in by_queue.items():
            frame.credit.queues.add(queue=queue, jobs=jobs)
        return True

    def _credit(self, stream: _Stream) -> int:
        """Delivered and free slots, while not too many finishes wait for their acks. It never falls."""
        free = min(self.options.concurrency - self._busy, self._max_kept - len(self._held))
        return min(MAX_CREDIT, max(stream.credit_sent, stream.delivered + free))

    def _queue_credit(self, stream: _Stream, queue: str) -> int:
        free = self.options.queue_limits[queue] - self._busy_by_queue[queue]
        return min(MAX_CREDIT, max(stream.queue_credit_sent.get(queue, 0), stream.delivered_by_queue.get(queue, 0) + free))

    def _add_receipts(self, frame: pb.WorkRequest) -> bool:
        for queue, id_, token in self._receipts:
            frame.cancel_receipts.add(queue=queue, id=id_, token=token)
        added = bool(self._receipts)
        self._receipts.clear()
        return added

    # --- for tests ---

    def check(self) -> None:
        """Raise AssertionError when an invariant does not hold."""
        running = [lease for lease in self._held.values() if lease.running]
        assert len(running) <= self._busy <= self.options.concurrency, (len(running), self._busy)
        for queue, busy in self._busy_by_queue.items():
            assert 0 <= busy <= self.options.queue_limits[queue], (queue, busy)
        assert all(self._held.get(lease.key) is lease for lease in (*self._parked, *self._reports))
        assert not (self.draining and self._parked)
        if self._stream is not None:
            assert self._stream.credit_sent <= MAX_CREDIT
            waiting = {lease.key for lease in self._stream.finishes}
            assert len(waiting) == len(self._stream.finishes), "a finish waits twice"
