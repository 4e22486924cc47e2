"""A steady load for the time in which a test breaks things: a bounded number of jobs in flight, topped up as they complete."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.producer import Producer
from tests.support.system import System

_STEP_S = 0.1


@asynccontextmanager
async def load(it: System, in_flight: int, ms: tuple[int, int], producer: Producer | None = None) -> AsyncIterator[None]:
    """Keep `in_flight` jobs accepted and unfinished. Enters when the first ones are in; leaving ends the enqueueing and waits for its last answer."""
    await it.enqueue(in_flight, ms, producer)
    ending = asyncio.Event()
    task = asyncio.create_task(_top_up(it, in_flight, ms, producer, ending))
    try:
        yield
    finally:
        ending.set()
        await task


async def _top_up(it: System, in_flight: int, ms: tuple[int, int], producer: Producer | None, ending: asyncio.Event) -> None:
    """Ten times a second: often enough to be steady, in batches large enough to be cheap."""
    history = it.history
    while not ending.is_set():
        missing = in_flight - (len(history.attempted) - len(history.completed))
        if missing > 0:
            await it.enqueue(missing, ms, producer)
        await asyncio.sleep(_STEP_S)
