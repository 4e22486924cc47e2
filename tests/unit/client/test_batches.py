"""How concurrent enqueues share calls. The broker is a function here; each call stays under way until the test answers it."""

import asyncio

import pytest
from jobwire.v1 import job_service_pb2
from jobwire_client import Enqueued, InvalidRequest, JobwireError, QueueUnavailable
from jobwire_client._batches import MAX_BYTES, MAX_JOBS, Lane
from jobwire_client._enqueue_stream import ALL_MADE, Item, Tell
from jobwire_client._entries import ManyJobs, OneJob
from jobwire_client._ids import new_id
from jobwire_client._spec import encode


class Broker:
    """Keeps each call until it is answered."""

    def __init__(self) -> None:
        self.calls: list[tuple[job_service_pb2.EnqueueStreamRequest, Tell]] = []
        self.sizes: list[int] = []

    def send(self, frames: bytes, tell: Tell) -> None:
        request = job_service_pb2.EnqueueStreamRequest.FromString(frames)
        self.calls.append((request, tell))
        self.sizes.append(len(request.jobs))

    def answer(self, call: int = 0) -> None:
        self.calls.pop(call)[1](ALL_MADE)

    def fail(self, error: JobwireError, call: int = 0) -> None:
        self.calls.pop(call)[1](error)

    async def answer_all(self) -> None:
        while self.calls:
            self.answer()
            await settle()


async def settle() -> None:
    """Let everything run that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def lane_to(broker: Broker, *, max_waiting: int = 10_000, max_waiting_bytes: int = 2**26) -> Lane:
    return Lane(broker.send, max_waiting=max_waiting, max_waiting_bytes=max_waiting_bytes)


async def enqueue(lane: Lane, payload: object = None) -> Enqueued:
    job_id = new_id()
    frame = encode("q", "h", payload, job_id, None, None, None, None, None)
    if lane.full:
        await lane.room(len(frame))
    future: asyncio.Future[Enqueued] = asyncio.get_running_loop().create_future()
    lane.put(OneJob(frame, "q", job_id, future))
    return await future


def start(lane: Lane, count: int, payload: object = None) -> list[asyncio.Task[Enqueued]]:
    return [asyncio.create_task(enqueue(lane, payload)) for _ in range(count)]


async def test_a_single_enqueue_is_sent_at_once(broker: Broker) -> None:
    lane = lane_to(broker)
    (caller,) = start(lane, 1)
    await settle()
    assert broker.sizes == [1]
    broker.answer()
    made = await caller
    assert made.verdict == "made"
    assert made.name == f"queues/q/jobs/{made.id}"


async def test_callers_of_the_same_moment_share_a_call(broker: Broker) -> None:
    callers = start(lane_to(broker), 10)
    await settle()
    assert broker.sizes == [10]
    await broker.answer_all()
    assert len({made.id for made in await asyncio.gather(*callers)}) == 10


async def test_a_crowd_takes_two_calls_of_equal_size(broker: Broker) -> None:
    callers = start(lane_to(broker), 64)
    await settle()
    assert broker.sizes == [32, 32]
    await broker.answer_all()
    await asyncio.gather(*callers)


async def test_a_second_call_goes_beside_the_first(broker: Broker) -> None:
    lane = lane_to(broker)
    callers = start(lane, 1)
    await settle()
    callers += start(lane, 1)
    await settle()
    assert broker.sizes == [1, 1]
    await broker.answer_all()
    await asyncio.gather(*callers)


async def test_callers_that_come_back_at_once_are_sent_in_the_round_in_which_they_were_told(broker: Broker) -> None:
    lane = lane_to(broker)

    async def two_jobs() -> None:
        await enqueue(lane)
        await enqueue(lane)

    callers = [asyncio.create_task(two_jobs()) for _ in range(8)]
    await settle()
    broker.answer()
    await asyncio.sleep(0)
    assert broker.sizes == [8, 8]
    broker.answer()
    await asyncio.gather(*callers)


async def test_never_more_than_two_calls_are_under_way(broker: Broker) -> None:
    lane = lane_to(broker)
    callers = []
    for _ in range(5):
        callers += start(lane, 1)
        await settle()
    assert broker.sizes == [1, 1]
    broker.answer()
    await settle()
    assert broker.sizes == [1, 1, 3]
    await broker.answer_all()
    await asyncio.gather(*callers)


async def test_a_trickle_beside_a_large_call_waits_for_it(broker: Broker) -> None:
    lane = lane_to(broker)
    callers = start(lane, 12)
    await settle()
    callers += start(lane, 5)
    await settle()
    assert broker.sizes == [12]
    callers += start(lane, 1)
    await settle()
    assert broker.sizes == [12, 6]
    await broker.answer_all()
    await asyncio.gather(*callers)


async def test_a_call_holds_at_most_a_thousand_jobs(broker: Broker) -> None:
    callers = start(lane_to(broker), 2_500)
    await settle()
    await broker.answer_all()
    await asyncio.gather(*callers)
    assert max(broker.sizes) == MAX_JOBS
    assert sum(broker.sizes) == 2_500


async def test_a_call_holds_at_most_eight_mebibytes(broker: Broker) -> None:
    callers = start(lane_to(broker), 12, payload=b"x" * (MAX_BYTES // 4))
    await settle()
    await broker.answer_all()
    await asyncio.gather(*callers)
    assert max(broker.sizes) == 3
    assert sum(broker.sizes) == 12


async def test_callers_wait_when_too_many_jobs_do(broker: Broker) -> None:
    lane = lane_to(broker, max_waiting=10)
    callers = start(lane, 100)
    await settle()
    assert sum(broker.sizes) <= 20
    assert lane.full
    await broker.answer_all()
    assert len(await asyncio.gather(*callers)) == 100


async def test_callers_wait_when_too_many_bytes_do(broker: Broker) -> None:
    lane = lane_to(broker, max_waiting_bytes=10_000)
    callers = start(lane, 40, payload=b"x" * 1_000)
    await settle()
    assert sum(broker.sizes) <= 22
    await broker.answer_all()
    assert len(await asyncio.gather(*callers)) == 40


async def test_a_caller_that_gave_up_waiting_leaves_its_turn_to_the_next(broker: Broker) -> None:
    lane = lane_to(broker, max_waiting=2)
    first = start(lane, 2)
    await settle()
    blocked = start(lane, 6)
    await settle()
    for caller in blocked[:4]:
        caller.cancel()
    await settle()
    await broker.answer_all()
    done = await asyncio.gather(*first, *blocked, return_exceptions=True)
    assert sum(isinstance(result, Enqueued) for result in done) + sum(isinstance(result, asyncio.CancelledError) for result in done) == 8
    assert all(isinstance(result, Enqueued) for result in done[6:])


async def test_a_caller_that_gave_up_before_its_job_was_sent_makes_none(broker: Broker) -> None:
    lane = lane_to(broker)
    first = start(lane, 12)
    await settle()
    waiting = start(lane, 2)
    await settle()
    waiting[0].cancel()
    await settle()
    await broker.answer_all()
    await asyncio.gather(*first, waiting[1])
    assert broker.sizes == [12, 1]


async def test_a_refused_item_fails_its_caller_alone(broker: Broker) -> None:
    callers = start(lane_to(broker), 3)
    await settle()
    request, tell = broker.calls.pop()
    refused = Item(at=1, verdict=job_service_pb2.ENQUEUE_VERDICT_REFUSED, error=job_service_pb2.ItemError(reason="INVALID_FIELD", message="no"))
    tell({1: refused, 2: Item(at=2, id="c", verdict=job_service_pb2.ENQUEUE_VERDICT_FOUND)})
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [Enqueued, InvalidRequest, Enqueued]
    assert isinstance(results[2], Enqueued)
    assert (results[2].verdict, results[2].id) == ("found", "c")
    assert len(request.jobs) == 3


async def test_each_caller_of_a_failed_call_gets_an_error_of_its_own_with_its_id(broker: Broker) -> None:
    callers = start(lane_to(broker), 3)
    await settle()
    broker.fail(QueueUnavailable("away", accepted="unknown"))
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, QueueUnavailable) and result.accepted == "unknown" for result in results)
    assert len({result.id for result in results if isinstance(result, QueueUnavailable)}) == 3


async def test_what_waits_behind_an_outage_fails_as_never_sent(broker: Broker) -> None:
    lane = lane_to(broker, max_waiting=5)
    first = start(lane, 1)
    await settle()
    second = start(lane, 1)
    await settle()
    behind = start(lane, 20)  # five wait to be sent, the others for room
    await settle()
    broker.fail(QueueUnavailable("away", accepted="unknown"))
    results = await asyncio.gather(*first, *behind, return_exceptions=True)
    assert [result.accepted for result in results if isinstance(result, QueueUnavailable)] == ["unknown"] + ["no"] * 20
    broker.answer()
    assert (await second[0]).verdict == "made"


async def test_what_waits_goes_on_when_another_call_has_succeeded_meanwhile(broker: Broker) -> None:
    lane = lane_to(broker)
    first = start(lane, 1)
    await settle()
    second = start(lane, 1)
    await settle()
    behind = start(lane, 3)
    await settle()
    broker.answer(1)
    await second[0]
    behind += start(lane, 2)
    await settle()
    broker.fail(QueueUnavailable("one broker is stuck", accepted="unknown"))
    await settle()
    await broker.answer_all()
    results = await asyncio.gather(*first, *behind, return_exceptions=True)
    assert [type(result) for result in results] == [QueueUnavailable] + [Enqueued] * 5


async def test_flush_waits_for_everything_that_was_begun(broker: Broker) -> None:
    lane = lane_to(broker, max_waiting=5)
    callers = start(lane, 50)
    await settle()
    flushing = asyncio.create_task(lane.flush())
    await settle()
    assert not flushing.done()
    while not flushing.done():
        await broker.answer_all()
        await settle()
    assert all(caller.done() for caller in callers)


async def test_an_answer_for_a_job_that_was_not_sent_is_no_answer(broker: Broker) -> None:
    callers = start(lane_to(broker), 2)
    await settle()
    broker.calls.pop()[1]({2: Item(at=2, verdict=job_service_pb2.ENQUEUE_VERDICT_FOUND)})
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, QueueUnavailable) and result.accepted == "unknown" for result in results)


async def test_many_jobs_travel_together_beside_single_ones(broker: Broker) -> None:
    lane = lane_to(broker)
    ids = [("q", new_id()) for _ in range(8)]
    frames = b"".join(encode(queue, "h", None, job_id, None, None, None, None, None) for queue, job_id in ids)
    future: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()
    callers = start(lane, 2)
    lane.put(ManyJobs(frames, ids, future))
    await settle()
    assert broker.sizes == [10]
    await broker.answer_all()
    assert [made.id for made in await future] == [job_id for _, job_id in ids]
    await asyncio.gather(*callers)
