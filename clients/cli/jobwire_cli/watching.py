"""Following jobs in the terminal: bars for people, lines of JSON for programs; over gRPC, or over the event stream that browsers read."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Protocol

from jobwire_client import Client
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobwire_cli import output, sse
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.output import Members

_ENDS = ("final", "not_found")


class View(Protocol):
    """Shows changes as they come. A change is a dict as the event streams carry it: `type`, and a job's members."""

    disappointing: list[str]
    """A sentence for each job that ended, but not as completed."""
    missing: list[str]
    """A sentence for each job that is not there."""

    def show(self, change: Members) -> None:
        """Show one change."""

    def close(self) -> None:
        """Nothing more comes."""


class _Verdicts:
    """Remembers how jobs ended."""

    def __init__(self) -> None:
        self.disappointing: list[str] = []
        self.missing: list[str] = []

    def judge(self, change: Members) -> None:
        if change["type"] == "not_found":
            self.missing.append(f"there is no job {change['name']}")
        elif change["type"] == "final" and change["state"] != "completed":
            message = change.get("failure", {}).get("message", "")
            self.disappointing.append(f"{change['name']} is {change['state']}" + (f": {message}" if message and change["state"] == "failed" else ""))


class JsonView(_Verdicts):
    """One line of JSON per change."""

    def show(self, change: Members) -> None:
        """Print it."""
        self.judge(change)
        output.write_json([change])

    def close(self) -> None:
        """Nothing is open."""


class Bars(_Verdicts):
    """A progress bar per job; without a terminal, a line per change."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._bars: dict[str, TaskID] = {}

    def show(self, change: Members) -> None:
        """Move the job's bar."""
        self.judge(change)
        if change["type"] == "log":
            self._log(change)
        elif change["type"] in ("snapshot", "update", *_ENDS):
            self._move(change)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars:
            self._progress.stop()

    def _move(self, change: Members) -> None:
        name = change["name"]
        percent, note = _percent_and_note(change)
        label = name.rpartition("/")[2]
        if not self._console.is_terminal:
            self._console.print(f"{label} {percent:3.0f} % {note}", markup=False, highlight=False)
            return
        if name not in self._bars:
            self._progress.start()
            self._bars[name] = self._progress.add_task(label, total=100.0, note=note)
        self._progress.update(self._bars[name], completed=percent, note=note)
        if change["type"] in _ENDS:
            self._progress.stop_task(self._bars[name])

    def _log(self, change: Members) -> None:
        for line in change["lines"]:
            self._console.print(f"{change['id']} {line['level']}: {line['message']}", markup=False, highlight=False)


def _percent_and_note(change: Members) -> tuple[float, str]:
    if change["type"] == "not_found":
        return 0.0, "there is no such job"
    progress = change.get("progress", {})
    percent = float(progress.get("percent", 0.0))
    parts = [change["state"], progress.get("message", "") if change["state"] == "active" else ""]
    if change["state"] in ("failed", "delayed") and "failure" in change:
        parts.append(change["failure"].get("message", ""))
    return percent, ": ".join(filter(None, parts))


async def watch_jobs(target: str, names: list[str], view: View, limit_s: float | None) -> None:
    """Follow jobs over gRPC."""

    async def follow() -> None:
        async with Client(target) as client, contextlib.aclosing(client.watch_changes(names)) as changes:
            async for change in changes:
                view.show(output.change_json(change))

    await _within(limit_s, follow(), view)


async def watch_url(url: str, view: View, limit_s: float | None) -> None:
    """Follow the job of an event stream."""

    async def follow() -> None:
        async with contextlib.aclosing(sse.follow(url)) as events:
            async for event in events:
                if event.get("reason") == "CREDENTIALS_EXPIRING":
                    continue
                if event["type"] == "error":
                    raise CommandFailed(f"{url}: {event.get('detail') or event.get('reason')}", _code_of(event))
                view.show(event)
                if event["type"] == "final":
                    return

    try:
        await _within(limit_s, follow(), view)
    except sse.NotAUrl as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    except sse.StreamRefused as error:
        raise CommandFailed(str(error), Exit.NOT_FOUND if error.status == 404 else Exit.FAILED) from error
    except sse.StreamUnavailable as error:
        raise CommandFailed(str(error), Exit.UNAVAILABLE) from error


def _code_of(event: Members) -> Exit:
    return Exit.NOT_FOUND if "NOT_FOUND" in str(event.get("reason", "")).upper() else Exit.FAILED


async def _within(limit_s: float | None, work: Coroutine[Any, Any, None], view: View) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError as error:
        raise CommandFailed(f"the jobs have not ended within {limit_s:g} s", Exit.TIMEOUT) from error
    finally:
        view.close()
