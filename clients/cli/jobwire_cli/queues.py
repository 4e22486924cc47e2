"""`jobwire queues …`, `jobwire workers` and `jobwire version`."""

from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from jobwire_client import Client, Queue, WorkerSession

from jobwire_cli import groups, output, policies
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, QueueArgument, Target, ask
from jobwire_cli.durations import parse_duration, short
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import given
from jobwire_cli.output import COUNTS

app = typer.Typer(help="Look at queues, pause them, resume them, clean them.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(groups.app, name="groups")
    policies.register(app)
    parent.add_typer(app, name="queues")
    parent.command()(workers)
    parent.command()(version)


@app.command("list")
def list_queues(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List all queues with their counts."""

    async def question(client: Client) -> None:
        queues = await client.queues()
        if as_json:
            output.write_json(map(output.queue_json, queues))
        else:
            _list(queues)

    ask(target, question)


@app.command()
def stats(queue: QueueArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show one queue."""

    async def question(client: Client) -> None:
        _show(await client.queue(queue), as_json)

    ask(target, question)


@app.command()
def pause(queue: QueueArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Stop the delivery of new jobs. What runs goes on."""

    async def question(client: Client) -> None:
        _say(await client.pause_queue(queue), as_json)

    ask(target, question)


@app.command()
def resume(queue: QueueArgument, target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Start delivery again."""

    async def question(client: Client) -> None:
        _say(await client.resume_queue(queue), as_json)

    ask(target, question)


@app.command()
def clean(
    queue: QueueArgument,
    state: Annotated[str, typer.Option("--state", help="completed, failed, cancelled or expired.")] = "completed",
    grace: Annotated[str, typer.Option("--grace", metavar="DURATION", help="Keep jobs that ended less than this ago: 10m, 2h, 7d.")] = "0",
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Delete jobs that have ended."""
    kept = given("--grace", grace, parse_duration)

    async def question(client: Client) -> None:
        deleted = await client.clean_queue(queue, state=state, grace=kept)
        if as_json:
            output.write_json([{"queue": queue, "deleted": deleted}])
        else:
            output.write_line(f"{deleted} {'job' if deleted == 1 else 'jobs'} deleted")

    ask(target, question)


@app.command()
def purge(
    queue: QueueArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Delete the jobs that wait or are delayed. What runs goes on."""
    if not yes and not typer.confirm(f"Delete all jobs that wait in {queue}?", err=True):
        raise CommandFailed("nothing was deleted", Exit.USAGE)

    async def question(client: Client) -> None:
        deleted = await client.purge_queue(queue)
        if as_json:
            output.write_json([{"queue": queue, "deleted": deleted}])
        else:
            output.write_line(f"{deleted} {'job' if deleted == 1 else 'jobs'} deleted")

    ask(target, question)


def workers(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the worker processes that are connected."""

    async def question(client: Client) -> None:
        found = await client.workers()
        if as_json:
            output.write_json(map(output.worker_json, found))
        else:
            output.write_table(("worker", "queues", "active", "connected", "sdk"), map(_worker_row, found), empty="no workers are connected")

    ask(target, question)


def version(
    server: Annotated[bool, typer.Option("--server", help="Also ask the broker for its version and its store's.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Print the version."""
    own = installed_version("jobwire")
    if not server:
        _say_version({"version": own}, as_json)
        return

    async def question(client: Client) -> None:
        found = await client.server_info()
        _say_version({"version": own, "server": output.server_json(found)}, as_json)

    ask(target, question)


def _say_version(members: output.Members, as_json: bool) -> None:
    if as_json:
        output.write_json([members])
        return
    output.write_line(f"jobwire {members['version']}")
    if server := members.get("server"):
        store = server["storeVersion"] or "store" if server["storeAvailable"] else "a store that does not answer"
        output.write_line(f"broker {server['version']} ({server['brokerId']}) on {store}")


def _show(queue: Queue, as_json: bool) -> None:
    if as_json:
        output.write_json([output.queue_json(queue)])
        return
    counts = queue.counts
    numbers = [(name, str(getattr(counts, name))) for name in (*COUNTS, "total")]
    totals = [("completed in all", str(counts.completed_total)), ("failed in all", str(counts.failed_total))]
    output.write_fields(
        [("queue", queue.name), ("delivery", "paused" if queue.paused else "runs"), ("workers", str(queue.workers)), *numbers, *totals, *_needs(queue)]
    )


def _needs(queue: Queue) -> list[tuple[str, str]]:
    ages = (("oldest waiting", queue.oldest_waiting_age), ("oldest active", queue.oldest_active_age))
    fields = [(name, short(age.total_seconds())) for name, age in ages if age is not None]
    fields += [("enqueued per second", f"{queue.rate_in:g}"), ("ended per second", f"{queue.rate_out:g}")]
    return fields if queue.more_workers_help is None else [*fields, ("more workers", "would help" if queue.more_workers_help else "would not help")]


def _say(queue: Queue, as_json: bool) -> None:
    if as_json:
        output.write_json([output.queue_json(queue)])
    else:
        output.write_line(f"{queue.name} is paused" if queue.paused else f"{queue.name} runs")


def _list(queues: Sequence[Queue]) -> None:
    # The less usual states get a column only when some queue has such jobs, so that the table fits in 80 columns.
    columns = [name for name in COUNTS if name not in ("blocked", "cancelled", "expired") or any(getattr(queue.counts, name) for queue in queues)]
    rows = [(q.name, "paused" if q.paused else "", str(q.workers), *(str(getattr(q.counts, name)) for name in columns)) for q in queues]
    output.write_table(("queue", "", "workers", *columns), rows, empty="there are no queues yet")


def _worker_row(worker: WorkerSession) -> tuple[str, ...]:
    load = f"{worker.active}/{worker.concurrency}" if worker.concurrency else str(worker.active)
    return (worker.instance_id or worker.session, ", ".join(worker.queues), load, output.age(worker.connect_time), worker.sdk)
