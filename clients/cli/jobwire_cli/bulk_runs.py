"""`jobwire jobs bulk-runs`, `bulk-run` and `bulk-stop`: the bulk runs of a queue, whoever began them."""

from typing import Annotated

import typer
from jobwire_client import BulkRun, Client, JobFilter
from rich.text import Text

from jobwire_cli import output
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, QueueArgument, Target, ask, line_of_none, queue_name
from jobwire_cli.exits import CommandFailed, Exit

_RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="queues/QUEUE/bulkRuns/RUN, or the last part alone with --queue.")]
_QueueOfRun = Annotated[
    str | None, typer.Option("--queue", "-q", metavar="QUEUE", callback=queue_name, help="The run's queue, when RUN is the last part of its name.")
]


def register(jobs: typer.Typer) -> None:
    """Add the commands to `jobwire jobs`."""
    jobs.command("bulk-runs")(bulk_runs)
    jobs.command("bulk-run")(bulk_run)
    jobs.command("bulk-stop")(bulk_stop)


def bulk_runs(
    queue: QueueArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """List the bulk runs of a queue, whoever began them; the one that began last comes first. Known are the last 100, for a day after their last step."""

    async def question(client: Client) -> None:
        runs = [run async for run in client.bulk_runs(queue, limit=limit)]
        if as_json:
            output.write_json(map(bulk_run_json, runs))
        else:
            empty = "" if runs else await line_of_none(client, queue, f"no bulk runs are known in {queue}")
            output.write_table(("run", "verb", "jobs", "state", "done", "skipped", "by", "began"), map(_row, runs), empty=empty)

    ask(target, question)


def bulk_run(run: _RunArgument, queue: _QueueOfRun = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show one bulk run: how far it is, who began it, how it ended."""

    async def question(client: Client) -> None:
        _show(await client.bulk_run(_run_name(run, queue)), as_json)

    ask(target, question)


def bulk_stop(run: _RunArgument, queue: _QueueOfRun = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Stop a bulk run, whoever began it. When this returns, no further job is acted on."""

    async def question(client: Client) -> None:
        stopped = await client.stop_bulk_run(_run_name(run, queue))
        if as_json:
            output.write_json([bulk_run_json(stopped)])
        else:
            output.write_line(f"{stopped.name} is stopped; {stopped.done} of {stopped.matched} jobs were done")

    ask(target, question)


def bulk_run_json(run: BulkRun) -> output.Members:
    """A bulk run's members."""
    wanted = run.filter
    members = output.filled(
        states=list(wanted.states) or None,
        jobName=wanted.job_name,
        group=wanted.group,
        labels=dict(wanted.labels) or None,
        createdAfter=output.date(wanted.created_after),
        createdBefore=output.date(wanted.created_before),
        finishedAfter=output.date(wanted.finished_after),
        finishedBefore=output.date(wanted.finished_before),
        fingerprint=wanted.fingerprint,
        resolved=wanted.resolved,
    )
    return {
        **output.filled(name=run.name, verb=run.verb, filter=members or None, note=run.note or None, grace=output.seconds(run.grace), state=run.state),
        "matched": run.matched,
        "done": run.done,
        "skipped": run.skipped,
        **output.filled(startedBy=run.started_by or None, stoppedBy=run.stopped_by or None),
        **output.filled(startTime=output.date(run.start_time), finishTime=output.date(run.finish_time)),
    }


def _run_name(run: str, queue: str | None) -> str:
    if queue is None:
        return run
    if "/" in run:
        raise CommandFailed(f"{run!r} names its queue already; leave --queue out", Exit.USAGE)
    return f"queues/{queue}/bulkRuns/{run}"


def _row(run: BulkRun) -> tuple[str | Text, ...]:
    done, began = f"{run.done} of {run.matched}", f"{output.age(run.start_time)} ago"
    return (run.name.rpartition("/")[2], run.verb, _filter_text(run.filter), _state(run), done, str(run.skipped), run.started_by, began)


def _state(run: BulkRun) -> Text:
    return Text(run.state, style={"running": "cyan", "finished": "green"}.get(run.state, "yellow"))


def _filter_text(wanted: JobFilter) -> str:
    """A filter in one line, in the words of the command line."""
    dates = {"since": wanted.created_after, "until": wanted.created_before, "ended-since": wanted.finished_after, "ended-until": wanted.finished_before}
    parts = [",".join(wanted.states), *(f"{name}={value}" for name, value in (("name", wanted.job_name), ("group", wanted.group)) if value)]
    parts += [output.labels_text(wanted.labels), *(f"{name}={moment.isoformat()}" for name, moment in dates.items() if moment)]
    parts += [f"fingerprint={wanted.fingerprint}" if wanted.fingerprint else "", {True: "resolved", False: "unresolved", None: ""}[wanted.resolved]]
    return " ".join(filter(None, parts)) or "all"


def _show(run: BulkRun, as_json: bool) -> None:
    if as_json:
        output.write_json([bulk_run_json(run)])
        return
    fields: list[tuple[str, str | Text]] = [
        ("name", run.name),
        ("verb", run.verb),
        ("jobs", _filter_text(run.filter)),
        ("state", _state(run)),
        ("done", f"{run.done} of {run.matched}"),
        ("skipped", str(run.skipped)),
        ("began", f"{output.age(run.start_time)} ago" + (f", by {run.started_by}" if run.started_by else "")),
    ]
    if run.finish_time is not None:
        fields.append(("ended", f"{output.age(run.finish_time)} ago" + (f", by {run.stopped_by}" if run.stopped_by else "")))
    if run.note:
        fields.append(("note", run.note))
    if run.grace is not None:
        fields.append(("grace", output.seconds(run.grace) or ""))
    output.write_fields(fields)
