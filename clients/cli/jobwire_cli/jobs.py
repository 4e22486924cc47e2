"""`jobwire jobs …`: look at jobs and act on them."""

from typing import Annotated, Any

import typer
from jobwire_client import Attempt, Client, Job, NotJson
from rich.text import Text

from jobwire_cli import bulk, bulk_runs, dead_letters, filtering, output, watching
from jobwire_cli.asking import (
    DEFAULT_TARGET,
    AsJson,
    JobArgument,
    Labels,
    QueueArgument,
    QueueOfJob,
    Target,
    ask,
    guarded,
    job_name,
    labels_of,
    line_of_none,
    parsed,
)
from jobwire_cli.durations import short
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.explaining import explanation_json, explanation_lines
from jobwire_cli.given import priority_of, span

app = typer.Typer(help="Look at jobs and act on them.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    dead_letters.register(app)
    bulk.register(app)
    bulk_runs.register(app)
    parent.add_typer(app, name="jobs")


@app.command("list")
def list_jobs(
    queue: QueueArgument,
    state: Annotated[str, typer.Option("--state", "-s", help="delayed, waiting, blocked, active, completed, failed, cancelled or expired.")] = "waiting",
    name: filtering.Name = None,
    group: filtering.Group = None,
    label: filtering.Label = None,
    since: filtering.Since = None,
    until: filtering.Until = None,
    ended_since: filtering.EndedSince = None,
    ended_until: filtering.EndedUntil = None,
    fingerprint: filtering.Fingerprint = None,
    resolved: filtering.Resolved = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """List the jobs of one queue in one state: in the order in which they will run, or group by group; those that have ended newest first."""
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
    )

    async def question(client: Client) -> None:
        jobs = [job async for job in client.list_jobs(queue, state, filter=wanted, limit=limit)]
        if as_json:
            output.write_json(map(output.job_json, jobs))
        else:
            empty = "" if jobs else await line_of_none(client, queue, f"no {state} jobs in {queue}")
            output.write_table(("job", "handler", "state", "prio", "attempt", "progress", "age"), map(_row, jobs), empty=empty)

    ask(target, question)


@app.command()
def get(job: JobArgument, queue: QueueOfJob = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show one job with its payload, result and last failure."""

    async def question(client: Client) -> None:
        _show(await client.get(job_name(job, queue)), as_json)

    ask(target, question)


@app.command()
def explain(job: JobArgument, queue: QueueOfJob = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Say why a job does not run: everything that holds it now."""

    async def question(client: Client) -> None:
        found = await client.explain(job_name(job, queue))
        if as_json:
            output.write_json([explanation_json(found)])
            return
        for line in explanation_lines(found):
            output.write_line(line)

    ask(target, question)


@app.command()
def watch(
    jobs: Annotated[list[str] | None, typer.Argument(metavar="JOB…", help="Up to 100 of queues/QUEUE/jobs/ID, or ids alone with --queue.")] = None,
    queue: QueueOfJob = None,
    url: Annotated[
        str | None, typer.Option(metavar="EVENTS_URL", help="Follow this event stream, the one that browsers read, instead of asking a broker.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Stop watching after this time, with exit code 6.")] = None,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Follow jobs to their ends, with a progress bar for each. Exit code 0 when all completed, 5 when one did not."""
    names = [job_name(job, queue) for job in jobs or []]
    if bool(names) == (url is not None):
        raise CommandFailed("name the jobs to watch, or give --url", Exit.USAGE)
    limit = span("--timeout", timeout)
    limit_s = None if limit is None else limit.total_seconds()
    view = watching.JsonView() if as_json else watching.Bars()
    guarded(watching.watch_url(url, view, limit_s) if url is not None else watching.watch_jobs(target, names, view, limit_s))
    if view.disappointing or view.missing:
        raise CommandFailed("; ".join(view.disappointing + view.missing), Exit.NOT_COMPLETED if view.disappointing else Exit.NOT_FOUND)


@app.command()
def logs(
    job: JobArgument,
    queue: QueueOfJob = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each line as it comes, until the job has ended.")] = False,
    after: Annotated[int, typer.Option(metavar="CURSOR", min=0, max=2**63 - 1, help="Begin behind the line with this cursor.")] = 0,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Show what the handlers of a job logged, the oldest line first."""

    async def question(client: Client) -> None:
        async for line in client.logs(job_name(job, queue), after=after, follow=follow):
            if as_json:
                output.write_json([output.line_json(line)])
            else:
                output.write_line(f"{line.time.astimezone():%H:%M:%S.%f}"[:-3] + f"  {line.level:<7}  {line.message}")

    ask(target, question)


@app.command()
def cancel(
    job: JobArgument,
    queue: QueueOfJob = None,
    grace: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long a running handler may take to give way. Default 30s; 0 ends it at once.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Cancel a job. One that runs is told; it may still complete."""
    grace_span = span("--grace", grace)

    async def question(client: Client) -> None:
        _say(await client.cancel(job_name(job, queue), grace=grace_span), as_json)

    ask(target, question)


@app.command()
def retry(
    job: JobArgument,
    queue: QueueOfJob = None,
    payload: Annotated[str | None, typer.Option("--payload", metavar="JSON", help="What it shall carry from now on.")] = None,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Put a failed, cancelled or expired job back, with all its attempts before it again."""
    edited = None if payload is None else parsed(payload)

    async def question(client: Client) -> None:
        _say(await client.retry(job_name(job, queue), payload=edited), as_json)

    ask(target, question)


@app.command()
def update(
    job: JobArgument,
    queue: QueueOfJob = None,
    payload: Annotated[str | None, typer.Option("--payload", metavar="JSON", help="What it shall carry from now on.")] = None,
    priority: Annotated[str | None, typer.Option(help="A number, lower first, or critical, high, normal, low, batch.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Do not start before this much time from now; 0 lets it run.")] = None,
    label: Labels = None,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Change a job that waits or is delayed. What is not given stays as it is; labels are replaced together."""
    changes: dict[str, Any] = {}
    if payload is not None:
        changes["payload"] = parsed(payload)
    if priority is not None:
        changes["priority"] = priority_of(priority)
    if delay is not None:
        changes["due"] = span("--delay", delay) or None
    if label is not None:
        changes["labels"] = labels_of(label)
    if not changes:
        raise CommandFailed("say what to change: --payload, --priority, --delay or --label", Exit.USAGE)

    async def question(client: Client) -> None:
        _say(await client.update(job_name(job, queue), **changes), as_json)

    ask(target, question)


@app.command()
def promote(job: JobArgument, queue: QueueOfJob = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Let a delayed job start now."""

    async def question(client: Client) -> None:
        _say(await client.promote(job_name(job, queue)), as_json)

    ask(target, question)


@app.command()
def delete(job: JobArgument, queue: QueueOfJob = None, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Delete a job that does not run."""

    async def question(client: Client) -> None:
        name = job_name(job, queue)
        await client.delete(name)
        if as_json:
            output.write_json([{"name": name, "deleted": True}])
        else:
            output.write_line(f"{name} is deleted")

    ask(target, question)


def _say(job: Job, as_json: bool) -> None:
    if as_json:
        output.write_json([output.job_json(job)])
    else:
        output.write_line(f"{job.name} is {job.state}" + (", and was asked to stop" if job.cancel_requested and not job.final else ""))


def _show(job: Job, as_json: bool) -> None:
    if as_json:
        output.write_json([output.job_json(job)])
        return
    fields: list[tuple[str, str | Text]] = [
        ("name", job.name),
        ("handler", job.job_name),
        ("state", output.state_text(job.state)),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("priority", str(job.priority)),
        ("created", f"{output.age(job.create_time)} ago"),
    ]
    if job.due_time is not None:
        fields.append(("due", job.due_time.isoformat()))
    if job.expire_time is not None:
        fields.append(("expires", job.expire_time.isoformat()))
    fields += [(name, short(bound.total_seconds())) for name, bound in (("timeout", job.timeout), ("total timeout", job.total_timeout)) if bound is not None]
    if job.cancel_stage:
        fields.append(("cancel", job.cancel_stage))
    if job.progress is not None:
        fields.append(("progress", _progress(job)))
    if job.start_time is not None and job.finish_time is not None:
        fields.append(("ran", short((job.finish_time - job.start_time).total_seconds())))
    if job.worker:
        fields.append(("worker", job.worker))
    if job.losses:
        fields.append(("losses", str(job.losses)))
    fields += _rules(job)
    fields += [
        (name, _content(value)) for name, value in (("payload", job.payload), ("checkpoint", job.checkpoint), ("result", job.result)) if value is not None
    ]
    if job.failure is not None:
        fields.append(("failure", Text(output.failure_line(job.failure.reason, job.failure.type, job.failure.message), style="red")))
        fields += [("", job.failure.stack)] if job.failure.stack else []
    if job.log_lines:
        fields.append(("log lines", str(job.log_lines)))
    if job.fingerprint:
        fields.append(("fingerprint", job.fingerprint))
    if job.resolution is not None:
        fields.append(("resolved", f"{output.age(job.resolution.time)} ago" + (f": {job.resolution.note}" if job.resolution.note else "")))
    fields += [("attempts" if i == 0 else "", _attempt(attempt)) for i, attempt in enumerate(job.attempts)]
    output.write_fields(fields)


def _attempt(attempt: Attempt) -> str:
    """One line: `2  failed  1.2s  host-17  ValueError: no such file`."""
    ran = short((attempt.end_time - attempt.start_time).total_seconds()) if attempt.start_time and attempt.end_time else ""
    failure = "" if attempt.failure is None else ": ".join(filter(None, (attempt.failure.type, attempt.failure.message)))
    return "  ".join(filter(None, (str(attempt.number), attempt.end or "running", ran, attempt.worker, failure)))


def _rules(job: Job) -> list[tuple[str, str]]:
    texts = {"group": job.group, "labels": output.labels_text(job.labels), "needs a worker with": output.labels_text(job.required_labels)}
    return [(name, text) for name, text in {**texts, "units": str(job.units) if job.units > 1 else ""}.items() if text]


def _row(job: Job) -> tuple[str | Text, ...]:
    return (
        job.id,
        job.job_name,
        output.state_text(job.state),
        str(job.priority),
        f"{job.attempt}/{job.max_attempts}",
        _progress(job),
        output.age(job.create_time),
    )


def _progress(job: Job) -> str:
    return "" if job.progress is None else f"{job.progress.percent:g} % {job.progress.message}".rstrip()


def _content(value: object) -> str:
    if isinstance(value, NotJson):
        return value
    return f"{len(value)} bytes" if isinstance(value, bytes) else output.json_text(value, indent=2)
