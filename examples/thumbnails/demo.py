"""`make demo`: the whole system from nothing, on photographs. Nothing here is special: the parts are started as a user would start them.

One job per photograph is enqueued with the Python client; the progress comes from the event stream that browsers read.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from jobwire_client import Client
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from examples.thumbnails.events import follow
from examples.thumbnails.system import REPOSITORY, Part, PartEnded, address, running
from examples.thumbnails.thumbnails import SIZES, thumbnail_path
from examples.thumbnails.worker import QUEUE, Photo

T = TypeVar("T")

WORKERS = 2
# Streams open at the same time. A stream that is opened late starts with the job as it is then, so nothing is missed.
STREAMS = 50


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph."""

    photo: Path
    state: str
    """The job's final state, in lower case."""
    error: str
    """Empty when it completed."""


class Board:
    """The bars. Where there is no terminal, each change is a line."""

    def __init__(self, console: Console, photos: Sequence[Path]) -> None:
        self._console = console
        self._width = max(len(photo.name) for photo in photos)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(40), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.fields[note]}"), console=console
        )
        self._total = self._progress.add_task("all".ljust(self._width), total=len(photos), note="")
        self._bars: dict[Path, TaskID] = {}
        # With more than fit on a screen, a bar goes when its job has ended.
        self._keep = len(photos) <= console.size.height - 12

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, photo: Path, percent: float, note: str) -> None:
        """Move one bar."""
        if not self._console.is_terminal:
            self._console.print(f"{photo.name.ljust(self._width)} {percent:3.0f} % {note}", highlight=False, markup=False)
        elif photo not in self._bars:
            self._bars[photo] = self._progress.add_task(photo.name.ljust(self._width), total=100, completed=round(percent), note=note)
        else:
            self._progress.update(self._bars[photo], completed=percent, note=note)

    def end(self, outcome: Outcome) -> None:
        """Show that a job has ended."""
        percent = 100.0 if outcome.state == "completed" else 0.0
        self.show(outcome.photo, percent, outcome.state + (f": {outcome.error}" if outcome.error else ""))
        self._progress.advance(self._total)
        if self._console.is_terminal and not self._keep:
            self._progress.remove_task(self._bars.pop(outcome.photo))


class Stopped(Exception):
    """Raised when somebody pressed Ctrl-C before the work was done."""


async def main(options: argparse.Namespace) -> int:
    """Run the demo. Returns the exit code."""
    console = Console()
    photos = find_photos(options.photos)
    if not photos:
        console.print(f"There are no files in {options.photos}.", highlight=False)
        return 2
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    grpc, http = address(options.grpc_port), address(options.http_port)
    try:
        with tempfile.TemporaryDirectory(prefix="jobwire-demo-") as folder:
            return await run(console, photos, options, Path(folder), grpc, http, stopping)
    except PartEnded as error:
        console.print(str(error), highlight=False, markup=False, soft_wrap=True, style="red")
        return 1
    except Stopped:
        return 130


async def run(console: Console, photos: Sequence[Path], options: argparse.Namespace, folder: Path, grpc: str, http: str, stopping: asyncio.Event) -> int:
    """Start the system, do the work, sum up, stay up."""
    console.print("Starting the embedded store, a broker, a gateway and two workers.")
    async with running(folder, grpc=grpc, http=http, workers=WORKERS, handlers="examples.thumbnails.worker:worker") as parts:
        console.print(f"Watch in a browser: http://{http}/", highlight=False)
        forget(photos, options.out)
        began = time.monotonic()
        outcomes = await guarded(make_all(console, photos, options.out, grpc, http), parts, stopping)
        complete = sum_up(console, outcomes, options.out, time.monotonic() - began)
        if not options.once:
            console.print(f"The system stays up: http://{http}/ shows it, Ctrl-C stops it.", highlight=False)
            with contextlib.suppress(Stopped):
                await guarded(asyncio.Event().wait(), parts, stopping)
    return 0 if complete else 1


async def guarded(work: Coroutine[Any, Any, T], parts: Sequence[Part], stopping: asyncio.Event) -> T:
    """Do `work`, but give it up on Ctrl-C, or when a part of the system ends.

    Raises:
        Stopped: on Ctrl-C.
        PartEnded: a part ended.
    """
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    ends = [asyncio.ensure_future(part.ended()) for part in parts]
    try:
        await asyncio.wait({task, stop, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        for end in ends:
            if end.done():
                end.result()
        raise Stopped
    finally:
        for waiting in (task, stop, *ends):
            waiting.cancel()
        await asyncio.gather(task, stop, *ends, return_exceptions=True)


def find_photos(folder: Path) -> list[Path]:
    """The files of a folder, but for hidden ones and texts that say where the photographs are from."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and path.suffix != ".md")


async def make_all(console: Console, photos: Sequence[Path], out: Path, grpc: str, http: str) -> list[Outcome]:
    """Enqueue one job per photograph, and follow them all to their ends."""
    async with Client(grpc) as client, httpx.AsyncClient(base_url=f"http://{http}", limits=httpx.Limits(max_connections=None)) as browser:
        with Board(console, photos) as board:
            streams = asyncio.Semaphore(STREAMS)

            async def one(photo: Path) -> Outcome:
                job = await client.enqueue(QUEUE, "thumbnail", asdict(Photo(str(photo), str(out))))
                async with streams:
                    return await watch(browser, job.name, photo, board)

            return await asyncio.gather(*map(one, photos))


async def watch(browser: httpx.AsyncClient, name: str, photo: Path, board: Board) -> Outcome:
    """Show one job's progress until its end."""
    async with contextlib.aclosing(follow(browser, f"/v1/{name}/events")) as events:
        async for event in events:
            if event["type"] == "update" and "progress" in event:
                board.show(photo, event["progress"]["percent"], event["progress"]["message"])
            elif event["type"] in ("final", "error"):
                outcome = Outcome(photo, event.get("state", "unknown"), event.get("failure", {}).get("message", "") or event.get("detail", ""))
                board.end(outcome)
                return outcome
    raise RuntimeError(f"the stream of {name} ended without an end")


def sum_up(console: Console, outcomes: Sequence[Outcome], out: Path, seconds: float) -> bool:
    """Say what was made. Returns whether every thumbnail is there."""
    wanted = [thumbnail_path(out, outcome.photo, size) for outcome in outcomes for size in SIZES]
    there = [path for path in wanted if path.is_file()]
    size_kb = sum(path.stat().st_size for path in there) / 1000
    sentence = f"{len(there)} of {len(wanted)} thumbnails of {len(outcomes)} photographs are in {out}: {size_kb:,.0f} kB, in {seconds:.1f} s."
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for outcome in outcomes:
        if outcome.state != "completed":
            console.print(f"{outcome.photo.name}: {outcome.state}: {outcome.error}", highlight=False, markup=False, soft_wrap=True, style="red")
    return len(there) == len(wanted)


def forget(photos: Sequence[Path], out: Path) -> None:
    """Delete the thumbnails of an earlier run, so that those found in the end are of this one."""
    for photo in photos:
        for size in SIZES:
            thumbnail_path(out, photo, size).unlink(missing_ok=True)


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make thumbnails of photographs with the whole system, and watch.")
    parser.add_argument("--photos", type=_path, default=REPOSITORY / "examples" / "photos", help="the folder with the photographs")
    parser.add_argument("--out", type=_path, default=REPOSITORY / "out", help="the folder for the thumbnails")
    parser.add_argument("--once", action="store_true", help="end when all is done; exit code 0 only when every thumbnail is there")
    parser.add_argument("--grpc-port", type=int, default=7410, help="the broker's port; a free one when it is taken")
    parser.add_argument("--http-port", type=int, default=8080, help="the gateway's port; a free one when it is taken")
    options = parser.parse_args(arguments)
    if not options.photos.is_dir():
        parser.error(f"{options.photos} is no folder")
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"{options.out} is no folder")
    if options.out.resolve() == options.photos.resolve():
        parser.error("--out must be another folder than --photos: thumbnails go to OUT/PHOTO/")
    return options


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(options_of(sys.argv[1:]))))
