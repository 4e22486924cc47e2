"""How a worker's room is shared out among its queues: slots per queue, and slots that are kept for some."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2, policy_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_broker.errors import InvalidField
from jobwire_broker.rules.session import WorkSession
from jobwire_broker.store import codec

CRITICAL, HIGH, BATCH = policy_pb2.QUEUE_CLASS_CRITICAL, policy_pb2.QUEUE_CLASS_HIGH, policy_pb2.QUEUE_CLASS_BATCH
RECORD = codec.HEADER.pack(*codec.Header(revision=1, order=1, created=1)) + codec.encode_body("work", job_pb2.Payload().SerializeToString(), None, 0)
CLASSES = {"reset": CRITICAL, "signup": CRITICAL, "exports": BATCH}


class Worker:
    """A live session whose credit is what it does not run."""

    def __init__(self, concurrency: int, *reserved: pb.Reserve, held: int = 0) -> None:
        self.session = WorkSession(now=0, class_of=lambda queue: CLASSES.get(queue, 0))
        holding = [pb.Held(queue="exports", id=f"h{i}", token=1) for i in range(held)]
        hello = pb.Hello(session=bytes(range(16)), epoch=1, queues=list(CLASSES), concurrency=concurrency, reserved=reserved, held=holding)
        self.session.receive(pb.WorkRequest(hello=hello), 0)
        self.session.welcome(pb.Welcome())
        self.running = [("exports", f"h{i}".encode(), 1) for i in range(held)]
        self.token = 1
        self.ended = 0
        self.credit = concurrency - held
        self.grant(0)

    def grant(self, ended: int) -> None:
        self.credit += ended
        self.session.receive(pb.WorkRequest(credit=pb.Credit(jobs=self.credit)), 0)

    def start(self, queue: str, jobs: int = 1) -> None:
        for _ in range(jobs):
            self.token += 1
            job = (queue, f"j{self.token}".encode(), self.token)
            self.session.deliver(*job, RECORD)
            self.running.append(job)

    def end(self, queue: str) -> None:
        job = next(job for job in self.running if job[0] == queue)
        self.running.remove(job)
        self.grant(1)
        self.session.ack(*job, pb.VERDICT_OK, 5)

    def free(self, queue: str, slots: int = 0) -> int:
        return self.session.free(queue, slots)


def of_queue(queue: str, slots: int) -> pb.Reserve:
    return pb.Reserve(queue=queue, slots=slots)


def of_class(queue_class: Any, slots: int) -> pb.Reserve:
    return pb.Reserve(queue_class=queue_class, slots=slots)


def test_a_session_gets_no_more_jobs_of_a_queue_than_it_has_slots() -> None:
    worker = Worker(20)
    assert worker.free("exports", 3) == 3
    worker.start("exports", 2)
    worker.session.reserve("exports", 1)
    assert (worker.free("exports", 3), worker.free("reset")) == (0, 17)
    worker.session.unreserve("exports", 1)
    worker.end("exports")
    assert worker.free("exports", 3) == 2


def test_what_a_session_holds_from_before_takes_slots() -> None:
    worker = Worker(20, held=5)
    assert worker.free("exports", 6) == 1
    # The policy was made narrower meanwhile.
    assert worker.free("exports", 3) == -2
    worker.session.drop("exports", b"h0", 1)
    assert worker.free("exports", 6) == 2


def test_a_job_that_comes_again_takes_one_slot() -> None:
    worker = Worker(20)
    worker.session.deliver("exports", b"a", 1, RECORD)
    worker.session.deliver("exports", b"a", 2, RECORD)
    assert worker.free("exports", 3) == 2
    worker.session.ack("exports", b"a", 1, pb.VERDICT_STALE_LEASE, 0)
    assert worker.free("exports", 3) == 2


def test_others_leave_the_slots_that_are_kept_for_a_queue() -> None:
    worker = Worker(20, of_queue("reset", 2))
    assert (worker.free("exports"), worker.free("reset")) == (18, 20)
    worker.start("exports", 18)
    assert (worker.free("exports"), worker.free("reset")) == (0, 2)
    worker.start("reset", 2)
    worker.end("exports")
    assert (worker.free("exports"), worker.free("reset")) == (1, 1)
    worker.end("reset")
    # One slot is free for either, and one for `reset` alone.
    assert (worker.free("exports"), worker.free("reset")) == (1, 2)


def test_what_is_kept_for_others_is_not_taken_from_the_slots_or_the_credit_of_a_queue() -> None:
    worker = Worker(20, of_queue("reset", 2))
    assert worker.free("exports", 1) == 1
    worker.session.receive(pb.WorkRequest(credit=pb.Credit(jobs=20, queues=[pb.QueueCredit(queue="exports", jobs=2)])), 0)
    assert worker.free("exports") == 2
    worker.start("signup", 17)
    assert worker.free("exports") == 1


def test_jobs_of_a_queue_beyond_its_slots_do_not_widen_what_is_kept() -> None:
    worker = Worker(5, of_queue("reset", 2))
    worker.start("reset", 4)
    assert worker.free("exports") == 1


def test_slots_of_a_class_are_for_all_of_its_queues() -> None:
    worker = Worker(10, of_class(CRITICAL, 3))
    assert [worker.free(queue) for queue in CLASSES] == [10, 10, 7]
    worker.start("reset")
    worker.start("signup")
    assert [worker.free(queue) for queue in CLASSES] == [8, 8, 7]


def test_a_queue_takes_its_own_slots_before_those_of_its_class() -> None:
    worker = Worker(10, of_queue("reset", 2), of_class(CRITICAL, 3))
    assert [worker.free(queue) for queue in ("reset", "signup", "exports")] == [10, 8, 5]
    worker.start("reset", 2)
    assert [worker.free(queue) for queue in ("reset", "signup", "exports")] == [8, 8, 5]
    worker.start("reset")
    assert worker.free("exports") == 5


@pytest.mark.parametrize(
    ("reserved", "field"),
    [
        ([pb.Reserve(slots=1)], "hello.reserved[0]"),
        ([pb.Reserve(queue="reset", queue_class=HIGH, slots=1)], "hello.reserved[0]"),
        ([of_queue("reset", 1), of_queue("exports", 0)], "hello.reserved[1].slots"),
        ([of_queue("reset", -1)], "hello.reserved[0].slots"),
        ([of_queue("other", 1)], "hello.reserved[0].queue"),
        ([of_queue("reset", 1), of_queue("reset", 1)], "hello.reserved[1].queue"),
        ([of_class(99, 1)], "hello.reserved[0].queue_class"),
        ([of_class(HIGH, 1), of_class(HIGH, 1)], "hello.reserved[1].queue_class"),
        ([of_queue("reset", 6), of_class(HIGH, 5)], "hello.reserved"),
        ([of_queue("reset", 1)] * 101, "hello.reserved"),
    ],
)
def test_odd_shares_are_refused_by_name(reserved: list[pb.Reserve], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        Worker(10, *reserved)
    assert caught.value.field == field


queues = st.sampled_from(list(CLASSES))


@given(
    kept=st.lists(st.tuples(queues | st.sampled_from([CRITICAL, BATCH]), st.integers(1, 4)), max_size=4, unique_by=lambda pair: str(pair[0])), data=st.data()
)
@settings(max_examples=200)
def test_whatever_starts_and_ends_the_kept_slots_are_there_for_those_they_are_kept_for(kept: list[tuple[Any, int]], data: st.DataObject) -> None:
    concurrency = max(1, sum(slots for _, slots in kept)) + data.draw(st.integers(0, 5))
    worker = Worker(concurrency, *(of_queue(key, slots) if isinstance(key, str) else of_class(key, slots) for key, slots in kept))
    shares = dict(kept)
    for queue in data.draw(st.lists(queues, max_size=40)):
        room = worker.free(queue)
        if room > 0:
            worker.start(queue, data.draw(st.integers(1, room)))
        elif any(job[0] == queue for job in worker.running):
            worker.end(queue)
        running = {name: sum(job[0] == name for job in worker.running) for name in CLASSES}
        assert sum(running.values()) <= concurrency
        for name, queue_class in CLASSES.items():
            # A queue that is the only one to have work gets its slots, and those of its class, whatever the others took before.
            of_its_class = [other for other in CLASSES if CLASSES[other] == queue_class and other != name]
            owed = shares.get(name, 0) + max(0, shares.get(queue_class, 0) - sum(max(0, running[other] - shares.get(other, 0)) for other in of_its_class))
            assert worker.free(name) + running[name] >= owed
