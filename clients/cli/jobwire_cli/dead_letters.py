"""`jobwire jobs failures` and `jobwire jobs resolve`: what failed, and what was decided."""

from typing import Annotated

import typer
from jobwire_client import Client, FailureGroup, JobFilter

from jobwire_cli import filtering, output
from jobwire_cli.asking import DEFAULT_TARGET, AsJson, JobArgument, QueueArgument, QueueOfJob, Target, ask, job_name, line_of_none
from jobwire_cli.given import moment, word


def register(jobs: typer.Typer) -> None:
    """Add the commands to `jobwire jobs`."""
    jobs.command()(failures)
    jobs.command()(resolve)


def failures(
    queue: QueueArgument,
    name: filtering.Name = None,
    ended_since: filtering.EndedSince = None,
    ended_until: filtering.EndedUntil = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many groups at most.")] = 20,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Group the failed jobs of a queue by what failed; the group that failed last comes first."""
    wanted = JobFilter(job_name=word("--name", name), finished_after=moment("--ended-since", ended_since), finished_before=moment("--ended-until", ended_until))

    async def question(client: Client) -> None:
        groups = [group async for group in client.failures(queue, filter=wanted, limit=limit)]
        if as_json:
            output.write_json(map(_json, groups))
        else:
            empty = "" if groups else await line_of_none(client, queue, f"nothing has failed in {queue}")
            output.write_table(("jobs", "resolved", "last", "handler", "fingerprint", "failure"), map(_row, groups), empty=empty)

    ask(target, question)


def resolve(
    job: JobArgument,
    queue: QueueOfJob = None,
    note: Annotated[str, typer.Option("--note", help="What was decided, in at most 1,024 bytes.")] = "",
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Note what was decided about a failed job. It stays failed."""

    async def question(client: Client) -> None:
        resolved = await client.resolve(job_name(job, queue), note)
        if as_json:
            output.write_json([output.job_json(resolved)])
        else:
            output.write_line(f"{resolved.name} is resolved")

    ask(target, question)


def _row(group: FailureGroup) -> tuple[str, ...]:
    failure = output.failure_line(group.reason, group.type, group.message)
    return (str(group.count), str(group.resolved), f"{output.age(group.last_seen)} ago", group.job_name, group.fingerprint, failure)


def _json(group: FailureGroup) -> output.Members:
    return output.filled(
        fingerprint=group.fingerprint,
        jobName=group.job_name or None,
        type=group.type or None,
        message=group.message or None,
        reason=group.reason or None,
        count=group.count,
        resolved=group.resolved,
        firstSeen=output.date(group.first_seen),
        lastSeen=output.date(group.last_seen),
        latest=group.latest,
    )
