"""BulkJobs: one verb for all jobs that a filter finds."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from struct import Struct
from typing import NamedTuple

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import BrokerError, BulkRunStopped, InvalidField, ShuttingDown, StoreFault, StoreUnavailable, TooManyBulkRuns
from jobwire_broker.names import bulk_run_path, parse_queue
from jobwire_broker.rules.filters import Filter, filter_of
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.rules.sweeps import Numbers, sweep
from jobwire_broker.services.answers import queue_not_found, state_word
from jobwire_broker.services.bulk_runs import caller_name
from jobwire_broker.store import codec
from jobwire_broker.store.answers import BulkStep, Word
from jobwire_broker.store.queue_store import QueueStore

DEFAULT_GRACE_MS = 30_000
MAX_GRACE_MS = 3_600_000
MAX_NOTE_BYTES = 1024

_STATE = job_pb2.JobState
#: What each verb is called in the store, and the states that it fits.
_VERBS: dict[int, tuple[str, frozenset[int]]] = {
    pb.BULK_VERB_CANCEL: (
        "cancel",
        frozenset((_STATE.JOB_STATE_DELAYED, _STATE.JOB_STATE_WAITING, _STATE.JOB_STATE_BLOCKED, _STATE.JOB_STATE_ACTIVE)),
    ),
    pb.BULK_VERB_RETRY: ("retry", frozenset((_STATE.JOB_STATE_FAILED, _STATE.JOB_STATE_CANCELLED, _STATE.JOB_STATE_EXPIRED))),
    pb.BULK_VERB_PROMOTE: ("promote", frozenset((_STATE.JOB_STATE_DELAYED,))),
    pb.BULK_VERB_DELETE: (
        "delete",
        (codec.FINAL_STATES - {_STATE.JOB_STATE_REMOVED}) | {_STATE.JOB_STATE_DELAYED, _STATE.JOB_STATE_WAITING, _STATE.JOB_STATE_BLOCKED},
    ),
    pb.BULK_VERB_RESOLVE: ("resolve", frozenset((_STATE.JOB_STATE_FAILED,))),
}
#: After so long a time in which it found nothing to do, a run says where it is, and looks whether it was stopped. The store takes one that is silent for ten
#: seconds for ABANDONED (lib/runs.lua).
_QUIET_S = 1.0
#: A sum over the request and what follows it; the last number given before the dry run; how many it found; the number of the run.
_TOKEN = Struct(">8sQQ8s")


class Seen(NamedTuple):
    """What a dry run saw."""

    newest: int
    matched: int
    run: bytes


class Bulk(NamedTuple):
    """A request, checked."""

    queue: str
    verb: str
    argument: str | int
    wanted: Filter
    token: str

    def mark(self, seen: bytes) -> bytes:
        """The sum that binds a token to its request."""
        of = f"{self.queue}/{self.verb}/{sorted(self.wanted.states)}/{self.wanted}".encode()
        return hashlib.sha256(of + seen).digest()[:8]

    def token_of(self, seen: Seen) -> str:
        """The token for the run."""
        packed = _TOKEN.pack(bytes(8), *seen)[8:]
        return base64.urlsafe_b64encode(self.mark(packed) + packed).decode().rstrip("=")

    def seen(self) -> Seen:
        """What the dry run saw, from the token. Raises InvalidField when it is of another request."""
        try:
            raw = base64.urlsafe_b64decode(self.token + "=" * (-len(self.token) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _TOKEN.size or raw[:8] != self.mark(raw[8:]):
            raise _invalid("token is not from a dry run of this request")
        return Seen._make(_TOKEN.unpack(raw)[1:])


def _invalid(why: str) -> InvalidField:
    return InvalidField(f"{why}: do the dry run again", field="token", reason="BULK_TOKEN_INVALID")


def bulk_of(request: pb.BulkJobsRequest) -> Bulk:
    """Check a request. Raises InvalidField."""
    queue = parse_queue(request.parent, "parent")
    if request.verb not in _VERBS:
        raise InvalidField(f"verb must be CANCEL, RETRY, PROMOTE, DELETE or RESOLVE; it is {request.verb}", field="verb")
    verb, fitting = _VERBS[request.verb]
    for state in request.filter.states:
        if state not in fitting:
            word = state_word(state) if state in _STATE.values() else str(state)
            raise InvalidField(
                f"filter.states must be such that {verb} fits: {', '.join(map(state_word, sorted(fitting)))}; one is {word}", field="filter.states"
            )
    wanted = filter_of(request.filter, frozenset(request.filter.states) or fitting)
    return Bulk(queue, verb, _argument_of(request), wanted, request.token)


def _argument_of(request: pb.BulkJobsRequest) -> str | int:
    if request.note and request.verb != pb.BULK_VERB_RESOLVE:
        raise InvalidField("note can only stand with RESOLVE", field="note")
    if request.HasField("grace") and request.verb != pb.BULK_VERB_CANCEL:
        raise InvalidField("grace can only stand with CANCEL", field="grace")
    if request.verb == pb.BULK_VERB_CANCEL:
        return duration_ms(request.grace, "grace", low_ms=0, high_ms=MAX_GRACE_MS) if request.HasField("grace") else DEFAULT_GRACE_MS
    return check_note(request.note) if request.verb == pb.BULK_VERB_RESOLVE else ""


def check_note(note: str) -> str:
    """Return the note. Raises InvalidField."""
    size = len(note.encode())
    if size > MAX_NOTE_BYTES:
        raise InvalidField(f"note may have {MAX_NOTE_BYTES} bytes; it has {size}", field="note")
    return note


def is_as_it_was(record: bytes, newest: int) -> bool:
    """What verbs.lua says as well: whether a job has not changed since `newest`. What a worker says of its progress is no change."""
    if codec.state_of(record) == _STATE.JOB_STATE_ACTIVE:
        return codec.token_of(record) <= newest and not codec.header_of(record).flags & codec.FLAG_CANCEL_REQUESTED
    return codec.revision_of(record) <= newest


async def bulk_jobs(registry: Registry, request: pb.BulkJobsRequest) -> AsyncGenerator[pb.BulkJobsResponse, None]:
    """Count the jobs, or act on those that were counted. Raises BrokerError."""
    bulk = bulk_of(request)
    if bulk.queue not in await registry.known():
        raise queue_not_found(bulk.queue)
    if not bulk.token:
        yield await _count(registry, bulk)
        return
    async for response in _act(registry, bulk, bulk.seen(), request):
        yield response


async def _count(registry: Registry, bulk: Bulk) -> pb.BulkJobsResponse:
    store = registry.store(bulk.queue)
    newest = await store.moment()
    others, waiting = 0, Numbers()
    async for entries in sweep(store, bulk.wanted, waiting.count):
        for _, record in entries:
            if not is_as_it_was(record, newest):
                continue
            if codec.state_of(record) == _STATE.JOB_STATE_WAITING:
                waiting.add(codec.created_of(record))
            else:
                others += 1
    seen = Seen(newest, others + waiting.count(), os.urandom(8))
    return pb.BulkJobsResponse(matched=seen.matched, token=bulk.token_of(seen), finished=True, run=bulk_run_path(bulk.queue, seen.run))


async def _act(registry: Registry, bulk: Bulk, seen: Seen, request: pb.BulkJobsRequest) -> AsyncIterator[pb.BulkJobsResponse]:
    store = registry.store(bulk.queue)
    run = _Run(store, bulk, seen)
    await run.begin(request)
    try:
        async for entries in sweep(store, bulk.wanted, lambda: run.done):
            if registry.is_ending:
                raise ShuttingDown
            raw_ids = [raw_id for raw_id, record in entries if is_as_it_was(record, seen.newest)]
            if raw_ids or run.is_quiet:
                await run.step(raw_ids)
                _tell(registry, bulk)
                yield run.answer()
        await run.finish()
    except (ShuttingDown, asyncio.CancelledError, GeneratorExit):
        await run.leave()
        raise
    yield run.answer(finished=True)


class _Run:
    """A run as the broker that it runs at carries it on. Its record in the store is for all (lua/lib/runs.lua)."""

    def __init__(self, store: QueueStore, bulk: Bulk, seen: Seen) -> None:
        self._store, self._bulk, self._seen = store, bulk, seen
        self._name = bulk_run_path(bulk.queue, seen.run)
        self._clock = asyncio.get_running_loop().time
        self._heard = self._clock()
        self.done = 0
        self._skipped = 0

    @property
    def is_quiet(self) -> bool:
        """Whether the store has not heard of it for a while."""
        return self._clock() - self._heard >= _QUIET_S

    async def begin(self, request: pb.BulkJobsRequest) -> None:
        """Let it be known. Raises InvalidField, TooManyBulkRuns and BulkRunStopped."""
        head = pb.BulkRun(verb=request.verb, filter=request.filter, note=request.note, matched=self._seen.matched, started_by=caller_name())
        if request.HasField("grace"):
            head.grace.CopyFrom(request.grace)
        begun = await self._store.begin_run(self._seen.run, self._seen.newest, head.SerializeToString())
        if begun.word == Word.TOO_OLD:
            raise _invalid("token is older than an hour")
        if begun.word == Word.TOO_MANY:
            queue = f"queues/{self._bulk.queue}"
            raise TooManyBulkRuns(f"as many bulk runs of {queue} are under way as may be", quota=queue)
        self._note(begun)

    async def step(self, raw_ids: Sequence[bytes]) -> None:
        """Act on jobs. Raises BulkRunStopped."""
        step = await self._store.bulk(self._bulk.verb, self._bulk.argument, self._seen.newest, self._seen.run, self._skipped, raw_ids)
        if step.word == Word.NOT_FOUND:
            # A store that has lost its last writes. Nothing was done, and the caller's next try begins the run again.
            raise StoreUnavailable(f"the store has lost {self._name}", accepted="no")
        self._note(step)

    async def finish(self) -> None:
        """Say that nothing is left. Raises BulkRunStopped."""
        # What has changed so much that the filter finds it no more was never looked at.
        self._skipped = max(0, self._seen.matched - self.done)
        word, found = await self._store.end_run(self._seen.run, Word.FINISHED, skipped=self._skipped)
        if found is not None and word == Word.STOPPED:
            self._note(BulkStep(word, found.done, 0, found.stopped_by))

    async def leave(self) -> None:
        """Say that nobody carries it on here. Without the store it is taken for so after a while."""
        with contextlib.suppress(BrokerError, StoreFault):
            await self._store.end_run(self._seen.run, Word.ABANDONED)

    def answer(self, *, finished: bool = False) -> pb.BulkJobsResponse:
        """How far it is."""
        return pb.BulkJobsResponse(matched=self._seen.matched, done=self.done, skipped=self._skipped, finished=finished, run=self._name)

    def _note(self, step: BulkStep) -> None:
        self._heard, self.done, self._skipped = self._clock(), step.done, self._skipped + step.skipped
        if step.word == Word.STOPPED:
            by = f" by {step.stopped_by}" if step.stopped_by else ""
            done = f"{step.done} of {self._seen.matched} jobs were done"
            raise BulkRunStopped(f"{self._name} was stopped{by}; {done}", metadata={"name": self._name, "by": step.stopped_by, "done": str(step.done)})


def _tell(registry: Registry, bulk: Bulk) -> None:
    """Let the queue do at once what has become due."""
    queue = registry.get(bulk.queue)
    if bulk.verb == "cancel":
        queue.pulse.beat_soon()
    elif bulk.verb in ("retry", "promote"):
        queue.partition.wake()
