"""Silence for a noise of gRPC that means nothing.

gRPC's asyncio API wakes all event loops of a process through one socket; each loop but the fastest finds it empty and reports a BlockingIOError. So a program
with a Client beside a SyncClient, or beside a worker, would see that error with many a call.
"""

import asyncio
from collections.abc import Callable
from typing import Any


def quiet_poller(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Filter this one noise out of the loop's errors; all others go where they went. Returns what undoes it, unless another handler was set since."""
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), BlockingIOError) and "PollerCompletionQueue" in str(context.get("message", "")):
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
