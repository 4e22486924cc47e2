"""Enqueues over a stream: what its answers, its breaks and its silence mean for those who wait. The servers are real, and do as they are told."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from jobwire.v1 import error_pb2, job_service_pb2
from jobwire_client import Client, DurabilityUnsupported, JobSpec, QueueUnavailable, StoreFull, SyncClient
from jobwire_client import _enqueue_stream as module

from tests.unit.client.scripted import TIMEOUTS_S, Context, Scripted, never, nobody, refusing, saying, serving, status_of, well

NO = grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def first_then(first: Any, then: Any) -> Any:
    """The first answer, and that of all others."""
    told = iter([first])

    async def answer(context: Context) -> Any:
        return await next(told, then)(context)

    return answer


async def test_all_enqueues_of_a_client_share_one_stream() -> None:
    async with serving(well) as (address, scripted), Client(address) as client:
        for _ in range(3):
            await asyncio.gather(*(client.enqueue("q", "h", durability="disk" if i % 2 else "store") for i in range(100)))
        assert scripted.streams == 1
        assert sum(len(call.jobs) for call in scripted.calls) == 300


async def test_so_do_threads() -> None:
    async with serving(well) as (address, scripted):
        with SyncClient(address) as client:
            await asyncio.gather(*(asyncio.to_thread(client.enqueue, "q", "h") for _ in range(30)))
            assert scripted.streams == 1


async def test_a_message_that_is_refused_as_a_whole_leaves_the_stream_as_it_is() -> None:
    full = saying(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    async with serving(first_then(full, well)) as (address, scripted), Client(address) as client:
        with pytest.raises(StoreFull):
            await client.enqueue("q", "h")
        assert (await client.enqueue("q", "h")).verdict == "made"
        assert scripted.streams == 1


async def test_many_jobs_say_which_were_made_before_the_store_was_full() -> None:
    full = saying(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    async with serving(first_then(well, full)) as (address, scripted), Client(address) as client:
        results = await client.enqueue_many(JobSpec("q", "h") for _ in range(5_000))
    made = len(scripted.calls[0].jobs)
    assert [result.verdict for result in results] == ["made"] * made + ["refused"] * (5_000 - made)
    assert {type(result.error) for result in results[made:]} == {StoreFull}


async def test_an_error_keeps_the_time_to_wait() -> None:
    async def answer(context: Context) -> error_pb2.ErrorStatus:
        status, retry = status_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"), error_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(5_000)
        status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString())
        return status

    async with serving(answer) as (address, _), Client(address) as client:
        with pytest.raises(StoreFull) as caught:
            await client.enqueue("q", "h")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 5


async def test_a_message_whose_outcome_is_unknown_is_sent_again_with_the_same_ids() -> None:
    unknown = saying(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", accepted="unknown")
    async with serving(first_then(unknown, well)) as (address, scripted), Client(address) as client:
        made = await client.enqueue("q", "h")
    assert [job.id for call in scripted.calls for job in call.jobs] == [made.id, made.id]


async def test_a_refusal_in_an_answer_is_not_repeated() -> None:
    refused = saying(grpc.StatusCode.FAILED_PRECONDITION, "DURABILITY_UNSUPPORTED")
    async with serving(refused) as (address, scripted), Client(address) as client:
        with pytest.raises(DurabilityUnsupported):
            await client.enqueue("q", "h", durability="disk")
    assert len(scripted.calls) == 1


async def test_a_stream_that_breaks_is_opened_again_and_the_message_repeated() -> None:
    async with serving(first_then(refusing(grpc.StatusCode.UNKNOWN, ""), well)) as (address, scripted), Client(address) as client:
        with pytest.raises(Exception, match="UNKNOWN"):
            await client.enqueue("q", "h")  # an error inside the broker is no outage
        assert (await client.enqueue("q", "h")).verdict == "made"
    assert scripted.streams == 2


async def test_a_broker_that_is_ending_is_left_for_the_next_one() -> None:
    async with serving(refusing(*NO, accepted="no")) as (ending, first), serving(well) as (address, second), Client([ending, address]) as client:
        client._connections._current = 0
        assert (await client.enqueue("q", "h")).verdict == "made"
        assert (await client.enqueue("q", "h")).verdict == "made"
    assert (len(first.calls), len(second.calls)) == (1, 2)


async def test_what_a_broker_that_ends_says_of_unanswered_messages_is_what_callers_hear() -> None:
    for word in ("no", "unknown"):
        async with serving(refusing(*NO, accepted=word)) as (ending, _):
            for timeout_s in TIMEOUTS_S:
                async with Client([ending, nobody()], timeout=timeout_s) as client:
                    with pytest.raises(QueueUnavailable) as caught:
                        await client.enqueue("q", "h")
                # Whom a busy machine keeps from being refused in time is unknown as well.
                if caught.value.accepted == word:
                    break
        assert caught.value.accepted == word


async def test_a_broker_that_dies_leaves_its_messages_unknown() -> None:
    async with serving(never) as (address, scripted):
        client = Client(address, timeout=1)
        callers = [asyncio.create_task(client.enqueue("q", "h")) for _ in range(20)]
        await until(lambda: scripted.calls)
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert {result.accepted for result in results if isinstance(result, QueueUnavailable)} == {"unknown"}
    assert len({result.id for result in results if isinstance(result, QueueUnavailable)}) == 20
    await client.close()


async def test_a_stream_that_has_let_a_message_wait_too_long_is_not_used_again() -> None:
    async with serving(first_then(never, well)) as (address, scripted), Client(address, timeout=0.3) as client:
        with pytest.raises(QueueUnavailable) as caught:
            await client.enqueue("q", "h")
        assert caught.value.accepted == "unknown"
        assert (await client.enqueue("q", "h")).verdict == "made"
        assert scripted.streams == 2
        await until(lambda: scripted.ended)


async def test_a_stream_without_work_is_closed_and_the_next_enqueue_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.05)
    async with serving(well) as (address, scripted), Client(address) as client:
        await client.enqueue("q", "h")
        await until(lambda: scripted.ended)
        await client.enqueue("q", "h")
        assert scripted.streams == 2


async def test_answers_out_of_order_and_answers_to_nobody_find_whom_they_are_for() -> None:
    class Turning(Scripted):
        async def enqueue_stream(
            self, requests: AsyncIterator[job_service_pb2.EnqueueStreamRequest], context: Context
        ) -> AsyncIterator[job_service_pb2.EnqueueStreamResponse]:
            response, refused = job_service_pb2.EnqueueStreamResponse, job_service_pb2.ENQUEUE_VERDICT_REFUSED
            first, second = await anext(requests), await anext(requests)
            yield response(number=1 << 40)
            error = job_service_pb2.ItemError(reason="JOB_EXISTS", message="taken")
            yield response(number=second.number, items=[response.Item(at=0, id="b", verdict=refused, error=error)])
            yield response(number=first.number)
            await anext(requests, None)

    async with serving(well, Turning) as (address, _), Client(address) as client:
        first = asyncio.create_task(client.enqueue("q", "h", id="a"))
        second = asyncio.create_task(client.enqueue("q", "h", id="b", durability="disk"))
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Enqueued", "JobExists"]


async def test_a_client_that_was_never_used_and_one_that_is_closed_twice_are_no_error() -> None:
    await Client(nobody()).close()
    async with serving(well) as (address, _):
        client = Client(address)
        await client.enqueue("q", "h")
        await client.close()
        await client.close()
