"""How a command asks a broker: a client for its time, errors as one sentence and an exit code, Ctrl-C as 130."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from jobwire_client import (
    BulkRunStopped,
    Client,
    IdempotencyConflict,
    InvalidRequest,
    JobExists,
    JobwireError,
    NotFound,
    NotPermitted,
    QueueFull,
    QueueNotFound,
    QueueUnavailable,
    StoreFull,
    Unauthenticated,
    WaitTimeout,
    WrongState,
)

from jobwire_cli.exits import CommandFailed, Exit

QUEUE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")


def queue_name(text: str | None) -> str | None:
    """The name of a queue as it was given. A request carries it in an address, and the broker's word for that is not what was typed. Raises CommandFailed."""
    if text is not None and not QUEUE_PATTERN.fullmatch(text):
        raise CommandFailed(f"queue must be 1 to 100 of [A-Za-z0-9._~-], the first a letter or digit; it is {short_text(text)}", Exit.USAGE)
    return text


def short_text(text: str) -> str:
    """A text for an error, which may be of any length."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


Target = Annotated[str, typer.Option(envvar=["JOBWIRE_TARGET", "JOBWIRE_BROKER"], metavar="HOST:PORT[,…]", help="The broker, or several with commas between.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one line for each item.")]
QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", callback=queue_name)]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="queues/QUEUE/jobs/ID, or the id alone with --queue.")]
QueueOfJob = Annotated[str | None, typer.Option("--queue", "-q", metavar="QUEUE", callback=queue_name, help="The job's queue, when JOB is an id.")]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label. Repeat it for more.")]

DEFAULT_TARGET = "localhost:7410"

_CODES: tuple[tuple[type[JobwireError], Exit], ...] = (
    (NotFound, Exit.NOT_FOUND),
    (QueueUnavailable, Exit.UNAVAILABLE),
    (StoreFull, Exit.UNAVAILABLE),
    (QueueFull, Exit.UNAVAILABLE),
    (WaitTimeout, Exit.TIMEOUT),
    (BulkRunStopped, Exit.NOT_COMPLETED),
    (WrongState, Exit.CONFLICT),
    (JobExists, Exit.CONFLICT),
    (IdempotencyConflict, Exit.CONFLICT),
    (InvalidRequest, Exit.USAGE),
    (Unauthenticated, Exit.DENIED),
    (NotPermitted, Exit.DENIED),
)


def ask(target: str, question: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Run `question` with a client.

    Raises:
        CommandFailed: the broker refused, nobody answered, or Ctrl-C came.
    """
    guarded(_with_client(target, question))


def guarded(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and turn its errors into sentences and exit codes."""
    try:
        asyncio.run(work)
    except JobwireError as error:
        raise CommandFailed(sentence_of(error), code_of(error)) from error
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":
            raise  # what is shown, and not what is sent
        raise CommandFailed(f"{error.object!r} can't be sent: it is no UTF-8", Exit.USAGE) from error
    except KeyboardInterrupt:
        raise CommandFailed("interrupted", Exit.INTERRUPTED) from None


def sentence_of(error: JobwireError) -> str:
    """One sentence for stderr."""
    sentence = str(error)
    for violation in error.violations:
        if violation.field not in sentence and violation.description not in sentence:
            sentence += f"; {violation.field}: {violation.description}"
    for used in error.quota:
        if used.subject not in sentence:
            sentence += f" ({used.subject})"
    if isinstance(error, Unauthenticated):
        sentence += "; a command takes its key from JOBWIRE_API_KEY, or from the file that JOBWIRE_API_KEY_FILE names"
    return " ".join(sentence.split())


def code_of(error: JobwireError) -> Exit:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def job_name(job: str, queue: str | None) -> str:
    """The resource name out of JOB and --queue."""
    if queue is None:
        if "/" not in job:
            raise CommandFailed(f"{job!r} is an id: say its queue with --queue, or give queues/QUEUE/jobs/{job}", Exit.USAGE)
        return job
    if "/" in job:
        raise CommandFailed(f"{job!r} names its queue already; leave --queue out", Exit.USAGE)
    return f"queues/{queue}/jobs/{job}"


async def line_of_none(client: Client, queue: str, line: str) -> str:
    """The line of a list that is empty. Only then it is asked whether there is such a queue: its name may be mistyped."""
    try:
        await client.queue(queue)
    except QueueNotFound:
        return f"{line}: nothing was ever enqueued there"
    return line


def labels_of(options: list[str] | None) -> dict[str, str] | None:
    """Labels out of options `key=value`; None when there are none."""
    labels = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals:
            raise CommandFailed(f"{option!r} is no label: write KEY=VALUE", Exit.USAGE)
        labels[key] = value
    return labels or None


def parsed(text: str, what: str = "the payload") -> Any:
    """The JSON of a payload; `what` is what its error calls it. Raises CommandFailed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandFailed(f"{what} is no JSON: {error.msg} at character {error.pos + 1}", Exit.USAGE) from None
    except RecursionError:
        raise CommandFailed(f"{what} is nested too deep to be read as JSON", Exit.USAGE) from None


async def _with_client(target: str, question: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    async with Client(target) as client:
        await question(client)
