"""An event loop whose clock jumps to the next timer, and processes that it can freeze and kill.

A process is a context variable: all that runs on behalf of a broker or worker runs in a context that says so. What a frozen process has to do waits until it
thaws; a killed one's tasks are cancelled after its links were cut, so that nothing of their tidying up gets out.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from types import SimpleNamespace
from typing import Any

from google.protobuf.internal import well_known_types

#: What the store's clock says when the loop's is at 0: a date in 2026, in seconds.
EPOCH_S = 1_790_000_000
#: So many turns of the loop without time passing are a program that spins.
MAX_TURNS = 50_000

_current: ContextVar[Process | None] = ContextVar("process", default=None)


class Hung(Exception):
    """Raised when nothing is left to happen, or when things happen without end and time stands still."""


class Process:
    """A broker or a worker. `cut_links` is called when it is killed, before its tasks are."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.cut_links: list[Callable[[], None]] = []
        self._tasks: weakref.WeakValueDictionary[int, asyncio.Task[Any]] = weakref.WeakValueDictionary()
        self._made = 0
        self._parked: deque[asyncio.Handle] = deque()
        self._loop = loop
        self.context: Context = copy_context()
        self.context.run(_current.set, self)
        loop.processes.append(self)

    def own(self, task: asyncio.Task[Any]) -> None:
        """This task is of the process."""
        self._made += 1
        self._tasks[self._made] = task

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run this in the process."""
        return self._loop.create_task(coroutine, context=self.context.copy())

    def post(self, at: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call back in the process at this time: how messages arrive."""
        self._loop.call_at(at, callback, *args, context=self.context)

    def park(self, handle: asyncio.Handle) -> None:
        """Keep what comes while the process does not run."""
        if not self.dead:
            self._parked.append(handle)
        elif not isinstance(handle, asyncio.TimerHandle):
            handle._run()

    @property
    def is_stopped(self) -> bool:
        """Whether the loop is to ask `park` about its handles."""
        return self.frozen or self.dead

    def freeze(self) -> None:
        """As SIGSTOP does."""
        self.frozen = True

    def thaw(self) -> None:
        """As SIGCONT does: all that came meanwhile is handled now."""
        if self.frozen:
            self.frozen = False
            self._loop.take_back(self._parked)

    def kill(self) -> None:
        """As SIGKILL does."""
        if self.dead:
            return
        self.thaw()
        self.dead = True
        for cut in self.cut_links:
            cut()
        for task in list(self._tasks.values()):
            task.cancel()


class VirtualLoop(asyncio.BaseEventLoop):
    """Time passes only when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.turns = 0
        self._now = 0.0
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._timer_cancelled_count: int
        self._turns_now = 0
        self._selector: Any = SimpleNamespace(select=None)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Seconds since the run began."""
        return self._now

    def store_us(self) -> int:
        """The date in µs."""
        return round((EPOCH_S + self._now) * 1_000_000)

    def take_back(self, handles: deque[asyncio.Handle]) -> None:
        """Run what was kept."""
        self._ready.extend(handles)
        handles.clear()

    def end(self) -> None:
        """Kill all that is left, and close the loop."""
        for process in self.processes:
            process.kill()
        for _ in range(50):
            left = asyncio.all_tasks(self)
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(_pass_a_turn())
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # what does not give way even now is dropped in silence
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    # Of BaseEventLoop ---------------------------------------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._advance()
        else:
            self._turns_now += 1
            if self._turns_now > MAX_TURNS:
                raise Hung(f"the program spins at {self._now:.3f} s: {ready[0]!r}")
        self.turns += 1
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_current)  # type: ignore[attr-defined]
            if process is not None and process.is_stopped:
                process.park(handle)
            else:
                handle._run()

    def _advance(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1
        if not scheduled:
            raise Hung(f"nothing is left to happen at {self._now:.3f} s")
        when = scheduled[0].when()
        if when > self._now:
            self._now = when
            self._turns_now = 0
        while scheduled and scheduled[0].when() <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(handle)

    def _write_to_self(self) -> None:
        """Nobody calls from other threads."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
    process = _current.get() if context is None else context.get(_current)
    if process is not None:
        process.own(task)
    return task


async def _pass_a_turn() -> None:
    await asyncio.sleep(0)


@contextmanager
def clocks_of(loop: VirtualLoop) -> Iterator[None]:
    """Let the modules of the product that read a clock read the loop's."""
    shown = SimpleNamespace(
        **{name: getattr(time, name) for name in ("sleep", "gmtime", "strftime")},
        monotonic=loop.time,
        perf_counter=loop.time,
        time=lambda: EPOCH_S + loop.time(),
        time_ns=lambda: loop.store_us() * 1000,
        monotonic_ns=lambda: round(loop.time() * 1e9),
    )
    readers = [module for name, module in list(sys.modules.items()) if name.startswith("jobwire_") and getattr(module, "time", None) is time]
    for module in readers:
        module.time = shown  # type: ignore[attr-defined]
    dates: Any = well_known_types.Timestamp
    real_date = dates.GetCurrentTime
    dates.GetCurrentTime = lambda self: self.FromMicroseconds(loop.store_us())
    try:
        yield
    finally:
        dates.GetCurrentTime = real_date
        for module in readers:
            module.time = time  # type: ignore[attr-defined]
