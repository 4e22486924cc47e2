"""Start a program that ends when its parent does: `python -I -S launch.py PARENT_PID SIGNAL PROGRAM [ARGUMENT…]`.

The supervisor starts this file by its path, without the package, so it costs one small interpreter start and imports nothing of ours.

Linux alone has PR_SET_PDEATHSIG. Elsewhere the program is started plainly, and a `kill -9` of the supervisor leaves it behind.

1. The kernel sends the signal when the parent *thread* ends, so the supervisor starts its children on its main thread.
2. A parent that died before the call to prctl sends nothing any more; the check of the parent's pid afterwards closes that gap.
3. The setting survives exec, and it is not inherited by what the program forks: a store's rewrite child ends by itself.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _end_with_parent(parent_pid: int, signal_number: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Become the program. Does not return."""
    parent_pid, signal_number, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    _end_with_parent(parent_pid, signal_number)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that on
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
