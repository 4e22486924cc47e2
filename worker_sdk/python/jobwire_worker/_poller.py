"""Silence for a noise of gRPC that means nothing.

gRPC's asyncio API wakes all event loops of a process through one socket; each loop but the fastest finds it empty and reports a BlockingIOError. A worker has a
loop for its stream beside the program's, so a program whose own loop uses gRPC would see that error with each call. It is filtered while the worker runs;
all other errors go to the handler that was there before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_Context = dict[str, Any]


def quiet_poller(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Filter the noise out of the loop's errors. Returns what undoes it, if nobody else has set a handler since."""
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: _Context) -> None:
        if _is_noise(context):
            return
        if before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    def undo() -> None:
        if loop.get_exception_handler() is handle:
            loop.set_exception_handler(before)

    loop.set_exception_handler(handle)
    return undo


def _is_noise(context: _Context) -> bool:
    return isinstance(context.get("exception"), BlockingIOError) and "PollerCompletionQueue" in str(context.get("message", ""))
