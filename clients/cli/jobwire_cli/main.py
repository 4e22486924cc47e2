"""The `jobwire` command."""

import errno
import io
import os
import sys
from collections.abc import Callable

from jobwire_cli.exits import CommandFailed, Exit

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write says whose disk takes no more."""


def main() -> None:
    """Run the command line and end the process with one of the codes of jobwire_cli.exits."""
    if sys.stdout is None:  # somebody closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # it stays open as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal has no letter for is shown as its number, and ends nothing
    try:
        from jobwire_cli.app import app_for

        app = app_for(next((word for word in sys.argv[1:] if not word.startswith("-")), None))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.exit(_complain("the command line needs typer and rich: install jobwire[cli]"))
    try:
        _written(lambda: app(prog_name="jobwire"))
    except CommandFailed as failure:
        _complain(str(failure))
        sys.exit(failure.code)


def _written(command: Callable[[], object]) -> None:
    """Run a command and write out what it printed; a reader that has gone away ends it without a word. Raises CommandFailed: the disk takes no more."""
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in (*_NO_ROOM, errno.EPIPE):
            raise
        _drop_output()
        if error.errno == errno.EPIPE:
            sys.exit(Exit.FAILED)
        raise CommandFailed(f"standard output can't be written: {error.strerror}", Exit.FAILED) from None


def _drop_output() -> None:
    """Else the interpreter tries again to write what is left when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _complain(sentence: str) -> int:
    sys.stderr.write(f"jobwire: {sentence}\n")
    return 1


if __name__ == "__main__":
    main()
