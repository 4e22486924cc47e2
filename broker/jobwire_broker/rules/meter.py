"""What one queue on this broker has done: counts and two histograms, fed with whole batches.

Nothing is asked of the store. A token is the moment of its lease and a place in the queue the moment when its job began to wait, both in microseconds of
the store's clock: so a wait is their difference, and a duration the time from the token to now. What the store's clock differs from ours, and what its
answers take, is learned from the tokens themselves (`Clock`).

Measured beside the rest of the hot path: about 1 µs per job with all of its life; nothing where no metrics are served.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from struct import Struct

from jobwire.v1 import job_pb2

from jobwire_broker.store.answers import Lease, Other, Settled, Word
from jobwire_broker.store.arguments import TurnItem
from jobwire_broker.store.codec import HEADER_SIZE

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
#: Words from outside (job names, error types) beyond this many are counted as OTHER: each is a series of its own for ever.
MAX_WORDS = 100
OTHER = "other"
#: Jobs under way whose names are remembered.
_MAX_NAMES = 20_000

#: Where `order` stands in a record's header.
_ORDER = Struct(">38xQ")
_FAILED = job_pb2.JOB_STATE_FAILED
_OTHER = OTHER.encode()
#: An enum's member costs a lookup for each job.
_OK = Word.OK.value


class Histogram:
    """Counts by upper bound, and the sum, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. What two clocks make negative counts as nothing."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        if seconds > 0:
            self.sum += seconds


class Clock:
    """How far our clock is before the store's, in microseconds: the least that was seen, which creeps up so that a jump is forgotten within minutes."""

    def __init__(self) -> None:
        self.ahead_us = 0.0
        self._is_set = False

    def saw(self, store_us: int) -> None:
        """A moment of the store that is just over."""
        ahead_us = time.time() * 1e6 - store_us
        if not self._is_set or ahead_us < self.ahead_us:
            self.ahead_us, self._is_set = ahead_us, True
        else:
            self.ahead_us += (ahead_us - self.ahead_us) * 0.001

    def now_us(self) -> float:
        """Now, on the store's clock."""
        return time.time() * 1e6 - self.ahead_us


class Words:
    """Counts by words from outside, of which only so many are told apart."""

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}

    def add(self, word: bytes) -> None:
        """Count one."""
        counts = self._counts
        if word in counts:
            counts[word] += 1
        elif len(counts) < MAX_WORDS:
            counts[word] = 1
        else:
            counts[_OTHER] = counts.get(_OTHER, 0) + 1

    def items(self) -> Iterator[tuple[str, int]]:
        """Each word with its count."""
        return ((word.decode(errors="replace"), count) for word, count in self._counts.items())


class Meter:
    """One queue."""

    def __init__(self, clock: Clock) -> None:
        self.enqueued = 0
        self.leased = 0
        self.handed_back = 0
        self.retries = 0
        self.completions = Words()
        """By job name."""
        self.failures = Words()
        """Jobs that ended as FAILED by what their worker said, by job name."""
        self.errors = Words()
        """Attempts that failed, by the error's type."""
        self.waits = Histogram(WAIT_BUCKETS)
        self.durations = Histogram(DURATION_BUCKETS)
        self._clock = clock
        self._names: dict[int, bytes] = {}

    def made(self, words: Sequence[str | Other]) -> None:
        """Jobs were enqueued with these words."""
        self.enqueued += words.count(Word.MADE)

    def delivered(self, leases: Sequence[Lease]) -> None:
        """Jobs were leased."""
        names, waits = self._names, self.waits
        counts, bounds, total_us, last = waits.counts, waits.bounds, 0, 0
        for lease in leases:
            self.leased += len(lease.jobs)
            for _, token, record in lease.jobs:
                wait_us = token - _ORDER.unpack_from(record)[0]
                names[token] = record[HEADER_SIZE + 1 : HEADER_SIZE + 1 + record[HEADER_SIZE]]
                counts[bisect_left(bounds, wait_us / 1e6)] += 1
                total_us += wait_us
                last = token
        if last:
            waits.sum += total_us / 1e6
            self._clock.saw(last)
        if len(names) > _MAX_NAMES:
            self._forget()

    def settled(self, items: Sequence[TurnItem], answers: Sequence[Settled]) -> None:
        """What workers said was settled."""
        now_us = self._clock.now_us()
        pop, add, observe = self._names.pop, self.completions.add, self.durations.observe
        for item, (word, state) in zip(items, answers, strict=True):
            kind, token = item.kind, item.token
            if word != _OK:
                continue
            if kind == "C":
                add(pop(token, b""))
                observe((now_us - token) / 1e6)
            elif kind == "F":
                self._failed(item, pop(token, b""), state)
                observe((now_us - token) / 1e6)
            elif kind in "SRG":
                pop(token, b"")
                self.handed_back += 1

    def _failed(self, item: TurnItem, name: bytes, state: int) -> None:
        failure = job_pb2.Failure.FromString(item.a) if isinstance(item.a, bytes) else job_pb2.Failure()
        self.errors.add(failure.type.encode())
        if state == _FAILED:
            self.failures.add(name)
        else:
            self.retries += 1

    def _forget(self) -> None:
        """Leases that were lost never end here: the oldest half goes."""
        for token in list(self._names)[: _MAX_NAMES // 2]:
            del self._names[token]
