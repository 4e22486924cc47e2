"""All of Redis and Valkey: nothing outside this package knows of them."""

from jobwire_broker.store.answers import Lease, PulseReport, Settled
from jobwire_broker.store.arguments import JobItem, LeaseRequest, TurnItem
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.queue_store import QueueStore

__all__ = ["JobItem", "Lease", "LeaseRequest", "PulseReport", "QueueStore", "Settled", "StoreClient", "TurnItem"]
