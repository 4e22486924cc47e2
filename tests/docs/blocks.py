"""Run the code of a Markdown page as a reader would, from the top to the bottom.

`bash` blocks run in one shell session after the other, in one folder; variables live on from block to block. A `text` or `json` block right
after one is what it prints: `…` stands for anything, and white space does not matter. A `python` block whose first line is `# name.py` is saved
under that name; any other is run. Other blocks (diagrams, other languages) are only shown.

A comment right before a block says what a reader's machine has and a test has not:

    <!-- not run: REASON -->     the block is not run
    <!-- fails -->               its last command fails, as the text says
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import REPOSITORY

_BLOCK = re.compile(r"(?:^<!-- (?P<remark>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)
_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Block:
    """A block to be run."""

    line: int
    language: str
    code: str
    fails: bool
    expected: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run, in order."""
    text = page.read_text()
    found = list(_BLOCK.finditer(text))
    runnable = []
    for match, following in zip(found, [*found, None][1:], strict=True):
        remark = match["remark"] or ""
        if match["language"] not in ("bash", "python") or remark.startswith("not run: "):
            continue
        shows_output = following is not None and following["language"] in ("text", "json") and not text[match.end() : following.start()].strip()
        expected = following["code"] if following is not None and shows_output else None
        line = text.count("\n", 0, match.start()) + 1
        runnable.append(Block(line, match["language"], match["code"], remark == "fails", expected))
    return runnable


class Reader:
    """Somebody who follows a page at a terminal."""

    def __init__(self, folder: Path, replacements: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._replacements = replacements
        path = os.pathsep.join((str(Path(sys.executable).parent), str(REPOSITORY / ".tools" / "bin"), os.environ["PATH"]))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBWIRE_", "REDIS_"))}
        self._environment = {**kept, "PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1", **environment}
        self._groups: list[int] = []

    def follow(self, page: Path) -> None:
        """Run all blocks of a page. Raises AssertionError with the line of the first one that does not do what the page says."""
        for block in blocks(page):
            self._follow_block(f"{page.name}:{block.line}", block)

    def leave(self) -> None:
        """End what still runs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for group in self._groups:
                with suppress(ProcessLookupError):
                    os.killpg(group, number)
            deadline = time.monotonic() + 10
            while any(map(_lives, self._groups)) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _follow_block(self, where: str, block: Block) -> None:
        code = block.code
        for old, new in self._replacements.items():
            code = code.replace(old, new)
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\n", code)
            (self._folder / (name[1] if name else "block.py")).write_text(code)
            if name:
                return
            code = "python block.py"
        status, output = self._run(code)
        assert (status != 0) == block.fails, f"{where} ended with {status}:\n{code}\n--- output\n{output}"
        if block.expected is not None:
            assert matches(block.expected, output), f"{where} should print\n{block.expected}\n--- and printed\n{output}"

    def _run(self, code: str) -> tuple[int, str]:
        # What is started with & lives on; so the output goes to a file, since a pipe would stay open with it.
        variables, output = self._folder / ".variables", self._folder / ".output"
        script = f"set -euo pipefail -a\n[ -e {variables} ] && . {variables}\ntrap 'export -p > {shlex.quote(str(variables))}' EXIT\n{code}"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
                process_group=0,
            )
        self._groups.append(process.pid)
        try:
            status = process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = -1
        return status, output.read_text(errors="replace")


@contextmanager
def reader(folder: Path, replacements: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[Reader]:
    """A reader, who leaves nothing running."""
    somebody = Reader(folder, replacements, environment)
    try:
        yield somebody
    finally:
        somebody.leave()


def matches(expected: str, output: str) -> bool:
    """Whether `output` holds what `expected` shows, with anything for each `…` and any white space."""
    pieces = [re.escape("".join(piece.split())) for piece in expected.split("…")]
    return re.search(".*?".join(pieces), "".join(output.split())) is not None


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
