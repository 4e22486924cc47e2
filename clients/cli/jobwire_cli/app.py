"""The commands, put together: all of them for help, or those of one module, since to read them all would take longer than most of them run."""

from importlib import import_module

import typer

from jobwire_cli import exits

MODULES = {
    "up_command": ("up",),
    "servers": ("broker", "gateway", "webhooks", "worker"),
    "enqueue": ("enqueue",),
    "jobs": ("jobs",),
    "queues": ("queues", "workers", "version"),
    "access": ("key", "token"),
}
"""The module of each command, in the order of the help."""


def app_for(command: str | None) -> typer.Typer:
    """The program with the commands of the module that has this one; with all, when none has it."""
    app = typer.Typer(
        name="jobwire",
        help="Run Jobwire, enqueue jobs, look at them and act on them.",
        epilog="Exit codes:\n\n" + "\n\n".join(f"{code.value}: {meaning}" for code, meaning in exits.MEANINGS.items()),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(lambda: None)  # else a program of one command would not take its name
    for module in [module for module, commands in MODULES.items() if command in commands] or MODULES:
        import_module(f"jobwire_cli.{module}").register(app)
    return app
