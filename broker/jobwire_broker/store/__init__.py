"""All of Redis and Valkey: nothing outside this package knows of them."""

from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.queue_store import JobItem, Lease, LeaseRequest, PulseReport, QueueStore, Settled, TurnItem

__all__ = ["JobItem", "Lease", "LeaseRequest", "PulseReport", "QueueStore", "Settled", "StoreClient", "TurnItem"]
