"""Any order of deliveries, ends, acks, cuts and cancels leaves the session's promises whole: a model broker that believes nothing checks them."""

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._effects import Close, Effect, GiveUp, Key, Lease, Start
from jobwire_worker._outcomes import NO_RESULT, Failed
from jobwire_worker._session import Session, SessionOptions

from tests.unit.worker.scripts import key_of, seconds

CONCURRENCY = 4
LIMITS = {"a": 2, "b": 4}


class Conversation(RuleBasedStateMachine):
    """The session talks to a broker that keeps its own books: what it delivered, what it was granted, what it was told."""

    def __init__(self) -> None:
        super().__init__()
        ids: Iterator[int] = count(1)
        options = SessionOptions(queues=tuple(LIMITS), concurrency=CONCURRENCY, queue_limits=LIMITS)
        self.session = Session(options, lambda: next(ids).to_bytes(16, "big"))
        self.now = 0.0
        self.tokens = count(1)
        # The broker's books.
        self.open = False
        self.epoch = 0
        self.granted: dict[str | None, int] = {}
        self.delivered: dict[str | None, int] = {}
        self.unacked: set[Key] = set()  # leased to the session, by the broker's books
        self.waiting_acks: list[pb.Finish] = []
        self.finishes_on_stream: set[Key] = set()
        # The worker's side.
        self.started: set[Key] = set()
        self.running: dict[Key, Lease] = {}
        self.lost: set[Key] = set()
        self.ended: set[Key] = set()

    # --- the stream ---

    @precondition(lambda self: not self.open)
    @rule(lose=st.sampled_from([0, 0, 0, 1, 3]))
    def connect(self, lose: int) -> None:
        self.session.opened(self.now)
        frame = self.session.next_frame(self.now)
        assert frame is not None
        hello = frame.hello
        assert hello.epoch == self.epoch + 1
        self.epoch = hello.epoch
        held = {key_of(held) for held in hello.held}
        assert held == self.unacked, "the list of held jobs is not what the broker leased and did not ack"
        lost = sorted(held)[:lose]
        self.unacked = held - set(lost)
        self.open = True
        self.granted, self.delivered, self.waiting_acks, self.finishes_on_stream = {}, {}, [], set()
        verdicts = [pb.Ack(queue=queue, id=id_, token=token, verdict=pb.VERDICT_STALE_LEASE) for queue, id_, token in lost]
        self.lost |= set(lost)
        self.receive(pb.WorkResponse(welcome=pb.Welcome(held=verdicts, session_time=seconds(10), heartbeat_interval=seconds(2))))

    @precondition(lambda self: self.open)
    @rule()
    def cut(self) -> None:
        self.session.closed()
        self.open = False

    @precondition(lambda self: self.open)
    @rule()
    def send(self) -> None:
        while (frame := self.session.next_frame(self.now)) is not None:
            self.take(frame)

    def take(self, frame: pb.WorkRequest) -> None:
        if frame.HasField("credit"):
            totals: dict[str | None, int] = {None: frame.credit.jobs} | {credit.queue: credit.jobs for credit in frame.credit.queues}
            for name, total in totals.items():
                assert total >= self.granted.get(name, 0), "credit fell"
            self.granted = totals
        for report in frame.progress:
            assert (report.queue, report.id, report.token) not in self.finishes_on_stream, "progress after the end"
        for finish in frame.finishes:
            key = key_of(finish)
            assert key not in self.finishes_on_stream, "a finish was sent twice on one stream"
            assert key in self.unacked, "a finish for what is not ours"
            self.finishes_on_stream.add(key)
            self.waiting_acks.append(finish)

    def receive(self, frame: pb.WorkResponse) -> None:
        self.note(self.session.received(frame, self.now))

    def note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                for lease in effect.leases:
                    assert lease.key not in self.started, "started twice"
                    assert not self.session.uncertain
                    self.started.add(lease.key)
                    self.running[lease.key] = lease
            elif isinstance(effect, GiveUp):
                assert all(lease.key in self.running for lease in effect.leases)
            elif isinstance(effect, Close):
                self.cut()

    # --- jobs ---

    @precondition(lambda self: self.open)
    @rule(queue=st.sampled_from(sorted(LIMITS)), number=st.integers(1, 5))
    def deliver(self, queue: str, number: int) -> None:
        self.send()  # all credit that there is
        if not self.open:
            return
        room = min(self.granted.get(name, 0) - self.delivered.get(name, 0) for name in (None, queue))
        jobs = [pb.Delivery(queue=queue, id=f"j{token}", token=token) for token, _ in zip(self.tokens, range(min(number, room)), strict=False)]
        for name in (None, queue):
            self.delivered[name] = self.delivered.get(name, 0) + len(jobs)
        self.unacked |= {key_of(job) for job in jobs}
        if jobs:
            self.receive(pb.WorkResponse(jobs=jobs))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100), fails=st.booleans(), stuck=st.booleans())
    def end(self, pick: int, fails: bool, stuck: bool) -> None:
        key = sorted(self.running)[pick % len(self.running)]
        lease = self.running[key]
        self.session.ended(lease, Failed("Error", "no") if fails else NO_RESULT)
        self.ended.add(key)
        if not stuck:
            self.session.freed(lease)
            del self.running[key]

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100))
    def report(self, pick: int) -> None:
        lease = self.running[sorted(self.running)[pick % len(self.running)]]
        self.session.reported(lease, job_pb2.Progress(percent=50), [job_pb2.LogLine(sequence=1)], job_pb2.Payload(json="1"))

    @precondition(lambda self: self.open and self.waiting_acks)
    @rule(number=st.integers(1, 4), verdict=st.sampled_from([pb.VERDICT_OK, pb.VERDICT_STALE_LEASE, pb.VERDICT_CANCELLED]))
    def ack(self, number: int, verdict: pb.Verdict.ValueType) -> None:
        acked, self.waiting_acks = self.waiting_acks[:number], self.waiting_acks[number:]
        self.unacked -= {key_of(finish) for finish in acked}
        self.receive(pb.WorkResponse(acks=[pb.Ack(queue=finish.queue, id=finish.id, token=finish.token, verdict=verdict) for finish in acked]))

    @precondition(lambda self: self.open and self.running)
    @rule(pick=st.integers(0, 100), stale=st.booleans())
    def cancel(self, pick: int, stale: bool) -> None:
        queue, id_, token = key = sorted(self.running)[pick % len(self.running)]
        if stale and key not in self.ended:
            self.unacked.discard(key)
            self.lost.add(key)
        reason = pb.CANCEL_REASON_STALE_LEASE if stale else pb.CANCEL_REASON_REQUESTED
        self.receive(pb.WorkResponse(cancels=[pb.Cancel(queue=queue, id=id_, token=token, reason=reason)]))

    # --- time ---

    @precondition(lambda self: self.open)
    @rule(left=st.sampled_from([0.0, 3.0, 10.0, 10.0]))
    def ping(self, left: float) -> None:
        self.receive(pb.WorkResponse(ping=pb.Ping(number=1, lease_left=seconds(left))))

    @rule(after=st.sampled_from([0.1, 0.1, 1.0, 4.0, 11.0]), others=st.booleans())
    def wait(self, after: float, others: bool) -> None:
        self.now += after
        assert self.session.next_tick(self.now) <= self.now + self.session.session_time_s
        self.note(self.session.ticked(self.now, other_brokers=others))

    @rule(really=st.integers(0, 15))
    def drain(self, really: int) -> None:
        if really == 0:
            self.session.drain()

    # --- what always holds ---

    @invariant()
    def the_session_holds_what_the_broker_leased(self) -> None:
        self.session.check()
        assert self.session.held == len(self.unacked)
        assert len(self.running) <= self.session.running <= CONCURRENCY

    def teardown(self) -> None:
        """At the end everything that runs ends, and after one undisturbed stream the broker has heard of all of it."""
        if not self.open:
            self.connect(0)
        self.ping(10.0)
        for lease in list(self.running.values()):
            self.session.ended(lease, NO_RESULT)
            self.session.freed(lease)
        self.running.clear()
        self.send()
        self.ack(len(self.waiting_acks), pb.VERDICT_OK)
        assert self.unacked == set()
        assert self.session.running == 0


Conversation.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
test_any_conversation_keeps_the_promises = Conversation.TestCase
