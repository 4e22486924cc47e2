"""Drivers run what does not wait in one task, give what waits a task of its own, and let nothing leak from one to the next."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from jobwire_worker._drivers import Drivers

Item = Callable[[], Coroutine[Any, Any, None]]


async def run_all(*items: Item, until: Callable[[], bool]) -> Drivers[Item]:
    drivers = Drivers[Item](asyncio.get_running_loop(), lambda item: item())
    for item in items:
        drivers.add(item)
    drivers.start()
    async with asyncio.timeout(5):
        while not until():
            await asyncio.sleep(0)
    return drivers


async def test_items_that_do_not_wait_share_a_task() -> None:
    tasks: list[Any] = []

    async def quick() -> None:
        tasks.append(asyncio.current_task())

    await run_all(*[quick] * 100, until=lambda: len(tasks) == 100)
    assert len(set(tasks)) == 1


async def test_items_that_wait_run_side_by_side_each_in_a_task_of_its_own() -> None:
    tasks: list[Any] = []
    all_here = asyncio.Event()

    async def slow() -> None:
        tasks.append(asyncio.current_task())
        await all_here.wait()

    await run_all(*[slow] * 50, until=lambda: len(tasks) == 50)
    assert len(set(tasks)) == 50
    all_here.set()


async def test_items_behind_one_that_waits_start_at_once() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    def item(name: str, waits: bool) -> Item:
        async def run() -> None:
            if waits:
                await go_on.wait()
            order.append(name)

        return run

    items = [item(f"{number}", waits=number % 3 == 0) for number in range(9)]
    await run_all(*items, until=lambda: len(order) == 6)
    assert order == ["1", "2", "4", "5", "7", "8"]
    go_on.set()
    async with asyncio.timeout(5):
        while len(order) < 9:
            await asyncio.sleep(0)


async def test_a_context_variable_that_one_item_sets_is_not_seen_by_the_next() -> None:
    variable = contextvars.ContextVar("variable", default="clean")
    seen: list[str] = []

    async def sets() -> None:
        seen.append(variable.get())
        variable.set("dirty")

    await run_all(*[sets] * 10, until=lambda: len(seen) == 10)
    assert seen == ["clean"] * 10


@pytest.mark.parametrize("swallows", [True, False])
async def test_a_cancel_of_one_item_does_not_reach_the_next(swallows: bool) -> None:
    waiting: list[asyncio.Task[Any]] = []
    ended: list[str] = []

    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None
        waiting.append(task)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            if not swallows:
                raise

    async def quick() -> None:
        await asyncio.sleep(0)
        ended.append("quick")

    drivers = await run_all(cancelled, until=lambda: bool(waiting))
    waiting[0].cancel()
    drivers.add(quick)
    drivers.start()
    async with asyncio.timeout(5):
        while len(ended) < 2:
            await asyncio.sleep(0)
    assert sorted(ended) == ["cancelled", "quick"]


async def test_timeouts_and_groups_inside_items_work_as_in_any_task() -> None:
    ended: list[str] = []

    async def timed() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        ended.append("timed")

    await run_all(timed, timed, until=lambda: len(ended) == 2)
