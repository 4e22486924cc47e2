"""Threads for plain functions.

Not concurrent.futures: the interpreter waits at its end for each thread of an executor, and a worker that was told to end must end, whatever its handlers do.
These threads are daemons.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_Task = tuple[Callable[[Any], None], Any]


class Threads:
    """At most `limit` threads, made when they are needed and kept until `stop`."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._count = 0

    def submit(self, function: Callable[[Any], None], argument: Any) -> None:
        """Call `function(argument)` in a thread, in a context of its own. It must not raise. Called from one thread only."""
        self._tasks.put((function, argument))
        if not self._free.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()

    def stop(self) -> None:
        """Let the threads end after what they do. Waits for none."""
        for _ in range(self._count):
            self._tasks.put(None)
        self._count = 0

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            function, argument = task
            contextvars.copy_context().run(function, argument)
            task = argument = None
            self._free.release()
