"""BulkJobs: one verb for all jobs that a filter finds."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import AsyncIterator
from struct import Struct
from typing import NamedTuple

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import InvalidField, ShuttingDown
from jobwire_broker.names import parse_queue
from jobwire_broker.rules.filters import Filter, filter_of
from jobwire_broker.rules.registry import Registry
from jobwire_broker.rules.reports import duration_ms
from jobwire_broker.rules.sweeps import Numbers, sweep
from jobwire_broker.services.answers import queue_not_found, state_word
from jobwire_broker.store import codec

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
#: After so many steps that found nothing to do, a run says where it is: so whoever reads it knows that it goes on.
_QUIET_LOOKS = 64
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


async def bulk_jobs(registry: Registry, request: pb.BulkJobsRequest) -> AsyncIterator[pb.BulkJobsResponse]:
    """Count the jobs, or act on those that were counted. Raises BrokerError."""
    bulk = bulk_of(request)
    if bulk.queue not in await registry.known():
        raise queue_not_found(bulk.queue)
    if not bulk.token:
        yield await _count(registry, bulk)
        return
    async for response in _act(registry, bulk, bulk.seen()):
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
    matched = others + waiting.count()
    return pb.BulkJobsResponse(matched=matched, token=bulk.token_of(Seen(newest, matched, os.urandom(8))), finished=True)


async def _act(registry: Registry, bulk: Bulk, seen: Seen) -> AsyncIterator[pb.BulkJobsResponse]:
    store = registry.store(bulk.queue)
    begun = await store.bulk(bulk.verb, bulk.argument, seen.newest, seen.run)
    if begun is None:
        raise _invalid("token is older than an hour")
    done, skipped, looks = begun.done, 0, 0

    def done_so_far() -> int:
        return done

    async for entries in sweep(store, bulk.wanted, done_so_far):
        if registry.is_ending:
            raise ShuttingDown
        raw_ids = [raw_id for raw_id, record in entries if is_as_it_was(record, seen.newest)]
        if not raw_ids:
            looks += 1
            if looks % _QUIET_LOOKS == 0:
                yield pb.BulkJobsResponse(matched=seen.matched, done=done, skipped=skipped)
            continue
        step = await store.bulk(bulk.verb, bulk.argument, seen.newest, seen.run, raw_ids)
        assert step is not None, "only the beginning of a run can come too late"
        done, skipped = step.done, skipped + step.skipped
        _tell(registry, bulk)
        yield pb.BulkJobsResponse(matched=seen.matched, done=done, skipped=skipped)
    # What has changed so much that the filter finds it no more was never looked at.
    yield pb.BulkJobsResponse(matched=seen.matched, done=done, skipped=max(0, seen.matched - done), finished=True)


def _tell(registry: Registry, bulk: Bulk) -> None:
    """Let the queue do at once what has become due."""
    queue = registry.get(bulk.queue)
    if bulk.verb == "cancel":
        queue.pulse.beat_soon()
    elif bulk.verb in ("retry", "promote"):
        queue.partition.wake()
