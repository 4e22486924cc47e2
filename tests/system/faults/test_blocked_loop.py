"""A handler that blocks its event loop for a minute keeps its session: the stream runs on a thread of its own."""

import pytest

from tests.support import outcomes
from tests.support.meanwhile import meanwhile
from tests.support.producer import spec
from tests.support.system import system


@pytest.mark.slow
@meanwhile
async def test_a_handler_that_blocks_its_event_loop_for_a_minute_keeps_its_session() -> None:
    async with system("blocked loop", brokers=1, session_time="2s") as it:
        blocked, other = await it.start_workers(2, concurrency=1)
        await it.producer.enqueue([spec(it.queue, "blocks", {"block_ms": 60_000})])
        await it.all_done(75)
        verdict = it.history.verdict()
        outcomes.tell(it.test, verdict)
        assert verdict.valid, verdict
        assert [event.job for event in it.history.starts] == ["blocks"], "its job was given to another"
        assert not any("worker.disconnected" in line for worker in (blocked, other) for line in worker.lines())
