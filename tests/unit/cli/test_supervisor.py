"""What the supervisor does when parts end again and again, and how one child process is watched."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest
from jobwire_cli.up import supervisor as supervisor_module
from jobwire_cli.up.process import Child, ChildSpec, Ending, PartFailed
from jobwire_cli.up.supervisor import Supervisor, UpConfig


class Part:
    """A part that ends whenever the test says so."""

    name = "part"

    def __init__(self, *, starts: bool = True) -> None:
        self.started = 0
        self.crash = asyncio.Event()
        self._starts = starts

    async def start(self) -> None:
        self.started += 1
        if not self._starts and self.started > 1:
            self.crash.set()
            raise PartFailed("does not start again")

    async def wait(self) -> Ending:
        await self.crash.wait()
        self.crash.clear()
        return Ending("part ended by SIGKILL", "its last words")

    async def stop(self, grace_s: float = 1) -> None:
        pass

    def kill(self) -> None:
        pass


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_BASE_S", 0.0001)


def watching(lines: list[str]) -> Supervisor:
    return Supervisor(UpConfig(data_dir=Path("unused")), sink=lambda name, line: lines.append(f"{name}: {line}"), on_ready=lambda ready: None)


@pytest.mark.usefixtures("fast")
async def test_a_part_that_crashes_is_restarted_five_times_a_minute_and_then_all_ends() -> None:
    lines: list[str] = []
    part = Part()
    keeping = asyncio.create_task(watching(lines)._keep(part))
    for crash in range(1, 6):
        part.crash.set()
        async with asyncio.timeout(5):
            while part.started < crash:
                await asyncio.sleep(0)
    assert "crash 5 of 5" in lines[-2]
    assert lines[-1] == "up: part serves again"
    part.crash.set()
    with pytest.raises(PartFailed, match=r"(?s)part crashed 6 times within 60 s.*its last words"):
        await keeping


@pytest.mark.usefixtures("fast")
async def test_a_part_that_does_not_start_again_is_tried_as_often() -> None:
    part = Part(starts=False)
    await part.start()
    part.crash.set()
    with pytest.raises(PartFailed, match=r"crashed 6 times"):
        await watching([])._keep(part)


@pytest.mark.usefixtures("fast")
async def test_waits_between_restarts_grow() -> None:
    lines: list[str] = []
    part = Part(starts=False)
    await part.start()
    part.crash.set()
    with pytest.raises(PartFailed):
        await watching(lines)._keep(part)
    assert [line.split(" in ")[1].split(" s ")[0] for line in lines] == ["0.0001", "0.0002", "0.0004", "0.0008", "0.0016"]


def child(program: str, **options: object) -> tuple[Child, list[str]]:
    lines: list[str] = []
    spec = ChildSpec(name="child", argv=[sys.executable, "-u", "-c", program], **options)  # type: ignore[arg-type]
    return Child(spec, lambda _name, line: lines.append(line)), lines


async def test_a_child_is_ready_when_it_says_so() -> None:
    started, lines = child("print('x.ready at=1.2.3.4:5'); import time; time.sleep(60)", ready=re.compile(r"x\.ready at=(?P<at>\S+)"))
    await started.start()
    assert (await started.ready(10))["at"] == "1.2.3.4:5"
    assert lines == ["x.ready at=1.2.3.4:5"]
    assert await started.stop(5) == -signal.SIGTERM


async def test_a_child_that_ends_before_it_is_ready_says_its_last_words() -> None:
    started, _ = child("import sys; print('out'); sys.exit('no such file')", ready=re.compile("never"))
    await started.start()
    with pytest.raises(PartFailed, match=r"(?s)child ended with exit code 1; its last lines:.*out.*no such file"):
        await started.ready(10)


async def test_a_child_that_says_in_a_sentence_why_it_ended_is_quoted_with_that_alone() -> None:
    started, _ = child("import sys; print('out'); sys.exit('jobwire broker: --grpc is wrong')", ready=re.compile("never"))
    await started.start()
    with pytest.raises(PartFailed, match=r"^child did not start: --grpc is wrong$"):
        await started.ready(10)


async def test_a_child_that_says_nothing_is_not_waited_for_for_ever() -> None:
    started, _ = child("import time; time.sleep(60)", ready=re.compile("never"))
    await started.start()
    with pytest.raises(PartFailed, match=r"child was not ready after 0.2 s"):
        await started.ready(0.2)
    await started.stop(5)


async def test_a_child_that_does_not_heed_sigterm_is_killed() -> None:
    started, lines = child("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)")
    await started.start()
    while not lines:
        await asyncio.sleep(0.01)
    assert await started.stop(0.2) == -signal.SIGKILL
    assert lines[-1] == "did not end within 0.2 s and is killed"


async def test_a_line_of_any_length_does_not_stop_the_reading() -> None:
    started, lines = child("print('x' * 1_000_000); print('after')")
    await started.start()
    assert await started.wait() == 0
    assert lines[-1] == "after"
