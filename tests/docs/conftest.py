"""One system for all pages, and a reader per page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import Reader, reader
from tests.support import Broker, Gateway, Store


@pytest.fixture(scope="session")
def page_broker() -> Iterator[Broker]:
    with Store().started() as store, Broker(store).started() as broker:
        yield broker


@pytest.fixture(scope="session")
def page_gateway(page_broker: Broker) -> Iterator[Gateway]:
    with Gateway(page_broker).started() as gateway:
        yield gateway


@pytest.fixture
def page_reader(tmp_path: Path, page_broker: Broker, page_gateway: Gateway) -> Iterator[Reader]:
    """Somebody for whom the addresses of the documentation are those of the test's own system."""
    replacements = {
        f"{host}:{port}": address for host in ("localhost", "127.0.0.1") for port, address in ((7410, page_broker.address), (8080, page_gateway.address))
    }
    with reader(tmp_path, replacements, {"JOBWIRE_TARGET": page_broker.address}) as somebody:
        yield somebody
