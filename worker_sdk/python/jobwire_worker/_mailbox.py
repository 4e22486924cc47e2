"""A queue from any thread into one event loop, which wakes the loop once per batch and not once per item.

Waking a loop from another thread costs more than most jobs do. Bounded by its writers: a worker puts in at most a few items per job that it runs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """`put` from any thread; `receive` is called in the loop with all that is there, in order."""

    __slots__ = ("_armed", "_items", "_loop", "_receive")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._receive = receive
        self._items: deque[T] = deque()
        self._armed = False

    def put(self, item: T) -> None:
        """Never blocks. An item put after the loop was closed is dropped."""
        self._items.append(item)
        if not self._armed:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody is left to read
                self._items.clear()

    def _drain(self) -> None:
        # Disarmed first: an item that comes while we read wakes the loop once more, at worst for nothing.
        self._armed = False
        items = self._items
        batch: list[T] = []
        while items:
            batch.append(items.popleft())
        if batch:
            self._receive(batch)
