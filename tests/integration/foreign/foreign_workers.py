"""The two example workers that use no SDK of ours, as processes."""

import asyncio
import os
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from tests.support import Broker, Process
from tests.support.needs import need
from tests.support.process import REPOSITORY, python

INSTALL_TIMEOUT_S = 120
_EXAMPLES = REPOSITORY / "examples" / "workers"


class Language(StrEnum):
    """What a worker is written in."""

    PYTHON = "python"
    NODE = "node"


class ForeignWorker(Process):
    """One process of an example worker. It counts as ready when its stream was welcomed."""

    ready_line = r"worker\.connected"

    def __init__(self, language: Language, brokers: Sequence[Broker], queue: str, *, concurrency: int = 4) -> None:
        super().__init__(f"foreign {language} worker")
        self._language = language
        self._arguments = [",".join(broker.address for broker in brokers), queue, str(concurrency)]

    def command(self) -> list[str]:
        if self._language is Language.PYTHON:
            return python(str(_EXAMPLES / "plain_grpcio.py"), *self._arguments)
        return [str(need("node")), str(_EXAMPLES / "node" / "worker.mjs"), *self._arguments]

    def starts_by_job(self) -> Counter[str]:
        """How often each job was started, by its id."""
        return Counter(match[1] for line in self.lines() if (match := re.match(r"job\.started id=(\S+)", line)))


async def install(language: Language) -> None:
    """Install what the example's lock file names, once; leaves the running test out where there is no Node."""
    if language is Language.PYTHON:
        return
    need("node")
    folder = _EXAMPLES / "node"
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    if not installed.exists() or os.stat(installed).st_mtime < os.stat(lock).st_mtime:
        command = [str(need("npm")), "ci", "--no-audit", "--no-fund"]
        await asyncio.to_thread(subprocess.run, command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
