"""A watcher's mailbox: bounded in count and bytes, in order per job, with what nobody will miss left out.

Progress of a job takes the place of the progress before it. Changes of state are kept, up to MAX_PER_JOB for one job (then log lines go, and after them the
oldest in between), and the last change of state of each job is always kept. Nothing older than what was put before for the same job gets in, unless the store
may have lost what was told (`doubt`). Where the mailbox is shared, an answer takes nothing from those who follow the whole queue, whenever their event comes.
A reader of whole queues that falls behind by MAX_JOBS jobs, or MAX_BYTES, is told of a gap; what it follows by name it still hears of, down to the last change
of each. What is too much even so is dropped, and read again when the reader has made room.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jobwire.v1 import job_service_pb2 as pb

MAX_PER_JOB = 16
MAX_JOBS = 10_000
MAX_SEEN = 100_000
#: What may wait for a reader, and how much more for each job that it follows by name. A change may carry a result of 1 MiB.
MAX_BYTES, MAX_BYTES_PER_FOLLOWED = 16 << 20, 1 << 10
#: What one frame takes, or one change that is larger: the rest of its 3 MiB is for names and counts.
MAX_FRAME_BYTES = 2 << 20
#: How many jobs are read again at once.
_READ_AGAIN = 4
_ALWAYS = frozenset((pb.CHANGE_TYPE_LOG, pb.CHANGE_TYPE_GAP, pb.CHANGE_TYPE_NOT_FOUND))


class _Kept(NamedTuple):
    change: pb.JobChange
    size: int


class Mailbox:
    """Changes on their way to one reader. `is_shared`: it reads for others, of whom some follow queues and some jobs in them by name; each is to get all."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        # Of jobs whose answer has gone ahead of their events: the revision up to which the events themselves were told.
        self._told: dict[str, int] = {}
        self._queues: Counter[str] = Counter()
        self._chains: dict[str, list[_Kept]] = {}
        self._bytes = 0
        self._seen: dict[str, int] = {}
        self._doubted: set[str] = set()
        self._opening: dict[str, int] = {}
        self._snapshots: dict[str, list[_Kept]] = {}
        self._followed: dict[str, Callable[[], None]] = {}
        self._lost: dict[str, None] = {}
        self._ready = asyncio.Event()

    def open(self, name: str, read_again: Callable[[], None]) -> None:
        """A snapshot of this job is under way: keep what comes until it is there. `read_again` is to bring another one, where changes were dropped."""
        self._opening[name] = self._opening.get(name, 0) + 1
        self._followed[name] = read_again

    def follow_queue(self, queue: str, by: int = 1) -> None:
        """The reader follows all jobs of a queue, or some by what they have in common; -1: not any more."""
        self._queues[queue] += by

    def put_snapshot(self, change: pb.JobChange) -> None:
        """The job as it was read after `open`: it goes before what is newer, and in place of what is not."""
        name = change.job.name
        before = self._seen.get(name, 0)
        self._opened(name)
        # Who asks twice is answered twice, also when the first answer has not been taken yet.
        snapshots = self._snapshots.setdefault(name, [])
        others = [kept for kept in self._pop(name) if all(kept is not snapshot for snapshot in snapshots)]
        is_doubted = name in self._doubted
        newer = [kept for kept in others if kept.change.type in _ALWAYS or (kept.change.job.revision > change.job.revision and not is_doubted)]
        late: list[_Kept] = []
        if self._is_shared:
            change.audience = pb.CHANGE_AUDIENCE_JOB
            if self._queues[change.job.queue] and not is_doubted:
                late = [_for_many(kept) for kept in others if kept.change.type not in _ALWAYS and kept.change.job.revision <= change.job.revision]
                if before < change.job.revision:
                    self._told.setdefault(name, before)
        if is_doubted:
            self._seen.pop(name, None)
        snapshots.append(_Kept(change, change.ByteSize()))
        self._set(name, [*snapshots, *late, *newer])
        self._note(name, change.job.revision)
        self._bound()
        self._ready.set()

    def abandon(self, name: str) -> None:
        """The snapshot will not come."""
        self._opened(name)
        self._ready.set()

    def _opened(self, name: str) -> None:
        count = self._opening.get(name, 0)
        if count > 1:
            self._opening[name] = count - 1
        else:
            self._opening.pop(name, None)

    def put(self, change: pb.JobChange, size: int | None = None) -> None:
        """Take a change in, unless the reader knows better already. `size` is about how long it is."""
        name = change.job.name
        if change.type not in _ALWAYS:
            revision = change.job.revision
            seen = self._seen.get(name, 0)
            told = self._told.pop(name, None) if self._told else None
            if told is not None and told < revision <= seen:
                if revision < seen:
                    self._told[name] = revision
                change = _only_for_many(change)
            elif revision and revision <= seen:
                if told is not None:
                    self._told[name] = told
                if revision == seen or name not in self._doubted:
                    return
                del self._seen[name]
                change = _as_snapshot(change)
            self._doubted.discard(name)
            self._note(name, revision)
        kept = _Kept(change, change.ByteSize() if size is None else size)
        self._bytes += kept.size
        chain = self._chains.setdefault(name, [])
        if chain and _is_progress(chain[-1].change, change):
            self._bytes -= chain[-1].size
            chain[-1] = kept
        else:
            chain.append(kept)
            if len(chain) > MAX_PER_JOB:
                self._bytes -= chain.pop(next((i for i, other in enumerate(chain[1:], 1) if other.change.type == pb.CHANGE_TYPE_LOG), 1)).size
        self._bound()
        self._ready.set()

    def _pop(self, name: str) -> list[_Kept]:
        chain = self._chains.pop(name, [])
        self._bytes -= sum(kept.size for kept in chain)
        return chain

    def _set(self, name: str, chain: list[_Kept]) -> None:
        self._chains[name] = chain
        self._bytes += sum(kept.size for kept in chain)

    def _note(self, name: str, revision: int) -> None:
        # The names that were quiet for longest stand first, and are forgotten first.
        self._seen[name] = max(revision, self._seen.pop(name, 0))
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def doubt(self, queue: str) -> None:
        """The store may have lost what was told of this queue's jobs, so what is put next holds, even when it is older.

        Of a job that is followed by name it then goes out as a SNAPSHOT or a FINAL, and what is the same as before is not told again. The others begin anew.
        """
        jobs = f"queues/{queue}/jobs/"
        told = [name for name in self._seen if name.startswith(jobs)]
        self._told = {name: revision for name, revision in self._told.items() if not name.startswith(jobs)}
        self._doubted = {name for name in self._doubted if name in self._seen} | {name for name in told if name in self._followed}
        for name in told:
            if name not in self._followed:
                del self._seen[name]

    def forget(self, name: str) -> None:
        """The reader follows this job no more."""
        self._pop(name)
        self._snapshots.pop(name, None)
        self._seen.pop(name, None)
        self._told.pop(name, None)
        self._doubted.discard(name)
        self._followed.pop(name, None)
        self._lost.pop(name, None)

    def wake(self) -> None:
        """Let the reader look, though nothing came."""
        self._ready.set()

    async def wait(self) -> None:
        """Return when there is something to take, or wake was called."""
        await self._ready.wait()
        self._ready.clear()

    def take(self, limit: int = 500) -> list[pb.JobChange]:
        """Up to about `limit` changes and MAX_FRAME_BYTES, or one change, in order per job."""
        taken: list[pb.JobChange] = []
        size = 0
        for name in [name for name in self._chains if name not in self._opening] if self._opening else list(self._chains):
            if len(taken) >= limit:
                self._ready.set()
                break
            chain = self._pop(name)
            snapshots = self._snapshots.pop(name, [])
            at = 0
            while at < len(chain) and (not taken or size + chain[at].size <= MAX_FRAME_BYTES):
                taken.append(chain[at].change)
                size += chain[at].size
                at += 1
            if at < len(chain):
                self._put_back(name, chain[at:], snapshots[at:])
                break
        if self._lost and self._bytes <= MAX_BYTES // 4:
            self._read_lost()
        return taken

    def _put_back(self, name: str, chain: list[_Kept], snapshots: list[_Kept]) -> None:
        # First again: what is taken in pieces would else never end under a flood of others.
        others, self._chains = self._chains, {}
        self._set(name, chain)
        self._chains |= others
        if snapshots:
            self._snapshots[name] = snapshots
        self._ready.set()

    def _bound(self) -> None:
        most = MAX_BYTES + MAX_BYTES_PER_FOLLOWED * len(self._followed)
        if len(self._chains) > MAX_JOBS + len(self._followed) or self._bytes > most:
            self._overflow()
            if self._bytes > most:
                self._lose(most // 2)

    def _overflow(self) -> None:
        # A reader this slow is told so instead of being fed an old backlog; the newest change of each job is in the store.
        dropped = [name for name in self._chains if name not in self._followed]
        queues = {kept.change.job.queue for name in dropped for kept in self._pop(name)}
        for name in dropped:
            self._seen.pop(name, None)
        for name in list(self._chains):
            chain = self._pop(name)
            for_many = [kept for kept in chain if kept.change.audience == pb.CHANGE_AUDIENCE_MANY]
            for_job = [kept for kept in chain if kept.change.audience != pb.CHANGE_AUDIENCE_MANY]
            self._set(name, [*([self._last_of(name, for_job)] if for_job else []), *for_many[-1:]])
        self._snapshots.clear()
        self._tell_gaps(queues)

    def _tell_gaps(self, queues: Iterable[str]) -> None:
        for queue in queues:
            gap = pb.JobChange(type=pb.CHANGE_TYPE_GAP)
            gap.job.queue, gap.job.name = queue, f"queues/{queue}"
            self._pop(gap.job.name)
            self._set(gap.job.name, [_Kept(gap, gap.ByteSize())])

    def _last_of(self, name: str, chain: list[_Kept]) -> _Kept:
        last = next((kept for kept in reversed(chain) if kept.change.type != pb.CHANGE_TYPE_LOG), chain[-1])
        if name in self._snapshots and last.change.type == pb.CHANGE_TYPE_UPDATE:
            # Its reader waits for a snapshot.
            return _Kept(pb.JobChange(type=pb.CHANGE_TYPE_SNAPSHOT, job=last.change.job), last.size)
        return last

    def _lose(self, most: int) -> None:
        """Drop what is followed, the latest first, until so much is left."""
        queues = set()
        for name in reversed(list(self._chains)):
            if self._bytes <= most:
                break
            if name in self._followed:
                queues |= {kept.change.job.queue for kept in self._pop(name)}
                self._seen.pop(name, None)
                self._told.pop(name, None)
                self._lost[name] = None
        if self._is_shared:
            # What is read again is for those who follow the jobs by name.
            self._tell_gaps(queue for queue in queues if self._queues[queue])

    def _read_lost(self) -> None:
        for name in list(self._lost)[:_READ_AGAIN]:
            del self._lost[name]
            self._followed[name]()


def _only_for_many(change: pb.JobChange) -> pb.JobChange:
    copy = pb.JobChange()
    copy.CopyFrom(change)
    copy.audience = pb.CHANGE_AUDIENCE_MANY
    return copy


def _for_many(kept: _Kept) -> _Kept:
    return _Kept(_only_for_many(kept.change), kept.size)


def _as_snapshot(change: pb.JobChange) -> pb.JobChange:
    return pb.JobChange(type=pb.CHANGE_TYPE_SNAPSHOT, job=change.job) if change.type == pb.CHANGE_TYPE_UPDATE else change


def _is_progress(before: pb.JobChange, after: pb.JobChange) -> bool:
    if before.left or not before.type == after.type == pb.CHANGE_TYPE_UPDATE:
        return False
    return before.job.state == after.job.state and before.job.attempt == after.job.attempt
