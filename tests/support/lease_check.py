"""Each lease of a queue, held to the reference chooser. What waited when a call chose is what waits after it, and what it leased."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jobwire_broker.names import id_to_text
from jobwire_broker.store import codec

from tests.support.chooser import NO_LIMIT, Candidate, Chooser, Group, Kind, Limit, Moment, Rate, Rules
from tests.support.line_state import EXPRESS, GROUP_ROW, OWN, PAUSED

_SESSION = struct.Struct(">4sIQ")
_META = ("paused", "policy", "vt", "fw", "vx", "scored", "ended_total", "completed_total", "failed_total")

Command = tuple[Any, ...]


class Given(NamedTuple):
    """A lease. `alone`: the job must have its session for itself."""

    raw_id: bytes
    place: tuple[float, bytes]
    token: int
    alone: bool = False


def given_by(raw_id: bytes, token: int, record: bytes, ageing_ms: int) -> Given:
    """The lease of a job whose record, as it was before, is this."""
    header = codec.header_of(record)
    score = header.priority * ageing_ms + header.order // 1000 if ageing_ms else header.priority
    return Given(raw_id, (score, header.order.to_bytes(8, "big") + raw_id), token, bool(header.flags & codec.FLAG_ALONE))


@dataclass(frozen=True, slots=True)
class Asked:
    """One session that a call leased for, and what it got. `is_bounded`: it said how many bytes it has room for."""

    session: bytes
    jobs: int
    is_bounded: bool
    given: Sequence[Given]


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a queue's keys the check needs."""

    meta: Mapping[str, bytes | None]
    waiting: Mapping[bytes, tuple[tuple[float, bytes], str]]
    """By id: the place, and the line."""
    alone: frozenset[bytes]
    active: frozenset[bytes]
    groups: Mapping[str, tuple[Any, ...]]
    tags: Mapping[str, float]
    labels: Mapping[bytes, frozenset[tuple[str, str]]]
    """Of sessions that have some."""
    solo: frozenset[bytes]
    """Sessions that run a job alone."""

    @property
    def paused(self) -> bool:
        """The queue."""
        return self.meta["paused"] == b"1"

    @property
    def expired(self) -> int:
        """How many jobs have expired, or were cancelled."""
        ended, completed, failed = (int(self.meta[field] or 0) for field in ("ended_total", "completed_total", "failed_total"))
        return ended - completed - failed

    @property
    def ageing_ms(self) -> int:
        """Of its policy; 0: none."""
        found: int = json.loads(self.meta["policy"] or b"{}").get("ageing", 0)
        return found

    @property
    def is_in_order(self) -> bool:
        """Whether what waits stands where the ageing of now has it. For a while after the ageing was changed it does not."""
        return int(self.meta["scored"] or 0) == self.ageing_ms

    @property
    def rules(self) -> Rules:
        """The limits and groups that hold."""
        policy = json.loads(self.meta["policy"] or b"{}")
        names = {name: limit_of(found) for name, found in policy.get("names", {}).items()}
        groups = {name: _group(row) for name, row in self.groups.items()}
        return Rules(limit_of(policy.get("limit")), limit_of(policy.get("group_limit")), names, groups)


def reading(base: str) -> Generator[list[Command], Any, Seen]:
    """The commands that read a queue, in two rounds; send the answers in. Returns Seen."""
    first = yield [
        ("HMGET", base + "m", *_META),
        ("ZRANGE", base + "U", 0, -1),
        ("ZRANGE", base + "w", 0, -1, "WITHSCORES"),
        ("ZRANGE", base + "o", 0, -1),
        ("ZRANGE", base + "a", 0, -1),
        ("HGETALL", base + "G"),
        ("HGETALL", base + "M"),
        ("HGETALL", base + "s"),
        *(("ZRANGE", base + place, 0, -1, "WITHSCORES") for place in "ryv"),
    ]
    meta, listed, plain, alone, active, rows, labels, sessions, *places = first
    lines = yield [("ZRANGE", base.encode() + line, 0, -1, "WITHSCORES") for line in listed]
    waiting = {member[8:]: ((float(score), member), "w") for member, score in _pairs(plain)}
    for line, members in zip(listed, lines or (), strict=True):
        waiting |= {member[8:]: ((float(score), member), line.decode("latin-1")) for member, score in _pairs(members)}
    by_sid = {sid: frozenset(codec.decode_labels(packed).items()) for sid, packed in _pairs(labels)}
    found = {key: _SESSION.unpack_from(row) for key, row in _pairs(sessions) if len(key) == 16}
    groups = {name.decode(): GROUP_ROW.unpack_from(row) for name, row in _pairs(rows)}
    return Seen(
        dict(zip(_META, meta, strict=True)),
        waiting,
        frozenset(member[8:] for member in alone),
        frozenset(member[12:] for member in active),
        groups,
        {name: row[5] for name, row in groups.items()} | {name.decode(): float(tag) for place in places for name, tag in _pairs(place)},
        {session: by_sid[sid] for session, (sid, _, _) in found.items() if sid in by_sid},
        frozenset(session for session, (_, _, solo) in found.items() if solo),
    )


class LeaseCheck:
    """Holds the calls of one queue to the chooser, one after the other. `kind_of` knows every job by its id; `may_expire`: some of them may."""

    def __init__(self, kind_of: Callable[[bytes], Kind], *, may_expire: bool = False) -> None:
        self._kind_of = kind_of
        self._may_expire = may_expire
        self.chooser = Chooser()
        self._expired = 0
        self._ageing_ms = 0
        self._placed_before: set[bytes] = set()
        """What waited when the ageing changed: it may keep the place that it had for a while."""
        self._missed: set[bytes] = set()
        """Jobs that one of their name was leased before, and none of their group since."""

    def wrong_of(self, seen: Seen, asked: Sequence[Asked], now_us: int) -> str:
        """What a call did wrong, by what it has left; empty: nothing."""
        if self._may_expire and seen.expired != self._expired:
            # What expired in its turn has paid for it, and nobody can tell from outside: look who has paid.
            self._expired = seen.expired
            self._believe(seen, now_us)
            return ""
        self._note_ageing(seen, asked)
        rules = seen.rules
        self.chooser.note_rules(Moment(now_us, rules, [], []))
        if seen.paused and any(one.given for one in asked):
            return "a job is leased, and the queue is paused"
        left = {raw_id: self._candidate(raw_id, place, line) for raw_id, (place, line) in seen.waiting.items()}
        given = {raw_id: place for one in asked for raw_id, place, *_ in one.given}
        active = {raw_id: self._kind_of(raw_id) for raw_id in seen.active if raw_id not in given}
        alone = [self._kind_of(raw_id) for raw_id in seen.alone]
        alone += [self._kind_of(lease.raw_id) for one in asked for lease in one.given if lease.alone]
        to_come = {raw_id: self._candidate(raw_id, place, "") for raw_id, place in given.items()}
        for one in asked:
            labels = seen.labels.get(one.session, frozenset())
            _park_labelled(left, to_come, one.jobs)
            pays = Chooser.turns_cost(Moment(now_us, rules, [*left.values(), *to_come.values()], []))
            for lease in one.given:
                moment = Moment(now_us, rules, [*left.values(), *to_come.values()], list(active.values()), labels, alone)
                job = to_come.pop(lease.raw_id)
                if wrong := self._wrong_lease(moment, job, lease, pays=pays):
                    return wrong
                active[lease.raw_id] = job.kind
            moment = Moment(now_us, rules, [*left.values(), *to_come.values()], list(active.values()), labels, alone)
            if wrong := self._wrong_end(moment, one, seen):
                return wrong
        return ""

    def _wrong_lease(self, moment: Moment, job: Candidate, lease: Given, *, pays: bool) -> str:
        if lease.alone:
            right = self.chooser.may_start(moment, job.kind)
            self.chooser.started(moment.rules, job.kind, lease.token)
            return "" if right else f"{job.id} is leased alone, and may not start now"
        options = self.chooser.options(moment)
        if job not in options and lease.raw_id not in self._placed_before:
            return f"{job.id} ({job.kind}) is leased, and it was the turn of {' or '.join(_named(option) for option in options)}"
        self._placed_before.discard(lease.raw_id)
        self.chooser.given(moment, job, lease.token, pays=pays)
        return ""

    def _wrong_end(self, moment: Moment, one: Asked, seen: Seen) -> str:
        """Whether a session had to get more."""
        if len(one.given) >= one.jobs or one.is_bounded or seen.paused or seen.alone or one.session in seen.solo or any(lease.alone for lease in one.given):
            return ""
        options = self.chooser.options(moment)
        if None in options:
            return ""
        return f"a session asks for {one.jobs} jobs and gets {len(one.given)}, and it was the turn of {' or '.join(_named(option) for option in options)}"

    def _note_ageing(self, seen: Seen, asked: Sequence[Asked]) -> None:
        if seen.ageing_ms != self._ageing_ms or not seen.is_in_order:
            self._ageing_ms = seen.ageing_ms
            self._placed_before = set(seen.waiting) | {lease.raw_id for one in asked for lease in one.given}

    def _believe(self, seen: Seen, now_us: int) -> None:
        virtual, ungrouped, express = (float(seen.meta[field] or 0) for field in ("vt", "fw", "vx"))
        self.chooser.believe(virtual, ungrouped, express, seen.tags, now_us)

    def is_served(self, seen: Seen, labels: frozenset[tuple[str, str]], now_us: int) -> bool:
        """Whether a session with these labels must get a job if it asks now."""
        waiting = [self._candidate(raw_id, place, line) for raw_id, (place, line) in seen.waiting.items()]
        active = [self._kind_of(raw_id) for raw_id in seen.active]
        return not seen.paused and not seen.alone and self.chooser.is_served(Moment(now_us, seen.rules, waiting, active, labels))

    def passed(self, seen: Seen, asked: Sequence[Asked], labels: Iterable[frozenset[tuple[str, str]]], now_us: int) -> list[bytes]:
        """The jobs that one of their group was leased before, though they go before it, and wait for room alone; `labels` are those of sessions with room.

        One that is parked, because the limit of its name was used up, goes back when its turn among those of its name has come: see `passed_in_turn`.
        """
        active = [self._kind_of(raw_id) for raw_id in seen.active]
        found = []
        for raw_id, (place, line) in seen.waiting.items():
            kind = self._kind_of(raw_id)
            moment = Moment(now_us, seen.rules, (), active)
            if line[:1] == "n" or not any(kind.labels <= there for there in labels) or not self.chooser.is_held_for_room(moment, kind):
                continue
            others = [lease for one in asked for lease in one.given if not lease.alone and self._kind_of(lease.raw_id).group == kind.group]
            found += [raw_id for lease in others if place < lease.place]
        return found

    def passed_in_turn(self, seen: Seen, asked: Sequence[Asked]) -> list[bytes]:
        """The jobs that one of their group was leased before, after one of their name was: they miss the room of the one, and then the turn of the other.

        Each of these goes before all others of its name that are parked, and requires no labels. Where its group has no limit, it goes before all others of its
        name.
        """
        rules = seen.rules
        if not rules.names:
            return []
        kinds = {raw_id: self._kind_of(raw_id) for raw_id in seen.waiting}
        held = {raw_id for raw_id, kind in kinds.items() if kind.name in rules.names and not kind.labels}
        held = {raw_id for raw_id in held if _has_limit(rules, kinds[raw_id]) or self._is_foremost(seen, kinds, raw_id)}
        self._missed &= held
        first = {line: min(place for place, other in seen.waiting.values() if other == line) for _, line in seen.waiting.values() if line[:1] == "n"}
        found = []
        for lease in (lease for one in asked for lease in one.given if not lease.alone):
            other = self._kind_of(lease.raw_id)
            for raw_id in held:
                kind, (place, line) = kinds[raw_id], seen.waiting[raw_id]
                if place > lease.place or place > first.get(line, place):
                    continue
                if (
                    other.name == kind.name
                    and other.group != kind.group
                    and (_has_limit(rules, kind) or rules.of(kind.group).express >= rules.of(other.group).express)
                ):
                    self._missed.add(raw_id)
                elif other.name != kind.name and other.group == kind.group and raw_id in self._missed:
                    self._missed.discard(raw_id)
                    found.append(raw_id)
        return found

    @staticmethod
    def _is_foremost(seen: Seen, kinds: Mapping[bytes, Kind], raw_id: bytes) -> bool:
        """Whether a job goes before all others of its name, and its group and nobody who goes alone keep it from starting."""
        kind, (place, _) = kinds[raw_id], seen.waiting[raw_id]
        group = seen.rules.of(kind.group)
        others = (seen.waiting[other][0] for other, its in kinds.items() if its.name == kind.name)
        return not seen.alone and not group.paused and not group.frozen_until_us and place == min(others)

    def _candidate(self, raw_id: bytes, place: tuple[float, bytes], line: str) -> Candidate:
        return Candidate(id_to_text(raw_id), place, self._kind_of(raw_id), line[:1] == "n" or raw_id in self._placed_before)


def _has_limit(rules: Rules, kind: Kind) -> bool:
    return bool(kind.group) and rules.limit_of(kind.group) != NO_LIMIT


def _park_labelled(left: dict[bytes, Candidate], to_come: dict[bytes, Candidate], count: int) -> None:
    """Of the jobs of a group with the same required labels a session that asks for `count` may see the first `count` alone."""
    kept: Counter[tuple[frozenset[tuple[str, str]], str]] = Counter()
    labelled = [(job, raw_id, jobs) for jobs in (left, to_come) for raw_id, job in jobs.items() if job.kind.labels]
    for job, raw_id, jobs in sorted(labelled, key=lambda found: found[0].place):
        kept[job.kind.labels, job.kind.group] += 1
        jobs[raw_id] = replace(job, parked=job.parked or kept[job.kind.labels, job.kind.group] > count)


def _named(option: Candidate | None) -> str:
    return "nobody" if option is None else f"{option.id} ({option.kind})"


def limit_of(found: Mapping[str, Any] | None) -> Limit:
    """A limit as the policy of a queue has it."""
    if not found:
        return NO_LIMIT
    rate = found.get("rate")
    return Limit(found.get("concurrency", 0), Rate(rate["count"], rate["period"] * 1000, rate["burst"]) if rate else None)


def _group(row: Sequence[Any]) -> Group:
    flags, weight, _, _, frozen_ms, _, concurrency, count, period_ms, burst, *_ = row
    own = Limit(concurrency, Rate(count, round(period_ms * 1000), burst) if count else None) if flags & OWN else None
    return Group(weight, bool(flags & EXPRESS), bool(flags & PAUSED), frozen_ms * 1000, own)


def _pairs(flat: Any) -> Iterator[tuple[Any, Any]]:
    """Of a flat list, of pairs, or of a mapping."""
    if isinstance(flat, Mapping):
        return iter(flat.items())
    if flat and isinstance(flat[0], tuple | list):
        return iter(flat)
    return zip(flat[::2], flat[1::2], strict=True)
