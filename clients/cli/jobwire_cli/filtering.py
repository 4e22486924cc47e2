"""The options that say which jobs of a queue are meant."""

from typing import Annotated

import typer
from jobwire_client import JobFilter

from jobwire_cli.asking import labels_of
from jobwire_cli.given import moment, word

_WHEN = "DURATION|DATE"

Name = Annotated[str | None, typer.Option("--name", metavar="JOB_NAME", help="Only jobs of this name.")]
Group = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="Only jobs of this group.")]
Label = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only jobs with this label. Repeat it for more.")]
Since = Annotated[str | None, typer.Option("--since", metavar=_WHEN, help="Only jobs enqueued at or after this: 2h ago is 2h.")]
Until = Annotated[str | None, typer.Option("--until", metavar=_WHEN, help="Only jobs enqueued before this.")]
EndedSince = Annotated[str | None, typer.Option("--ended-since", metavar=_WHEN, help="Only jobs that ended at or after this.")]
EndedUntil = Annotated[str | None, typer.Option("--ended-until", metavar=_WHEN, help="Only jobs that ended before this.")]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", metavar="HEX", help="Only jobs that failed with this fingerprint; `jobs failures` lists them.")
]
Resolved = Annotated[bool | None, typer.Option("--resolved/--unresolved", help="Only failed jobs with a note, or without one.")]


def filter_of(
    *,
    name: str | None,
    group: str | None,
    label: list[str] | None,
    since: str | None,
    until: str | None,
    ended_since: str | None,
    ended_until: str | None,
    fingerprint: str | None,
    resolved: bool | None,
    states: list[str] | None = None,
) -> JobFilter:
    """The filter that the options say. Raises CommandFailed."""
    return JobFilter(
        states=states or (),
        job_name=word("--name", name),
        group=word("--group", group),
        labels=labels_of(label) or {},
        created_after=moment("--since", since),
        created_before=moment("--until", until),
        finished_after=moment("--ended-since", ended_since),
        finished_before=moment("--ended-until", ended_until),
        fingerprint=word("--fingerprint", fingerprint),
        resolved=resolved,
    )
