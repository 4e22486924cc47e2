"""Runs that a process does for another, which keeps the store: what test_bugs.py asks of a process in which words have the same hash every time."""

from __future__ import annotations

import logging
from functools import cache

from tests.simulation.bugs import BUGS, planted
from tests.simulation.planner import plan_of
from tests.simulation.real_store import RealStore, library
from tests.simulation.world import run_plan


@cache
def _store(socket: str) -> RealStore:
    logging.disable(logging.CRITICAL)
    return RealStore(socket)


def find(socket: str, name: str, seeds: int) -> tuple[int, str] | None:
    """The seed that finds a bug and what it says: the known one if it does, else the first."""
    bug = next(bug for bug in BUGS if bug.name == name)
    real = _store(socket)
    real.use(library(bug.lua))
    with planted(bug):
        for seed in [bug.seed, *(seed for seed in range(1, seeds) if seed != bug.seed)]:
            violation = run_plan(plan_of(seed), real).violation
            if violation is not None:
                return seed, str(violation)
    return None


def violations(socket: str, count: int) -> list[str]:
    """What the first seeds find."""
    real = _store(socket)
    real.use(library())
    return [str(outcome.violation) for outcome in (run_plan(plan_of(seed), real) for seed in range(1, count + 1)) if outcome.violation]


def lines_of(socket: str, seed: int) -> list[tuple[float, str, str]]:
    """The history of a run."""
    real = _store(socket)
    real.use(library())
    return run_plan(plan_of(seed), real).lines
