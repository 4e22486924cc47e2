"""Run a coroutine that seldom has to wait, without a task for the many times when it does not.

It runs at once up to its first real wait, and in nearly all cases to its end. Only the rest, if there is one, becomes a task. (Python 3.12 can do so by
itself, with `asyncio.eager_task_factory`; this is for 3.11 as well.) Until then there is no current task, so the coroutine must use nothing that asks
for one, such as `asyncio.timeout`.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def run_at_once(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run it. Gives the task of its rest, or None when it has ended."""
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_finish(work, waits_for))


async def _finish(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _go_on(work, waits_for)


@coroutine
def _go_on(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Stand between the event loop and a coroutine that waits for something already."""
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # a cancellation, among others: whatever it is, it is meant for the coroutine
            try:
                waits_for = work.throw(error)
            except StopIteration:
                return
        else:
            try:
                waits_for = work.send(value)
            except StopIteration:
                return
