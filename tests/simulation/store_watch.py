"""What the simulation sees of every call to the store: the leases it gives, in which order, and what they leave behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from jobwire_broker.names import id_to_text
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import TURN_ARGUMENTS

from tests.simulation.forget_watch import ForgetWatch
from tests.simulation.history import OUT_OF_ORDER, OVER_ADMITTED, STARVED, WRONG, History
from tests.simulation.plan import Bound, Bounds, JobPlan
from tests.simulation.store_line import SharedStore
from tests.simulation.verb_watch import READ, VerbWatch
from tests.support.chooser import Kind
from tests.support.lease_check import Asked, LeaseCheck, Seen, given_by, reading

#: So many jobs may be leased before one that goes before them, and waits for room that they take.
PASSED_MAX = 6
#: So often may one of its group be leased before a job whose name had room meanwhile, when its group had none or others had their turn. Who comes before it, of
#: its name and its group, begins to count anew.
MISSED_MAX = 12
_CALL = re.compile(rb"jobwire_\w+?_([a-z_]+)\r\n\$1\r\n1\r\n\$\d+\r\n(\w+:\{[^}]*\}:)m\r\n")


def _arguments(packed: bytes) -> list[bytes]:
    """What stands behind the key of a call."""
    reader = hiredis.Reader()
    reader.feed(packed)
    found: list[bytes] = reader.gets()
    return found[4:]


@dataclass(frozen=True, slots=True)
class Leased:
    """One lease, as the store gave it."""

    job: str
    token: int
    base: str
    at_s: float
    header: codec.Header


class StoreWatch:
    """Checks each call of a run when it has been carried out."""

    #: What it knows of jobs by what the store has said of them.
    REMEMBERED = ("_last", "_ended")

    def __init__(self, store: SharedStore, history: History, by_id: Mapping[str, JobPlan], forgetting: ForgetWatch) -> None:
        self.bounds: dict[str, tuple[float, Bounds]] = {}
        """Since when which limits are in force, by queue."""
        self._by_id = by_id
        self.leases: list[Leased] = []
        self.paused: set[str] = set()
        self.limited: set[str] = set()
        """Queues where limits and groups decide who goes before whom."""
        self.own_limits: set[tuple[str, str]] = set()
        """Groups that may have had a limit of their own, by queue."""
        self.verbs = VerbWatch(store, history, by_id)
        self.verbs.last_token = lambda text: self._last[text].token if text in self._last else 0
        self.forgetting = forgetting
        self._store = store
        self._history = history
        self._last_token: dict[str, int] = {}
        self._last: dict[str, Leased] = {}
        self._ended: dict[str, str] = {}
        self._passed: Counter[bytes] = Counter()
        self._passed_in_turn: Counter[bytes] = Counter()
        self.labels_with_room: Callable[[str], list[frozenset[tuple[str, str]]]] = lambda base: []
        """The labels of each worker that has room now for jobs of a queue."""
        self.on_policy: Callable[[str], None] = lambda base: None
        """A policy of a queue may be another now."""
        self._checks: dict[str, LeaseCheck] = {}
        store.on_call = self._carried_out
        if forgetting.is_needed:
            store.before_call = self._begins

    def _begins(self, packed: bytes) -> None:
        match = _CALL.search(packed[:200])
        if match is not None:
            self.forgetting.begins(match[1].decode(), match[2].decode())

    def _carried_out(self, packed: bytes, answer: Any) -> None:
        match = _CALL.search(packed[:200])
        if match is None:
            return
        verb, base = match[1].decode(), match[2].decode()
        if verb in ("attach", "detach"):
            self._history.tell(f"the store carries out {verb}: {answer[0].decode()}")
        self.verbs.carried_out(verb, base, _arguments(packed) if verb in READ else (), answer)
        if verb == "policy":
            self.on_policy(base)
        elif verb == "set_group" and base in self.limited:
            # The reference is to see also what is changed back before anybody leases.
            self.must_serve(base, frozenset())
        if self.forgetting.is_needed:
            self.forgetting.carried_out(verb, base, _arguments(packed) if verb == "clean" else (), answer[0] if verb == "clean" else 0)
        if verb == "turn":
            self._settled(_arguments(packed), answer[0])
        if verb in ("turn", "enqueue"):
            for lease in answer[1]:
                if len(lease) > 1:
                    self._leased(base, lease[1:])
            if base in self.limited and answer[1]:
                self._check_choice(base, _arguments(packed)[-4 * len(answer[1]) :], answer[1])

    def _settled(self, arguments: Sequence[bytes], answers: Sequence[bytes]) -> None:
        """Only the last lease of a job may end it."""
        at = 1
        for answer in answers:
            item = arguments[at]
            kind, token, text = chr(item[0]), int.from_bytes(item[1:9], "big"), id_to_text(item[9:])
            at += 1 + TURN_ARGUMENTS.get(kind, 0)
            before = self._last.get(text)
            if kind in "CDFSRG" and answer.startswith(b"OK") and before is not None:
                if before.token != token:
                    self._history.blame(WRONG, f"a finish of {text} counted, and its token was not that of the last lease", text)
                self._ended[text] = kind

    def _check_place(self, leased: Leased) -> None:
        """A job that only came back regains its place."""
        before, kind = self._last.get(leased.job), self._ended.pop(leased.job, "")
        story = self._history.story(leased.job)
        came_back = before is not None and kind == "" and leased.header.losses < 2 and not story.verbs and not story.is_timed
        if before is not None and came_back and before.header.order != leased.header.order:
            self._history.blame(OUT_OF_ORDER, f"{leased.job} came back, and has lost its place", leased.job)
        self._last[leased.job] = leased

    def _leased(self, base: str, flat: Sequence[Any]) -> None:
        now_s = self._store.loop.time()
        places: list[tuple[int, bytes]] = []
        for raw_id, token, record in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            header = codec.header_of(record)
            text = id_to_text(raw_id)
            leased = Leased(text, token, base, now_s, header)
            self.leases.append(leased)
            self._check_place(leased)
            self._passed_in_turn.pop(raw_id, None)
            self.verbs.leased(base, text, token, record)
            self._history.tell(f"the store leases it (token …{token % 1_000_000_000})", text)
            if base in self.paused:
                self._history.blame(OVER_ADMITTED, f"{text} is leased although its queue is paused", text)
            if token <= self._last_token.get(base, 0):
                self._history.blame(WRONG, f"the token of {text} is not greater than one before", text)
            self._last_token[base] = token
            if not header.flags & codec.FLAG_ALONE and base not in self.limited:
                places.append((header.priority, header.order.to_bytes(8, "big") + raw_id))
        self._check_order(base, places)
        if base in self.bounds:
            self._check_concurrency(base, self.bounds[base][1], [self._by_id[id_to_text(raw_id)] for raw_id in flat[::3]])

    def _check_choice(self, base: str, requests: Sequence[bytes], answers: Sequence[Sequence[Any]]) -> None:
        """Each lease is the one that the reference gives, and nobody with room goes without."""
        seen = self.seen(base)
        check = self._check_of(base)
        asked = []
        for i, answer in enumerate(answers):
            session, _, jobs, room = requests[4 * i : 4 * i + 4]
            if answer[0] == b"OK":
                given = [given_by(*flat, seen.ageing_ms) for flat in zip(answer[1::3], answer[2::3], answer[3::3], strict=True)]
                asked.append(Asked(session, int(jobs), int(room) >= 0, given))
        now_us = self._store.now_us()
        if wrong := check.wrong_of(seen, asked, now_us):
            self._history.blame(OUT_OF_ORDER, wrong)
        for raw_id in check.passed(seen, asked, self.labels_with_room(base), now_us):
            self._passed[raw_id] += 1
            if self._passed[raw_id] > PASSED_MAX:
                self._history.blame(STARVED, f"{PASSED_MAX} jobs behind it were leased while it waits for room", id_to_text(raw_id))
        for raw_id in check.passed_in_turn(seen, asked):
            self._passed_in_turn[raw_id] += 1
            if self._passed_in_turn[raw_id] > MISSED_MAX:
                self._history.blame(STARVED, f"{MISSED_MAX} times its name had room, and then its group, and others were leased", id_to_text(raw_id))

    def must_serve(self, base: str, labels: frozenset[tuple[str, str]]) -> bool:
        """Whether a session with these labels must get a job if it asks now. Of a queue that is not ruled: whether any job waits."""
        if base not in self.limited:
            return bool(self._store.real.ask("ZCARD", base + "w")) and not self.alone(base)
        check = self._check_of(base)
        return check.is_served(self.seen(base), labels, self._store.now_us())

    def _check_of(self, base: str) -> LeaseCheck:
        if base not in self._checks:
            self._checks[base] = LeaseCheck(self._kind_of, may_expire=any(job.expires_s for job in self._by_id.values()))
        return self._checks[base]

    def runs_alone(self, text: str, token: int) -> bool:
        """Whether a job was leased to go alone: its worker gets no other meanwhile."""
        last = self._last.get(text)
        return last is not None and last.token == token and bool(last.header.flags & codec.FLAG_ALONE)

    def seen(self, base: str) -> Seen:
        """What a queue has now that decides of leases."""
        steps = reading(base)
        commands = next(steps)
        try:
            while True:
                commands = steps.send(self._store.real.ask_all(commands))
        except StopIteration as end:
            found: Seen = end.value
            return found

    def _kind_of(self, raw_id: bytes) -> Kind:
        return self._by_id[id_to_text(raw_id)].kind

    def _check_concurrency(self, base: str, bounds: Bounds, leased: Sequence[JobPlan]) -> None:
        """These were leased: what runs now is within the limits that hold for them. There may have been more before these were in force."""
        active = [self._by_id[id_to_text(member[12:])] for member in self._store.real.ask("ZRANGE", base + "a", 0, -1)]
        self._check_units(active, bounds.whole, "the queue")
        for group in sorted({job.group for job in leased if job.group and (base, job.group) not in self.own_limits}):
            self._check_units([job for job in active if job.group == group], bounds.group, f"group {group}")
        if any(job.name == "heavy" for job in leased):
            self._check_units([job for job in active if job.name == "heavy"], bounds.heavy, "the job name")

    def _check_units(self, active: Sequence[JobPlan], bound: Bound, what: str) -> None:
        if bound.concurrency and sum(min(job.units, bound.concurrency) for job in active) > bound.concurrency:
            self._history.blame(OVER_ADMITTED, f"{what} has {[job.id for job in active]} leased, and its limit is {bound.concurrency} units")

    def _check_order(self, base: str, places: list[tuple[int, bytes]]) -> None:
        """What was leased goes before what was left."""
        if not places:
            return
        if places != sorted(places):
            self._history.blame(OUT_OF_ORDER, "one call leased jobs in another order than that of the line")
        first = self._store.real.ask("ZRANGE", base + "w", 0, 0, "WITHSCORES")
        if first and (int(first[1]), first[0]) < max(places):
            text = id_to_text(first[0][8:])
            self._history.blame(OUT_OF_ORDER, f"{text} waits, and one behind it was leased", text)

    # What others may ask ------------------------------------------------------------------------------------------------------------------------------

    def alone(self, base: str) -> int:
        """How many wait to be delivered alone."""
        return int(self._store.real.ask("ZCARD", base + "o"))

    def is_late(self, base: str, by_ms: int) -> bool:
        """Whether a job is still delayed so long after its time."""
        return bool(self._store.real.ask("ZCOUNT", base + "d", "-inf", self._store.now_us() // 1000 - by_ms))

    def is_paused(self, base: str) -> bool:
        """Whether the store thinks so."""
        return bool(self._store.real.ask("HGET", base + "m", "paused") == b"1")

    def is_group_paused(self, base: str, group: str) -> bool:
        """Whether the store thinks so."""
        row = self._store.real.ask("HGET", base + "G", group)
        return bool(row and row[0] & 1)

    def counts(self, bases: Sequence[str]) -> list[int]:
        """How many jobs wait, are delayed, are active."""
        lines = sum(int(found or 0) for found in self._store.real.ask_all([("HGET", base + "m", "lw") for base in bases]))
        found = self._store.real.ask_all([("ZCARD", base + suffix) for base in bases for suffix in "woda"])
        return [sum(found[0::4]) + sum(found[1::4]) + lines, sum(found[2::4]), sum(found[3::4])]
