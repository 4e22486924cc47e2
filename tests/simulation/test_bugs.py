"""The simulation finds what is wrong: each bug that is put in on purpose, within 200 seeds."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.bugs import BUGS, Bug, planted
from tests.simulation.plan import plan_of
from tests.simulation.real_store import RealStore, StoreProcess, library
from tests.simulation.world import run_plan

SEEDS = 200


@pytest.fixture(scope="module")
def real() -> Iterator[RealStore]:
    process = StoreProcess()
    with process.started():
        store = RealStore(process.socket)
        logging.disable(logging.CRITICAL)
        yield store
        logging.disable(logging.NOTSET)
        store.close()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_that_was_put_in_is_found(real: RealStore, bug: Bug) -> None:
    real.use(library(bug.lua))
    with planted(bug):
        seeds = [bug.seed, *(seed for seed in range(1, SEEDS) if seed != bug.seed)]
        found = next((outcome for outcome in (run_plan(plan_of(seed), real) for seed in seeds) if outcome.violation is not None), None)
    assert found is not None, f"{SEEDS} seeds did not find that {bug.name}"
    print(f"seed {found.plan.seed}: {found.violation}")


def test_without_a_bug_nothing_is_found(real: RealStore) -> None:
    real.use(library())
    assert [str(outcome.violation) for outcome in (run_plan(plan_of(seed), real) for seed in range(1, 21)) if outcome.violation] == []


def test_a_seed_decides_all_that_happens(real: RealStore) -> None:
    real.use(library())
    assert run_plan(plan_of(3), real).lines == run_plan(plan_of(3), real).lines
