"""`jobwire queues policy …` and `jobwire queues classes`."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from jobwire_client import Client, InvalidRequest, Priority, QueuePolicy

from jobwire_cli import output
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, QueueArgument, Target, ask
from jobwire_cli.backoffs import parse_backoff
from jobwire_cli.durations import parse_duration
from jobwire_cli.exits import CommandFailed, Exit

app = typer.Typer(help="See and change what holds for all jobs of a queue.", no_args_is_help=True)

_SPANS = ("timeout", "totalTimeout", "expiresIn", "ageing", "startTarget", "base", "maxDelay", "age", "period")
_LISTS = ("permanentErrors", "delays")
#: Limits by job name, and what of one may be set.
_OF_NAMES = "jobLimits"
_LIMIT_ENDS = ("concurrency", "rate.count", "rate.period", "rate.burst")


def register(queues: typer.Typer) -> None:
    """Add the commands."""
    queues.add_typer(app, name="policy")
    queues.command()(classes)
    queues.command("pause-class")(pause_class)
    queues.command("resume-class")(resume_class)


@app.command("get")
def get_policy(queue: QueueArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show what was set."""

    async def question(client: Client) -> None:
        _show((await client.queue(queue)).policy, as_json)

    ask(target, question)


@app.command("set")
def set_policy(
    queue: QueueArgument,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE…", help="class=high, timeout=30s, backoff=fixed:30s, limit.concurrency=5, jobLimits.NAME.concurrency=1; no value: the default."
        ),
    ],
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Change some fields; the others stay as they are."""
    try:
        members, fields = _members(changes)
        policy = QueuePolicy.from_json(members)
    except (ValueError, InvalidRequest) as error:
        raise CommandFailed(str(error), Exit.USAGE) from None

    async def question(client: Client) -> None:
        _show((await client.update_queue(queue, policy, fields=fields)).policy, as_json)

    ask(target, question)


def classes(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Count the queues of each class together."""

    async def question(client: Client) -> None:
        found = await client.classes()
        if as_json:
            output.write_json(map(output.class_json, found))
            return
        rows = [
            (c.queue_class, ", ".join(c.queues), str(c.paused), str(c.counts.waiting), str(c.counts.active), str(c.started), str(c.started_late)) for c in found
        ]
        output.write_table(("class", "queues", "paused", "waiting", "active", "started", "late"), rows, empty="no queue has a class")

    ask(target, question)


def pause_class(queue_class: Annotated[str, typer.Argument(metavar="CLASS")], target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Stop the delivery of new jobs in all queues of a class."""

    async def question(client: Client) -> None:
        _say(await client.pause_class(queue_class), "paused", as_json)

    ask(target, question)


def resume_class(queue_class: Annotated[str, typer.Argument(metavar="CLASS")], target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Start delivery again in all queues of a class."""

    async def question(client: Client) -> None:
        _say(await client.resume_class(queue_class), "resumed", as_json)

    ask(target, question)


def _say(queues: Sequence[str], done: str, as_json: bool) -> None:
    if as_json:
        output.write_json([{"queues": list(queues)}])
    else:
        output.write_line(f"{done}: {', '.join(queues)}" if queues else "no queue has this class")


def _show(policy: QueuePolicy, as_json: bool) -> None:
    members = policy.to_json()
    if as_json:
        output.write_json([members])
    elif members:
        output.write_fields(sorted((name, _shown(value)) for name, value in members.items()))
    else:
        output.write_line("everything is as by default")


def _shown(value: Any) -> str:
    return str(value) if not isinstance(value, dict | list) else json.dumps(value, ensure_ascii=False)


def _members(changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The members of a policy in JSON, and the names of the fields to take. Raises ValueError."""
    members: dict[str, Any] = {}
    fields = []
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r} is no change; write FIELD=VALUE")
        names = _names_in(path)
        field = f"job_limits.{names[1]}" if names[0] == _OF_NAMES and len(names) > 1 else ".".join(map(_snake, names))
        if field not in fields:
            fields.append(field)
        if not value:
            continue
        inner = members
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path} can't be set beside {name}={inner!r}")
        inner[names[-1]] = _value(path, names[-1], value)
    return members, fields


def _names_in(path: str) -> list[str]:
    """The members on the way to a field. The name of a job, behind `jobLimits`, may have dots itself."""
    if path == "class":
        return ["queueClass"]
    if not path.startswith(_OF_NAMES + "."):
        return path.split(".")
    job_name = path.removeprefix(_OF_NAMES + ".")
    for end in _LIMIT_ENDS:
        if job_name.endswith("." + end):
            return [_OF_NAMES, job_name.removesuffix("." + end), *end.split(".")]
    return [_OF_NAMES, job_name]


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _value(path: str, name: str, text: str) -> Any:
    """What stands in JSON for a field that is called `name`. Raises ValueError."""
    if name in _LISTS:
        return [_span(path, part) if name == "delays" else part for part in text.split(",")]
    if name in _SPANS:
        return _span(path, text)
    if name == "queueClass":
        return text
    if path == "backoff" and not text.startswith("{"):
        return QueuePolicy(backoff=parse_backoff(text)).to_json()["backoff"]
    if path == "priority" and text.upper() in Priority.__members__:
        return int(Priority[text.upper()])
    try:
        return json.loads(text)
    except ValueError:
        words = " or one of critical, high, normal, low, batch" if path == "priority" else ""
        raise ValueError(f"{path} must be a number{words}; it is {text!r}") from None


def _span(path: str, text: str) -> str:
    try:
        return f"{parse_duration(text).total_seconds():.3f}s"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
