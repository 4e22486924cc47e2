"""Waiting for what a stream says next."""

import asyncio

import pytest
from jobwire.v1.job_service_pb2 import WatchJobsResponse
from jobwire_client._connections import Connections
from jobwire_client._watch import View, _next
from jobwire_client.errors import JobwireError


@pytest.mark.parametrize("turns", range(1, 4))
async def test_a_watcher_that_is_cancelled_when_something_comes_is_cancelled(turns: int) -> None:
    frames: asyncio.Queue[WatchJobsResponse | JobwireError | None] = asyncio.Queue()
    watching = asyncio.create_task(_next(frames, Connections("127.0.0.1:1"), View([])))
    for _ in range(turns):
        await asyncio.sleep(0)
    frames.put_nowait(WatchJobsResponse())
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
