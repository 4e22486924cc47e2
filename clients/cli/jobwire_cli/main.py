"""The `jobwire` command."""

import io
import sys

from jobwire_cli.exits import CommandFailed


def main() -> None:
    """Run the command line and end the process with one of the codes of jobwire_cli.exits."""
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
        app(prog_name="jobwire")
    except CommandFailed as failure:
        _complain(str(failure))
        sys.exit(failure.code)


def _complain(sentence: str) -> int:
    sys.stderr.write(f"jobwire: {sentence}\n")
    return 1


if __name__ == "__main__":
    main()
