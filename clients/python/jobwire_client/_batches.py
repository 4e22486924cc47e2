"""Enqueues that are under way at the same time share calls, without timers and with at most two calls under way. A call is one message of a stream.

The rule, in `_worth_a_call`: with no call under way, whatever waits goes at once, in two halves when it is much; beside one call a second goes only if it
carries at least half as much as the first. So at low load nobody waits, and at high load two calls of about the same size take turns: the next one is being
put together while the broker works on the other.

An outage is noticed by a call that fails although it had its whole time. When no call has succeeded since it began, what waits behind it fails with it, as
"no": it was never sent. So nobody waits longer than one call may take, and there is never a silent queue in this process.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from jobwire_client._enqueue_stream import Tell, Verdicts
from jobwire_client._job import Enqueued
from jobwire_client.errors import JobwireError, QueueUnavailable

MAX_JOBS = 1_000
"""The contract's bound for one call."""
MAX_BYTES = 8 * 1024 * 1024
"""Half of what a broker receives at most."""
MAX_CALLS = 2
_SPLIT_FROM = 16
"""Fewer jobs than this are not worth two calls."""

Send = Callable[[bytes, Tell], None]


class Entry(Protocol):
    """One or several jobs of one caller, which travel together."""

    frames: bytes
    count: int

    def made(self) -> None:
        """All of its jobs were made."""

    def deliver(self, verdicts: Verdicts, at: int) -> None:
        """Take the verdicts: `count` of them from `at` on."""

    def fail(self, error: JobwireError) -> None:
        """Take the error; the object is this entry's alone."""

    def abandoned(self) -> bool:
        """Whether the caller has gone."""
        ...


class Lane:
    """The enqueues of one durability: those that wait for the disk do not hold up the others."""

    def __init__(self, send: Send, *, max_waiting: int, max_waiting_bytes: int) -> None:
        """Prepare a lane.

        Args:
            send: makes the jobs of the joined frames, and tells once what became of them: no task, no future, no further round of the event loop. The call
                is under way when it returns, or has failed and was told so.
            max_waiting: how many jobs may wait to be sent before callers have to wait.
            max_waiting_bytes: the same in bytes.
        """
        self._send = send
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[Entry] = deque()
        self._jobs = 0
        self._bytes = 0
        self._under_way: list[int] = []
        """How many jobs each call has."""
        self._answer = asyncio.Event()
        self._gathering = False
        self._callers: deque[tuple[asyncio.Future[None], int]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # known at the first use: to ask which one runs costs a system call
        self._reserved_jobs = 0  # for callers whose turn has come, and that have not run since
        self._reserved_bytes = 0
        self._last_success = float("-inf")

    @property
    def full(self) -> bool:
        """Whether a caller has to wait for `room` first."""
        return bool(self._callers or self._jobs + self._reserved_jobs >= self._max_waiting or self._bytes + self._reserved_bytes >= self._max_waiting_bytes)

    def future(self) -> "asyncio.Future[Enqueued]":
        """What the caller of one job awaits."""
        return (self._loop or self._running()).create_future()

    async def room(self, size: int) -> None:
        """Wait, in the order of arrival, until there is room for `size` bytes. The caller puts its entry before it awaits anything else.

        Raises:
            QueueUnavailable: an outage was noticed meanwhile.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come in the same moment
                self._unreserve(size)
                self._let_in()
            raise
        self._unreserve(size)

    def put(self, entry: Entry) -> None:
        """Take an entry; it is sent soon, and `deliver` or `fail` is called once."""
        self._waiting.append(entry)
        self._jobs += entry.count
        self._bytes += len(entry.frames)
        if not self._gathering and len(self._under_way) < MAX_CALLS:
            self._gather()

    async def flush(self) -> None:
        """Wait until everything that was put has its answer."""
        while self._waiting or self._under_way or self._callers:
            self._answer.clear()
            await (self._answer.wait() if self._under_way else asyncio.sleep(0))

    def _gather(self) -> None:
        # Not at once: all callers that are ready in this round of the event loop come along.
        self._gathering = True
        self._running().call_soon(self._start_calls)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _start_calls(self) -> None:
        self._gathering = False
        while self._waiting and (jobs := self._worth_a_call()):
            batch, count = self._take(jobs)
            if batch:
                self._call(batch, count)
        self._let_in()

    def _worth_a_call(self) -> int:
        """How many jobs the next call may carry; 0: none now."""
        if not self._under_way:
            return self._jobs if self._jobs < _SPLIT_FROM else min(MAX_JOBS, (self._jobs + 1) // 2)
        if len(self._under_way) >= MAX_CALLS:
            return 0
        (beside,) = self._under_way
        return min(MAX_JOBS, self._jobs) if 2 * self._jobs >= beside else 0

    def _take(self, jobs: int) -> tuple[list[Entry], int]:
        if jobs == self._jobs and self._bytes <= MAX_BYTES:
            return self._take_all()
        batch: list[Entry] = []
        waiting = self._waiting
        count = size = 0  # of the batch
        gone = gone_bytes = 0
        while waiting:
            entry = waiting[0]
            its_count, its_size = entry.count, len(entry.frames)
            if batch and (count >= jobs or count + its_count > MAX_JOBS or size + its_size > MAX_BYTES):
                break
            waiting.popleft()
            if entry.abandoned():
                gone, gone_bytes = gone + its_count, gone_bytes + its_size
            else:
                batch.append(entry)
                count += its_count
                size += its_size
        self._jobs -= count + gone
        self._bytes -= size + gone_bytes
        return batch, count

    def _take_all(self) -> tuple[list[Entry], int]:
        batch = [entry for entry in self._waiting if not entry.abandoned()]
        count = self._jobs if len(batch) == len(self._waiting) else sum(entry.count for entry in batch)
        self._waiting.clear()
        self._jobs = self._bytes = 0
        return batch, count

    def _has_room(self) -> bool:
        return self._jobs + self._reserved_jobs < self._max_waiting and self._bytes + self._reserved_bytes < self._max_waiting_bytes

    def _let_in(self) -> None:
        while self._callers and self._has_room():
            turn, size = self._callers.popleft()
            if not turn.done():
                turn.set_result(None)
                self._reserved_jobs += 1
                self._reserved_bytes += size

    def _unreserve(self, size: int) -> None:
        self._reserved_jobs -= 1
        self._reserved_bytes -= size

    def _call(self, batch: list[Entry], count: int) -> None:
        self._under_way.append(count)
        self._send(b"".join([entry.frames for entry in batch]), partial(self._answered, batch, count, self._running().time()))

    def _answered(self, batch: list[Entry], count: int, began: float, said: Verdicts | BaseException) -> None:
        self._under_way.remove(count)
        self._answer.set()
        if isinstance(said, BaseException):
            self._failed(batch, began, said)
        elif said and max(said) >= count:
            self._failed(batch, began, QueueUnavailable("the broker answered for jobs that it was not sent", accepted="unknown"))
        else:
            self._last_success = self._running().time()
            _deliver_all(batch, said)
        if not self._gathering:
            # Behind the callers that have just been told, each of which may come with its next job: so no further round is needed to gather those.
            self._gather()
        self._let_in()

    def _failed(self, batch: list[Entry], began: float, error: BaseException) -> None:
        if not isinstance(error, JobwireError):
            unsure = QueueUnavailable("the call was broken off", accepted="unknown")
            unsure.__cause__ = error
            _fail_all(batch, unsure)
            return
        _fail_all(batch, error)
        if isinstance(error, QueueUnavailable) and self._last_success < began:
            self._fail_waiting(error)

    def _fail_waiting(self, cause: QueueUnavailable) -> None:
        error = cause.again()
        error.accepted = "no"
        waiting, self._waiting = list(self._waiting), deque()
        self._jobs = self._bytes = 0
        _fail_all(waiting, error)
        callers, self._callers = self._callers, deque()
        for turn, _ in callers:
            if not turn.done():
                turn.set_exception(error.again())


def _deliver_all(batch: list[Entry], verdicts: Verdicts) -> None:
    if not verdicts:
        for entry in batch:
            entry.made()
        return
    at = 0
    for entry in batch:
        entry.deliver(verdicts, at)
        at += entry.count


def _fail_all(batch: list[Entry], error: JobwireError) -> None:
    for entry in batch:
        entry.fail(error.again())
