"""The broker's side of a Work stream, without a network: frames in, frames out, and credit that is never overdrawn."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_broker.errors import InvalidField, Precondition
from jobwire_broker.rules.session import MAX_BACKLOG_BYTES, MAX_CREDIT, MAX_FRAME_BYTES, MAX_HELD, Phase, WorkSession
from jobwire_broker.store import codec

SESSION = bytes(range(16))


def hello(**fields: Any) -> pb.WorkRequest:
    values: dict[str, Any] = {"session": SESSION, "epoch": 1, "queues": ["q", "r"]} | fields
    return pb.WorkRequest(hello=pb.Hello(**values))


def credit(jobs: int, *, size: int = 0, **queues: int) -> pb.WorkRequest:
    return pb.WorkRequest(credit=pb.Credit(jobs=jobs, bytes=size, queues=[pb.QueueCredit(queue=q, jobs=n) for q, n in queues.items()]))


def live(*, jobs: int = 0, **queues: int) -> WorkSession:
    session = WorkSession(now=0)
    session.receive(hello(), 0)
    session.welcome(pb.Welcome())
    session.take_frame()
    session.receive(credit(jobs, **queues), 0)
    return session


def held_by(session: WorkSession) -> dict[tuple[str, bytes], int]:
    return {(queue, raw_id): token for queue in session.queues for raw_id, token in session.held(queue)}


def record(payload: bytes = b"") -> bytes:
    body = codec.encode_body("work", job_pb2.Payload(data=payload).SerializeToString(), None, 0)
    return codec.HEADER.pack(*codec.Header(revision=1, order=1, created=1)) + body


def frame(session: WorkSession) -> pb.WorkResponse:
    return pb.WorkResponse.FromString(session.take_frame())


def frames(session: WorkSession) -> list[pb.WorkResponse]:
    found = []
    while session.has_frame():
        found.append(frame(session))
    return found


# Hello ------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_hello_says_who_comes_and_what_it_holds() -> None:
    session = WorkSession(now=0)
    received = session.receive(hello(epoch=3, queues=["q", "r", "q"], held=[pb.Held(queue="r", id="a", token=9)]), 1)
    assert (received.hello, session.phase, session.session, session.epoch) == (True, Phase.ATTACHING, SESSION, 3)
    assert (session.queues, held_by(session), session.last_received) == (("q", "r"), {("r", b"a"): 9}, 1)
    assert session.free("q") == 0


def test_nothing_goes_before_a_hello() -> None:
    with pytest.raises(Precondition, match="first frame") as caught:
        WorkSession(now=0).receive(credit(5), 0)
    assert caught.value.reason == "PROTOCOL_VIOLATION"


def test_a_second_hello_ends_the_stream() -> None:
    with pytest.raises(Precondition, match="second time"):
        live().receive(hello(epoch=2), 0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session": b"short"}, "hello.session"),
        ({"epoch": 0}, "hello.epoch"),
        ({"epoch": 1 << 31}, "hello.epoch"),
        ({"queues": []}, "hello.queues"),
        ({"queues": [f"q{i}" for i in range(101)]}, "hello.queues"),
        ({"queues": ["q", "a/b"]}, "hello.queues[1]"),
        ({"instance_id": "x" * 129}, "hello.instance_id"),
        ({"sdk": "x" * 129}, "hello.sdk"),
        ({"labels": {f"l{i}": "" for i in range(33)}}, "hello.labels"),
        ({"labels": {"l": "x" * 129}}, "hello.labels[l]"),
        ({"held": [pb.Held(queue="other", id="a", token=1)]}, "hello.held[0].queue"),
        ({"held": [pb.Held(queue="q", id="a b", token=1)]}, "hello.held[0].id"),
    ],
)
def test_an_odd_hello_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    session = WorkSession(now=0)
    with pytest.raises(InvalidField) as caught:
        session.receive(hello(**fields), 0)
    assert (caught.value.field, session.phase) == (field, Phase.NEW)


# Credit -----------------------------------------------------------------------------------------------------------------------------------------------


def test_credit_is_a_running_total_of_which_deliveries_and_reservations_take() -> None:
    session = live(jobs=3)
    assert (session.free("q"), session.free("r")) == (3, 3)
    session.reserve("q", 2)
    assert (session.free("q"), session.free("r")) == (1, 1)
    session.unreserve("q", 2)
    session.deliver("q", b"a", 7, record())
    session.take_frame()
    assert session.free("q") == 2
    session.receive(credit(4), 0)
    assert session.free("q") == 3


def test_a_queue_may_have_less_of_it() -> None:
    session = live(jobs=10, q=2)
    assert (session.free("q"), session.free("r")) == (2, 10)
    session.reserve("r", 9)
    assert (session.free("q"), session.free("r")) == (1, 1)


def test_nothing_is_leased_while_much_waits_to_be_written() -> None:
    session = live(jobs=5)
    session.deliver("q", b"a", 7, record())
    assert session.free("q") == 4
    session.deliver("q", b"b", 8, record() + b"x" * MAX_BACKLOG_BYTES)
    assert session.free("q") == 0
    session.take_frame()
    assert session.free("q") == 3


@pytest.mark.parametrize("stop", [pb.WorkRequest(draining=pb.Draining()), pb.WorkRequest(goodbye=pb.Goodbye())])
def test_a_draining_worker_gets_nothing_more(stop: pb.WorkRequest) -> None:
    session = live(jobs=5)
    received = session.receive(stop, 0)
    assert (session.free("q"), received.goodbye) == (0, stop.HasField("goodbye"))


def test_who_is_sent_away_gets_nothing_more() -> None:
    session = live(jobs=5)
    session.go_away(1.5)
    assert (session.free("q"), frame(session).go_away.retry_after.ToMilliseconds()) == (0, 1500)


@pytest.mark.parametrize(
    "bad", [credit(4), credit(-1), credit(MAX_CREDIT + 1), credit(5, q=1), credit(5, q=MAX_CREDIT + 1), credit(5, size=-1), credit(5, size=99)]
)
def test_credit_never_falls_nor_passes_its_bound(bad: pb.WorkRequest) -> None:
    session = live()
    session.receive(credit(5, size=100, q=2), 0)
    with pytest.raises(Precondition, match="running total"):
        session.receive(bad, 0)


def test_credit_for_a_queue_that_was_not_named_is_refused() -> None:
    with pytest.raises(InvalidField, match="does not name"):
        live().receive(credit(5, other=1), 0)


async def test_a_suspended_queue_is_quiet_once_its_calls_are_over() -> None:
    session = live(jobs=5)
    session.reserve("q", 2)
    session.reserve("r", 1)
    waiting = asyncio.create_task(session.suspend("q"))
    await asyncio.sleep(0)
    assert (waiting.done(), session.free("q"), session.free("r")) == (False, 0, 2)
    session.unreserve("r", 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    session.unreserve("q", 2)
    await waiting
    assert session.free("q") == 0
    session.unsuspend("q")
    assert session.free("q") == 5


# Reports ----------------------------------------------------------------------------------------------------------------------------------------------


def test_reports_and_receipts_go_before_the_finishes_of_the_same_frame() -> None:
    request = pb.WorkRequest(
        finishes=[pb.Finish(queue="r", id="a", token=7, complete=pb.Complete())],
        cancel_receipts=[pb.CancelReceipt(queue="q", id="b", token=8)],
        logs=[pb.LogReport(queue="q", id="b", token=8, lines=[job_pb2.LogLine(sequence=1)])],
        checkpoints=[pb.CheckpointReport(queue="q", id="b", token=8, checkpoint=job_pb2.Payload(json="1"))],
        progress=[pb.ProgressReport(queue="r", id="a", token=7)],
    )
    items = live().receive(request, 5).items
    assert [(queue, text_id, item.kind, item.token) for queue, text_id, item in items] == [
        ("r", "a", "P", 7),
        ("q", "b", "L", 8),
        ("q", "b", "K", 8),
        ("q", "b", "X", 8),
        ("r", "a", "C", 7),
    ]


def test_an_error_names_the_report_and_the_field() -> None:
    good = pb.Finish(queue="q", id="a", token=7, complete=pb.Complete())
    for bad, field in ((pb.Finish(queue="q", id="a", token=7), "finishes[1].outcome"), (pb.Finish(queue="x", id="a", token=7), "finishes[1].queue")):
        with pytest.raises(InvalidField) as caught:
            live().receive(pb.WorkRequest(finishes=[good, bad]), 0)
        assert (caught.value.field, caught.value.message.startswith(field)) == (field, True)


def test_a_session_holds_ten_thousand_jobs_and_no_more() -> None:
    session = live(jobs=MAX_CREDIT)
    assert session.free("q") == MAX_HELD
    session.reserve("r", 300)
    session.deliver("q", b"a", 7, record())
    session.take_frame()
    assert session.free("q") == MAX_HELD - 301
    too_many = [pb.Held(queue="q", id=f"a{i}", token=1) for i in range(MAX_HELD + 1)]
    for frame, field in ((hello(held=too_many), "hello.held"), (hello(concurrency=MAX_HELD + 1), "hello.concurrency")):
        with pytest.raises(InvalidField, match="10000") as caught:
            WorkSession(now=0).receive(frame, 0)
        assert caught.value.field == field


# Frames out -------------------------------------------------------------------------------------------------------------------------------------------


def test_everything_that_is_ready_goes_out_in_one_frame() -> None:
    session = live(jobs=5)
    assert not session.has_frame()
    session.deliver("q", b"a", 7, record(b"x"))
    session.deliver("r", b"b", 8, record())
    session.ack("q", b"c", 5, pb.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
    session.cancel("q", "a", 7, pb.CANCEL_REASON_REQUESTED, 1500)
    session.ping(2.5)
    (sent,) = frames(session)
    assert [(job.queue, job.id, job.token, job.payload.data) for job in sent.jobs] == [("q", "a", 7, b"x"), ("r", "b", 8, b"")]
    assert list(sent.acks) == [pb.Ack(queue="q", id="c", token=5, verdict=pb.VERDICT_OK, state=job_pb2.JOB_STATE_COMPLETED)]
    assert (sent.cancels[0].grace.ToMilliseconds(), sent.ping.number, sent.ping.lease_left.ToMilliseconds()) == (1500, 1, 2500)
    session.ping(-1)
    assert (again := frame(session).ping).number == 2
    assert again.lease_left.ToMilliseconds() == 0


def test_a_frame_has_three_mebibytes_of_jobs_or_one_job() -> None:
    session = live(jobs=100)
    sizes = [1 << 20, 1 << 20, 1 << 20, 4 << 20, 10, 10]
    for i, size in enumerate(sizes):
        session.deliver("q", f"a{i}".encode(), 10 + i, record(bytes(size)))
    assert [raw_id for _, raw_id, _ in session.unsent()] == [f"a{i}".encode() for i in range(6)]
    sent = frames(session)
    assert [len(job.payload.data) for x in sent for job in x.jobs] == sizes
    assert all(x.ByteSize() <= MAX_FRAME_BYTES + 1000 or len(x.jobs) == 1 for x in sent)
    assert session.unsent() == []


def test_what_was_delivered_is_held_until_its_ack() -> None:
    session = live(jobs=5)
    session.deliver("q", b"a", 7, record())
    session.deliver("q", b"a", 9, record())
    session.ack("q", b"a", 7, pb.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
    session.drop("q", b"a", 8)
    assert held_by(session) == {("q", b"a"): 9}
    session.drop("q", b"a", 9)
    assert held_by(session) == {}


def test_acks_count_for_frames_and_backlog_and_a_worker_that_does_not_read_them_is_not_read() -> None:
    session = live(jobs=10)
    ids = [f"{i:0128}".encode() for i in range(60_000)]
    for at, raw_id in enumerate(ids):
        session.ack("q", raw_id, 1, pb.VERDICT_NOT_FOUND, 0)
        assert not session.is_unread() or at > 15_000
    assert session.is_unread()
    assert session.free("q") == 0
    sent = frames(session)
    assert all(x.ByteSize() <= MAX_FRAME_BYTES for x in sent)
    assert [ack.id.encode() for x in sent for ack in x.acks] == ids
    assert not session.is_unread()
    assert session.free("q") == 10
    for i in range(10):
        session.deliver("q", f"a{i}".encode(), 10 + i, record(bytes(1 << 20)))
    assert not session.is_unread()


def test_every_frame_shows_life() -> None:
    session = live()
    session.receive(pb.WorkRequest(pong=pb.Pong(number=1)), 17.5)
    assert session.last_received == 17.5


# Random lives -----------------------------------------------------------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.sampled_from(["credit", "call", "write", "ack", "return"]), st.sampled_from("qr"), st.integers(0, 6)), max_size=60)


@settings(deadline=None)
@given(steps)
def test_no_more_is_ever_leased_than_there_is_credit_and_what_is_held_is_what_was_delivered(script: list[tuple[str, str, int]]) -> None:
    session, total, per_queue, token = live(), 0, {"q": 0, "r": 0}, 0
    sent: dict[str, int] = {"q": 0, "r": 0}
    calls: list[tuple[str, int]] = []
    held: dict[tuple[str, bytes], int] = {}
    written: list[int] = []
    for step, queue, number in script:
        if step == "credit":
            total, per_queue[queue] = total + number, per_queue[queue] + number
            session.receive(credit(total, **per_queue), 0)
        elif step == "call" and (room := min(session.free(queue), number)) > 0:
            session.reserve(queue, room)
            calls.append((queue, room))
        elif step == "return" and calls:
            queue, room = calls.pop(0)
            session.unreserve(queue, room)
            for _ in range(min(number, room)):
                token += 1
                held[queue, b"a%d" % token] = token
                sent[queue] += 1
                session.deliver(queue, b"a%d" % token, token, record())
        elif step == "write":
            written += [job.token for x in frames(session) for job in x.jobs]
        elif step == "ack" and held:
            (queue, raw_id), given_token = next(iter(held.items()))
            session.ack(queue, raw_id, given_token, pb.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
            del held[queue, raw_id]
        assert held_by(session) == held
        assert session.held_count == len(held)
        assert sum(sent.values()) + sum(room for _, room in calls) <= total
        assert all(sent[name] + sum(room for q, room in calls if q == name) <= per_queue[name] for name in "qr")
    written += [job.token for x in frames(session) for job in x.jobs]
    assert written == list(range(1, token + 1))
