"""What seldom waits runs without a task, and goes on in one when it does wait."""

import asyncio

import pytest
from jobwire_gateway.allowance import Allowance
from jobwire_gateway.at_once import run_at_once


async def test_what_does_not_wait_has_ended_when_the_call_returns() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert run_at_once(work(), asyncio.get_running_loop()) is None
    assert done == [1]


async def test_what_waits_goes_on_in_a_task_as_often_as_it_waits() -> None:
    gate, done = asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        for number in range(3):
            await asyncio.sleep(0.001)
            done.append(number)

    rest = run_at_once(work(), asyncio.get_running_loop())
    assert rest is not None
    assert done == []
    gate.set()
    await rest
    assert done == [0, 1, 2]


async def test_a_cancellation_and_an_error_reach_the_work() -> None:
    told = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    rest = run_at_once(waits(), asyncio.get_running_loop())
    assert rest is not None
    await asyncio.sleep(0)
    rest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rest
    assert told == ["cancelled"]
    failing = run_at_once(fails(), asyncio.get_running_loop())
    assert failing is not None
    with pytest.raises(ValueError, match="no"):
        await failing


def test_an_allowance_is_full_at_first_and_fills_with_time() -> None:
    allowance = Allowance(2.0, 3)
    assert [allowance.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(0.4), allowance.take(0.5), allowance.take(0.6)] == [False, True, False]
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
