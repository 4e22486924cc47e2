"""Very many jobs in one request: one JSON object in each line of the body (NDJSON), one verdict in each line of the answer, and a summary in its last.

The answer begins when the body has been read, because most clients read nothing while they still write. Two bounds keep that small: the bytes of a
body, and `MAX_LINES`. The jobs are made while the body comes in, in calls of at most `MAX_JOBS` jobs.

What breaks halfway (the store, a line over its bound) ends the reading, and the summary says so with the problem: everything before it has its
verdict. Only when nothing was made yet, the answer is that problem.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from jobwire.v1.job_pb2 import Durability, JobSpec
from starlette.requests import ClientDisconnect, Request

from jobwire_gateway.batches import Batches, Refusal, refusal
from jobwire_gateway.enqueue import MAX_JOBS, Mint, job_spec
from jobwire_gateway.json_text import encoded
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import BODY_S, json_object

MAX_LINES = 100_000

LINES_S = 120.0
"""All waiting for parts of a body that takes longer is given up: who sends a byte now and then would hold a connection for days."""

_CALL_BYTES = 4 * 1024 * 1024


@dataclass
class _Chunk:
    """Lines that go into one call."""

    first: int
    entries: list[JobSpec | Refusal] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.entries) >= MAX_JOBS or self.size >= _CALL_BYTES


class LinesEnqueue:
    """One such request."""

    def __init__(self, batches: Batches, queue: str, durability: Durability.ValueType, mint: Mint, *, max_line: int, max_body: int) -> None:
        self._batches = batches
        self._queue = queue
        self._durability = durability
        self._mint = mint
        self._max_line = max_line
        self._max_body = max_body
        self._verdicts: list[bytes] = []
        self._counts: dict[str, int] = {}

    async def run(self, request: Request) -> bytes:
        """Read it all, and give the body of the answer.

        Raises:
            Problem: nothing was made.
        """
        trouble: Problem | None = None
        chunk = _Chunk(1)
        try:
            async for number, line in self._numbered(request):
                self._add(chunk, number, line)
                if chunk.is_full:
                    full, chunk = chunk, _Chunk(number + 1)
                    await self._make(full)
            await self._make(chunk)
        except Problem as problem:
            if not self._verdicts:
                raise
            trouble = problem
        return b"".join(self._answer(request, trouble))

    async def _numbered(self, request: Request) -> AsyncIterator[tuple[int, bytes]]:
        number = 0
        async for line in self._lines(request):
            number += 1
            if number > MAX_LINES:
                raise Problem(413, f"A request may have {MAX_LINES} lines.", reason="TOO_MANY_LINES")
            yield number, line

    async def _lines(self, request: Request) -> AsyncIterator[bytes]:
        rest, size = b"", 0
        async for part in _parts(request):
            size += len(part)
            if size > self._max_body:
                raise Problem(413, f"The body is larger than {self._max_body} bytes.", reason="PAYLOAD_TOO_LARGE")
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield self._checked(line)
            self._checked(rest)
        if rest.strip():
            yield rest

    def _checked(self, line: bytes) -> bytes:
        if len(line) > self._max_line:
            raise Problem(413, f"A line is larger than {self._max_line} bytes.", reason="PAYLOAD_TOO_LARGE")
        return line

    def _add(self, chunk: _Chunk, number: int, line: bytes) -> None:
        chunk.size += len(line)
        try:
            chunk.entries.append(job_spec(self._queue, json_object(line, "line"), number - 1, self._mint))
        except Problem as problem:
            chunk.entries.append(refusal(problem))

    async def _make(self, chunk: _Chunk) -> None:
        if not chunk.entries:
            return
        verdicts = await self._batches.make(self._queue, chunk.entries, self._durability)
        for number, verdict in enumerate(verdicts, chunk.first):
            word = str(verdict["verdict"])
            self._counts[word] = self._counts.get(word, 0) + 1
            self._verdicts.append(_line({"line": number, **verdict}))

    def _answer(self, request: Request, trouble: Problem | None) -> Iterator[bytes]:
        yield from self._verdicts
        counts = {word: self._counts.get(word, 0) for word in ("made", "found", "replaced", "refused")}
        summary: dict[str, object] = {"lines": len(self._verdicts), **counts, "complete": trouble is None}
        if trouble is not None:
            summary["problem"] = trouble.body(request.url.path)
        yield _line(summary)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """The parts of a body. Each must come in time, and so must all of them; the time that their jobs take is not theirs."""
    parts = request.stream()
    left_s = LINES_S
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(min(BODY_S, left_s)):
                part = await anext(parts, None)
        except TimeoutError:
            raise _late(left_s) from None
        except ClientDisconnect:
            raise Problem(400, "The body ended early.") from None
        if part is None:
            return
        left_s = max(0.0, left_s - (time.monotonic() - began))
        yield part


def _late(left_s: float) -> Problem:
    if left_s < BODY_S:
        return Problem(408, f"The body was waited for longer than {LINES_S:.0f} s.")
    return Problem(408, f"Nothing of the body came for {BODY_S:.0f} s.")


def _line(members: dict[str, object]) -> bytes:
    return encoded(members) + b"\n"
