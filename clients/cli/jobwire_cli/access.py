"""`jobwire key` and `jobwire token`: what lets others in."""

import json
from datetime import UTC, datetime
from os import SEEK_END
from pathlib import Path
from typing import Annotated

import typer
from jobwire_client import Client

from jobwire_cli.asking import DEFAULT_TARGET, AsJson, Target, ask
from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import given, span


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(key)
    app.command()(token)


def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for logs.")],
    scopes: Annotated[
        list[str], typer.Argument(metavar="SCOPE…", help="VERB:QUEUE, VERB:PREFIX* or *:*; verbs are enqueue, read, watch, control, work, manage, admin.")
    ],
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Append the line for the broker to this file (its --keys) instead of printing it.")] = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Let it reach only queues whose names begin with TENANT and a dot.")] = "",
    expires: Annotated[str, typer.Option(metavar="DURATION", help="When it ends, from now: 90d.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown once; the broker's file holds only its hash."""
    try:
        from jobwire_broker.auth.keys import make_key
    except ModuleNotFoundError as error:
        raise CommandFailed(f"{(error.name or '').partition('.')[0]} is missing: install jobwire[broker]") from error
    ends = given("--expires", expires, _from_now) if expires else None
    try:
        made = make_key(name, " ".join(scopes), tenant=tenant, expires=ends)
    except ValueError as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    if file is not None:
        _append(file, made.line)
    if as_json:
        typer.echo(json.dumps({"key": made.key, "line": made.line}))
        return
    if file is None:
        typer.echo(made.line, err=True)
    typer.echo(made.key)


def token(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="What may be watched: queues/QUEUE/jobs/ID, queues/QUEUE, or queues for all.")],
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good: 1s to 1h; default 5m, of a ticket 30s.")] = "",
    ticket: Annotated[bool, typer.Option("--ticket", help="Make a ticket: it opens one stream, once.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Make a token that lets a page watch some jobs or queues, and do nothing else."""
    length = span("--ttl", ttl or None)

    async def make(client: Client) -> None:
        made = await client.watch_token(names, ttl=length, single_use=ticket)
        typer.echo(json.dumps({"token": made.token, "expiresAt": made.expires_at.isoformat()}) if as_json else made.token)

    ask(target, make)


def _from_now(text: str) -> datetime:
    try:
        return datetime.now(UTC) + parse_duration(text)
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def _append(file: Path, line: str) -> None:
    """Add a line; what stands there stays, also where the disk takes no more. Raises CommandFailed."""
    try:
        file.touch(mode=0o600)
        with file.open("r+b") as keys:
            begun = keys.seek(0, SEEK_END) > 0 and keys.seek(-1, SEEK_END) >= 0 and keys.read() != b"\n"
            keys.write(("\n" * begun + line + "\n").encode())
    except OSError as error:
        raise CommandFailed(f"{file} can't be written: {error.strerror}; the key was not made, give another --file", Exit.USAGE) from error
