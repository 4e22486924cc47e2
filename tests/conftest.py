"""Fixtures with real parts. Each is there twice: fresh for one test, and `shared_…`, started once for the whole run.

Prefer the shared ones with a queue of your own (fixture `queue`); take the fresh ones when you break or restart things.
"""

import itertools
import logging
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.support import Broker, Gateway, Process, Store, StoreKind, needs, outcomes
from tests.support.meanwhile import Background
from tests.support.seeds import SEED

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

Part = TypeVar("Part", bound=Process)

_numbers = itertools.count(1)


@pytest.fixture
def queue() -> str:
    """The name of a queue that no other test uses."""
    return f"q{next(_numbers)}"


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """A Valkey of this test's own, on a unix socket."""
    async with Store() as store:
        yield store


@pytest.fixture
async def redis_store() -> AsyncIterator[Store]:
    """A Redis 7.0 of this test's own; left out, loudly, where there is no redis-server."""
    async with Store(StoreKind.REDIS) as store:
        yield store


@pytest.fixture
async def broker(store: Store) -> AsyncIterator[Broker]:
    """A broker of this test's own on the fixture `store`, with a session time of 2 s."""
    async with Broker(store, session_time="2s") as broker:
        yield broker


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[Gateway]:
    """A gateway of this test's own before the fixture `broker`."""
    async with Gateway(broker) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def shared_store() -> Iterator[Store]:
    """A Valkey for all tests that harm nobody."""
    yield from _shared(Store())


@pytest.fixture(scope="session")
def shared_redis_store() -> Iterator[Store]:
    """A Redis 7.0 for all tests that harm nobody; left out, loudly, where there is no redis-server."""
    yield from _shared(Store(StoreKind.REDIS))


@pytest.fixture(scope="session")
def shared_broker(shared_store: Store) -> Iterator[Broker]:
    """A broker with default settings for all tests that harm nobody."""
    yield from _shared(Broker(shared_store))


@pytest.fixture(scope="session")
def shared_redis_broker(shared_redis_store: Store) -> Iterator[Broker]:
    """The same on Redis 7.0."""
    yield from _shared(Broker(shared_redis_store))


@pytest.fixture(scope="session")
def shared_gateway(shared_broker: Broker) -> Iterator[Gateway]:
    """A gateway with default settings for all tests that harm nobody."""
    yield from _shared(Gateway(shared_broker))


@pytest.fixture(scope="session")
def background(request: pytest.FixtureRequest) -> Iterator[Background]:
    """Runs the scenarios marked with `meanwhile`: all that were selected begin when this fixture is first asked for."""
    with Background() as background:
        for item in request.session.items:
            if scenario := getattr(getattr(item, "obj", None), "scenario", None):
                background.start(scenario)
        yield background


def _shared(part: Part) -> Iterator[Part]:
    with part.started():
        yield part


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds")
    logging.getLogger("asyncio").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Loops in several threads share grpc.aio's poller, and a slower one finds nothing to read: harmless, and it fills the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError) and "PollerCompletionQueue" in record.getMessage())


def pytest_report_header() -> str:
    return f"jobwire seed: {SEED} (JOBWIRE_SEED={SEED} repeats the random choices)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the parts said last."""
    report = yield
    if report.failed:
        for part in Process.living():
            report.sections.append((f"last lines of {part.label} (pid {part.pid})", part.tail(8)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the fault tests counted, and loudly what this machine could not prove."""
    if outcomes.lines:
        terminalreporter.section("what the fault tests counted")
        for line in outcomes.lines:
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"{outcomes.kills} processes were killed with -9; JOBWIRE_SEED={SEED} repeats the random choices")
    for program, tests in needs.left_out(terminalreporter.stats.get("skipped", [])).items():
        terminalreporter.write_line("")
        count = "1 test" if len(tests) == 1 else f"{len(tests)} tests"
        terminalreporter.write_line(f"LEFT OUT: {count}, because {program} is not on this machine:", red=True, bold=True)
        for test in sorted(tests):
            terminalreporter.write_line(f"  {test}", red=True)
