"""The simulation finds what is wrong: each bug that is put in on purpose, within 200 seeds.

The runs are in a process of their own: the order of sets of words is part of what a seed decides, and is fixed when a process begins.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation import finding
from tests.simulation.bugs import BUGS, Bug
from tests.simulation.real_store import StoreProcess

SEEDS = 200


class StaleSeedWarning(UserWarning):
    """The known seed of a bug does not find it any more."""


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The socket of a store for all of them."""
    process = StoreProcess()
    with process.started():
        yield process.socket


@pytest.fixture(scope="module")
def apart() -> Iterator[ProcessPoolExecutor]:
    """A process with PYTHONHASHSEED=0, as `make simulate` has it."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            # It is started by its first task.
            pool.submit(os.getpid).result()
            yield pool
    finally:
        os.environ.pop("PYTHONHASHSEED")
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before


@pytest.mark.filterwarnings("default::tests.simulation.test_bugs.StaleSeedWarning")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_that_was_put_in_is_found(apart: ProcessPoolExecutor, store: str, bug: Bug) -> None:
    found = apart.submit(finding.find, store, bug.name, SEEDS).result()
    assert found is not None, f"{SEEDS} seeds did not find that {bug.name}"
    seed, violation = found
    print(f"seed {seed}: {violation}")
    if seed != bug.seed:
        # What a run is changes with the plans and with the product: then bugs.py is to be told.
        warnings.warn(StaleSeedWarning(f"seed {bug.seed} does not find any more that {bug.name}; seed {seed} does"), stacklevel=1)


def test_without_a_bug_nothing_is_found(apart: ProcessPoolExecutor, store: str) -> None:
    assert apart.submit(finding.violations, store, 20).result() == []


def test_a_seed_decides_all_that_happens(apart: ProcessPoolExecutor, store: str) -> None:
    assert apart.submit(finding.lines_of, store, 3).result() == apart.submit(finding.lines_of, store, 3).result()
