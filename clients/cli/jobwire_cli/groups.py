"""`jobwire queues groups …`."""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Literal

import typer
from jobwire_client import Client, Group, Limit, RateLimit

from jobwire_cli import output
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, QueueArgument, Target, ask, line_of_none, short_text
from jobwire_cli.durations import parse_duration, short
from jobwire_cli.exits import CommandFailed, Exit

app = typer.Typer(help="Look at the groups of a queue, pause them, resume them, set their rules.", no_args_is_help=True)

GROUP_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}")


def _group_name(text: str) -> str:
    """The name of a group as it was given, for the same reason as that of a queue. Raises CommandFailed."""
    if not GROUP_PATTERN.fullmatch(text):
        raise CommandFailed(f"group must be 1 to 128 of [A-Za-z0-9._~:@+=-], the first a letter or digit; it is {short_text(text)}", Exit.USAGE)
    return text


GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", callback=_group_name)]


@app.command("list")
def list_groups(queue: QueueArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the groups that have jobs or a rule of their own."""

    async def question(client: Client) -> None:
        found = await client.groups(queue)
        if as_json:
            output.write_json(output.group_json(queue, group) for group in found)
        else:
            empty = "" if found else await line_of_none(client, queue, f"no groups in {queue}")
            output.write_table(("group", "waiting", "active", "weight", "limit", "state"), map(_row, found), empty=empty)

    ask(target, question)


@app.command()
def pause(queue: QueueArgument, group: GroupArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Stop the delivery of a group's jobs. What runs goes on."""
    _change(queue, lambda client: client.pause_group(queue, group), target, as_json)


@app.command()
def resume(queue: QueueArgument, group: GroupArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Start it again, also when a worker had said that it is limited."""
    _change(queue, lambda client: client.resume_group(queue, group), target, as_json)


@app.command("set")
def set_rules(
    queue: QueueArgument,
    group: GroupArgument,
    weight: Annotated[float | None, typer.Option(help="Its share beside other groups'.")] = None,
    express: Annotated[bool | None, typer.Option("--express/--no-express", help="Whether it goes before all groups that are not.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="How many units may run at once.")] = None,
    rate: Annotated[str | None, typer.Option(metavar="COUNT/PERIOD", help="How many units may start in what time: 100/1s.")] = None,
    burst: Annotated[int | None, typer.Option(help="How many of them at once, after a pause. Default 1.")] = None,
    no_limit: Annotated[bool, typer.Option("--no-own-limit", help="Take its own limit away: that of all groups holds.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Set rules of a group. A limit takes the place of the whole limit that it had."""
    if weight is None and express is None and concurrency is None and rate is None and not no_limit:
        raise CommandFailed("say what to set: --weight, --express, --concurrency, --rate with --burst, or --no-own-limit", Exit.USAGE)
    if burst is not None and rate is None:
        raise CommandFailed("--burst is of a rate: give --rate as well", Exit.USAGE)
    limit: Limit | Literal["default"] | None = "default" if no_limit else None
    if concurrency is not None or rate is not None:
        if no_limit:
            raise CommandFailed("--no-own-limit can't stand beside --concurrency or --rate", Exit.USAGE)
        limit = Limit(concurrency=concurrency, rate=None if rate is None else _rate(rate, 1 if burst is None else burst))
    _change(queue, lambda client: client.update_group(queue, group, weight=weight, express=express, limit=limit), target, as_json)


def _change(queue: str, call: Callable[[Client], Awaitable[Group]], target: str, as_json: bool) -> None:
    async def question(client: Client) -> None:
        group = await call(client)
        if as_json:
            output.write_json([output.group_json(queue, group)])
        else:
            output.write_line(f"{group.name}: {_state(group)}, weight {group.weight:g}, limit {_limit(group.limit)}")

    ask(target, question)


def _rate(text: str, burst: int) -> RateLimit:
    count, _, period = text.partition("/")
    try:
        return RateLimit(count=int(count), period=parse_duration(period), burst=burst)
    except ValueError:
        raise CommandFailed(f"--rate: {text!r} is not a rate; write 100/1s or 5/1m", Exit.USAGE) from None


def _row(group: Group) -> tuple[str, ...]:
    return group.name, str(group.waiting), str(group.active_units), f"{group.weight:g}", _limit(group.limit), _state(group)


def _state(group: Group) -> str:
    words = [word for word, is_so in (("paused", group.paused), ("express", group.express), ("limited", group.limited_until is not None)) if is_so]
    return ", ".join(words) or "open"


def _limit(limit: Limit | None) -> str:
    if limit is None:
        return "-"
    parts = [f"{limit.concurrency} at once"] * bool(limit.concurrency)
    if limit.rate is not None:
        parts.append(f"{limit.rate.count}/{_short(limit.rate.period)}")
    return ", ".join(parts) or "none"


def _short(period: timedelta) -> str:
    return short(period.total_seconds())
