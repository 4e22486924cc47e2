"""A process is read, killed, frozen and cleaned up as the tests rely on."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.process import REPOSITORY, Process, ProcessEnded, python


class Script(Process):
    """Python code as a part."""

    ready_line = r"ready (\d+)"

    def __init__(self, code: str) -> None:
        super().__init__("script")
        self.code = code
        self.told = ""

    def command(self) -> list[str]:
        return python("-c", self.code)

    def on_ready(self, match: re.Match[str]) -> None:
        self.told = match[1]


WAITING = "import time\nprint('ready 7')\ntime.sleep(60)"


async def test_it_is_ready_when_its_line_appears_and_tells_what_the_line_holds() -> None:
    async with Script(WAITING) as script:
        assert script.told == "7"
    assert not script.running


async def test_a_process_that_ends_too_early_shows_its_last_lines() -> None:
    with pytest.raises(ProcessEnded, match="because of this"):
        async with Script("print('because of this')"):
            pass


async def test_a_process_that_ignores_the_request_to_end_is_killed_and_the_test_fails() -> None:
    script = Script("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITING)
    await script.start()
    with pytest.raises(TimeoutError, match="did not end"):
        await script.stop(timeout=0.2)
    assert not psutil.pid_exists(script.pid)


async def test_a_frozen_process_is_taken_away_all_the_same() -> None:
    async with Script(WAITING) as script:
        script.freeze()
        os.waitid(os.P_PID, script.pid, os.WSTOPPED | os.WNOWAIT)
        assert psutil.Process(script.pid).status() == psutil.STATUS_STOPPED
    assert not psutil.pid_exists(script.pid)


async def test_a_killed_process_can_be_started_again() -> None:
    async with Script(WAITING) as script:
        first = script.pid
        assert await script.kill() == -9
        await script.restart()
        assert script.pid != first
        assert script.starts == 2


async def test_a_line_of_the_past_counts_only_when_asked_for() -> None:
    async with Script(WAITING) as script:
        assert await script.line("ready", past=True)
        with pytest.raises(TimeoutError):
            await script.line("ready", timeout=0.05)


async def test_lines_of_the_past_and_new_ones_are_counted_together() -> None:
    async with Script("for line in ('tick 1', 'ready', 'tick 2', 'tick 3', 'tick 4'):\n    print(line, flush=True)\n" + WAITING) as script:
        assert (await script.line(r"tick (\d)", past=True, times=1))[1] == "1"
        assert (await script.line(r"tick (\d)", past=True, times=3))[1] == "3"


async def test_children_die_with_a_test_run_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, signal
from tests.unit.support.test_process import Script, WAITING
async def main():
    script = Script(WAITING)
    await script.start()
    open({str(tmp_path / "pid")!r}, "w").write(str(script.pid))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    await asyncio.to_thread(subprocess.run, python("-c", code), cwd=REPOSITORY, timeout=20)
    child = int((tmp_path / "pid").read_text())
    gone, alive = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=5)
    assert not alive, f"the child outlived its test run: {gone}"
