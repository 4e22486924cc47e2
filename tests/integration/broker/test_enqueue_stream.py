"""EnqueueStream: each message is what a call of EnqueueBatch is, and how a stream ends."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import redis.asyncio
from jobwire.v1 import error_pb2, job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import counts, enqueue, enqueue_all, get, job_name_of, lease, listed, patiently, spec
from tests.support import Broker, Store
from tests.support.api import Api, Refusal, refusal
from tests.support.api import api as connected
from tests.support.broker import connect

MADE, REFUSED = pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_REFUSED
DISK = job_pb2.DURABILITY_DISK
WAITING = job_pb2.JOB_STATE_WAITING


class Asking:
    """A stream, and what is sent and read on it."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._number = 0

    async def send(self, jobs: Sequence[job_pb2.JobSpec], **fields: Any) -> int:
        self._number += 1
        await self.call.write(pb.EnqueueStreamRequest(jobs=jobs, number=self._number, **fields))
        return self._number

    async def answer(self) -> pb.EnqueueStreamResponse:
        async with asyncio.timeout(10):
            answer = await self.call.read()
        assert isinstance(answer, pb.EnqueueStreamResponse), "the stream has ended"
        return answer

    async def ask(self, *jobs: job_pb2.JobSpec, **fields: Any) -> pb.EnqueueStreamResponse:
        number = await self.send(jobs, **fields)
        answer = await self.answer()
        assert answer.number == number
        return answer

    async def end(self) -> Refusal | None:
        """How the stream ends: with an error, or None."""
        try:
            async with asyncio.timeout(10):
                assert await self.call.read() is grpc.aio.EOF
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error)
        return None


@asynccontextmanager
async def asking(api: Api) -> AsyncIterator[Asking]:
    call = api.jobs.EnqueueStream()
    try:
        yield Asking(call)
    finally:
        call.cancel()


def as_batch(answer: pb.EnqueueStreamResponse, jobs: Sequence[job_pb2.JobSpec]) -> list[pb.EnqueueBatchResponse.Item]:
    """The verdicts as EnqueueBatch gives them."""
    assert not answer.HasField("error")
    items = [pb.EnqueueBatchResponse.Item(id=job.id, verdict=MADE) for job in jobs]
    for item in answer.items:
        items[item.at] = pb.EnqueueBatchResponse.Item(id=item.id, verdict=item.verdict, error=item.error if item.HasField("error") else None)
    return items


def reason(status: error_pb2.ErrorStatus) -> str:
    info = error_pb2.ErrorInfo()
    for detail in status.details:
        if detail.type_url.endswith("ErrorInfo"):
            info.ParseFromString(detail.value)
    return info.reason


# Messages --------------------------------------------------------------------------------------------------------------------------------------------


async def test_when_all_jobs_are_made_the_number_is_the_whole_answer(api: Api, queue: str) -> None:
    async with asking(api) as stream:
        for _ in range(2):  # the second time the same jobs are found
            answer = await stream.ask(*(spec(queue, f"j{i}", payload=job_pb2.Payload(json=str(i))) for i in range(300)))
            assert answer == pb.EnqueueStreamResponse(number=answer.number)
    assert (await counts(api, queue)).waiting == 300
    assert (await get(api, job_name_of(queue, "j7"))).payload.json == "7"


async def test_a_job_without_an_id_is_told_the_one_that_it_got(api: Api, queue: str) -> None:
    async with asking(api) as stream:
        answer = await stream.ask(spec(queue, "own"), spec(queue))
    assert [(item.at, item.verdict) for item in answer.items] == [(1, MADE)]
    assert sorted(await listed(api, queue, WAITING)) == sorted(["own", answer.items[0].id])


async def test_messages_say_what_enqueue_batch_says(api: Api, queue: str) -> None:
    """Everything that can be wrong with a job, and everything that can be right, in one call and in one message."""
    bad: list[dict[str, object]] = [
        {"job_name": ""},
        {"job_name": "n" * 129},
        {"priority": -(1 << 31)},
        {"attempts": -1},
        {"attempts": 1001},
        {"backoff": job_pb2.Backoff(factor=0.5)},
        {"payload": job_pb2.Payload(data=bytes((1 << 20) + 1))},
        {"payload": job_pb2.Payload(data=b"x", content_type="x" * 129)},
        {"payload": job_pb2.Payload(json="größe")},
        {"payload": job_pb2.Payload(data=b"")},
    ]

    def jobs(at: str) -> list[job_pb2.JobSpec]:
        return [spec(f"{queue}{at}", f"j{i}", **fields) for i, fields in enumerate([{}, *bad, {}])] + [spec("a/b"), spec(f"{queue}{at}", "a b"), spec("", "x")]

    await enqueue_all(api, [spec(f"{queue}{at}", "j0", priority=9) for at in "xy"])
    batch = await enqueue_all(api, jobs("x"))
    for item in batch:
        item.ClearField("name")  # an item of the stream says its id alone
    async with asking(api) as stream:
        answer = await stream.ask(*jobs("y"))
    assert as_batch(answer, jobs("y")) == batch
    assert [item.verdict for item in batch].count(REFUSED) == 11
    assert await listed(api, f"{queue}x", WAITING) == await listed(api, f"{queue}y", WAITING)
    for job in await listed(api, f"{queue}x", WAITING):
        one, other = [(await get(api, job_name_of(f"{queue}{at}", job))) for at in "xy"]
        assert (one.payload, one.priority, one.max_attempts) == (other.payload, other.priority, other.max_attempts)


async def test_what_is_wrong_with_a_message_is_said_in_its_answer_and_the_stream_goes_on(api: Api, queue: str) -> None:
    cases: list[pb.EnqueueBatchRequest] = [
        pb.EnqueueBatchRequest(),
        pb.EnqueueBatchRequest(jobs=[spec(queue)] * 1001),
        pb.EnqueueBatchRequest(jobs=[spec(queue)], durability=77),  # type: ignore[arg-type]
    ]
    async with asking(api) as stream:
        for case in cases:
            refused = await refusal(api.jobs.EnqueueBatch(case))
            answer = await stream.ask(*case.jobs, durability=case.durability)
            assert (answer.error.code, answer.error.message, reason(answer.error)) == (refused.code.value[0], refused.message, refused.reason)
        assert await listed(api, queue, WAITING) == []
        assert not (await stream.ask(spec(queue, "good"))).HasField("error")


async def test_one_message_may_hold_jobs_of_many_queues_in_any_order(api: Api, queue: str) -> None:
    async with asking(api) as stream:
        for repeat in range(2):  # known queues go another way than new ones
            jobs = [spec(f"{queue}-{i % 7}", f"j{repeat}-{i}") for i in range(100)]
            assert not (await stream.ask(*jobs)).items
    assert await listed(api, f"{queue}-3", WAITING) == [f"j{repeat}-{i}" for repeat in range(2) for i in range(3, 100, 7)]


async def test_a_message_that_waits_for_the_disk_does_not_hold_up_the_next(store: Store) -> None:
    async with (
        Broker(store) as broker,
        connected(broker) as api,
        asking(api) as stream,
        redis.asyncio.from_url(store.url) as raw,
    ):
        await stream.ask(spec("q", "first"))
        await raw.config_set("appendfsync", "no")  # the disk is not reached before the test says so
        on_disk = await stream.send([spec("q", "kept")], durability=DISK)
        in_memory = await stream.send([spec("q", "more")])
        assert (await stream.answer()).number == in_memory
        await raw.config_set("appendfsync", "everysec")
        assert (await stream.answer()).number == on_disk
        await store.kill()
        await store.restart()
        assert (await patiently(lambda: get(api, job_name_of("q", "kept")))).state == WAITING


async def test_disk_durability_is_refused_on_redis_7_0(redis_api: Api, queue: str) -> None:
    async with asking(redis_api) as stream:
        answer = await stream.ask(spec(queue), durability=DISK)
        assert reason(answer.error) == "DURABILITY_UNSUPPORTED"
    assert await listed(redis_api, queue, WAITING) == []


async def test_many_callers_on_many_streams_make_each_job_once(api: Api, queue: str) -> None:
    async def caller(name: int) -> None:
        async with asking(api) as stream:
            for message in range(20):
                assert not (await stream.ask(*(spec(queue, f"c{name}-{message}-{i}") for i in range(10)))).items

    await asyncio.gather(*(caller(name) for name in range(20)))
    assert (await counts(api, queue)).waiting == 4000


# Bounds ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_caller_that_does_not_read_its_answers_is_read_no_further(api: Api, queue: str) -> None:
    """Its answers are large, so they soon fill what lies between; then messages stay unread, and jobs unmade, until it reads."""
    await enqueue(api, queue, "taken")
    taken = [spec(queue, "taken", priority=100 + i) for i in range(1000)]
    async with asking(api) as stream:
        sending = asyncio.create_task(_send_many(stream, taken, 300))
        done, _ = await asyncio.wait([sending], timeout=3)
        assert not done
        answers = [await stream.answer() for _ in range(300)]
        await sending
        assert {len(answer.items) for answer in answers} == {1000}
        assert {item.error.reason for item in answers[-1].items} == {"JOB_EXISTS"}


async def _send_many(stream: Asking, jobs: Sequence[job_pb2.JobSpec], times: int) -> None:
    for _ in range(times):
        await stream.send(jobs)


async def test_a_message_may_have_sixteen_mebibytes_and_several_of_them_take_turns(api: Api, queue: str) -> None:
    async with asking(api) as stream:
        for message in range(3):
            await stream.send([spec(queue, f"j{message}-{i}", payload=job_pb2.Payload(data=bytes(1 << 20))) for i in range(15)])
        assert {(await stream.answer()).number for _ in range(3)} == {1, 2, 3}
    assert (await counts(api, queue)).waiting == 45


# Ends ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_caller_that_has_nothing_more_to_send_gets_its_answers_and_then_the_end(api: Api, queue: str) -> None:
    async with asking(api) as stream:
        for i in range(10):
            await stream.send([spec(queue, f"j{i}")])
        await stream.call.done_writing()
        assert {(await stream.answer()).number for _ in range(10)} == set(range(1, 11))
        assert await stream.end() is None
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_message_that_is_none_ends_the_stream_after_what_came_before(shared_broker: Broker, api: Api, queue: str) -> None:
    async with connect(shared_broker.address) as channel:
        call: Any = channel.stream_stream("/jobwire.v1.JobService/EnqueueStream")()
        await call.write(pb.EnqueueStreamRequest(jobs=[spec(queue, "before")], number=1).SerializeToString())
        await call.write(b"\x0a\xff\xff\xff\xff")
        assert pb.EnqueueStreamResponse.FromString(await call.read()).number == 1
        ended = await Asking(call).end()
    assert ended is not None
    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "EnqueueStreamRequest" in ended.message
    assert await listed(api, queue, WAITING) == ["before"]


async def test_a_caller_that_goes_in_the_middle_leaves_a_broker_that_serves_others(api: Api, queue: str) -> None:
    for message in range(20):
        async with asking(api) as stream:
            await stream.send([spec(queue, f"j{message}-{i}") for i in range(500)])
    async with asking(api) as stream:
        assert not (await stream.ask(spec(queue, "last"))).items
    assert (await get(api, job_name_of(queue, "last"))).state == WAITING


async def test_a_broker_that_ends_answers_what_is_under_way_and_says_that_the_rest_was_not_taken(store: Store) -> None:
    async with Broker(store) as broker, connected(broker) as api, asking(api) as stream:
        await stream.ask(spec("q", "first"))
        on_disk = await stream.send([spec("q", "kept")], durability=DISK)
        async with asyncio.timeout(5):
            while len(await listed(api, "q", WAITING)) < 2:
                await asyncio.sleep(0.01)
        broker.send(signal.SIGTERM)
        assert (await stream.answer()).number == on_disk
        ended = await stream.end()
        assert ended is not None
        assert (ended.code, ended.reason, ended.metadata["accepted"]) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "no")
        assert ended.retry_after_s
        assert await broker.ended() == 0


async def test_with_the_store_away_each_message_is_answered_within_two_seconds_and_the_stream_outlives_it(store: Store) -> None:
    async with Broker(store) as broker, connected(broker) as api, asking(api) as stream:
        await stream.ask(spec("q", "before"))
        await store.kill()
        loop = asyncio.get_running_loop()
        for i in range(3):
            began = loop.time()
            answer = await stream.ask(spec("q", f"away{i}"), spec("new", f"away{i}"))
            assert loop.time() - began < 2.3
            assert (answer.error.code, reason(answer.error)) == (grpc.StatusCode.UNAVAILABLE.value[0], "STORE_UNAVAILABLE")
        await store.restart()
        async with asyncio.timeout(5):
            while (await stream.ask(spec("q", "after"))).HasField("error"):
                await asyncio.sleep(0.05)
        assert [job.id for job in await lease(api, "q", 10) if job.id == "after"] == ["after"]


async def test_after_a_kill_in_the_middle_a_repeat_with_the_same_ids_makes_no_second_job(store: Store) -> None:
    jobs = [spec("q", f"j{i}") for i in range(1000)]
    broker = Broker(store)
    async with broker:
        for _ in range(3):
            async with connected(broker) as api, asking(api) as stream:
                await stream.send(jobs)
                await broker.kill()
                ended = await stream.end()
                assert ended is None or (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "")
            await broker.restart()
        async with connected(broker) as api, asking(api) as stream:
            assert not (await stream.ask(*jobs)).items
            assert (await counts(api, "q")).total == 1000
            delivered = [job.id for _ in range(10) for job in await lease(api, "q", 100)]
            assert sorted(delivered) == sorted(job.id for job in jobs)
