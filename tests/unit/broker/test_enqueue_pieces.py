"""How many jobs at once become calls to the store, and each verdict finds its place."""

from collections.abc import Sequence

from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.partition import Partition, Results, Ticket
from jobwire_broker.store.arguments import MAX_BYTES, MAX_ITEMS, JobItem
from jobwire_broker.store.client import StoreClient


class Recorder(Partition):
    """A partition whose calls the test takes itself."""

    def __init__(self) -> None:
        super().__init__(StoreClient(BrokerConfig(store="unix:///nowhere")), "q")
        self._enqueue_lane.run = lambda: None  # type: ignore[method-assign]

    def calls(self) -> list[Sequence[JobItem]]:
        found = []
        while call := self._prepare_enqueue():
            found.append(call.items())
            for piece in call.pieces:
                piece.ticket.settle(piece.places, [item.raw_id.decode() for item in piece.items])
        return found


def items(count: int, size: int = 10, name: str = "") -> list[JobItem]:
    return [JobItem(f"{name}{i}".encode(), "", 5, 3, bytes(size)) for i in range(count)]


async def test_jobs_that_fit_go_with_one_call_and_come_back_in_their_order() -> None:
    partition, told = Recorder(), list[Results]()
    for name in "ab":
        partition.enqueue(items(60, name=name), range(60), Ticket(60, told.append))
    (call,) = partition.calls()
    assert [item.raw_id for item in call] == [item.raw_id for name in "ab" for item in items(60, name=name)]
    assert told == [[f"{name}{i}" for i in range(60)] for name in "ab"]


async def test_many_jobs_are_cut_to_the_bounds_of_a_call() -> None:
    partition, told = Recorder(), list[Results]()
    partition.enqueue(items(1000), range(1000), Ticket(1000, told.append))
    assert [len(call) for call in partition.calls()] == [MAX_ITEMS] * 7 + [1000 - 7 * MAX_ITEMS]
    assert told == [[str(i) for i in range(1000)]]


async def test_big_jobs_are_cut_to_the_bytes_of_a_call_and_one_that_is_bigger_goes_alone() -> None:
    partition, told = Recorder(), list[Results]()
    many = [*items(10, MAX_BYTES // 4), JobItem(b"10", "", 5, 3, bytes(MAX_BYTES + 1)), JobItem(b"11", "", 5, 3, b"")]
    partition.enqueue(many, range(12), Ticket(12, told.append))
    calls = partition.calls()
    assert [len(call) for call in calls] == [3, 3, 3, 1, 1, 1]
    assert all(sum(len(item.body) for item in call) <= MAX_BYTES for call in calls if len(call) > 1)
    assert told == [[str(i) for i in range(12)]]


async def test_places_need_not_be_in_a_row() -> None:
    partition, told = Recorder(), list[Results]()
    ticket = Ticket(4, told.append)
    partition.enqueue(items(2, name="a"), [1, 3], ticket)
    partition.enqueue(items(2, name="b"), [2, 0], ticket)
    partition.calls()
    assert told == [["b1", "a0", "b0", "a1"]]
