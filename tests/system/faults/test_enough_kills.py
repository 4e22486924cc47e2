"""Fewer than fifty kills prove little: whoever makes the tests faster must not make them tame."""

from tests.system.faults import test_killed_brokers, test_killed_store, test_killed_workers


def test_the_fault_tests_kill_at_least_fifty_processes() -> None:
    of_workers = test_killed_workers.WAVES * test_killed_workers.KILLED_PER_WAVE
    of_stores = 2 * test_killed_store.KILLS  # one test per durability, on Valkey alone
    assert of_workers + of_stores + test_killed_brokers.KILLS >= 50
