"""`jobwire jobs bulk`: one verb for all jobs that a filter finds."""

import sys
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, cast

import typer
from jobwire_client import BulkPlan, BulkProgress, BulkVerb, Client, JobFilter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobwire_cli import filtering, output
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, QueueArgument, Target, ask
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import span

_PAST = {"cancel": "cancelled", "retry": "retried", "promote": "promoted", "delete": "deleted", "resolve": "resolved"}


def register(jobs: typer.Typer) -> None:
    """Add the command to `jobwire jobs`."""
    jobs.command()(bulk)


def bulk(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="cancel, retry, promote, delete or resolve.")],
    queue: QueueArgument,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="Only jobs in this state. Repeat it for more. Default: all that the verb fits.")
    ] = None,
    name: filtering.Name = None,
    group: filtering.Group = None,
    label: filtering.Label = None,
    since: filtering.Since = None,
    until: filtering.Until = None,
    ended_since: filtering.EndedSince = None,
    ended_until: filtering.EndedUntil = None,
    fingerprint: filtering.Fingerprint = None,
    resolved: filtering.Resolved = None,
    note: Annotated[str, typer.Option("--note", help="With resolve: what was decided.")] = "",
    grace: Annotated[str | None, typer.Option("--grace", metavar="DURATION", help="With cancel: how long running handlers may take to give way.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many jobs it would be.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Act on all jobs of a queue that a filter finds. Counts them first, and asks. Ctrl-C stops after the step that is under way."""
    wanted = filtering.filter_of(
        name=name,
        group=group,
        label=label,
        since=since,
        until=until,
        ended_since=ended_since,
        ended_until=ended_until,
        fingerprint=fingerprint,
        resolved=resolved,
        states=state,
    )
    plan = _plan(target, queue, cast(BulkVerb, verb.lower()), wanted, note, span("--grace", grace))
    if dry_run:
        _say_plan(plan, as_json)
    elif plan.matched == 0 or yes or _agreed(plan):
        _run(target, plan, as_json)
    else:
        output.write_line("nothing was done")


def _plan(target: str, queue: str, verb: BulkVerb, wanted: JobFilter, note: str, grace: timedelta | None) -> BulkPlan:
    plans: list[BulkPlan] = []

    async def question(client: Client) -> None:
        plans.append(await client.plan_bulk(queue, verb, wanted, note=note, grace=grace))

    ask(target, question)
    return plans[0]


def _say_plan(plan: BulkPlan, as_json: bool) -> None:
    if as_json:
        output.write_json([{"matched": plan.matched, "token": plan.token, "run": plan.run}])
    else:
        output.write_line(f"{_jobs(plan.matched)} would be {_PAST[plan.verb]}")


def _agreed(plan: BulkPlan) -> bool:
    if not sys.stdin.isatty():
        raise CommandFailed(f"{_jobs(plan.matched)} would be {_PAST[plan.verb]}; say --yes, for there is nobody to ask", Exit.USAGE)
    return typer.confirm(f"{plan.verb} {_jobs(plan.matched)} of {plan.queue}?", err=True)


def _run(target: str, plan: BulkPlan, as_json: bool) -> None:
    async def question(client: Client) -> None:
        with _Bar(plan) as bar:
            last: BulkProgress | None = None
            async with aclosing(client.run_bulk(plan)) as steps:
                async for last in steps:
                    if as_json:
                        output.write_json([_step(last, plan)])
                    else:
                        bar.show(last)
        if last is not None and not as_json:
            skipped = f"; {_jobs(last.skipped)} had changed since they were counted" if last.skipped else ""
            output.write_line(f"{_jobs(last.done)} {_PAST[plan.verb]}{skipped}")

    ask(target, question)


def _step(step: BulkProgress, plan: BulkPlan) -> output.Members:
    return {"matched": step.matched, "done": step.done, "skipped": step.skipped, "finished": step.finished, "run": plan.run}


class _Bar:
    """A progress bar on a terminal; nothing elsewhere."""

    def __init__(self, plan: BulkPlan) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(plan.verb, total=plan.matched)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: BulkProgress) -> None:
        self._progress.update(self._task, completed=step.done + step.skipped)


def _jobs(count: int) -> str:
    return f"{count} {'job' if count == 1 else 'jobs'}"
