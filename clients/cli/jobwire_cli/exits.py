"""The exit codes of every command: one table, shown by `--help` and in docs/cli.md."""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended, for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    NOT_COMPLETED = 5
    TIMEOUT = 6
    CONFLICT = 7
    DENIED = 8
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "anything that no other code names",
    Exit.USAGE: "a flag, an argument or a field is wrong",
    Exit.NOT_FOUND: "there is no such job, queue or bulk run",
    Exit.UNAVAILABLE: "the broker or its store can't be reached, or the store or the queue is full",
    Exit.NOT_COMPLETED: "a watched job ended, but not as completed; or somebody stopped the bulk run",
    Exit.TIMEOUT: "the time given was not enough",
    Exit.CONFLICT: "the job's state does not allow it, its id or its idempotency key is taken, or the data directory is in use",
    Exit.DENIED: "the broker does not know the key, or the key does not allow this",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


def table() -> str:
    """All codes, one a line."""
    return "\n".join(f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())


class CommandFailed(Exception):
    """Raised by a command that can't do what was asked: one sentence for stderr, and the exit code."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        """End the command with `sentence` and `code`."""
        super().__init__(sentence)
        self.code = code
