"""Runs a module under cProfile, in every thread: `python -m bench.profiled OUT.prof module arguments…`.

The main thread's profile goes to OUT.prof, another's to OUT.{thread}.prof, when the thread ends. Read them with `python -m pstats`.
"""

import cProfile
import runpy
import sys
import threading
from pathlib import Path


def main() -> None:
    """Profile the module that the command line names."""
    out, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    _profile_threads(out)
    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_module, module, run_name="__main__", alter_sys=True)
    finally:
        profile.dump_stats(out)


def _profile_threads(out: Path) -> None:
    run = threading.Thread.run

    def profiled_run(self: threading.Thread) -> None:
        profile = cProfile.Profile()
        try:
            profile.runcall(run, self)
        finally:
            profile.dump_stats(out.with_suffix(f".{self.name}.prof"))

    threading.Thread.run = profiled_run  # type: ignore[method-assign]  # the one place that every thread passes


if __name__ == "__main__":
    main()
