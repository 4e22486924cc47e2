"""The calls on one queue, each one atomic call to a function: arguments packed, answers unpacked, nothing decided.

At most MAX_ITEMS items and about MAX_BYTES per call, so that no call holds the store up (RULES 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from jobwire_broker.store.answers import (
    Attached,
    BulkStep,
    Changed,
    Cleaned,
    Explained,
    FailedAlike,
    Found,
    Group,
    Inspected,
    Logs,
    Oldest,
    PendingCancel,
    PulseReport,
    Purged,
    Run,
    Settled,
    Stats,
    TurnReport,
    Word,
    crew_of,
    enqueued,
    group_of,
    judged_of,
    run_of,
    step_of,
    turned,
)
from jobwire_broker.store.arguments import NO_LIMIT, JobItem, LeaseRequest, OwnLimit, Renewal, TurnItem, item_args, lease_args, turn_args
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.codec import LogHead
from jobwire_broker.store.policy import DEFAULT_PRIORITY


class QueueStore:
    """The keys of one queue."""

    def __init__(self, client: StoreClient, queue: str) -> None:
        self._call = client.call
        self._begin = client.begin
        self.queue = queue
        base = client.base(queue)
        self._meta = base + "m"
        self.events_channel = base + "E"
        self.wake_channel = base + "W"

    def enqueue(
        self, items: Sequence[JobItem], leases: Sequence[LeaseRequest] = (), priority: int = DEFAULT_PRIORITY, args: list[Any] | None = None
    ) -> Awaitable[TurnReport]:
        """Make jobs, then lease. `words` are MADE, EXISTS, FULL, TOO_LARGE or Other; `priority` is the queue's, for items that name none. The call is sent
        before this returns when a connection is free; to be awaited once. `args`: the item_args of items and priority, where they were made ahead.
        Raises PolicyChanged.
        """
        said = item_args(items, priority) if args is None else args
        return enqueued(self._begin("enqueue", self._meta, said + lease_args(leases)), len(items))

    def known(self, items: Sequence[JobItem], priority: int = DEFAULT_PRIORITY) -> Awaitable[TurnReport]:
        """What `enqueue` would say of jobs that are there already; STORE_FULL for the others. Makes nothing."""
        return enqueued(self._begin("known", self._meta, [*item_args(items, priority), 0]), len(items))

    def turn(self, items: Sequence[TurnItem], leases: Sequence[LeaseRequest] = ()) -> Awaitable[TurnReport]:
        """Settle what workers say, then lease. Sent as `enqueue` is."""
        return turned(self._begin("turn", self._meta, turn_args(items) + lease_args(leases)))

    async def attach(
        self,
        session: bytes,
        epoch: int,
        session_ms: int,
        descriptor: bytes,
        held: Sequence[tuple[bytes, int]],
        *,
        number: int = 1,
        labels: bytes = b"",
    ) -> Attached | None:
        """Bind a session to its newest stream. A word per held job; None when a newer stream has it.

        `number` grows with each call of an epoch, so that one which comes late does not undo a later one. `labels` are packed as those of a job.
        """
        args: list[Any] = [session, epoch, number, session_ms, descriptor, len(held)]
        for raw_id, token in held:
            args += (raw_id, token)
        if labels:
            args.append(labels)
        while (answer := await self._call("attach", self._meta, args))[0] != b"SESSION_MOVED" and answer[6]:
            pass
        if answer[0] == b"SESSION_MOVED":
            return None
        return Attached([Settled(word.decode(), state) for word, state in zip(answer[1], answer[2], strict=True)], answer[5].decode())

    async def detach(self, session: bytes, epoch: int) -> None:
        """End a session; what it holds goes back, some of it with each call."""
        while (await self._call("detach", self._meta, (session, epoch)))[0].decode() == Word.MORE:
            pass

    async def pulse(self, session_ms: int, renewals: Sequence[Renewal], policy_version: int = 0) -> PulseReport:
        """Renew sessions and do what is due; learn the policy when it is not that of `policy_version`."""
        args: list[Any] = [session_ms, len(renewals)]
        for renewal in renewals:
            args += renewal
        args.append(policy_version)
        words, held, cancels, seq, waiting, active, delayed, due_ms, deadline_ms, more, late, text = await self._call("pulse", self._meta, args)
        policy = None if text is None else text.decode()
        pending = [PendingCancel(cancels[i] - 1, *cancels[i + 1 : i + 4]) for i in range(0, len(cancels), 4)]
        timeouts = [(late[i] - 1, late[i + 1], late[i + 2]) for i in range(0, len(late), 3)]
        return PulseReport([w.decode() for w in words], held, pending, seq, waiting, active, delayed, due_ms, deadline_ms, bool(more), timeouts, policy)

    async def cancel(self, raw_id: bytes, grace_ms: int) -> Changed:
        """Cancel a job."""
        return self._changed(await self._call("cancel", self._meta, (grace_ms, raw_id)))

    async def retry(self, raw_id: bytes) -> Changed:
        """Put an ended job back."""
        return self._changed(await self._call("retry", self._meta, (raw_id,)))

    async def redrive(self, raw_id: bytes, payload: bytes) -> Changed:
        """Put an ended job back with another payload, which comes as a section. Raises StoreFull."""
        return self._changed(await self._call("redrive", self._meta, (payload, raw_id)))

    async def update(self, raw_id: bytes, changes: Sequence[str | bytes | int]) -> Changed:
        """Change a job that waits: pairs of what and to what, as in lua/verbs.lua. Raises StoreFull."""
        return self._changed(await self._call("update", self._meta, (raw_id, *changes)))

    async def promote(self, raw_id: bytes) -> Changed:
        """Let a delayed job wait for a worker now."""
        return self._changed(await self._call("promote", self._meta, (raw_id,)))

    async def delete(self, raw_id: bytes) -> Changed:
        """Delete a job that does not run."""
        return self._changed(await self._call("delete", self._meta, (raw_id,)))

    async def resolve(self, raw_id: bytes, note: str) -> Changed:
        """Leave a note on a failed job."""
        return self._changed(await self._call("resolve", self._meta, (note, raw_id)))

    async def moment(self) -> int:
        """The last number given: whatever changes later gets a greater revision."""
        return int(await self._call("moment", self._meta, ()))

    async def bulk(self, verb: str, argument: str | int, newest: int, run: bytes, skipped: int, raw_ids: Sequence[bytes] = ()) -> BulkStep:
        """Act on those of at most MAX_ITEMS jobs that have not changed since `newest`; without ids, only say that the run goes on. `skipped` is how many its
        steps before have left alone.
        """
        return step_of(*await self._call("bulk", self._meta, (verb, argument, newest, run, skipped, *raw_ids)))

    async def begin_run(self, run: bytes, newest: int, head: bytes) -> BulkStep:
        """Begin a bulk run, or go on with it: OK, TOO_OLD, TOO_MANY or STOPPED. `head` is kept with it."""
        word, done, stopped_by = await self._call("begin_run", self._meta, (run, newest, head))
        return step_of(word, done, 0, stopped_by)

    async def end_run(self, run: bytes, state: str, *, skipped: int | None = None, stopped_by: str = "") -> tuple[str, Run | None]:
        """Say how a run ends. OK; or NOT_FOUND; or FINISHED or STOPPED when it had ended so before, which it then stays."""
        word, found = await self._call("end_run", self._meta, (run, state, "" if skipped is None else skipped, stopped_by))
        return word.decode(), run_of(*found) if found else None

    async def runs(self, numbers: Sequence[bytes] = ()) -> list[Run]:
        """Those of these bulk runs that are known; without numbers all, the one that began last first."""
        return [run_of(*found) for found in await self._call("runs", self._meta, numbers)]

    @staticmethod
    def _changed(answers: list[list[Any]]) -> Changed:
        answer, state, record = answers[0]
        word, _, holder = answer.partition(b" ")
        return Changed(word.decode(), state, record, holder)

    async def clean(self, state: int, grace_ms: int, newest: int = 0) -> Cleaned:
        """Forget jobs that ended in this state, at most a step of them. `newest` is that of the answer before."""
        forgotten, newest, more = await self._call("clean", self._meta, (state, grace_ms, newest))
        return Cleaned(forgotten, newest, bool(more))

    async def purge(self, at: Purged | None = None) -> Purged:
        """Delete jobs that wait or are delayed, at most a step of them. `at` is the answer before."""
        args = (0, b"", b"") if at is None else (at.newest, at.next_index, at.cursor)
        return Purged._make(await self._call("purge", self._meta, args))

    async def pause(self, paused: bool) -> None:
        """Stop or start delivery."""
        await self._call("pause", self._meta, (int(paused),))

    async def set_policy(self, version: int, text: str, paused: bool | None = None) -> tuple[str, str]:
        """Put a policy in the place of the one with `version`, and stop or start delivery. OK, or CHANGED when another call came first; and the text of now."""
        word, now = await self._call("policy", self._meta, (version, text, "" if paused is None else int(paused)))
        return word.decode(), now.decode()

    async def set_group(
        self,
        group: str,
        *,
        paused: bool | None = None,
        express: bool | None = None,
        weight: float | None = None,
        limit: OwnLimit | str = "",
        thaw: bool = False,
    ) -> Group:
        """Change what is given of a group's rules. `limit` is NO_LIMIT for none of its own; `thaw`: no worker's word holds it any more."""
        args: list[Any] = [group]
        for name, flag in (("paused", paused), ("express", express)):
            if flag is not None:
                args += (name, int(flag))
        if weight is not None:
            args += ("weight", repr(weight))
        if limit:
            args += ("limit", "" if limit == NO_LIMIT else " ".join(map(str, limit)))
        if thaw:
            args += ("thaw", 1)
        return group_of(await self._call("set_group", self._meta, args))

    async def group(self, group: str) -> Group:
        """One group, whether it has anything or not."""
        return group_of(await self._call("group", self._meta, (group,)))

    async def groups(self, after: str, limit: int) -> list[Group]:
        """Groups that have jobs or rules, by name."""
        return [group_of(row) for row in await self._call("groups", self._meta, (after, limit))]

    async def get(self, raw_ids: Sequence[bytes]) -> list[Found]:
        """Read jobs without their payloads, at most MAX_ITEMS: as many of the first as about MAX_BYTES hold, and one at least."""
        return [Found(*answer) for answer in await self._call("get", self._meta, raw_ids)]

    async def logs(self, raw_id: bytes, after: int, limit: int) -> Logs:
        """Read pieces of a job's log."""
        there, state, head, *pieces = await self._call("logs", self._meta, [raw_id, after, limit])
        return Logs(bool(there), state, LogHead.of(head), pieces)

    async def kept(self, raw_id: bytes) -> tuple[LogHead, bytes]:
        """The head of a job's log, and its checkpoint; empty when there is none."""
        head, checkpoint = await self._call("kept", self._meta, [raw_id])
        return LogHead.of(head), checkpoint

    async def inspect(self, raw_id: bytes) -> Inspected:
        """Read all of a job."""
        record, state, revision, descriptor, history, *labels = await self._call("inspect", self._meta, (raw_id,))
        by_sid = {int.from_bytes(sid, "big"): label for sid, label in zip(labels[::2], labels[1::2], strict=True)}
        return Inspected(Found(record, state, revision), descriptor, history, by_sid)

    async def page(self, index: str | bytes, cursor: bytes, limit: int, *, upward: bool = False) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """One page of an index: the cursor of the next one, and (id, record without payload and result), of about MAX_BYTES at the most. `upward`: what has
        ended comes oldest first.
        """
        answer = await self._call("list", self._meta, (index, cursor, limit, int(upward)))
        return answer[0], list(zip(answer[1::2], answer[2::2], strict=True))

    async def failures(
        self, cursor: bytes, limit: int, *, job_name: bytes = b"", from_us: int | None = None, before_us: int | None = None
    ) -> tuple[bytes, int, list[FailedAlike]]:
        """One page of the groups of failed jobs, the latest first: the cursor of the next one, how many jobs have failed, and those of `limit` groups that have
        jobs of this name which ended in this time, as far as they have.
        """
        span = ("" if bound is None else bound for bound in (from_us, before_us))
        answer = await self._call("failures", self._meta, (cursor, limit, job_name, *span))
        return answer[0], answer[1], [FailedAlike(fingerprint, *row) for fingerprint, row in zip(answer[2::2], answer[3::2], strict=True)]

    async def stats(self) -> Stats:
        """The counts."""
        answer = Stats._make(await self._call("stats", self._meta, ()))
        return answer._replace(paused=bool(answer.paused), policy=bytes(answer.policy).decode())  # type: ignore[arg-type]  # bytes, as they came

    async def explain(self, raw_id: bytes) -> Explained:
        """What decides whether a job runs."""
        answer = Explained._make(await self._call("explain", self._meta, (raw_id,)))
        return answer._replace(paused=bool(answer.paused), crew=crew_of(answer.crew), judged=judged_of(answer.judged))

    async def oldest(self) -> Oldest:
        """Since when the oldest jobs wait and run. A call for each 500 lines or so, of groups or others."""
        *answer, after = await self._call("oldest", self._meta, ())
        now_us, waiting_us, active_us, crew, is_open = answer
        while after:
            in_lines_us, after = await self._call("oldest_in_lines", self._meta, (after,))
            waiting_us = min(filter(None, (waiting_us, in_lines_us)), default=0)
        return Oldest(now_us, waiting_us, active_us, crew_of(crew), bool(is_open))

    async def sessions(self) -> list[tuple[bytes, int, bytes]]:
        """The sessions that take jobs from this queue: session, held count, descriptor."""
        flat = await self._call("sessions", self._meta, ())
        return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]

    async def holders(self, sids: Sequence[int]) -> dict[int, bytes]:
        """The descriptors of sessions by their numbers in records; empty for one that is gone."""
        return dict(zip(sids, await self._call("holders", self._meta, sids), strict=True))
