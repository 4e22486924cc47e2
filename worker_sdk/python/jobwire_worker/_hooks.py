"""What a program wants to hear of all its jobs: `on_started`, `on_completed`, `on_failed`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ._job import Job
from .errors import RegistrationError

log = logging.getLogger("jobwire.worker")

Hook = Callable[..., Any]


class Hooks:
    """The registered hooks. One that raises is logged and changes nothing: what became of the job is decided by its handler."""

    def __init__(self) -> None:
        self.started: list[Hook] = []
        self.completed: list[Hook] = []
        self.failed: list[Hook] = []

    @staticmethod
    def add(hooks: list[Hook], function: Hook, shape: str, *arguments: Any, **keywords: Any) -> None:
        """Raises RegistrationError for a function that cannot be called with these arguments."""
        if not callable(function):
            raise RegistrationError(f"a hook must be a function, got {function!r}")
        try:
            inspect.signature(function).bind(*arguments, **keywords)
        except TypeError as error:
            raise RegistrationError(f"the hook {getattr(function, '__qualname__', function)!r} must take {shape}: {error}") from None
        hooks.append(function)

    @staticmethod
    def call(hooks: list[Hook], job: Job[Any], *arguments: Any, **keywords: Any) -> list[Awaitable[Any]]:
        """Call each; what is a coroutine is given back, to be awaited."""
        waiting: list[Awaitable[Any]] = []
        for hook in hooks:
            try:
                answer = hook(job, *arguments, **keywords)
            except Exception:
                log.exception("hook.failed hook=%s job=%s", getattr(hook, "__qualname__", hook), job.name)
                continue
            if inspect.isawaitable(answer):
                waiting.append(answer)
        return waiting


async def finish_hooks(waiting: list[Awaitable[Any]], job: Job[Any]) -> None:
    """Await what `Hooks.call` gave back."""
    for awaitable in waiting:
        try:
            await awaitable
        except Exception:
            log.exception("hook.failed job=%s", job.name)
