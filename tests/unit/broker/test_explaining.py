"""The reasons that a running system shows only after losses, and the words of each."""

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.rules.explaining import explain
from jobwire_broker.rules.hands import Hand
from jobwire_broker.rules.limiting import MAX_HOLDERS
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Explained

State = job_pb2.JobState


def hand(number: int = 1, *, held: int = 0, alone: bool = False, room: bool = True) -> Hand:
    """A worker."""
    return Hand(session=bytes([number]) * 16, worker=f"w{number}", held=held, active=held, concurrency=5, alone=alone, room=room, takes_more=True)


def explained(hands: list[Hand], *, before: int = 0, now_us: int = 0, **header: int) -> pb.ExplainJobResponse:
    """What is said of a job with this header."""
    record = codec.HEADER.pack(*codec.Header(**header)) + codec.encode_body("work", b"", None, 0)
    return explain("q", b"a", Explained(record, 0, now_us, False, before, 0, b"", -1, -1, []), hands)


def test_a_job_that_nothing_holds_is_next() -> None:
    found = explained([hand()])
    assert (found.summary, found.holds[0].reason) == ("Nothing holds it: it is next, and a worker has room.", pb.HOLD_REASON_NONE)


def test_a_job_to_be_delivered_alone_names_the_worker_that_is_kept_for_it() -> None:
    (hold,) = explained([hand(1, held=4), hand(2, held=3, alone=True)], flags=codec.FLAG_ALONE, losses=2).holds
    assert (hold.reason, [holder.worker for holder in hold.holders]) == (pb.HOLD_REASON_DELIVERED_ALONE, ["w2"])
    assert hold.message.endswith("since 2 workers were lost with it; w2 is kept for that and still holds 3")


def test_without_one_that_is_kept_all_that_hold_something_are_in_its_way() -> None:
    (hold,) = explained([hand(1, held=4), hand(2)], flags=codec.FLAG_ALONE, losses=2).holds
    assert [holder.worker for holder in hold.holders] == ["w1"]


def test_of_many_holders_the_first_are_listed_and_all_counted() -> None:
    (hold,) = explained([hand(i, held=5, room=False) for i in range(150)]).holds
    assert (hold.reason, len(hold.holders), hold.holder_count) == (pb.HOLD_REASON_NO_CREDIT, MAX_HOLDERS, 150)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "in 2.0 s."),
        ({"ended": 2, "attempt": 1}, "in 2.0 s, after attempt 1 of 3 failed."),
        ({"ended": 6, "attempt": 1}, "in 2.0 s, after attempt 1 of 3 ran out of time."),
        ({"ended": 3}, "in 2.0 s, as its handler asked."),
        ({"ended": 4, "returns": 2}, "in 2.0 s, after 2 of 5 workers had no handler of its name."),
        ({"flags": codec.FLAG_LOST, "losses": 2}, "in 2.0 s, after its worker was lost (2 in a row)."),
        ({"order": 1_000_000}, "and is about to be moved."),
    ],
)
def test_a_delayed_job_says_what_it_waits_after(header: dict[str, int], words: str) -> None:
    found = explained([hand()], now_us=1_000_000, **{"state": State.JOB_STATE_DELAYED, "order": 3_000_000, **header})
    assert found.summary.endswith(words)
    assert [hold.reason for hold in found.holds] == [pb.HOLD_REASON_NOT_DUE]
