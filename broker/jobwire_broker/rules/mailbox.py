"""A watcher's mailbox: bounded, in order per job, with what nobody will miss left out.

Progress of a job takes the place of the progress before it. Changes of state are kept, up to MAX_PER_JOB for one job (then log lines go, and after them the
oldest in between), and the last change of state of each job is always kept. Nothing older than what was put before for the same job gets in. A reader of whole
queues that falls behind by MAX_JOBS jobs is told of a gap; what it follows by name it still hears of, down to the last change of each.
"""

from __future__ import annotations

import asyncio

from jobwire.v1 import job_service_pb2 as pb

MAX_PER_JOB = 16
MAX_JOBS = 10_000
MAX_SEEN = 100_000
_ALWAYS = frozenset((pb.CHANGE_TYPE_LOG, pb.CHANGE_TYPE_GAP, pb.CHANGE_TYPE_NOT_FOUND))


class Mailbox:
    """Changes on their way to one reader."""

    def __init__(self) -> None:
        self._chains: dict[str, list[pb.JobChange]] = {}
        self._seen: dict[str, int] = {}
        self._opening: dict[str, int] = {}
        self._snapshots: dict[str, list[pb.JobChange]] = {}
        self._followed: set[str] = set()
        self._ready = asyncio.Event()

    def open(self, name: str) -> None:
        """A snapshot of this job is under way: keep what comes until it is there."""
        self._opening[name] = self._opening.get(name, 0) + 1
        self._followed.add(name)

    def put_snapshot(self, change: pb.JobChange) -> None:
        """The job as it was read after `open`: it goes before what is newer, and in place of what is not."""
        name = change.job.name
        self._opened(name)
        # Who asks twice is answered twice, also when the first answer has not been taken yet.
        snapshots = self._snapshots.setdefault(name, [])
        others = [c for c in self._chains.pop(name, []) if all(c is not snapshot for snapshot in snapshots)]
        newer = [c for c in others if c.type in _ALWAYS or c.job.revision > change.job.revision]
        snapshots.append(change)
        self._chains[name] = [*snapshots, *newer]
        self._note(name, change.job.revision)
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

    def put(self, change: pb.JobChange) -> None:
        """Take a change in, unless the reader knows better already."""
        name = change.job.name
        if change.type not in _ALWAYS:
            revision = change.job.revision
            if revision and revision <= self._seen.get(name, 0):
                return
            self._note(name, revision)
        chain = self._chains.setdefault(name, [])
        if chain and _is_progress(chain[-1], change):
            chain[-1] = change
        else:
            chain.append(change)
            if len(chain) > MAX_PER_JOB:
                del chain[next((i for i, kept in enumerate(chain[1:], 1) if kept.type == pb.CHANGE_TYPE_LOG), 1)]
        if len(self._chains) > MAX_JOBS + len(self._followed):
            self._overflow()
        self._ready.set()

    def _note(self, name: str, revision: int) -> None:
        # The names that were quiet for longest stand first, and are forgotten first.
        self._seen[name] = max(revision, self._seen.pop(name, 0))
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def forget(self, name: str) -> None:
        """The reader follows this job no more."""
        self._chains.pop(name, None)
        self._snapshots.pop(name, None)
        self._seen.pop(name, None)
        self._followed.discard(name)

    def wake(self) -> None:
        """Let the reader look, though nothing came."""
        self._ready.set()

    async def wait(self) -> None:
        """Return when there is something to take, or wake was called."""
        await self._ready.wait()
        self._ready.clear()

    def take(self, limit: int = 500) -> list[pb.JobChange]:
        """Up to about `limit` changes, in order per job."""
        taken: list[pb.JobChange] = []
        for name in [name for name in self._chains if name not in self._opening] if self._opening else list(self._chains):
            if len(taken) >= limit:
                self._ready.set()
                break
            taken += self._chains.pop(name)
            self._snapshots.pop(name, None)
        return taken

    def _overflow(self) -> None:
        # A reader this slow is told so instead of being fed an old backlog; the newest change of each job is in the store.
        dropped = [name for name in self._chains if name not in self._followed]
        queues = {change.job.queue for name in dropped for change in self._chains.pop(name)}
        for name in dropped:
            self._seen.pop(name, None)
        for name, chain in self._chains.items():
            self._chains[name] = [next((change for change in reversed(chain) if change.type != pb.CHANGE_TYPE_LOG), chain[-1])]
        self._snapshots.clear()
        for queue in queues:
            gap = pb.JobChange(type=pb.CHANGE_TYPE_GAP)
            gap.job.queue, gap.job.name = queue, f"queues/{queue}"
            self._chains[gap.job.name] = [gap]


def _is_progress(before: pb.JobChange, after: pb.JobChange) -> bool:
    return before.type == after.type == pb.CHANGE_TYPE_UPDATE and before.job.state == after.job.state and before.job.attempt == after.job.attempt
