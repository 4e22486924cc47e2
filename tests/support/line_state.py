"""The lines, groups and counters of one queue in the store, decoded and checked: the part of queue_state that queues with groups and limits alone have.

It asserts what must hold in every state: each line that is there is listed, and nothing else; each group stands in the one place that its jobs and its row give
it; every counter says what the leases say.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobwire_broker.names import id_to_text
from jobwire_broker.store import codec

GROUP_ROW = struct.Struct(">BdIdddIIdII")
NAME_ROW = struct.Struct(">Id")
SORTED_SETS = ("r", "y", "b", "v", "U", "q")
HASHES = ("G", "N", "M")
LINE_META = frozenset((b"lw", b"full", b"judged", b"vt", b"fw", b"vx", b"tat", b"extra", b"policy", b"scored", b"scoring"))
PAUSED, EXPRESS, OWN = 1, 2, 4
_OPEN = frozenset("ry")


@dataclass(frozen=True)
class GroupView:
    """A group. `place` is r, y, b or v, empty for nowhere; `own` is its own limit as (concurrency, count, period in ms, burst), 0 for what it does not have."""

    place: str = ""
    active: int = 0
    weight: float = 1
    paused: bool = False
    express: bool = False
    own: tuple[int, int, float, int] | None = None


class Rules(NamedTuple):
    """What a job's sections say of lines and limits."""

    name: str
    group: str
    units: int
    labels: bytes

    @property
    def line(self) -> str:
        """The key of the line that it waits in unless it is parked."""
        if self.group:
            return "l" + self.group
        return "l" if self.units > 1 or self.labels else "w"


def rules_of(record: bytes) -> Rules:
    """Read a record."""
    start = codec.body_start(record)
    found = codec.sections(record, start)
    units = int.from_bytes(found[codec.TAG_UNITS], "big") if codec.TAG_UNITS in found else 1
    return Rules(record[codec.HEADER_SIZE + 1 : start].decode(), found.get(codec.TAG_GROUP, b"").decode(), units, found.get(codec.TAG_REQUIRED_LABELS, b""))


def label_line(rules: Rules) -> str:
    """The line in which a job waits for a session with its labels."""
    return "q" + (len(rules.labels).to_bytes(2, "big") + rules.labels + rules.group.encode()).decode("latin-1")


@dataclass
class LineKeys:
    """The keys of this part, as they were read."""

    sets: Mapping[str, Mapping[bytes, float]]
    hashes: Mapping[str, Mapping[bytes, bytes]]
    lines: Mapping[str, Sequence[tuple[bytes, float]]]
    turns: Mapping[bytes, Sequence[bytes]]
    """By labels: the groups that have jobs which wait for them."""
    meta: Mapping[bytes, bytes]
    records: Mapping[bytes, bytes]


@dataclass
class LineState:
    """What is shown of it. `lines` has the ids of each line l, n and q."""

    lines: dict[str, list[str]]
    groups: dict[str, GroupView]


def read_lines(keys: LineKeys) -> LineState:
    """Check and decode."""
    lines = {name: [id_to_text(member[8:]) for member, _ in members] for name, members in keys.lines.items()}
    _check_lists(keys)
    _check_counters(keys)
    return LineState(lines, _groups(keys))


def check_place(keys: LineKeys, line: str, record: bytes, score: float) -> None:
    """A job stands in a line in which it may stand, where it belongs."""
    rules, header = rules_of(record), codec.header_of(record)
    if line == "o":
        assert header.flags & codec.FLAG_ALONE
    else:
        assert not header.flags & codec.FLAG_ALONE
        assert line in (rules.line, "n" + rules.name, label_line(rules))
    ruled = bool(rules.group or rules.units > 1 or rules.labels)
    assert header.flags & codec.FLAG_COUNTED or not ruled, "a job with rules that is not marked"
    ageing = _policy(keys).get("ageing")
    # While lines are brought into the order of another ageing, a job may stand where it stood before.
    if int(keys.meta.get(b"scored", 0)) == (ageing or 0):
        assert score == (header.priority * ageing + header.order // 1000 if ageing else header.priority)


def _policy(keys: LineKeys) -> dict[str, Any]:
    policy: dict[str, Any] = json.loads(keys.meta.get(b"policy", b"{}"))
    return policy


def _check_lists(keys: LineKeys) -> None:
    rows = {"l" + name.decode() for name in keys.hashes["G"]}
    listed = {name.decode("latin-1") for name in keys.sets["U"]}
    assert listed == keys.lines.keys() | rows, f"lines {keys.lines.keys()}, groups with a row {rows}, and listed are {listed}"
    labelled = {line[1:].encode("latin-1") for line in keys.lines if line[0] == "q"}
    assert keys.sets["q"].keys() == {line[2 : 2 + int.from_bytes(line[:2], "big")] for line in labelled}
    assert labelled == {len(labels).to_bytes(2, "big") + labels + group for labels, turns in keys.turns.items() for group in turns}
    assert int(keys.meta.get(b"lw", 0)) == sum(map(len, keys.lines.values())), "jobs in lines that are not counted"
    names = {name[1:].decode() for name in keys.sets["b"] if name[:1] == b"\1"}
    assert {name[1:] for name in keys.lines if name[0] == "n"} <= names, "a line of a job name that nothing will open"


def _check_counters(keys: LineKeys) -> None:
    active: Counter[str] = Counter()
    names: Counter[str] = Counter()
    extra = 0
    limited = _policy(keys).get("names") or {}
    # A policy that no call has seen yet has counted nothing.
    is_judged = keys.meta.get(b"judged", b"").decode() == hashlib.sha1(keys.meta.get(b"policy", b""), usedforsecurity=False).hexdigest()[:8]
    for record in keys.records.values():
        header = codec.header_of(record)
        if header.state == codec.State.JOB_STATE_ACTIVE:
            rules = rules_of(record)
            if rules.group:
                active[rules.group] += rules.units
            if rules.name in limited:
                names[rules.name] += rules.units
                assert header.flags & codec.FLAG_COUNTED or not is_judged, "a lease of a limited name that is not counted"
            extra += rules.units - 1
    counted = {name.decode(): GROUP_ROW.unpack_from(row)[2] for name, row in keys.hashes["G"].items()}
    assert {name: count for name, count in counted.items() if count} == dict(active), "units of groups that are not those of their leases"
    if is_judged:
        rows = {name.decode(): NAME_ROW.unpack_from(row)[0] for name, row in keys.hashes["N"].items()}
        assert {name: count for name, count in rows.items() if count} == dict(names), "units of job names that are not those of their leases"
    parked = Counter(rules_of(keys.records[member[8:]]).group for line, members in keys.lines.items() if line[0] in "nq" for member, _ in members)
    parked.pop("", None)
    noted = {name.decode(): GROUP_ROW.unpack_from(row)[10] for name, row in keys.hashes["G"].items()}
    assert {name: count for name, count in noted.items() if count} == dict(parked), "parked jobs that their groups do not count"
    assert int(float(keys.meta.get(b"extra", 0))) == extra, "units beyond one that are not those of the leases"


def _groups(keys: LineKeys) -> dict[str, GroupView]:
    places: dict[str, str] = {}
    for place in "rybv":
        for name in keys.sets[place]:
            if name[:1] != b"\1":
                text = name.decode()
                assert text not in places, f"group {text} stands in {place} and in {places.get(text)}"
                places[text] = place
    waiting = {name[1:] for name in keys.lines if name[0] == "l" and name != "l"}
    lost = {name for name in waiting if places.get(name, "v") == "v"}
    assert not lost, f"groups that wait and stand nowhere: {lost}"
    rows = {name.decode(): GROUP_ROW.unpack_from(row) for name, row in keys.hashes["G"].items()}
    views: dict[str, GroupView] = {}
    for group in places.keys() | rows.keys() | waiting:
        flags, weight, active, _, _, _, concurrency, count, period, burst, _ = rows.get(group, (0, 1.0, 0, 0.0, 0.0, 0.0, 0, 0, 0.0, 1, 0))
        place = places.get(group, "")
        own = (concurrency, count, period, burst) if flags & OWN else None
        views[group] = GroupView(place, active, weight, bool(flags & PAUSED), bool(flags & EXPRESS), own)
        assert place not in _OPEN or group in waiting, f"group {group} is ready and has no jobs"
        assert place not in _OPEN or (place == "y") == bool(flags & EXPRESS)
        assert place not in _OPEN or not flags & PAUSED, f"group {group} is paused and ready"
    return views
