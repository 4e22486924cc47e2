"""The groups of the model of the store: what holds them, and whose turn it is."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.line_state import GroupView
from tests.support.model_job import Group
from tests.support.model_moves import Moves


class GroupChange(NamedTuple):
    """What is changed of a group's rules; None: nothing. `most` is a limit of its own, 0 for none; `thaw`: no worker's word holds it any more."""

    paused: bool | None = None
    express: bool | None = None
    weight: float | None = None
    most: int | None = None
    thaw: bool = False


class Groups(Moves):
    """Those of one queue. A worker's word holds a group for longer than a test lasts."""

    def set_group(self, name: str, change: GroupChange) -> None:
        """Other rules."""
        group = self.groups.setdefault(name, Group())
        if change.express not in (None, group.express):
            # Its tag was in another time.
            group.express, group.tag = bool(change.express), 0.0
        group.paused = group.paused if change.paused is None else change.paused
        group.weight = group.weight if change.weight is None else change.weight
        group.most = group.most if change.most is None else change.most
        group.frozen = group.frozen and not change.thaw

    def is_open(self, name: str) -> bool:
        """Whether a job of the group may start."""
        group = self.groups[name]
        return not group.paused and not group.frozen and self.has_room(name)

    def has_room(self, name: str) -> bool:
        """Whether the group's own limit lets one more of it run."""
        most = self.groups[name].most
        return not most or self._active(name) < most

    def _active(self, name: str) -> int:
        return sum(self.jobs[raw_id].content.group == name for raw_id in self._in("ACTIVE"))

    def ready(self) -> set[str]:
        """The groups that may start a job, and have one that waits."""
        return {name for name in self._waiting_groups() if self.is_open(name)}

    def _waiting_groups(self) -> set[str]:
        found = {self.jobs[raw_id].content.group for raw_id in self._in("WAITING") if not self.jobs[raw_id].alone} - {""}
        for name in found:
            self.groups.setdefault(name, Group())
        return found

    def lines(self) -> dict[str, list[str]]:
        """The jobs that wait, by group, in order."""
        found: dict[str, list[str]] = {name: [] for name in self._waiting_groups()}
        for raw_id in self._waiting(alone=False):
            if name := self.jobs[raw_id].content.group:
                found[name].append(raw_id)
        return found

    def ungrouped(self) -> list[str]:
        """The jobs that wait and have no group, in order."""
        return [raw_id for raw_id in self._waiting(alone=False) if not self.jobs[raw_id].content.group]

    def turn(self) -> str | None:
        """The job whose turn it is, where jobs of groups wait; its group, or those without one, pay for it."""
        lines, ready, plain = self.lines(), self.ready(), self.ungrouped()
        express = [name for name in ready if self.groups[name].express]
        tags = [(max(self.groups[name].tag, self.express_time if express else self.time), name) for name in express or ready]
        tag, name = min(tags, default=(0.0, ""))
        if not express and plain and (not name or max(self.time, self.paid) <= tag):
            self.time = max(self.time, self.paid)
            self.paid = self.time + 1
            return plain[0]
        if not name:
            return None
        if express:
            self.express_time = tag
        else:
            self.time = tag
        self.groups[name].tag = tag + 1 / self.groups[name].weight
        return lines[name][0]

    def group_views(self) -> dict[str, GroupView]:
        """As the store shows them. Nobody can tell those that have no rules and nothing to do."""
        waiting, ready = self.lines(), self.ready()
        views = {}
        for name, group in self.groups.items():
            place = ("y" if group.express else "r") if name in ready else "b" if name in waiting or group.frozen else ""
            own = (group.most, 0, 0.0, 1) if group.most else None
            views[name] = GroupView(place, self._active(name), group.weight, group.paused, group.express, own)
        return {name: view for name, view in views.items() if view != GroupView()}
