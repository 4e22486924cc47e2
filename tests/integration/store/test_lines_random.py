"""Groups, limits, labels and units under random calls: whatever happens, each lease is the one that the reference chooser gives, no limit is exceeded, every
counter says what the leases say, no group or job is forgotten anywhere, and at the end everything that waits can run."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from jobwire_broker.config import BrokerConfig
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import NO_LIMIT, LeaseRequest, OwnLimit
from jobwire_broker.store.client import StoreClient

from tests.support import Store
from tests.support.chooser import Kind
from tests.support.lease_check import Asked, LeaseCheck, Seen, given_by, reading
from tests.support.line_state import Rules, rules_of
from tests.support.queue_lab import QueueLab, ruled
from tests.support.queue_state import QueueState, session_bytes

_queues = itertools.count(1)
GROUPS, NAMES, SESSIONS = ("", "a", "b"), ("work", "slow"), ("s", "t")
LABELS = {"s": {"gpu": "1"}, "t": {}}
picks = st.integers(0, 20)
sessions = st.sampled_from(SESSIONS)
limits = st.sampled_from([None, 1, 2, 4])


def kind_of(rules: Rules) -> Kind:
    """What the chooser knows of a job."""
    return Kind(rules.name, rules.group, rules.units, frozenset(codec.decode_labels(rules.labels).items()))


class Shop:
    """A connection for all examples of a run."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        self.run = runner.run
        self.client = StoreClient(BrokerConfig(store=store.url))
        self.raw: Any = redis.asyncio.Redis.from_url(store.url)
        self.run(self.client.start())

    def close(self) -> None:
        self.run(self.client.stop())
        self.run(self.raw.aclose())


class LinesMachine(RuleBasedStateMachine):
    """Random calls on one queue. A limit may be lowered below what runs, so that what ran then is allowed for."""

    shop: Shop

    def __init__(self) -> None:
        super().__init__()
        self.q = QueueLab(self.shop.client, self.shop.raw, f"lines{next(_queues)}")
        self.made = itertools.count(1)
        self.policy: dict[str, Any] = {}
        self.own: dict[str, int] = {}
        self.content_of: dict[str, Rules] = {}
        self.tokens: dict[str, int] = {}
        self.held: dict[str, dict[str, int]] = {name: {} for name in SESSIONS}
        self.epochs = dict.fromkeys(SESSIONS, 1)
        self.before: Counter[str] = Counter()
        self.check = LeaseCheck(lambda raw_id: kind_of(self.content_of[raw_id.decode()]))
        for name in SESSIONS:
            self.run(self.q.attach(name, labels=LABELS[name]))

    def run(self, call: Any) -> Any:
        return self.shop.run(call)

    def teardown(self) -> None:
        self.drain()
        keys = self.run(self.shop.raw.keys(self.q.base + "*"))
        self.run(self.shop.raw.unlink(*keys))

    # What must hold -------------------------------------------------------------------------------------------------------------------------------------

    def units(self, state: QueueState) -> Counter[str]:
        """The units that each limit counts."""
        counted: Counter[str] = Counter()
        for raw_id in state.active:
            found = self.content_of[raw_id]
            counted["queue"] += found.units
            counted[f"name {found.name}"] += found.units
            if found.group:
                counted[f"group {found.group}"] += found.units
        return counted

    def bound(self, what: str) -> int | None:
        kind, _, name = what.partition(" ")
        if kind == "queue":
            limit = self.policy.get("limit")
        elif kind == "name":
            limit = self.policy.get("names", {}).get(name)
        elif name in self.own:
            return self.own[name]
        else:
            limit = self.policy.get("group_limit")
        return limit["concurrency"] if limit else None

    @invariant()
    def no_limit_is_exceeded_and_nothing_is_forgotten(self) -> None:
        state: QueueState = self.run(self.q.state())
        now = self.units(state)
        for what, count in now.items():
            bound = self.bound(what)
            # A job with more units than the limit runs alone in it.
            assert bound is None or count <= max(bound, self.before[what]) or self.is_alone(what, state), (what, count, bound)
        self.before = now
        assert self.run(self.q.store.stats()).waiting == len(state.waiting) + len(state.alone) + sum(map(len, state.lines.values()))

    def is_alone(self, what: str, state: QueueState) -> bool:
        kind, _, name = what.partition(" ")
        found = [self.content_of[raw_id] for raw_id in state.active]
        return sum(kind == "queue" or name in ((x.name,) if kind == "name" else (x.group,)) for x in found) == 1

    def drain(self) -> None:
        """Without limits all that waits runs, whatever happened before."""
        self.run(self.q.set_policy())
        for group in GROUPS[1:]:
            self.run(self.q.store.set_group(group, paused=False, limit=NO_LIMIT, thaw=True))
        for name in SESSIONS:
            # Its time may have run out while others were lost.
            self.epochs[name] += 1
            self.run(self.q.attach(name, self.epochs[name], list(self.held[name].items()), labels=LABELS[name]))
        for _ in range(200):
            for name in SESSIONS:
                self.lease(name, 9)
            for raw_id in list(self.tokens):
                self.finish_id(raw_id, "C")
            self.run(self.q.pulse(*SESSIONS))
            if not self.run(self.q.store.stats()).waiting:
                break
        state = self.run(self.q.state())
        left = {raw_id: job for raw_id, job in state.jobs.items() if job.state == "WAITING"}
        assert not left, left
        assert {name: view for name, view in state.groups.items() if view.place in ("r", "y", "b") or view.active} == {}

    async def see(self) -> Seen:
        """What decides of leases."""
        steps = reading(self.q.base)
        commands = next(steps)
        while True:
            pipe = self.shop.raw.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            try:
                commands = steps.send(await pipe.execute())
            except StopIteration as end:
                seen: Seen = end.value
                return seen

    # What happens ----------------------------------------------------------------------------------------------------------------------------------------

    @rule(
        group=st.sampled_from(GROUPS),
        units=st.sampled_from([1, 1, 1, 2, 5]),
        name=st.sampled_from(NAMES),
        labelled=st.sampled_from([False, False, True]),
        count=st.integers(1, 4),
        priority=st.integers(0, 2),
    )
    def make(self, group: str, units: int, name: str, labelled: bool, count: int, priority: int) -> None:
        labels = {"gpu": "1"} if labelled else None
        made = [ruled(f"j{next(self.made)}", group, units=units, labels=labels, name=name, priority=priority, payload=b"1") for _ in range(count)]
        self.content_of |= {item.raw_id.decode(): rules_of(bytes(codec.HEADER_SIZE) + item.body) for item in made}
        self.run(self.q.make(*made))

    @rule(session=sessions, count=st.integers(1, 6))
    def lease(self, session: str, count: int) -> None:
        leased = self.run(self.q.lease_fully(session, count, self.epochs[session]))
        seen = self.run(self.see())
        given = [given_by(raw_id, token, record, seen.ageing_ms) for raw_id, token, record in leased.jobs]
        asked = [Asked(session_bytes(session), count, False, given)] if leased.word == "OK" else []
        assert self.check.wrong_of(seen, asked, time.time_ns() // 1000) == ""
        found = {raw_id.decode(): token for raw_id, token, _ in leased.jobs}
        self.tokens |= found
        self.held[session] |= found

    @rule(pick=picks, kind=st.sampled_from("CCCRFG"))
    def finish(self, pick: int, kind: str) -> None:
        if self.tokens:
            self.finish_id(list(self.tokens)[pick % len(self.tokens)], kind)

    def finish_id(self, raw_id: str, kind: str) -> None:
        # A group that is limited stays so until it is thawed.
        arguments: tuple[bytes | str | int, ...] = {"F": (b"why", -2), "G": (3_600_000,)}.get(kind, ("",))
        self.run(self.q.turn(kind, raw_id, self.tokens.pop(raw_id), *arguments))
        for jobs in self.held.values():
            jobs.pop(raw_id, None)

    @rule(session=sessions)
    def lose(self, session: str) -> None:
        """Its worker dies, and the same process comes back with what it held."""
        self.run(self.q.lose(session))
        self.epochs[session] += 1
        self.run(self.q.attach(session, self.epochs[session], list(self.held[session].items()), labels=LABELS[session]))

    @rule(session=sessions, lost=st.booleans())
    def begin_anew(self, session: str, lost: bool) -> None:
        """It comes back without what it held, after its time or before."""
        if lost:
            self.run(self.q.lose(session))
        self.epochs[session] += 1
        self.run(self.q.attach(session, self.epochs[session], labels=LABELS[session]))
        for raw_id in self.held[session]:
            self.tokens.pop(raw_id, None)
        self.held[session].clear()

    @rule(session=sessions, count=st.integers(1, 6))
    def lease_without_room_for_payloads(self, session: str, count: int) -> None:
        """All jobs have a payload, so that a session with no bytes left gets none of them, but for one that goes alone."""
        request = LeaseRequest(session_bytes(session), self.epochs[session], count, 0)
        found = {raw_id.decode(): token for raw_id, token, _ in self.run(self.q.turn_all([], [request])).leases[0].jobs}
        self.tokens |= found
        self.held[session] |= found

    @rule(queue=limits, groups=limits, name=limits, ageing=st.sampled_from([None, None, 5]))
    def set_limits(self, queue: int | None, groups: int | None, name: int | None, ageing: int | None) -> None:
        self.policy = {"ageing": ageing} if ageing else {}
        if queue:
            self.policy["limit"] = {"concurrency": queue}
        if groups:
            self.policy["group_limit"] = {"concurrency": groups}
        if name:
            self.policy["names"] = {"slow": {"concurrency": name}}
        self.run(self.q.set_policy(**self.policy))

    @rule(group=st.sampled_from(GROUPS[1:]), limit=limits, paused=st.booleans(), express=st.booleans(), weight=st.sampled_from([0.5, 1, 3]))
    def set_group(self, group: str, limit: int | None, paused: bool, express: bool, weight: float) -> None:
        """Rules of its own. A worker's word is forgotten unless it is paused."""
        self.own.pop(group, None)
        if limit:
            self.own[group] = limit
        own = OwnLimit(limit) if limit else NO_LIMIT
        self.run(self.q.store.set_group(group, paused=paused, express=express, weight=float(weight), limit=own, thaw=not paused))

    @rule(pick=picks, verb=st.sampled_from(["cancel", "delete", "retry"]))
    def act(self, pick: int, verb: str) -> None:
        state = self.run(self.q.state())
        wanted = ("FAILED", "CANCELLED") if verb == "retry" else ("WAITING",)
        fitting = [raw_id for raw_id, job in state.jobs.items() if job.state in wanted]
        if fitting:
            raw_id = fitting[pick % len(fitting)].encode()
            self.run(self.q.store.cancel(raw_id, 0) if verb == "cancel" else getattr(self.q.store, verb)(raw_id))

    @rule()
    def pulse(self) -> None:
        self.run(self.q.pulse(*SESSIONS))


@pytest.fixture
def shop(product: Store) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        shop = Shop(runner, product)
        yield shop
        shop.close()


def test_no_random_calls_exceed_a_limit_or_forget_a_job(shop: Shop) -> None:
    machine = type("Machine", (LinesMachine,), {"shop": shop})
    is_short = shop.client.product.startswith("redis")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=6 if is_short else 20,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
