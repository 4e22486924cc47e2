"""One call over several brokers that answer as they are told: what is repeated, where, and what is said in the end. The servers are real."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from jobwire.v1 import job_pb2
from jobwire_client import Client, ClientClosed, InvalidRequest, JobNotFound, JobSpec, QueueUnavailable, ServerError, SyncClient, _client
from jobwire_client._connections import parse_targets

from tests.unit.client.scripted import PATIENT_S, TIMEOUTS_S, Context, never, nobody, refusing, serving, well

ENDS_S = 40.0
"""Within this a call ends that is given up after its timeout, however busy the machine is. One that went by another bound would go on for a minute at least."""


async def unavailable(client: Client) -> QueueUnavailable:
    """The error of an enqueue."""
    with pytest.raises(QueueUnavailable) as caught:
        async with asyncio.timeout(ENDS_S):
            await client.enqueue("q", "h")
    return caught.value


async def test_with_no_broker_an_enqueue_fails_as_not_accepted_within_two_seconds() -> None:
    async with Client(nobody()) as client:
        error = await unavailable(client)
    assert (error.accepted, client._timeout_s) == ("no", 2.0)
    assert error.id


async def test_a_broker_that_never_answers_leaves_it_unknown_within_two_seconds() -> None:
    async with serving(never) as (address, scripted):
        for timeout_s in (2.0, 8.0, PATIENT_S):
            async with Client(address, timeout=timeout_s) as client:
                error = await unavailable(client)
            if scripted.calls:
                break
    assert error.accepted == "unknown"


async def test_an_enqueue_is_given_up_while_its_id_is_known_however_long_other_calls_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _client._MAX_ENQUEUE_S <= 60
    monkeypatch.setattr(_client, "_MAX_ENQUEUE_S", 0.3)
    async with Client(nobody(), timeout=3600) as client:
        for durability in ("store", "disk"):
            with pytest.raises(QueueUnavailable):
                async with asyncio.timeout(ENDS_S):
                    await client.enqueue("q", "h", durability=durability)
    async with serving(never) as (address, scripted):
        for bound_s in TIMEOUTS_S:
            monkeypatch.setattr(_client, "_MAX_ENQUEUE_S", bound_s)
            async with Client(address, timeout=3600) as client:
                error = await unavailable(client)
            if scripted.calls:
                break
    assert error.accepted == "unknown"


async def test_the_client_goes_on_to_the_next_broker() -> None:
    async with serving(well) as (address, scripted), Client([nobody(), nobody(), address], timeout=PATIENT_S) as client:
        made = await client.enqueue("q", "h")
    assert made.verdict == "made"
    assert len(scripted.calls) == 1


async def test_all_tries_of_one_call_carry_the_same_id() -> None:
    async with (
        serving(refusing(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", accepted="unknown")) as (ending, first),
        serving(well) as (address, second),
        Client([ending, address], timeout=PATIENT_S) as client,
    ):
        for _ in range(5):  # which broker comes first is random
            await client.enqueue("q", "h")
            client._connections._current = 0
    tried = [call.jobs[0].id for call in first.calls]
    assert tried
    assert set(tried) <= {call.jobs[0].id for call in second.calls}


async def test_a_stuck_broker_leaves_time_for_the_next_one() -> None:
    async with serving(never) as (stuck, _), serving(well) as (address, _), Client([stuck, address], timeout=4) as client:
        client._connections._current = 0
        assert (await client.enqueue("q", "h")).verdict == "made"


async def test_no_means_that_every_try_was_refused_before_the_store() -> None:
    no = refusing(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", accepted="no")
    unknown = refusing(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", accepted="unknown")
    async with serving(no) as (first, _), serving(unknown) as (second, asked):
        for timeout_s in TIMEOUTS_S:
            # An answer that comes too late for its try leaves it unknown indeed.
            async with Client([first, nobody()], timeout=timeout_s) as client:
                error = await unavailable(client)
            if error.accepted == "no":
                break
        assert error.accepted == "no"
        for timeout_s in TIMEOUTS_S:
            async with Client([first, second], timeout=timeout_s) as client:
                error = await unavailable(client)
            if asked.calls:
                break
    assert error.accepted == "unknown"


async def test_a_refusal_is_not_repeated() -> None:
    async with serving(refusing(grpc.StatusCode.FAILED_PRECONDITION, "DURABILITY_UNSUPPORTED")) as (address, scripted), Client(address) as client:
        results = await asyncio.gather(*(client.enqueue("q", "h", durability="disk") for _ in range(3)), return_exceptions=True)
    assert {type(result).__name__ for result in results} == {"DurabilityUnsupported"}
    assert len(scripted.calls) == 1
    assert scripted.calls[0].durability == job_pb2.DURABILITY_DISK


async def test_an_error_inside_the_broker_is_no_outage() -> None:
    async with serving(refusing(grpc.StatusCode.INTERNAL, "")) as (address, _), Client(address) as client:
        with pytest.raises(ServerError):
            await client.get("queues/q/jobs/a")


async def test_a_job_that_is_gone_says_its_last_state() -> None:
    gone = refusing(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", state="COMPLETED")
    async with serving(gone) as (address, _), Client(address) as client:
        with pytest.raises(JobNotFound) as caught:
            await client.get("queues/q/jobs/a")
    assert caught.value.state == "completed"


async def test_close_waits_for_what_was_begun() -> None:
    release = asyncio.Event()

    async def later(context: Context) -> None:
        await release.wait()

    async with serving(later) as (address, scripted):
        client = Client(address)
        callers = [asyncio.create_task(client.enqueue("q", "h")) for _ in range(100)]
        while not scripted.calls:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        with pytest.raises(ClientClosed):
            await client.enqueue("q", "h")
        release.set()
        await closing
        assert {made.verdict for made in await asyncio.gather(*callers)} == {"made"}


async def test_many_jobs_say_what_is_known_of_each_when_an_outage_comes() -> None:
    calls = 0

    async def first_only(context: Context) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await never(context)

    jobs = [JobSpec("q", "h", id=f"id{number}") for number in range(5_000)] + [JobSpec("q", "h", object())]
    async with serving(first_only) as (address, _):
        for timeout_s in TIMEOUTS_S:
            calls = 0
            async with Client(address, timeout=timeout_s) as client:
                with pytest.raises(QueueUnavailable) as caught:
                    await client.enqueue_many(jobs)
            if any(result.verdict == "made" for result in caught.value.results):
                break
    results = caught.value.results
    verdicts = [result.verdict for result in results]
    assert caught.value.accepted == "unknown"
    assert len(results) == 5_001
    assert verdicts.count("made") in (1_000, 500)
    assert "unknown" in verdicts
    assert type(results[-1].error) is InvalidRequest
    assert [result.id for result in results[:5_000]] == [f"id{number}" for number in range(5_000)]


async def test_many_jobs_of_which_none_was_sent_are_not_accepted() -> None:
    for timeout_s in TIMEOUTS_S:
        async with Client(nobody(), timeout=timeout_s) as client:
            with pytest.raises(QueueUnavailable) as caught:
                await client.enqueue_many([JobSpec("q", "h")] * 10)
        if caught.value.accepted == "no":
            break
    assert caught.value.accepted == "no"


def test_a_target_is_one_address_several_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_targets("a:1") == ("a:1",)
    assert parse_targets("a:1, b:2,,a:1") == ("a:1", "b:2")
    assert parse_targets(["a:1", "b:2,c:3"]) == ("a:1", "b:2", "c:3")
    monkeypatch.delenv("JOBWIRE_TARGET", raising=False)
    assert parse_targets(None) == ("localhost:7410",)
    monkeypatch.setenv("JOBWIRE_TARGET", "d:4,e:5")
    assert parse_targets(None) == ("d:4", "e:5")


@pytest.mark.parametrize("target", ["", " , ", [], "http://localhost:7410"])
def test_a_target_that_names_no_broker_is_refused(target: str | list[str]) -> None:
    with pytest.raises(InvalidRequest):
        Client(target)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), timedelta(0), "2s", None])
def test_a_timeout_in_which_nobody_could_answer_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout must be a timedelta or seconds above 0, got "):
        Client(nobody(), timeout=timeout)


@pytest.mark.parametrize("name", ["max_waiting", "max_waiting_bytes"])
@pytest.mark.parametrize("room", [0, -1, 1.5, None])
def test_a_client_without_room_for_one_job_is_refused(name: str, room: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} must be a whole number from 1 on, got "):
        SyncClient(nobody(), **{name: room})


async def test_a_durability_that_is_none_is_refused() -> None:
    async with Client(nobody()) as client:
        with pytest.raises(InvalidRequest, match="'store' or 'disk'"):
            await client.enqueue("q", "h", durability="memory")  # type: ignore[arg-type]
