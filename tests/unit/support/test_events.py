"""Events cross the pipe whole, also from a writer that is killed, and wake those who wait."""

import os
import signal
import subprocess

import pytest

from tests.support.events import EventLog, EventSink
from tests.support.process import REPOSITORY, python


async def test_a_condition_is_met_by_the_event_that_makes_it_true() -> None:
    with EventLog() as log:
        EventSink(str(log.path)).write("start", "a", 1, 1)
        await log.until(lambda: len(log.history.starts) == 1, 5)
        assert (log.history.starts[0].job, log.history.starts[0].pid) == ("a", os.getpid())


async def test_a_condition_that_is_never_met_ends_with_what_is_known() -> None:
    with EventLog() as log, pytest.raises(TimeoutError, match=r"two jobs did not hold within 0\.05 s: attempted 0"):
        await log.until(lambda: len(log.history.starts) == 2, 0.05, "two jobs")


async def test_what_a_worker_wrote_before_its_kill_arrives() -> None:
    script = """
import os, signal, sys
from tests.support.events import EventSink
EventSink(sys.argv[1]).write("done", "a", 1, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with EventLog() as log:
        child = subprocess.run(python("-c", script, str(log.path)), cwd=REPOSITORY, timeout=20)
        assert child.returncode == -signal.SIGKILL
        await log.until(lambda: log.history.completed == {"a"}, 5)
