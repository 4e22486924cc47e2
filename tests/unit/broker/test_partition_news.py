"""Answers of the store come on several connections, so an older one may arrive after a newer one."""

from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.partition import Partition
from jobwire_broker.store.client import StoreClient


def _partition() -> Partition:
    return Partition(StoreClient(BrokerConfig(store="unix:///nowhere")), "q")


def test_an_older_answer_does_not_hide_jobs_that_wait() -> None:
    partition = _partition()
    partition.pulsed(11, 50)
    partition.pulsed(10, 0)
    assert partition.waiting == 50


def test_a_newer_answer_is_believed() -> None:
    partition = _partition()
    partition.pulsed(11, 50)
    partition.pulsed(12, 3)
    assert partition.waiting == 3


def test_a_store_that_is_behind_twice_in_a_row_has_lost_something_and_is_believed() -> None:
    partition = _partition()
    partition.pulsed(11, 50)
    partition.pulsed(4, 7)
    partition.pulsed(4, 7)
    assert (partition.seq, partition.waiting) == (4, 7)
