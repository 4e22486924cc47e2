"""The jobs of a queue, state by state and index by index, in bounded steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from jobwire.v1 import job_pb2

from jobwire_broker.rules.filters import Filter
from jobwire_broker.store.arguments import MAX_ITEMS
from jobwire_broker.store.queue_store import QueueStore

#: How many steps one request for a page takes at most. Each looks at MAX_ITEMS places of an index, or fewer where records are long.
MAX_STEPS = 16
#: A page with so much in it ends. One step of the store brings at most about MAX_BYTES more, so that a page fits in the 4 MiB that any client takes.
MAX_PAGE_BYTES = 2 << 20

#: Which indexes hold the jobs of a state, in the order in which they are listed.
INDEXES: dict[int, str] = {
    job_pb2.JOB_STATE_DELAYED: "d",
    job_pb2.JOB_STATE_WAITING: "woU",
    job_pb2.JOB_STATE_BLOCKED: "",
    job_pb2.JOB_STATE_ACTIVE: "a",
    job_pb2.JOB_STATE_COMPLETED: "c",
    job_pb2.JOB_STATE_FAILED: "f",
    job_pb2.JOB_STATE_CANCELLED: "x",
    job_pb2.JOB_STATE_EXPIRED: "e",
}

Entries = list[tuple[bytes, bytes]]


def indexes_of(state: int, wanted: Filter | None) -> list[bytes]:
    """Where to look for the jobs of a state. Those of one fingerprint have an index of their own, and those of one group that wait have a line."""
    if state == job_pb2.JOB_STATE_FAILED and wanted is not None and wanted.fingerprint:
        return [(b"R" if wanted.resolved else b"D") + wanted.fingerprint]
    if state == job_pb2.JOB_STATE_WAITING and wanted is not None and wanted.group:
        return [b"o", b"U" + wanted.group]
    return [letter.encode() for letter in INDEXES[state]]


async def page_of(store: QueueStore, state: int, wanted: Filter | None, cursor: bytes, size: int) -> tuple[Entries, bytes]:
    """One page of a state, at most `size` jobs as (id, record without payload and result), and the cursor of the next one; empty on the last.

    It ends after MAX_STEPS, whatever it has found: there may be jobs that the filter leaves out, and places of COMPLETED jobs that were deleted.
    A cursor is the first letter of an index, and the place in it.
    """
    entries: Entries = []
    steps = size_bytes = 0
    for index, at in _from(indexes_of(state, wanted), cursor):
        while True:
            limit = MAX_ITEMS if wanted is not None else min(MAX_ITEMS, size - len(entries))
            at, found = await _step(store, index, at, wanted, limit, size - len(entries))
            entries += found
            steps += 1
            size_bytes += sum(len(record) for _, record in found)
            if at and (len(entries) >= size or steps >= MAX_STEPS or size_bytes >= MAX_PAGE_BYTES):
                return entries, index[:1] + at
            if not at:
                break
    return entries, b""


def _from(indexes: list[bytes], cursor: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The indexes that are left, each with the place where to begin."""
    left = indexes
    while cursor and left and left[0][:1] != cursor[:1]:
        left = left[1:]
    for number, index in enumerate(left):
        yield index, cursor[1:] if number == 0 else b""


async def _step(store: QueueStore, index: bytes, at: bytes, wanted: Filter | None, limit: int, room: int) -> tuple[bytes, Entries]:
    """The next cursor, and what was found. Where more are found than there is room for, fewer are looked at."""
    while True:
        following, entries = await store.page(index, at, limit)
        found = entries if wanted is None else [entry for entry in entries if wanted.matches(entry[1])]
        if len(found) <= room:
            return following, found
        limit = entries.index(found[room - 1]) + 1


async def scan(store: QueueStore, wanted: Filter) -> AsyncIterator[Entries]:
    """All jobs that a filter finds, in steps; what has ended comes oldest first. A job that moves meanwhile may be missed, or come twice (sweeps.py)."""
    for state in sorted(wanted.states):
        for index in indexes_of(state, wanted):
            at = b""
            while True:
                at, entries = await store.page(index, at, MAX_ITEMS, upward=True)
                yield [entry for entry in entries if wanted.matches(entry[1])]
                if not at:
                    break
