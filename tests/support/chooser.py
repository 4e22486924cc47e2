"""Which job a lease must give: the rules of choice in plain Python. The random tests of the store and the simulation hold each lease to it.

Nothing is taken from how the store does it: for each choice all that waits is looked at. The rules:

1. Express groups go first; then groups, and the jobs without a group as one, by start-time fair queueing; within a group, the first by its place.
2. A job whose labels the session lacks, or whose name is used up, is passed by others of its group. A group that is paused, limited by a worker's word, or has
   no room for its first job is passed by other groups. Where the queue has no room for the job whose turn it is, nothing is given: so it gets its turn.
3. When a session asks while only those wait that nothing tells apart (no group, no units, no required labels), and no job name has a limit, nobody pays.

Where the outside cannot tell, more than one choice is right: a rate opens at a moment that depends on the numbers that a call has given out; a job that is
parked (its line says so) may be passed; and what has no room for a job that only another session may take, that is to go alone, or whose name had no room
when its group could start it, may wait for it. So may one of a name that has no room for another before it as well, which waits for nothing but its turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

_EPSILON = 1e-9
_SLACK_US, _SLACK_SHARE, _GUARD_US = 40_000, 25, 300
#: How far the number of a start may be ahead of the clock.
_AHEAD_US = 2_000


class Gate(Enum):
    """Whether a limit lets a job start."""

    OPEN = 1
    UNSURE = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """So many units in a period."""

    count: int
    period_us: int
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """0 and None: none."""

    concurrency: int = 0
    rate: Rate | None = None


NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class Group:
    """The rules of one group."""

    weight: float = 1.0
    express: bool = False
    paused: bool = False
    frozen_until_us: float = 0.0
    limit: Limit | None = None
    """Its own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a job its lease is judged by."""

    name: str = "work"
    group: str = ""
    units: int = 1
    labels: frozenset[tuple[str, str]] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether nothing but its place counts."""
        return not self.group and self.units == 1 and not self.labels


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that waits. `place` sorts those of one group; `parked`: it may be passed by others of its group."""

    id: str
    place: tuple[float, bytes]
    kind: Kind
    parked: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds in a queue."""

    queue: Limit = NO_LIMIT
    group: Limit = NO_LIMIT
    names: Mapping[str, Limit] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)

    def of(self, group: str) -> Group:
        """Those of a group."""
        return self.groups.get(group, _NO_RULES)

    def limit_of(self, group: str) -> Limit:
        """Its own, or that of all groups."""
        own = self.of(group).limit
        return self.group if own is None else own


_NO_RULES = Group()


@dataclass(frozen=True, slots=True)
class Moment:
    """What there is when a choice is made."""

    now_us: int
    rules: Rules
    waiting: Sequence[Candidate]
    active: Sequence[Kind]
    session_labels: frozenset[tuple[str, str]] = frozenset()
    alone: Sequence[Kind] = ()
    """Those that wait to go alone."""


@dataclass(slots=True)
class _Paced:
    """A rate, and its date: between two, where nobody can tell what has counted."""

    rate: Rate | None = None
    low_us: float = 0.0
    high_us: float = 0.0

    def doubt(self, now_us: int) -> None:
        """Something may have counted, or something that did may count no more."""
        if self.rate is not None:
            self.low_us, self.high_us = 0.0, max(self.high_us, now_us) + (self.rate.count + 1) * _pace(self.rate)[0]

    def gate(self, units: int, now_us: int) -> Gate:
        """Whether so many units may start."""
        if self.rate is None:
            return Gate.OPEN
        step_us, tolerance_us = _pace(self.rate)
        wait_us = (min(units, self.rate.count) - 1) * step_us - tolerance_us
        if self.high_us + wait_us <= now_us:
            return Gate.OPEN
        return Gate.UNSURE if self.low_us + wait_us <= now_us + _AHEAD_US else Gate.CLOSED

    def has_beside(self, units: int, more: int, now_us: int) -> bool:
        """Whether so many units may start for sure, and then so many more at once."""
        if self.rate is None:
            return True
        step_us, tolerance_us = _pace(self.rate)
        wait_us = (min(units, self.rate.count) + min(more, self.rate.count) - 1) * step_us - tolerance_us
        return max(self.high_us, now_us) + wait_us <= now_us

    def start(self, units: int, token: int) -> None:
        """So many units have started."""
        if self.rate is None:
            return
        units = min(units, self.rate.count)
        step_us, tolerance_us = _pace(self.rate)
        # It was allowed, so it was not later than this.
        high_us = min(self.high_us, token + tolerance_us - (units - 1) * step_us)
        self.low_us, self.high_us = max(self.low_us, token) + units * step_us, max(high_us, self.low_us, token) + units * step_us


class Chooser:
    """Says which job may be next, and remembers who was served: the tags of groups and the dates of rates."""

    def __init__(self) -> None:
        self.virtual = 0.0
        self.ungrouped = 0.0
        self.express = 0.0
        self.tags: dict[str, float] = {}
        self._express: set[str] = set()
        self._rates: dict[str, _Paced] = {}
        self._doubted_us = 0
        """When it was last not known what rates had counted."""

    # The choice ---------------------------------------------------------------------------------------------------------------------------------------

    def options(self, moment: Moment) -> list[Candidate | None]:
        """The jobs of which one must be given now. None among them: it is right to give nothing."""
        self.note_rules(moment)
        found: list[Candidate | None] = []
        chosen, is_sure = self._turn(moment)
        if not is_sure or self._is_held(moment):
            found.append(None)
        for job in chosen:
            gate = self._gate("queue", moment.rules.queue, job.kind, moment.active, moment.now_us)
            if gate is not Gate.CLOSED:
                found.append(job)
            if gate is not Gate.OPEN and None not in found:
                found.append(None)
        return found

    def is_held_for_room(self, moment: Moment, kind: Kind) -> bool:
        """Whether room in the queue or its group is all that a job waits for."""
        rules = moment.rules.of(kind.group)
        is_stopped = bool(kind.group) and (rules.paused or rules.frozen_until_us > moment.now_us)
        return not is_stopped and self._name_gate(moment, kind) is Gate.OPEN

    def _is_held(self, moment: Moment) -> bool:
        """Whether room may be left to a job that another session is to take."""
        return any(not job.kind.labels <= moment.session_labels for job in moment.waiting)

    def is_served(self, moment: Moment) -> bool:
        """Whether a session must get something now."""
        return None not in self.options(moment)

    @staticmethod
    def turns_cost(moment: Moment) -> bool:
        """Whether a session that asks now pays for what it gets."""
        return bool(moment.rules.names) or not all(job.kind.is_plain for job in moment.waiting)

    def may_start(self, moment: Moment, kind: Kind) -> bool:
        """Whether no limit, pause or label forbids a job to start now, whosever turn it is."""
        self.note_rules(moment)
        gates = (
            self._name_gate(moment, kind),
            self._group_gate(moment, kind),
            self._gate("queue", moment.rules.queue, kind, moment.active, moment.now_us),
        )
        return kind.labels <= moment.session_labels and Gate.CLOSED not in gates

    def _turn(self, moment: Moment) -> tuple[list[Candidate], bool]:
        """Whose turn it may be, before the queue's limit is asked; and whether it is somebody's for sure."""
        lines: dict[str, list[Candidate]] = {}
        for job in sorted(moment.waiting, key=lambda job: job.place):
            lines.setdefault(job.kind.group, []).append(job)
        for express in (True, False):
            heads = {group: list(self._heads(moment, line)) for group, line in lines.items() if group and moment.rules.of(group).express == express}
            if not express and "" in lines:
                heads[""] = list(self._heads(moment, lines[""]))
            first = min((self._tag(moment, group) for group, found in heads.items() if any(sure for _, sure in found)), default=None)
            last = math.inf if first is None else first * (1 + _EPSILON) + _EPSILON
            chosen = [job for group, found in heads.items() for job, _ in found if self._tag(moment, group) <= last]
            if first is not None:
                return chosen, True
            if chosen and express:
                others, _ = self._turn(_without_express(moment))
                return chosen + others, False
        return chosen, False

    def _tag(self, moment: Moment, group: str) -> float:
        if not group:
            return max(self.virtual, self.ungrouped)
        return max(self.tags.get(group, 0.0), self.express if moment.rules.of(group).express else self.virtual)

    def _heads(self, moment: Moment, line: Iterable[Candidate]) -> Iterator[tuple[Candidate, bool]]:
        """Who may be the first of a group, and whether it is so for sure."""
        is_held, kept = False, 0
        for job in line:
            named = self._name_gate(moment, job.kind)
            if named is Gate.OPEN and self._may_be_kept(moment, job):
                named = Gate.UNSURE
            grouped = self._group_gate(moment, job.kind)
            if not job.kind.labels <= moment.session_labels:
                # Room may be left to it, though this session could not take it.
                is_held = True
                continue
            is_first = not job.parked and named is Gate.OPEN
            if not is_first and grouped is not Gate.OPEN:
                # It may have been the first when its group was looked at.
                is_held = True
            if not is_first and not job.kind.labels:
                # Its group may keep room for it, when it has missed the room of its name often enough.
                kept = max(kept, job.kind.units)
            if named is Gate.CLOSED:
                continue
            if grouped is not Gate.CLOSED:
                yield job, is_first and grouped is Gate.OPEN and not is_held and self._has_room_beside(moment, job.kind, kept)
            if is_first:
                return

    def _may_be_kept(self, moment: Moment, job: Candidate) -> bool:
        """Whether the room of its name may be kept for another, which has missed it often enough and waits for nothing but the turn of its group."""
        rules, limit = moment.rules, moment.rules.names.get(job.kind.name)
        if limit is None:
            return False
        for other in moment.waiting:
            kind = other.kind
            if kind.name != job.kind.name or kind.labels or other.place >= job.place or (rules.of(job.kind.group).express and not rules.of(kind.group).express):
                continue
            if any(before.kind.group == kind.group and before.place < other.place and not before.parked for before in moment.waiting):
                continue
            if self._group_gate(moment, kind) is not Gate.CLOSED and not self._name_has_both(moment, limit, job.kind, kind.units):
                return True
        return False

    def _name_has_both(self, moment: Moment, limit: Limit, kind: Kind, more: int) -> bool:
        most, running = limit.concurrency, sum(job.units for job in moment.active if job.name == kind.name)
        if most and running + min(kind.units, most) + min(more, most) > most:
            return False
        return not limit.rate or self._paced(f"name {kind.name}", limit).has_beside(kind.units, more, moment.now_us)

    def _has_room_beside(self, moment: Moment, kind: Kind, kept: int) -> bool:
        """Whether its group has room for it and for as many units more, under its concurrency and under its rate."""
        if not kept or not kind.group:
            return True
        limit = moment.rules.limit_of(kind.group)
        most, running = limit.concurrency, sum(job.units for job in moment.active if job.group == kind.group)
        if most and running + min(kind.units, most) + min(kept, most) > most:
            return False
        return not limit.rate or self._paced(f"group {kind.group}", limit).has_beside(kind.units, kept, moment.now_us)

    # Limits -------------------------------------------------------------------------------------------------------------------------------------------

    def _name_gate(self, moment: Moment, kind: Kind) -> Gate:
        limit = moment.rules.names.get(kind.name)
        if limit is None:
            return Gate.OPEN
        gate = self._gate(f"name {kind.name}", limit, kind, [job for job in moment.active if job.name == kind.name], moment.now_us)
        return _yielding(gate, any(job.name == kind.name for job in moment.alone))

    def _group_gate(self, moment: Moment, kind: Kind) -> Gate:
        if not kind.group:
            return Gate.OPEN
        rules = moment.rules.of(kind.group)
        if rules.paused or rules.frozen_until_us > moment.now_us:
            return Gate.CLOSED
        running = [job for job in moment.active if job.group == kind.group]
        gate = self._gate(f"group {kind.group}", moment.rules.limit_of(kind.group), kind, running, moment.now_us)
        return _yielding(gate, any(job.group == kind.group for job in moment.alone))

    def _gate(self, what: str, limit: Limit, kind: Kind, running: Sequence[Kind], now_us: int) -> Gate:
        most = limit.concurrency
        if most and sum(job.units for job in running) + min(kind.units, most) > most:
            return Gate.CLOSED
        return self._paced(what, limit).gate(kind.units, now_us) if limit.rate else Gate.OPEN

    def _paced(self, what: str, limit: Limit) -> _Paced:
        if what not in self._rates:
            self._rates[what] = _Paced(limit.rate)
            self._rates[what].doubt(self._doubted_us)
        return self._rates[what]

    def note_rules(self, moment: Moment) -> None:
        """Express groups have a time of their own; a rate that is new may go on from the date of the one before, or not."""
        rules = moment.rules
        for group in [group for group in self.tags if rules.of(group).express != (group in self._express)]:
            # Its tag was in another time.
            del self.tags[group]
        self._express = {group for group, found in rules.groups.items() if found.express}
        # A limit that is taken away takes with it what has counted.
        limits = {what: NO_LIMIT for what in self._rates if what.startswith("name ")}
        limits |= {"queue": rules.queue, **{f"name {name}": limit for name, limit in rules.names.items()}}
        groups = {job.kind.group for job in moment.waiting if job.kind.group} | {what[6:] for what in self._rates if what.startswith("group ")}
        limits |= {f"group {group}": rules.limit_of(group) for group in groups}
        for what, limit in limits.items():
            paced = self._paced(what, limit)
            if paced.rate != limit.rate:
                paced.rate = limit.rate
                paced.doubt(moment.now_us)

    # What was done ------------------------------------------------------------------------------------------------------------------------------------

    def given(self, moment: Moment, job: Candidate, token: int, *, pays: bool) -> None:
        """This job was leased. `pays`: for its turn, as `turns_cost` said when its session asked."""
        rules, kind = moment.rules, job.kind
        self.started(rules, kind, token)
        if not pays:
            return
        tag = self._tag(moment, kind.group)
        if not kind.group:
            self.virtual, self.ungrouped = tag, tag + kind.units
            return
        if rules.of(kind.group).express:
            self.express = tag
        else:
            self.virtual = tag
        self.tags[kind.group] = tag + kind.units / rules.of(kind.group).weight

    def started(self, rules: Rules, kind: Kind, token: int) -> None:
        """A lease has begun: rates move on. Alone it pays for no turn."""
        self._start("queue", rules.queue, kind, token)
        if kind.group:
            self._start(f"group {kind.group}", rules.limit_of(kind.group), kind, token)
        if kind.name in rules.names:
            self._start(f"name {kind.name}", rules.names[kind.name], kind, token)

    def _start(self, what: str, limit: Limit, kind: Kind, token: int) -> None:
        if limit.rate is not None:
            self._paced(what, limit).start(kind.units, token)

    def believe(self, virtual: float, ungrouped: float, express: float, tags: Mapping[str, float], now_us: int) -> None:
        """Take over who has paid how much. Nobody says what rates have counted meanwhile."""
        self.virtual, self.ungrouped, self.express, self.tags = virtual, ungrouped, express, dict(tags)
        self._doubted_us = now_us
        for paced in self._rates.values():
            paced.doubt(now_us)


def _pace(rate: Rate) -> tuple[int, float]:
    """What a unit is worth, and how far a start may come early: no window of a period may hold more than the count."""
    slack_us = min(_SLACK_US, rate.period_us / _SLACK_SHARE)
    step_us = -(-(rate.period_us + slack_us + _GUARD_US) // (rate.count - rate.burst + 1))
    return int(step_us), (rate.burst - 1) * step_us + slack_us


def _yielding(gate: Gate, has_alone: bool) -> Gate:
    """Where one waits to go alone, the room may be kept for it."""
    return Gate.UNSURE if has_alone and gate is Gate.OPEN else gate


def _without_express(moment: Moment) -> Moment:
    waiting = [job for job in moment.waiting if not moment.rules.of(job.kind.group).express]
    return replace(moment, waiting=waiting)
