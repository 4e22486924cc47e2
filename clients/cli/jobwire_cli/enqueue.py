"""`jobwire enqueue`: one job, or one per line of standard input."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, TextIO

import typer
from jobwire_client import Client, Durability, Enqueued, JobSpec, JobwireError, QueueUnavailable

from jobwire_cli.asking import DEFAULT_TARGET, AsJson, Labels, QueueArgument, Target, ask, code_of, labels_of, parsed, sentence_of
from jobwire_cli.backoffs import parse_backoff
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.given import date, given, priority_of, span, word
from jobwire_cli.identities import identity_fields
from jobwire_cli.output import enqueued_json, write_json, write_line

_LINES_AT_ONCE = 10_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(enqueue)


def enqueue(
    queue: QueueArgument,
    job_name: Annotated[str, typer.Argument(metavar="JOB_NAME", help="Which handler runs it.")],
    payload: Annotated[str | None, typer.Argument(metavar="[JSON]", help="What the handler receives. `-` reads standard input: one job per line.")] = None,
    id: Annotated[str | None, typer.Option(help="The id in its queue. The same content with the same id never makes a second job.")] = None,
    priority: Annotated[str | None, typer.Option(help="A number, lower first, or critical, high, normal, low, batch.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Do not start before this much time from now: 30s, 5m.")] = None,
    delay_until: Annotated[str | None, typer.Option(metavar="DATE", help="Do not start before this date: 2026-11-22T16:00Z.")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, max=1000, help="How many times it may run. Default 3.")] = None,
    label: Labels = None,
    group: Annotated[str | None, typer.Option(help="Whose job it is, for example a tenant.")] = None,
    require: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only a worker with this label gets it. Repeat it for more.")] = None,
    units: Annotated[int | None, typer.Option(min=1, max=1000, help="How much it counts in limits. Default 1.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="How long one attempt may take.")] = None,
    total_timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="How long all attempts may take, from the first start.")] = None,
    expires_in: Annotated[str | None, typer.Option(metavar="DURATION", help="If it has not started by then, it expires.")] = None,
    expires_at: Annotated[str | None, typer.Option(metavar="DATE", help="The same, as a date.")] = None,
    backoff: Annotated[
        str | None,
        typer.Option(metavar="BACKOFF", help="The waits between attempts: exponential:2s,factor=2,max=1h,jitter=0, or fixed:30s, or one by one: 10s,1m,10m."),
    ] = None,
    permanent_error: Annotated[list[str] | None, typer.Option(metavar="TYPE", help="An error that ends it at once. Repeat it for more.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(metavar="KEY", help="The same key with the same content finds the job.")] = None,
    ttl: Annotated[str | None, typer.Option(metavar="DURATION", help="How long the idempotency key is known. Default 1d.")] = None,
    unique: Annotated[bool, typer.Option("--unique", help="One job of this name and payload at a time.")] = False,
    unique_key: Annotated[str | None, typer.Option(metavar="KEY", help="One job with this key at a time.")] = None,
    debounce: Annotated[str | None, typer.Option(metavar="KEY:DELAY", help="Replace the job of this key that waits still: cart-7:5s.")] = None,
    max_wait: Annotated[str | None, typer.Option(metavar="DURATION", help="With --debounce: start at the latest so long after the first call.")] = None,
    throttle: Annotated[str | None, typer.Option(metavar="KEY:PERIOD", help="Only the first of this key in a period: report:1h.")] = None,
    retention: Annotated[str | None, typer.Option(metavar="DURATION", help="How long its end is kept; 0 removes it at once.")] = None,
    disk: Annotated[bool, typer.Option("--disk", help="Return when the job is in the store's append-only file on disk.")] = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Make a job and print its name."""
    if payload == "-" and id is not None:
        raise CommandFailed("--id names one job; with - there may be many", Exit.USAGE)
    payloads = _payloads(sys.stdin) if payload == "-" else iter([None if payload is None else parsed(payload)])
    common = JobSpec(
        queue,
        job_name,
        id=word("--id", id, "to have one made"),
        priority=None if priority is None else priority_of(priority),
        delay=span("--delay", delay),
        delay_until=date("--delay-until", delay_until),
        attempts=attempts,
        group=word("--group", group, "for a job of no group"),
        labels=labels_of(label),
        required_labels=labels_of(require),
        units=units,
        timeout=span("--timeout", timeout),
        total_timeout=span("--total-timeout", total_timeout),
        expires_at=date("--expires-at", expires_at),
        expires_in=span("--expires-in", expires_in),
        backoff=None if backoff is None else given("--backoff", backoff, parse_backoff),
        permanent_errors=permanent_error or (),
        retention=span("--retention", retention),
        **identity_fields(idempotency_key, ttl, unique, unique_key, debounce, max_wait, throttle),
    )
    specs = (replace(common, payload=value) for value in payloads)
    durability: Durability = "disk" if disk else "store"

    async def question(client: Client) -> None:
        while chunk := list(islice(specs, _LINES_AT_ONCE)):
            try:
                results = await client.enqueue_many(chunk, durability=durability)
            except QueueUnavailable as error:
                _report_outage(error, as_json)
            else:
                _report(results, as_json)

    ask(target, question)


def _report(results: Sequence[Enqueued], as_json: bool) -> None:
    _print(results, as_json)
    errors = [result.error for result in results if result.error is not None]
    if errors:
        count = f" ({len(errors)} of {len(results)} jobs were refused)" if len(results) > 1 else ""
        raise CommandFailed(sentence_of(errors[0]) + count, code_of(errors[0]))


def _report_outage(outage: QueueUnavailable, as_json: bool) -> None:
    """Say what is known of each job, so that what was made is not made again."""
    _print(outage.results, as_json)
    cause = outage.__cause__ if isinstance(outage.__cause__, JobwireError) else outage
    made, unsure = (sum(result.verdict in verdicts for result in outage.results) for verdicts in (("made", "found", "replaced"), ("unknown",)))
    known = f"{made} of {len(outage.results)} jobs were made, and {unsure} may have been: " if made or unsure else ""
    raise CommandFailed(known + sentence_of(cause), Exit.UNAVAILABLE) from outage


def _print(results: Sequence[Enqueued], as_json: bool) -> None:
    if as_json:
        write_json(map(enqueued_json, results))
    else:
        for result in results:
            if result.error is None:
                write_line(result.name)


def _payloads(source: TextIO) -> Iterator[Any]:
    return (parsed(line, f"line {number}") for number, line in enumerate(source, 1) if line.strip())
