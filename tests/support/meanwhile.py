"""Tests that mostly wait for a minute, all in the same minute.

A scenario marked with `@meanwhile` becomes a test. All of them that a run selects are started together, in a thread with an event loop of its own, when
the first fault test begins; the test itself then only awaits the end of its scenario, and fails as the scenario did.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

Scenario = Callable[[], Coroutine[Any, Any, None]]

_LONGEST_S = 180.0


class Background:
    """The thread, and what has become of the scenarios so far."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scenarios", daemon=True)
        self._running: dict[Scenario, Future[None]] = {}

    def start(self, scenario: Scenario) -> None:
        """Start one unless it runs already."""
        if scenario not in self._running:
            self._running[scenario] = asyncio.run_coroutine_threadsafe(scenario(), self._loop)

    def result(self, scenario: Scenario) -> None:
        """Wait for its end. Raises what it raised."""
        self.start(scenario)
        self._running[scenario].result(_LONGEST_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def meanwhile(scenario: Scenario) -> Callable[[Background], None]:
    """Make a test of a scenario that takes no fixtures."""

    def test(background: Background) -> None:
        background.result(scenario)

    test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
    test.scenario = scenario  # type: ignore[attr-defined]  # how the fixture `background` finds it
    return test


Test = TypeVar("Test", bound=Callable[..., Any])


def afterwards(test: Test) -> Test:
    """Let a test come when all scenarios have ended: it measures how late something is, and what else runs would be late with it."""
    test.afterwards = True  # type: ignore[attr-defined]  # how the order is made
    return test


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
