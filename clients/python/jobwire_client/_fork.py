"""Which process this is, without a system call: a number that changes in a forked child.

The hook is installed when the first client is made, not at import, and stays for the life of the process.
"""

import os

_generation = 0
_installed = False


def generation() -> int:
    """0 in the process that made the first client, one more in each fork of it."""
    return _generation


def watch_forks() -> None:
    """Count forks from now on. To call it again is no error."""
    global _installed
    if not _installed:
        _installed = True
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    global _generation
    _generation += 1
