"""All commands, put together."""

import typer

from jobwire_cli import access, enqueue, exits, jobs, queues, servers, up_command

app = typer.Typer(
    name="jobwire",
    help="Run Jobwire, enqueue jobs, look at them and act on them.",
    epilog="Exit codes:\n\n" + "\n\n".join(f"{code.value}: {meaning}" for code, meaning in exits.MEANINGS.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
up_command.register(app)
servers.register(app)
enqueue.register(app)
jobs.register(app)
queues.register(app)
access.register(app)
