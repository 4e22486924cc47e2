"""Runs coroutines in as few asyncio tasks as they allow.

A task costs more than a small job does. A driver is a task that runs one item after the other for as long as none of them has to wait; when one waits, the
driver stays with it to its end, and other drivers take the rest. So each item has a task of its own while it runs, and what it does with that task
(timeouts, task groups, being cancelled) is as usual.

Nothing leaks from one item to the next: a driver ends after an item that changed a context variable, or was cancelled, and the next item gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Drivers(Generic[T]):
    """`add` items, then `start`; each is run by `run(item)`, which must not raise. All on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        self._loop = loop
        self._run = run
        self._ready: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clean = contextvars.copy_context()

    def add(self, item: T) -> None:
        """Take an item. It runs after the next `start`."""
        self._ready.append(item)

    def start(self) -> None:
        """Run what was added. Does not wait."""
        if self._ready:
            self._start_drivers(1)

    def cancel(self) -> None:
        """Cancel what runs."""
        for task in self._tasks:
            task.cancel()

    def _start_drivers(self, count: int) -> None:
        for _ in range(count):
            task = self._loop.create_task(self._drive(), context=self._clean.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._loop.call_soon(self._start_for_rest)  # after the first steps of these

    def _start_for_rest(self) -> None:
        """What is still there waits behind items that have to wait, so it is likely to wait as well: a driver for each."""
        if self._ready:
            self._start_drivers(len(self._ready))

    async def _drive(self) -> None:
        task = asyncio.current_task()
        ready, clean, run = self._ready, self._clean, self._run
        try:
            while ready:
                await run(ready.popleft())
                if contextvars.copy_context() != clean or (task is not None and task.cancelling()):
                    return
        finally:
            if ready and not self._loop.is_closed():
                self._start_drivers(1)
