"""One system for all pages, and a reader per page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from jobwire_client import QueuePolicy, SyncClient

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
    _tidy_up(page_broker.address)


def _tidy_up(target: str) -> None:
    """Leave no jobs and no rules to the next page: each is true whatever was read before it."""
    with SyncClient(target) as client:
        for queue in client.queues():
            client.update_queue(queue.name, QueuePolicy())
            client.resume_queue(queue.name)
            client.purge_queue(queue.name)
            for state in ("completed", "failed", "cancelled", "expired"):
                client.clean_queue(queue.name, state=state)
            for group in client.groups(queue.name):
                client.resume_group(queue.name, group.name)
                client.update_group(queue.name, group.name, weight=1, express=False, limit="default")
