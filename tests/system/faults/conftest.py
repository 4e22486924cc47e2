"""The scenarios that take a minute begin with the first fault test of the run, and wait beside the others."""

from pathlib import Path

import pytest

from tests.support.meanwhile import Background


@pytest.fixture(scope="session", autouse=True)
def _scenarios_begin(background: Background) -> None:
    """See tests/support/meanwhile.py."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Their tests come behind the others, so that the minute passes while those run; and last of all come those that want nothing beside them."""
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    ordered = iter(sorted(here, key=lambda item: [hasattr(getattr(item, "obj", None), mark) for mark in ("afterwards", "scenario")]))
    items[:] = [next(ordered) if item in here else item for item in items]
