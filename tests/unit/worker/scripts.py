"""What the tests of the session share: a broker that is written out frame by frame, and a clock that they move."""

import itertools

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker._effects import Close, Effect, GiveUp, Lease, LeasesUncertain, Start
from jobwire_worker._session import Session, SessionOptions

QUEUE = "q"


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def key_of(message: pb.Held | pb.Finish | pb.Ack | pb.Delivery) -> tuple[str, str, int]:
    return (message.queue, message.id, message.token)


class Script:
    """A session with a scripted broker at its other end."""

    def __init__(self, concurrency: int = 3, queue_limits: dict[str, int] | None = None, *, connect: bool = True) -> None:
        ids = itertools.count(1)
        limits = queue_limits or {}
        options = SessionOptions(queues=tuple(limits) or (QUEUE,), concurrency=concurrency, queue_limits=limits, instance_id="me", sdk="test")
        self.session = Session(options, lambda: next(ids).to_bytes(16, "big"))
        self.now = 100.0
        self.tokens = itertools.count(1)
        self.running: dict[str, Lease] = {}
        self.credit = 0
        if connect:
            self.connect()

    def connect(self, lost: list[pb.Ack] | None = None) -> pb.Hello:
        """Open a stream, take the hello and welcome it."""
        hello = self.open()
        self.receive(pb.WorkResponse(welcome=welcome(lost or [])))
        return hello

    def open(self) -> pb.Hello:
        """Open a stream and take the hello."""
        self.session.opened(self.now)
        self.credit = 0
        frame = self.frame()
        assert frame.HasField("hello")
        return frame.hello

    def frame(self) -> pb.WorkRequest:
        """The next frame; an empty one when there is none."""
        frame = self.session.next_frame(self.now) or pb.WorkRequest()
        if frame.HasField("credit"):
            assert frame.credit.jobs >= self.credit, "credit fell"
            self.credit = frame.credit.jobs
        self.session.check()
        return frame

    def receive(self, frame: pb.WorkResponse) -> list[Effect]:
        effects = self.session.received(frame, self.now)
        return self._note(effects)

    def tick(self, after_s: float = 0.0, *, other_brokers: bool = False) -> list[Effect]:
        self.now += after_s
        return self._note(self.session.ticked(self.now, other_brokers=other_brokers))

    def _note(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Start):
                self.running.update({lease.id: lease for lease in effect.leases})
        self.session.check()
        return effects

    def deliver(self, *ids: str, queue: str = QUEUE) -> list[Effect]:
        return self.receive(pb.WorkResponse(jobs=[pb.Delivery(queue=queue, id=id_, token=next(self.tokens), job_name="n", attempt=1) for id_ in ids]))

    def ping(self, lease_left_s: float = 10.0, number: int = 1) -> list[Effect]:
        return self.receive(pb.WorkResponse(ping=pb.Ping(number=number, lease_left=seconds(lease_left_s))))

    def ack(self, finish: pb.Finish, verdict: pb.Verdict.ValueType = pb.VERDICT_OK) -> list[Effect]:
        return self.receive(pb.WorkResponse(acks=[verdict_on(finish, verdict)]))


def welcome(lost: list[pb.Ack]) -> pb.Welcome:
    return pb.Welcome(broker_id="b", session_time=seconds(10), heartbeat_interval=seconds(2), held=lost, max_result_bytes=1000)


def verdict_on(job: pb.Held | pb.Finish | Lease, verdict: pb.Verdict.ValueType) -> pb.Ack:
    return pb.Ack(queue=job.queue, id=job.id, token=job.token, verdict=verdict)


def started(effects: list[Effect]) -> list[str]:
    return [lease.id for effect in effects if isinstance(effect, Start) for lease in effect.leases]


def given_up(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(lease.id, effect.reason.value) for effect in effects if isinstance(effect, GiveUp) for lease in effect.leases]


def uncertain(effects: list[Effect]) -> list[tuple[str, bool]]:
    return [(lease.id, effect.uncertain) for effect in effects if isinstance(effect, LeasesUncertain) for lease in effect.leases]


def closed(effects: list[Effect]) -> list[str]:
    return [effect.cause.value for effect in effects if isinstance(effect, Close)]
