"""Going through all jobs that there are, although those that wait move meanwhile.

A job that waits may be parked behind a limit, or for a worker with labels, and go back to its line, without being changed. So one look at each line may
miss it, or see it twice: who must miss none looks again until a look finds nothing new, and counts a job once.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from jobwire.v1 import job_pb2

from jobwire_broker.rules.filters import Filter
from jobwire_broker.rules.listing import Entries, scan
from jobwire_broker.store.answers import Purged
from jobwire_broker.store.queue_store import QueueStore

#: How often those that wait are looked at. Each look but the last has found something that the ones before it missed.
MAX_LOOKS = 8
_PARTS = 64


class Numbers:
    """How many different numbers of 64 bits were added, in 8 bytes for each."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(_PARTS)]

    def add(self, number: int) -> None:
        """Add one."""
        self._parts[number % _PARTS].append(number)

    def count(self) -> int:
        """How many they are."""
        for i, part in enumerate(self._parts):
            self._parts[i] = array("Q", set(part))
        return sum(map(len, self._parts))


async def sweep(store: QueueStore, wanted: Filter, found: Callable[[], int]) -> AsyncIterator[Entries]:
    """All jobs that a filter finds, in steps, as `scan` gives them; those that wait again, where there are lines, until a look adds nothing to `found`."""
    has_lines = await _has_lines(store)
    async for entries in scan(store, wanted):
        yield entries
    if job_pb2.JOB_STATE_WAITING not in wanted.states:
        return
    waiting = replace(wanted, states=frozenset((job_pb2.JOB_STATE_WAITING,)))
    for _ in range(MAX_LOOKS - 1):
        has_lines = has_lines or await _has_lines(store)
        if not has_lines:
            return
        before = found()
        async for entries in scan(store, waiting):
            yield entries
        if found() == before:
            return


async def _has_lines(store: QueueStore) -> bool:
    """Whether jobs wait elsewhere than in the queue's own line."""
    cursor, entries = await store.page("U", b"", 1)
    return bool(cursor or entries)


async def purge(store: QueueStore) -> int:
    """Delete the jobs that wait or are delayed now, in steps. Answers how many."""
    deleted, newest = 0, 0
    for _ in range(MAX_LOOKS):
        step = Purged(0, newest, b"", b"")
        found = 0
        while True:
            step = await store.purge(step)
            found += step.deleted
            if not step.next_index:
                break
        deleted, newest = deleted + found, step.newest
        if not found:
            break
    return deleted
