"""Programs that a machine may lack. A test that needs one is left out, loudly; with JOBWIRE_REQUIRE_ALL=1 it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_REASON = re.compile(r"Skipped: (\S+) is not on this machine")


def need(program: str) -> Path:
    """Give the path of a program, or leave the running test out."""
    import pytest  # here, because the worker processes import this package and have no use for it

    path = shutil.which(program) or shutil.which(program, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if path is not None:
        return Path(path)
    reason = f"{program} is not on this machine"
    if os.environ.get("JOBWIRE_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and JOBWIRE_REQUIRE_ALL=1 leaves nothing out")
    raise pytest.skip.Exception(reason)


def left_out(skipped: Iterable[pytest.TestReport]) -> dict[str, list[str]]:
    """The tests that were left out, by the program that each lacked. From the reports, which tell also of tests in another process (pytest-xdist).

    With JOBWIRE_LEFT_OUT=FILE the next run of pytest with the same file tells of this one's, too: so the last of several runs says it all.
    """
    file = Path(os.environ.get("JOBWIRE_LEFT_OUT") or os.devnull)
    found: dict[str, list[str]] = json.loads(file.read_text() or "{}")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        # A process of pytest-xdist writes its own part, and the one above it all.
        if (match := _REASON.match(reason)) and report.nodeid not in found.setdefault(match[1], []):
            found[match[1]].append(report.nodeid)
    file.write_text(json.dumps(found))
    return found
