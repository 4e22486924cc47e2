"""The broker as it was before queues had rules, out of the repository's history."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contenders import ROOT

#: The last commit without rules.
COMMIT = "55355d4"
_PATHS = ("broker", "proto/gen/python")


@contextmanager
def sources() -> Iterator[Path | None]:
    """A directory with the packages of then, as they lie in a checkout. None when the history does not go back so far, as in a shallow clone."""
    with tempfile.TemporaryDirectory(prefix="jw-before-") as folder:
        packed = subprocess.run(["git", "archive", COMMIT, *_PATHS], cwd=ROOT, capture_output=True, check=False)
        if packed.returncode:
            yield None
            return
        subprocess.run(["tar", "-x"], cwd=folder, input=packed.stdout, check=True)
        yield Path(folder)
