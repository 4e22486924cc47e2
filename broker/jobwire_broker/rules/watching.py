"""Watching the jobs of one queue: events from the store to mailboxes (RULES 6).

A new watcher is heard live first and takes its snapshot then, so nothing falls between. Every event message says which number the one before it had; where
one is missing, and after every reconnect, all watched jobs are read again.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import BrokerError, StoreFault
from jobwire_broker.names import id_to_text, job_path
from jobwire_broker.rules.mailbox import Mailbox
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Found
from jobwire_broker.store.arguments import MAX_ITEMS
from jobwire_broker.store.listener import Listener
from jobwire_broker.store.queue_store import QueueStore
from jobwire_broker.topics import Topic, parse_topic

log = logging.getLogger(__name__)

#: How long the pulse may be ahead of the events before what is watched is read again.
LAG_S = 0.25
_RETRY_S = 0.1


class Part(NamedTuple):
    """Some of the jobs of a queue: one group's, those with one label, or all of them."""

    group: str = ""
    label: tuple[str, str] | None = None


ALL = Part()


def part_of(topic: Topic) -> Part:
    """The jobs of a queue that a topic is about, when it is not one job."""
    return Part(topic.group, topic.label)


def _parts_of(group: str, labels: Mapping[str, str]) -> Iterator[Part]:
    """The parts of its queue, but for all of it, to which a job belongs."""
    if group:
        yield Part(group=group)
    for pair in labels.items():
        yield Part(label=pair)


def decode_events(message: bytes) -> tuple[int, int, list[tuple[bytes, bytes]]]:
    """The number before, the number, and (id, record without payload) of each change."""
    before, seq = struct.unpack_from(">QQ", message)
    entries, at = [], 16
    while at < len(message):
        (id_size,) = struct.unpack_from(">H", message, at)
        raw_id = message[at + 2 : at + 2 + id_size]
        at += 2 + id_size
        (size,) = struct.unpack_from(">I", message, at)
        entries.append((raw_id, message[at + 4 : at + 4 + size]))
        at += 4 + size
    return before, seq, entries


class Feed:
    """The watchers of one queue."""

    def __init__(self, store: QueueStore, listener: Listener) -> None:
        self._store = store
        self._listener = listener
        self._jobs: dict[bytes, set[Mailbox]] = {}
        self._many: dict[Part, set[Mailbox]] = {}
        self._counters: set[Callable[[], None]] = set()
        self._seq = 0
        #: The number of the last event before anybody followed many jobs.
        self._before = 0
        self._is_followed = False
        self._is_listening = False
        self._is_promised = False
        self._reading: asyncio.Task[None] | None = None
        self._readings: set[asyncio.Task[None]] = set()
        self._wanted: set[bytes] = set()
        self._lag_timer: asyncio.TimerHandle | None = None

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._jobs or self._many or self._counters)

    # Watchers -----------------------------------------------------------------------------------------------------------------------------------------

    async def watch_job(self, raw_id: bytes, mailbox: Mailbox) -> None:
        """Follow one job: a SNAPSHOT (or FINAL, or NOT_FOUND), then its changes. Raises StoreUnavailable, and then nothing is followed."""
        name = job_path(self._store.queue, raw_id)
        mailbox.open(name, lambda: self._read_for(raw_id, mailbox))
        self._jobs.setdefault(raw_id, set()).add(mailbox)
        try:
            await self._listen()
            found = (await self._store.get([raw_id]))[0]
        except BaseException:
            mailbox.abandon(name)
            await self.leave_job(raw_id, mailbox)
            raise
        mailbox.put_snapshot(snapshot_of(self._store.queue, raw_id, found))

    async def leave_job(self, raw_id: bytes, mailbox: Mailbox) -> None:
        """Follow it no more."""
        watchers = self._jobs.get(raw_id)
        if watchers is not None:
            watchers.discard(mailbox)
            if not watchers:
                del self._jobs[raw_id]
        await self._unlisten()

    async def watch_many(self, part: Part, mailbox: Mailbox) -> None:
        """Follow all changes of the jobs in the queue, in one of its groups, or with one label."""
        watchers = self._many.setdefault(part, set())
        if mailbox not in watchers:
            watchers.add(mailbox)
            mailbox.follow_queue(self._store.queue)
        await self._listen()
        await self._count()
        self._is_followed = True

    async def leave_many(self, part: Part, mailbox: Mailbox) -> None:
        """Follow them no more."""
        watchers = self._many.get(part)
        if watchers is not None:
            if mailbox in watchers:
                watchers.remove(mailbox)
                mailbox.follow_queue(self._store.queue, -1)
            if not watchers:
                del self._many[part]
        await self._unlisten()

    async def watch_all(self, mailbox: Mailbox) -> None:
        """Follow all changes of jobs in the queue."""
        await self.watch_many(ALL, mailbox)

    async def leave_all(self, mailbox: Mailbox) -> None:
        """Follow them no more."""
        await self.leave_many(ALL, mailbox)

    async def watch_counts(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever anything in the queue has."""
        self._counters.add(changed)
        await self._listen()

    async def leave_counts(self, changed: Callable[[], None]) -> None:
        """Call it no more."""
        self._counters.discard(changed)
        await self._unlisten()

    async def _listen(self) -> None:
        self._is_listening = True
        await self._listener.add(self._store.events_channel, self._heard)
        # From here on somebody counts on hearing everything.
        self._is_promised = True

    async def _count(self) -> None:
        """Ask for the number of the last event before somebody follows many jobs: else the next pulse is ahead, and a gap is told that is none."""
        if self._seq or self._is_followed:
            return
        with suppress(BrokerError, StoreFault):
            last = (await self._store.stats()).seq
            if not self._seq and not self._is_followed:
                self._before = last

    async def _unlisten(self) -> None:
        if self._is_listening and not self.is_watched:
            self._is_listening = self._is_promised = self._is_followed = False
            self._seq = self._before = 0
            await self._listener.remove(self._store.events_channel)

    # Events -------------------------------------------------------------------------------------------------------------------------------------------

    def _heard(self, message: bytes | None) -> None:
        if message is None:
            self._seq = self._before = 0
            if self._is_promised:
                self.read_again()
            return
        before, seq, entries = decode_events(message)
        # One that was under way while its number was asked for says nothing of what comes next.
        if seq > self._before:
            last = self._seq or self._before
            if last and before != last:
                self.read_again()
            self._seq = max(seq, self._seq) if before >= self._seq else seq
        if self._jobs or self._many:
            for raw_id, record in entries:
                if codec.is_readable(record):
                    self._tell(raw_id, record)
        for changed in self._counters:
            changed()

    def _tell(self, raw_id: bytes, record: bytes) -> None:
        watchers = self._jobs.get(raw_id)
        if not watchers and not self._many:
            return
        change = change_of(self._store.queue, raw_id, record)
        if change is None:
            self._want([raw_id])
            return
        for mailbox in self._watchers_of(raw_id, change):
            mailbox.put(change, len(record))

    def _watchers_of(self, raw_id: bytes, change: pb.JobChange) -> set[Mailbox]:
        """Whom a change of a job is told."""
        told = set(self._jobs.get(raw_id, ()))
        if self._many:
            for part in (ALL, *_parts_of(change.job.group, change.job.labels), *(part_of(parse_topic(name, "left")) for name in change.left)):
                told |= self._many.get(part, set())
        return told

    def pulse_saw(self, seq: int) -> None:
        """The store's events are at `seq`. When ours don't get there in LAG_S, some were lost."""
        if self.is_watched and seq > self._seq and self._lag_timer is None:
            self._lag_timer = asyncio.get_running_loop().call_later(LAG_S, self._check_lag, seq)

    def _check_lag(self, seq: int) -> None:
        self._lag_timer = None
        if self.is_watched and self._seq < seq:
            self._seq = seq
            self._read_jobs_again()
            # What was before somebody followed many jobs is no gap to them.
            if seq > self._before:
                self._tell_gap()
            for changed in self._counters:
                changed()

    def read_again(self) -> None:
        """Events may have been missed, or the store has lost what they told: read all watched jobs, and tell those who watch the whole queue."""
        self._read_jobs_again()
        self._tell_gap()

    def _read_jobs_again(self) -> None:
        for mailbox in set().union(*self._jobs.values()):
            mailbox.doubt(self._store.queue)
        self._want(list(self._jobs))

    def _tell_gap(self) -> None:
        gap = pb.JobChange(type=pb.CHANGE_TYPE_GAP)
        gap.job.queue, gap.job.name = self._store.queue, f"queues/{self._store.queue}"
        for mailbox in set().union(*self._many.values()):
            mailbox.doubt(self._store.queue)
            mailbox.put(gap)

    def _want(self, raw_ids: Sequence[bytes]) -> None:
        self._wanted.update(raw_ids)
        if self._wanted and self._reading is None:
            self._reading = asyncio.create_task(self._read_wanted())

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                batch = [self._wanted.pop() for _ in range(min(len(self._wanted), MAX_ITEMS))]
                try:
                    found = await self._store.get(batch)
                except (BrokerError, StoreFault):
                    self._wanted.update(batch)
                    await asyncio.sleep(_RETRY_S)
                    continue
                for raw_id, answer in zip(batch, found, strict=False):
                    self._tell_read(raw_id, answer)
                # Those that were too large for one call with the others.
                self._wanted.update(batch[len(found) :])
        finally:
            self._reading = None

    def _tell_read(self, raw_id: bytes, found: Found) -> None:
        if found.record and not codec.is_readable(found.record):
            return
        change = snapshot_of(self._store.queue, raw_id, found)
        if change.type == pb.CHANGE_TYPE_SNAPSHOT:
            change.type = pb.CHANGE_TYPE_UPDATE
        elif change.type == pb.CHANGE_TYPE_NOT_FOUND:
            # It was there when the watch began.
            change.type = pb.CHANGE_TYPE_FINAL
            change.job.state = job_pb2.JOB_STATE_REMOVED
        for mailbox in self._watchers_of(raw_id, change):
            mailbox.put(change, len(found.record))

    def _read_for(self, raw_id: bytes, mailbox: Mailbox) -> None:
        """Read a job again for one of its watchers, which has made room for it."""
        task = asyncio.create_task(self._read_patiently(raw_id, mailbox))
        self._readings.add(task)
        task.add_done_callback(self._readings.discard)

    async def _read_patiently(self, raw_id: bytes, mailbox: Mailbox) -> None:
        name = job_path(self._store.queue, raw_id)
        while mailbox in self._jobs.get(raw_id, ()):
            mailbox.open(name, lambda: self._read_for(raw_id, mailbox))
            try:
                (found,) = await self._store.get([raw_id])
            except (BrokerError, StoreFault):
                mailbox.abandon(name)
                await asyncio.sleep(_RETRY_S)
                continue
            if mailbox in self._jobs.get(raw_id, ()):
                mailbox.put_snapshot(snapshot_of(self._store.queue, raw_id, found))
            else:
                mailbox.abandon(name)
            return


def change_of(queue: str, raw_id: bytes, record: bytes) -> pb.JobChange | None:
    """The change that an event tells; None when the event had no room for it."""
    found = codec.sections(record, codec.body_start(record))
    if codec.TAG_TRUNCATED in found:
        return None
    change = pb.JobChange(job=codec.job_from_record(queue, raw_id, record))
    if codec.TAG_LOG in found:
        change.lines.extend(codec.decode_lines(found[codec.TAG_LOG]))
        change.type = pb.CHANGE_TYPE_LOG
    else:
        change.type = pb.CHANGE_TYPE_FINAL if change.job.state in codec.FINAL_STATES else pb.CHANGE_TYPE_UPDATE
    if codec.TAG_WAS in found:
        change.left.extend(_left(change.job, codec.sections(found[codec.TAG_WAS], 0)))
    return change


def _left(job: job_pb2.Job, was: Mapping[int, bytes]) -> Iterator[str]:
    """The topics that a job belonged to by these sections, and does no longer."""
    now = set(_parts_of(job.group, job.labels))
    before = _parts_of(was.get(codec.TAG_GROUP, b"").decode(), codec.decode_labels(was.get(codec.TAG_LABELS, b"")))
    for part in before:
        if part not in now:
            yield f"queues/{job.queue}/{f'labels/{part.label[0]}={part.label[1]}' if part.label else f'groups/{part.group}'}"


def snapshot_of(queue: str, raw_id: bytes, found: Found) -> pb.JobChange:
    """A job as it was read: SNAPSHOT, FINAL or NOT_FOUND."""
    if found.record:
        job = codec.job_from_record(queue, raw_id, found.record)
        return pb.JobChange(type=pb.CHANGE_TYPE_FINAL if job.state in codec.FINAL_STATES else pb.CHANGE_TYPE_SNAPSHOT, job=job)
    return pb.JobChange(type=pb.CHANGE_TYPE_FINAL if found.state else pb.CHANGE_TYPE_NOT_FOUND, job=gone_job(queue, raw_id, found))


def gone_job(queue: str, raw_id: bytes, found: Found) -> job_pb2.Job:
    """What is left of a job that was removed: its address, and its end as far as it is known."""
    text = id_to_text(raw_id)
    return job_pb2.Job(name=f"queues/{queue}/jobs/{text}", queue=queue, id=text, state=job_pb2.JobState.ValueType(found.state), revision=found.revision)
