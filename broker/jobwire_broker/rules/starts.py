"""How many jobs of a queue started at this broker, and how many of them later than its target: for its metrics, which add up over brokers. The store counts
those of all brokers alike (lua/lib/leases.lua). Counted for queues that have a class or a target; the others pay nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from jobwire_broker.store.answers import Lease

#: `token` and `order` of a record's header: when its last lease began, and since when it could start. Both in microseconds of the store's clock.
_TIMES = Struct(">22xQ8xQ")


class Starts:
    """Those of one queue at this broker, since it began."""

    __slots__ = ("late", "started")

    def __init__(self) -> None:
        self.started = 0
        self.late = 0

    def delivered(self, leases: Sequence[Lease], target_ms: int) -> None:
        """Jobs were leased. A job that was handed back kept its place, and with it the time that it ran: it started before, and is not counted again."""
        target_us = target_ms * 1000
        for lease in leases:
            for _, token, record in lease.jobs:
                last, since = _TIMES.unpack_from(record)
                if since > last:
                    self.started += 1
                    self.late += bool(target_us) and token - since > target_us
