"""Programs that a machine may lack. A test that needs one is left out, loudly; with JOBWIRE_REQUIRE_ALL=1 it fails."""

import os
import shutil
from pathlib import Path

# What was left out, and the tests that were; conftest prints it at the end of the run.
left_out: dict[str, set[str]] = {}


def need(program: str) -> Path:
    """Give the path of a program, or leave the running test out."""
    import pytest  # here, because the worker processes import this package and have no use for it

    path = shutil.which(program) or shutil.which(program, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if path is not None:
        return Path(path)
    reason = f"{program} is not on this machine"
    if os.environ.get("JOBWIRE_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and JOBWIRE_REQUIRE_ALL=1 leaves nothing out")
    left_out.setdefault(program, set()).add(os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0])
    raise pytest.skip.Exception(reason)
