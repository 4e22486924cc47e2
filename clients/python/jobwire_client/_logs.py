"""Reading the log of a job: what is kept of it, and then, when it is followed, each line as it comes."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from jobwire.v1 import job_service_pb2

from jobwire_client._job import Change, LogLine, line_from
from jobwire_client.errors import JobNotFound

_PAGE = 1_000

ListLogs = Callable[[job_service_pb2.ListLogsRequest], Awaitable[job_service_pb2.ListLogsResponse]]


async def kept_lines(ask: ListLogs, name: str, after: int) -> AsyncGenerator[LogLine, None]:
    """The lines that are kept, from the one after a cursor on; all of them where the log does not reach so far."""
    while True:
        page = await ask(job_service_pb2.ListLogsRequest(name=name, after=after, page_size=_PAGE))
        if page.next_after < after:
            # Of another job, or the store has lost its last lines: other lines may stand in their place.
            after = 0
            continue
        for line in page.lines:
            yield line_from(line)
        if len(page.lines) < _PAGE:
            return
        after = page.next_after


async def followed_lines(ask: ListLogs, changes: AsyncGenerator[Change, None], name: str, after: int) -> AsyncGenerator[LogLine, None]:
    """The same, and then each line that comes, until the job has ended. Cursors have no holes: where lines that come are not the next ones, what is kept is
    read.
    """
    async with contextlib.aclosing(changes):
        async for change in changes:
            if change.type == "not_found":
                raise JobNotFound(f"there is no job {name}", reason="JOB_NOT_FOUND")
            if change.type == "log" and change.lines and change.lines[0].cursor == after + 1:
                lines: AsyncGenerator[LogLine, None] | None = _given(change.lines)
            else:
                lines = None if change.type == "update" else kept_lines(ask, name, after)
            if lines is None:
                continue
            # One that is deleted at its end has no log any more.
            with contextlib.suppress(*([JobNotFound] if change.type == "final" else [])):
                async for line in lines:
                    after = line.cursor
                    yield line


async def _given(lines: tuple[LogLine, ...]) -> AsyncGenerator[LogLine, None]:
    for line in lines:
        yield line
