"""The scenarios that take a minute begin with the first fault test of the run, and wait beside the others."""

import pytest

from tests.support.meanwhile import Background


@pytest.fixture(scope="session", autouse=True)
def _scenarios_begin(background: Background) -> None:
    """See tests/support/meanwhile.py."""
