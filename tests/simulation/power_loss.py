"""A store that loses its power: it comes back with what its disk had, which lacks the last writes.

The disk has all that was there at some moment of the last two seconds, and when a caller was told for the last time that something is on disk.
Nobody can know more of a job that was changed after that moment than what the disk has: it may be gone if it was made later, it may run again, what was done to
it may be undone. All the same it ends, if it is there, and the store's state holds together.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobwire_broker.names import id_to_bytes

from tests.simulation.history import LOST

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class _Disk:
    """All keys with their values and times to live, and what the watches knew then."""

    keys: dict[bytes, tuple[bytes, int]]
    watched: dict[str, Any]
    verbs: dict[str, Any]


class PowerLoss:
    """Of the one store of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._disk: _Disk | None = None
        self.changed: set[str] = set()
        """Jobs of which the disk had not all."""
        self.lost: set[str] = set()
        """Those of them that it had not at all."""
        world.store.on_synced = self._synced

    def write(self) -> None:
        """What is there now is what the disk will have."""
        watch = self._world.watch
        self._disk = _Disk(self._keys(), {name: copy.copy(getattr(watch, name)) for name in watch.REMEMBERED}, watch.verbs.remembered())

    def _synced(self) -> None:
        if self._disk is not None:
            self.write()

    def strike(self) -> None:
        """The store has what its disk had."""
        world, disk, self._disk = self._world, self._disk, None
        if disk is None:
            return
        now, made = self._keys(), world.watch.verbs.made_us.keys() - disk.verbs["made_us"].keys()
        differing = {key for key in disk.keys.keys() | now.keys() if disk.keys.get(key, (b"",))[0] != now.get(key, (b"",))[0]}
        for job in world.plan.jobs:
            base, raw_id = world.base(job.queue).encode(), id_to_bytes(job.id, "id")
            if job.id in made or any(key.startswith(base) and key[len(base) + 1 :] == raw_id for key in differing):
                self._changed(job.id, was_there=job.id not in made)
        world.store.real.restore(f"{world.store.namespace}:", disk.keys)
        for name, value in disk.watched.items():
            setattr(world.watch, name, value)
        world.watch.verbs.remember(disk.verbs)
        # A queue may have been paused, or resumed, by what is lost.
        world.watch.paused.clear()
        world.was_paused = dict.fromkeys(world.plan.queues, True)
        world.history.tell(f"the store has lost its last writes: {len(self.changed)} jobs are not as they were, {len(self.lost)} are gone")

    def _changed(self, text: str, *, was_there: bool) -> None:
        world = self._world
        self.changed.add(text)
        world.history.uncertain.add(text)
        if was_there:
            return
        self.lost.add(text)
        story, job = world.history.story(text), world.by_id[text]
        if job.is_durable and story.acknowledged_s is not None:
            world.history.blame(LOST, f"{text} was said to be on disk, and the disk had it not")

    def _keys(self) -> dict[bytes, tuple[bytes, int]]:
        return self._world.store.real.dump(f"{self._world.store.namespace}:")
