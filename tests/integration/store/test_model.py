"""A real store and the model of it, given the same calls in random order: every answer and, after every call, the whole state are the same."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from jobwire.v1 import job_pb2
from jobwire_broker.config import BrokerConfig
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Changed, PolicyChanged
from jobwire_broker.store.arguments import NO_LIMIT, Ask, LeaseRequest, OwnLimit, Renewal, TurnItem
from jobwire_broker.store.client import StoreClient

from tests.support import Store
from tests.support.line_state import GroupView
from tests.support.model import Model
from tests.support.model_clock import SESSION_MS, TICK_MS
from tests.support.model_finishes import FAILURES
from tests.support.model_groups import GroupChange
from tests.support.model_job import FINAL, Change, Content
from tests.support.model_moves import FUTURE, PAST, Answer
from tests.support.model_policy import SHORT_MS, Policy
from tests.support.queue_lab import FAR_FUTURE_MS, QueueLab, debounced, idempotent, item, throttled, unique
from tests.support.queue_state import Numbers, QueueState, RunView, session_bytes, state_name

JOBS = ("a", "b", "c", "d")
SESSIONS = ("s", "t")
_queues = itertools.count(1)

jobs = st.sampled_from(JOBS)
sessions = st.sampled_from(SESSIONS)
HOUR_MS = 3_600_000
SHORT, LONG = (job_pb2.Payload(data=bytes(size)).SerializeToString() for size in (1, 600))
LABELS = codec.encode_labels({"team": "blue"})
PLAIN = Content()
TIMES = [Content(timeout_ms=1500), Content(total_ms=2500, timeout_ms=1500), Content(total_ms=1500), Content(expires_at=PAST)]
TIMES += [Content(expires_at=FUTURE, delay_ms=60_000), Content(expires_at=PAST, delay_ms=60_000), Content(expires_ms=HOUR_MS)]
ENDS = [Content(retention_ms=HOUR_MS), Content(retention_ms=0), *[Content(retention_ms=SHORT_MS, priority=None)] * 2]
#: Jobs that ask for a key, by its kind.
KEYS = [
    [Content(identity=unique("k")), Content(identity=unique("k"), delay_ms=60_000), Content(identity=unique("k"), payload=LONG, retention_ms=0)],
    [Content(identity=idempotent("k")), Content(identity=idempotent("k"), payload=SHORT), Content(identity=idempotent("k"), payload=LONG)],
    [Content(identity=throttled("k")), Content(identity=throttled("k"), payload=SHORT)],
    [
        Content(identity=debounced("k")),
        Content(identity=debounced("k", 60_000, HOUR_MS), payload=LONG, timeout_ms=1500),
        Content(identity=debounced("k", 60_000, HOUR_MS), payload=SHORT, retention_ms=HOUR_MS),
        Content(identity=debounced("k", 1, HOUR_MS), expires_at=FUTURE),
    ],
]
OTHERS = [Content(priority=1, attempts=1, payload=SHORT), Content(delay_ms=60_000, labels=LABELS), Content(attempts=0, payload=LONG)]
OTHERS += [Content(attempts=0, delays_ms=(100_000, 30_000), permanent=("Dull", "Boom"))] * 2 + [Content(permanent=("TIMEOUT",), timeout_ms=1500, payload=LONG)]
GROUPED = [Content(group="g")] * 3 + [Content(group="h")]
contents = st.sampled_from(GROUPED + [PLAIN] * 4 + [Content(priority=None)] * 3 + TIMES + ENDS + [kind[0] for kind in KEYS] + OTHERS)
POLICIES = [Policy(attempts=1, max_payload=100), Policy(attempts=4, delays_ms=(50_000, 200_000)), Policy(permanent=("Boom",), kept=1)]
POLICIES += [Policy(permanent=("TIMEOUT",), timeout_ms=1500, max_payload=100), Policy(timeout_ms=2500, total_ms=1500, kept=0)]
POLICIES += [Policy(max_depth=2, max_payload=100), Policy(max_depth=3, kept=0), Policy(kept=1), Policy(expires_ms=2 * HOUR_MS, attempts=2)]
GROWING = Policy(base_ms=20_000, factor=1.5, most_ms=40_000, priority=2, attempts=5)
POLICIES += [GROWING] * 2 + [GROWING._replace(age_ms=SHORT_MS)] * 2 + [Policy(age_ms=SHORT_MS), Policy(age_ms=SHORT_MS, kept=1, priority=7)]
POLICIES += [Policy(age_ms=0)] * 2 + [Policy(age_ms=0, kept=1)] * 2
policies = st.sampled_from([Policy()] * 3 + POLICIES)
CHANGES = [Change(priority=1), Change(priority=5), Change(payload=b""), Change(payload=SHORT), Change(payload=LONG), Change(labels=LABELS), Change(labels=b"")]
CHANGES += [Change(due_ms=0), Change(due_ms=FUTURE), Change(1, SHORT, LABELS, FUTURE), Change(5, LONG, b"", 0)]

GROUP_CHANGES = [GroupChange(paused=True), GroupChange(paused=False), GroupChange(express=True), GroupChange(express=False)]
GROUP_CHANGES += [
    *[GroupChange(weight=0.25)] * 3,
    GroupChange(weight=3.0),
    GroupChange(most=1),
    GroupChange(most=2),
    GroupChange(most=0),
    *[GroupChange(paused=False, thaw=True)] * 2,
]


def calls_with(kind: list[Content]) -> st.SearchStrategy[tuple[list[tuple[str, Content]], list[tuple[str, Content]]]]:
    """Two calls for jobs of one kind of key."""
    made = st.tuples(jobs, st.sampled_from(kind))
    return st.tuples(st.lists(made, min_size=1, max_size=2), st.lists(made, min_size=1, max_size=2))


# Which job: one of those in a fitting state, or, for 0, any at all.
picks = st.integers(0, 7)
# Which token a worker shows: that of the last lease, one of an earlier one, or none that ever was.
tokens = st.sampled_from(["last"] * 6 + ["earlier", "never"])
finishes = st.sampled_from([("C", 0), ("F", -1), ("F", -2), ("F", 0), ("S", 0), ("S", 60_000), ("R", 0), ("R", 1), ("G", 60_000)])
reports = st.sampled_from([("P", 1000), ("P", 5001), ("P", 9999), ("X", 0), ("E", 9000), ("L", 1), ("L", 2), ("K", 0), ("K", 3), ("K", 4), ("K", 7)])
items = st.tuples(st.one_of(finishes, finishes, reports), jobs, tokens)
requests = st.tuples(sessions, st.sampled_from([0] * 6 + [-1, 1]), st.integers(1, 4))


class Shop:
    """A connection to the store for all examples of a run."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        self.run = runner.run
        self.client = StoreClient(BrokerConfig(store=store.url))
        self.raw: Any = redis.asyncio.Redis.from_url(store.url)
        self.run(self.client.start())

    def close(self) -> None:
        self.run(self.client.stop())
        self.run(self.raw.aclose())


class StoreMachine(RuleBasedStateMachine):
    """The same calls to both."""

    shop: Shop

    def __init__(self) -> None:
        super().__init__()
        self.q = QueueLab(self.shop.client, self.shop.raw, f"model{next(_queues)}")
        self.model = Model()
        self.known: dict[str, list[int]] = {raw_id: [] for raw_id in JOBS}
        self.delivered: dict[str, dict[str, int]] = {name: {} for name in SESSIONS}
        self.epochs = dict.fromkeys(SESSIONS, 0)
        self.numbers: dict[str, Numbers] = {}
        self.n = self.newest = self.version = 0
        self.seen: dict[str, tuple[int, int]] = {}
        self.began_ms = 0

    def teardown(self) -> None:
        async def remove() -> None:
            keys = await self.shop.raw.keys(self.q.base + "*")
            if keys:
                await self.shop.raw.unlink(*keys)

        self.shop.run(remove())

    def call(self, awaitable: Any) -> Any:
        """One call to the store; the model's turn comes after it."""
        self.began_ms = time.time_ns() // 1_000_000
        self.model.begin()
        return self.shop.run(awaitable)

    @invariant()
    def both_have_the_same_state(self) -> None:
        self.model.end()
        state = self.shop.run(self.q.state(dates_moved=True))
        self.model.learn_deadlines(state.timers)
        self.model.learn(state.numbers, self.began_ms, time.time_ns() // 1_000_000)
        expected = self.model.expected()
        # Dates were moved in the index of the store, so its order of them says nothing.
        assert sorted(state.delayed) == sorted(expected.delayed)
        assert replace(normal(state), delayed=[]) == replace(expected, delayed=[])
        assert state.payloads == expected.payloads
        self.only_what_was_touched_has_a_new_revision(state)

    def only_what_was_touched_has_a_new_revision(self, state: QueueState) -> None:
        for raw_id, numbers in state.numbers.items():
            if raw_id in self.model.touched:
                assert self.n < numbers.revision <= state.n
            elif raw_id in self.numbers:
                assert numbers.revision == self.numbers[raw_id].revision
        assert state.n >= self.n
        self.model.touched.clear()
        self.numbers, self.n = state.numbers, state.n

    def token(self, raw_id: str, which: str) -> int:
        known = self.known[raw_id]
        if which == "never" or not known:
            return len(known)
        return known[-1] if which == "last" else known[len(known) // 2 - 1]

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    @initialize(
        policy=policies,
        count=st.integers(1, 4),
        content=contents,
        change=st.sampled_from(GROUP_CHANGES),
        deaths=st.sampled_from([0, 0, 1, 2, 2, 3]),
        is_running=st.booleans(),
    )
    def some_jobs_wait_and_have_killed_some_workers(
        self, policy: Policy, count: int, content: Content, change: GroupChange, deaths: int, is_running: bool
    ) -> None:
        """Where they have a group, every other one has another."""
        others = content._replace(group="h") if content.group else content
        if content.group:
            self.set_group("g", change)
            self.both_have_the_same_state()
        self.set_policy(policy)
        self.both_have_the_same_state()
        self.enqueue([(raw_id, others if i % 2 else content) for i, raw_id in enumerate(JOBS[:count])])
        self.both_have_the_same_state()
        for _ in range(deaths):
            self.a_worker_dies("s", count, True)
            self.both_have_the_same_state()
        if is_running:
            self.work("t", 1)
            self.both_have_the_same_state()
            self.work("t", count)

    @rule(made=st.lists(st.tuples(jobs, contents), min_size=1, max_size=3))
    def enqueue(self, made: list[tuple[str, Content]]) -> None:
        items = [job_item(raw_id, content) for raw_id, content in made]
        if self.model.policy.priority is not None and any(item.priority is None for item in items):
            with pytest.raises(PolicyChanged):
                self.shop.run(self.q.make(*items))
        answers = self.call(self.q.make(*items, priority=5 if self.model.policy.priority is None else self.model.policy.priority))
        assert answers == [self.model.enqueue(raw_id, content) for raw_id, content in made]

    @rule(calls=st.sampled_from(KEYS).flatmap(calls_with), are_late=st.booleans(), pick=picks)
    def enqueue_with_keys(self, calls: tuple[list[tuple[str, Content]], list[tuple[str, Content]]], are_late: bool, pick: int) -> None:
        first, others = calls
        self.enqueue(first)
        self.both_have_the_same_state()
        if are_late:
            self.shop.run(self.age_keys())
            self.model.identities.let_time_pass()
        # What was enqueued before comes once more.
        job = self.model.jobs.get(raw_id := self.pick(pick, "WAITING", "DELAYED"))
        self.enqueue(others if job is None else [*others, (raw_id, job.made_of or job.content)])

    @rule(settled=st.lists(items, max_size=3), asked=st.lists(requests, max_size=2, unique_by=lambda request: request[0]))
    def turn(self, settled: list[tuple[tuple[str, int], str, str]], asked: list[tuple[str, int, int]]) -> None:
        said = [(kind, raw_id, self.token(raw_id, which), argument) for (kind, argument), raw_id, which in settled]
        wanted = [(session, self.epochs[session] + off, count) for session, off, count in asked]
        report = self.call(self.q.turn_all([turn_item(*x) for x in said], [LeaseRequest(session_bytes(s), epoch, n) for s, epoch, n in wanted]))
        assert [(x.word, state_name(x.state)) for x in report.settled] == [self.model.settle(*x) for x in said]
        for (session, epoch, count), lease in zip(wanted, report.leases, strict=True):
            word, ids = self.model.lease(session, epoch, count)
            assert (lease.word, [raw_id.decode() for raw_id, _, _ in lease.jobs]) == (word, ids)
            for raw_id, token, record in lease.jobs:
                self.take(session, raw_id.decode(), token, record)

    @rule(session=sessions, count=st.integers(1, 4))
    def work(self, session: str, count: int) -> None:
        if session not in self.model.sessions:
            self.attach(session, 1, "all", set())
            self.both_have_the_same_state()
        self.turn([], [(session, 0, count)])

    @rule(pick=picks, finish=finishes)
    def finish_what_runs(self, pick: int, finish: tuple[str, int]) -> None:
        self.turn([(finish, self.pick(pick, "ACTIVE"), "last")], [])

    @rule(pick=picks, finish=finishes)
    def finish_late(self, pick: int, finish: tuple[str, int]) -> None:
        self.turn([(finish, self.pick(pick, "WAITING", "DELAYED"), "last")], [])

    @rule(session=sessions, pick=picks, times=st.sampled_from([2, 3, 3]), is_new=st.booleans())
    def a_job_fails_again_and_again(self, session: str, pick: int, times: int, is_new: bool) -> None:
        """A new one waits longer each time, as its queue says."""
        raw_id = self.pick(pick, "WAITING", "DELAYED")
        free = [other for other in JOBS if other not in self.model.jobs.keys() | self.model.removed.keys() | self.model.aliases.keys()]
        if is_new and free:
            raw_id = free[0]
            self.set_policy(GROWING)
            self.both_have_the_same_state()
            self.enqueue([(raw_id, Content(attempts=0))])
            self.both_have_the_same_state()
        for _ in range(times):
            self.work(session, len(JOBS))
            self.both_have_the_same_state()
            self.turn([(("F", -1), raw_id, "last")], [])
            self.both_have_the_same_state()
            self.beat(0, [], {raw_id})
            self.both_have_the_same_state()

    @rule(pick=picks, report=reports)
    def report(self, pick: int, report: tuple[str, int]) -> None:
        self.turn([(report, self.pick(pick, "ACTIVE"), "last")], [])

    def pick(self, index: int, *states: str) -> str:
        fitting = [raw_id for raw_id, job in self.model.jobs.items() if job.state in states] if index else []
        return fitting[index % len(fitting)] if fitting else JOBS[index % len(JOBS)]

    def take(self, session: str, raw_id: str, token: int, record: bytes) -> None:
        assert token > self.n
        assert codec.header_of(record).attempt + 1 == self.model.jobs[raw_id].attempt
        self.model.leased(raw_id, token)
        self.known[raw_id].append(token)
        self.delivered[session][raw_id] = token

    @rule(session=sessions, step=st.sampled_from([1, 1, 0, -1]), which=st.sampled_from(["all", "all", "some"]), some=st.sets(jobs, max_size=3))
    def attach(self, session: str, step: int, which: str, some: set[str]) -> None:
        epoch = max(self.epochs[session] + step, 1)
        held = [(raw_id, token) for raw_id, token in self.delivered[session].items() if which == "all" or raw_id in some]
        settled = self.call(self.q.attach(session, epoch, held))
        answers = settled if settled is None else [(x.word, state_name(x.state)) for x in settled]
        assert answers == self.model.attach(session, epoch, held)
        if answers is not None:
            self.epochs[session] = max(self.epochs[session], epoch)

    @rule(session=sessions, off=st.sampled_from([0, 0, 0, 1]))
    def detach(self, session: str, off: int) -> None:
        epoch = self.epochs[session] + off
        self.call(self.q.detach(session, epoch))
        self.model.detach(session, epoch)

    @rule(
        ticks=st.sampled_from([0, 1, 1, 2]),
        renewed=st.sets(sessions),
        off=st.sampled_from([0, 0, 0, -1, 1]),
        age_ms=st.sampled_from([-1, 0, 0, 1000]),
        due=st.sets(jobs),
    )
    def pulse(self, ticks: int, renewed: set[str], off: int, age_ms: int, due: set[str]) -> None:
        self.beat(0, [(session, self.epochs[session] + off, age_ms) for session in sorted(renewed)], due)
        for _ in range(ticks):
            self.both_have_the_same_state()
            self.beat(TICK_MS, [], set())

    @rule(session=sessions, count=st.integers(0, 4), come_due=st.booleans())
    def a_worker_dies(self, session: str, count: int, come_due: bool) -> None:
        if count:
            self.work(session, count)
            self.both_have_the_same_state()
        if session in self.model.sessions:
            self.shop.run(self.shop.raw.zadd(self.q.base + "t", {b"S" + session_bytes(session): self.model.clock + 1}))
            self.model.sessions[session].deadline = self.model.clock + 1
        self.beat(TICK_MS, [(name, self.epochs[name], 0) for name in SESSIONS if name != session], set())
        if come_due:
            self.both_have_the_same_state()
            self.beat(0, [], set(JOBS))

    def beat(self, grows_ms: int, renewals: list[tuple[str, int, int]], due: set[str]) -> None:
        if self.model.policy.age_ms == SHORT_MS or any(job.content.retention_ms == SHORT_MS for job in self.model.jobs.values()):
            time.sleep(2 * SHORT_MS / 1000)
        # A pulse that comes late moves the clock by TICK_MS exactly, one that seems to come before the last not at all.
        self.shop.run(self.move_dates(0 if grows_ms else FAR_FUTURE_MS, due))
        report = self.call(self.q.store.pulse(SESSION_MS, [Renewal(session_bytes(s), epoch, age_ms) for s, epoch, age_ms in renewals]))
        self.shop.run(self.shop.raw.hset(self.q.base + "m", "last_pulse", str(FAR_FUTURE_MS)))
        assert (report.words, report.held) == self.model.pulse(grows_ms, renewals, due)
        expected = self.model
        counts = [sum(job.state == state for job in expected.jobs.values()) for state in ("WAITING", "ACTIVE", "DELAYED")]
        assert [report.waiting, report.active, report.delayed] == counts
        asked = {raw_id: job for raw_id, job in expected.jobs.items() if job.state == "ACTIVE" and job.cancel_requested and not job.cancel_delivered}
        named = {session: at for at, (session, _, _) in enumerate(renewals) if report.words[at] == "OK"}
        pending = {(named[job.session], raw_id, job.token, job.cancel_deadline - expected.clock) for raw_id, job in asked.items() if job.session in named}
        assert {(x.at, x.raw_id.decode(), x.token, x.grace_ms) for x in report.cancels} == pending
        deadlines = [row.deadline for row in expected.sessions.values()]
        deadlines += [job.cancel_deadline for job in expected.jobs.values() if job.state == "ACTIVE" and job.cancel_requested]
        deadlines += [deadline for job in expected.jobs.values() for deadline in (job.deadline, job.total_deadline) if deadline]
        assert {(at, raw_id.decode(), token) for at, raw_id, token in report.timeouts} == self.model.tell(named)
        assert report.deadline_ms == min((deadline - expected.clock for deadline in deadlines), default=-1)

    async def move_dates(self, last_pulse: int, due: set[str]) -> None:
        await self.shop.raw.hset(self.q.base + "m", "last_pulse", str(last_pulse))
        members = await self.shop.raw.zrange(self.q.base + "d", 0, -1)
        if members:
            await self.shop.raw.zadd(self.q.base + "d", {member: 0 if member[8:].decode() in due else FAR_FUTURE_MS for member in members})

    # Verbs --------------------------------------------------------------------------------------------------------------------------------------------

    @rule(pick=picks, grace_ms=st.sampled_from([0, 1500, 2000, 60_000]))
    def cancel(self, pick: int, grace_ms: int) -> None:
        raw_id = self.pick(pick, "ACTIVE", "WAITING", "DELAYED")
        assert seen(self.call(self.q.store.cancel(raw_id.encode(), grace_ms))) == self.model.cancel(raw_id, grace_ms)

    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        raw_id = self.pick(pick, "FAILED", "CANCELLED")
        assert seen(self.call(self.q.store.retry(raw_id.encode()))) == self.model.retry(raw_id)

    @rule(pick=picks)
    def promote(self, pick: int) -> None:
        raw_id = self.pick(pick, "DELAYED")
        assert seen(self.call(self.q.store.promote(raw_id.encode()))) == self.model.promote(raw_id)

    @rule(pick=picks, change=st.sampled_from(CHANGES))
    def update(self, pick: int, change: Change) -> None:
        raw_id = self.pick(pick, "WAITING", "DELAYED")
        assert seen(self.call(self.q.store.update(raw_id.encode(), update_arguments(change)))) == self.model.update(raw_id, change)

    @rule(pick=picks, payload=st.sampled_from([b"", SHORT, LONG]))
    def redrive(self, pick: int, payload: bytes) -> None:
        raw_id = self.pick(pick, "FAILED", "CANCELLED")
        assert seen(self.call(self.q.store.redrive(raw_id.encode(), section(codec.TAG_PAYLOAD, payload)))) == self.model.redrive(raw_id, payload)

    @rule(really=st.sampled_from([False, False, True]))
    def the_removed_are_forgotten(self, really: bool) -> None:
        if really:
            self.shop.run(self.shop.raw.unlink(*(f"{self.q.base}g{slot}" for slot in range(5))))
            self.model.forget_removed()

    async def age_keys(self) -> None:
        for key in await self.shop.raw.keys(self.q.base + "i*"):
            kind = key.removeprefix(self.q.base.encode() + b"i")[:1]
            if kind in b"kt":
                assert 0 < await self.shop.raw.pttl(key) <= 60_000
                await self.shop.raw.unlink(key)
            elif kind == b"d":
                value = await self.shop.raw.get(key)
                await self.shop.raw.set(key, (1).to_bytes(8, "big") + value[8:])

    @rule(really=st.sampled_from([False, False, True]))
    def purge(self, really: bool) -> None:
        if really:
            step = self.call(self.q.store.purge())
            deleted = step.deleted
            while step.next_index:
                step = self.shop.run(self.q.store.purge(step))
                deleted += step.deleted
            assert deleted == self.model.purge()

    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        raw_id = self.pick(pick, "WAITING", "DELAYED", "COMPLETED", "FAILED", "CANCELLED")
        assert seen(self.call(self.q.store.delete(raw_id.encode()))) == self.model.delete(raw_id)

    @rule(pick=picks, note=st.sampled_from(["", "known", "ticket 7"]))
    def resolve(self, pick: int, note: str) -> None:
        raw_id = self.pick(pick, "FAILED")
        assert seen(self.call(self.q.store.resolve(raw_id.encode(), note))) == self.model.resolve(raw_id, note)

    @rule()
    def look_before_a_bulk_run(self) -> None:
        self.newest = self.shop.run(self.q.store.moment())
        self.seen = {raw_id: (numbers.revision, numbers.token) for raw_id, numbers in self.numbers.items()}
        assert self.newest >= self.n

    @rule(
        verb=st.sampled_from(["cancel", "retry", "promote", "delete", "resolve"]),
        picked=st.lists(jobs, min_size=1, max_size=4, unique=True),
        run=st.integers(1, 2),
    )
    def bulk(self, verb: str, picked: list[str], run: int) -> None:
        changed = {raw_id for raw_id, numbers in self.numbers.items() if self.has_changed(raw_id, numbers)}
        arguments: dict[str, str | int] = {"cancel": 1500, "resolve": "all"}
        name = f"run{run:5}"
        known = self.model.runs.setdefault(name, RunView())
        begun = self.shop.run(self.q.store.begin_run(name.encode(), self.shop.run(self.q.store.moment()), b""))
        assert begun == ("OK", known.done, 0, "")
        step = self.call(self.q.store.bulk(verb, arguments.get(verb, ""), self.newest, name.encode(), 0, [raw_id.encode() for raw_id in picked]))
        assert (step.done, step.skipped) == self.model.bulk(verb, name, changed, picked)

    def has_changed(self, raw_id: str, numbers: Numbers) -> bool:
        revision, token = self.seen.get(raw_id, (0, 0))
        # What a worker says of its progress gives a new revision, and is no change.
        return token != numbers.token if self.model.jobs[raw_id].state == "ACTIVE" else revision != numbers.revision

    @rule(state=st.sampled_from(FINAL), grace_ms=st.sampled_from([0, 0, 60_000]))
    def clean(self, state: str, grace_ms: int) -> None:
        number = job_pb2.JobState.Value(f"JOB_STATE_{state}")
        assert self.call(self.q.store.clean(number, grace_ms)).forgotten == (0 if grace_ms else self.model.clean(state))

    @rule(policy=policies)
    def set_policy(self, policy: Policy) -> None:
        self.version += 1
        self.model.policy, self.model.policy_text = policy, policy.text(self.version)
        assert self.call(self.q.store.set_policy(self.version - 1, self.model.policy_text)) == ("OK", self.model.policy_text)

    @rule(group=st.sampled_from("gh"), change=st.sampled_from(GROUP_CHANGES))
    def set_group(self, group: str, change: GroupChange) -> None:
        limit: OwnLimit | str = "" if change.most is None else OwnLimit(concurrency=change.most) if change.most else NO_LIMIT
        rules = self.q.store.set_group(group, paused=change.paused, express=change.express, weight=change.weight, limit=limit, thaw=change.thaw)
        self.call(rules)
        self.model.set_group(group, change)

    @rule(pick=picks, session=sessions)
    def a_workers_word_limits_a_group(self, pick: int, session: str) -> None:
        running = [raw_id for raw_id, job in self.model.jobs.items() if job.state == "ACTIVE" and job.content.group]
        self.turn([(("G", 60_000), running[pick % len(running)], "last")] if running else [], [(session, 0, 2)])

    @rule(paused=st.sampled_from([True, False, False]))
    def pause(self, paused: bool) -> None:
        self.call(self.q.store.pause(paused))
        self.model.paused = paused

    @rule()
    def look(self) -> None:
        state = self.model.expected()
        stats = self.call(self.q.store.stats())
        own = {name: len(state.own.get(name, ())) for name in FINAL}
        assert stats[:9] == (
            len(state.waiting) + len(state.alone) + sum(map(len, state.lines.values())),
            len(state.active),
            len(state.delayed),
            len(state.completed) + own["COMPLETED"],
            len(state.failed) + own["FAILED"],
            len(state.cancelled) + own["CANCELLED"],
            len(state.expired) + own["EXPIRED"],
            state.completed_total,
            state.failed_total,
        )
        assert (stats.paused, stats.sessions) == (state.paused, len(state.sessions))


def job_item(raw_id: str, content: Content) -> Any:
    made = item(raw_id, priority=content.priority, attempts=content.attempts, payload=content.payload, identity=content.identity)
    body = codec.encode_body("work", content.payload, None, content.delay_ms, content.sections)
    ask = made.ask or (Ask(b"") if content.retention_ms is not None else None)
    due = f"+{content.delay_ms}" if content.delay_ms else made.due
    return made._replace(body=body, ask=ask, due=due, flags=codec.FLAG_TIMED * content.is_timed + codec.FLAG_COUNTED * bool(content.group))


def section(tag: int, content: bytes) -> bytes:
    return codec.SECTION.pack(tag, len(content)) + content if content else b""


def update_arguments(change: Change) -> list[str | bytes | int]:
    payload, labels = (None if x is None else section(tag, x) for tag, x in ((codec.TAG_PAYLOAD, change.payload), (codec.TAG_LABELS, change.labels)))
    given = {"priority": change.priority, "payload": payload, "labels": labels, "due": change.due_ms}
    return [x for name, value in given.items() if value is not None for x in (name, value)]


def turn_item(kind: str, raw_id: str, token: int, argument: int) -> TurnItem:
    arguments: dict[str, tuple[bytes | str | int, ...]] = {
        "C": (b"result",),
        "F": (FAILURES.get(argument, b""), argument),
        "S": (argument,),
        "G": (argument,),
        "R": ("NO_HANDLER" if argument else "",),
        "P": (argument, b"note" if argument % 2 else b""),
        "X": (),
        "E": (argument,),
        "L": (codec.encode_lines([job_pb2.LogLine(sequence=max(argument, 0), message=f"line {argument}")]),),
        "K": (argument // 2, b"page %d" % argument if argument % 2 else b""),
    }
    return TurnItem(kind, raw_id.encode(), token, *arguments[kind])


def seen(changed: Changed) -> Answer:
    return changed.word, state_name(changed.state)


def normal(state: QueueState) -> QueueState:
    """Failures that the store itself gives, by their reason alone; digests, by their presence; groups, by what they show of themselves."""
    shown = {name: replace(view, place=view.place.replace("v", "")) for name, view in state.groups.items()}
    state.groups = {name: view for name, view in shown.items() if view != GroupView()}
    for raw_id, job in state.jobs.items():
        if "original" in job.sections:
            job = state.jobs[raw_id] = replace(job, sections={**job.sections, "original": b""})
        if "retention" not in job.sections and job.sections.get("identity", b"")[:1] in (b"k", b"t"):
            # It has a history and the like, or none: its key is no part of it.
            job = state.jobs[raw_id] = replace(job, flags=job.flags - {"KEPT"})
        for reason in (b"POISON", b"NO_HANDLER", b"TOTAL_TIMEOUT", b"TIMEOUT"):
            if reason in job.sections.get("failure", b""):
                state.jobs[raw_id] = replace(job, sections={**job.sections, "failure": reason})
                break
    return state


@pytest.fixture
def shop(product: Store) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        shop = Shop(runner, product)
        yield shop
        shop.close()


def test_the_store_does_what_the_model_says(shop: Shop) -> None:
    machine = type("Machine", (StoreMachine,), {"shop": shop})
    is_short = shop.client.product.startswith("redis")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=35 if is_short else 110,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
