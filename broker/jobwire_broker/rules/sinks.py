"""Who hears what became of what workers say."""

from __future__ import annotations

from typing import Protocol

from jobwire_broker.errors import BrokerError
from jobwire_broker.store.answers import Settled
from jobwire_broker.store.arguments import TurnItem

#: The overhead of an item beside its body, for bounds on bytes.
ITEM_OVERHEAD = 100


def turn_size(item: TurnItem) -> int:
    """About how many bytes an item of a turn has."""
    return (len(item.a) if isinstance(item.a, (bytes, str)) else 8) + ITEM_OVERHEAD


class Sink(Protocol):
    """Who hears what became of a turn item."""

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """The store has answered."""

    def failed(self, error: BrokerError) -> bool:
        """The item could not be settled now. True: keep it and try again, when the store is back."""
        ...

    def dropped(self, item: TurnItem) -> None:
        """The item is not kept any more, and nobody has to hear of it: a later one stands for it, or it is a report that is too much."""

    def given_up(self, error: BrokerError) -> None:
        """The store failed over the item each time that it was tried; it is not kept any more."""


class Silent:
    """A sink for items whose verdict nobody waits for."""

    def settled(self, queue: str, text_id: str, item: TurnItem, settled: Settled) -> None:
        """Nobody waits."""

    def failed(self, error: BrokerError) -> bool:
        """Try again."""
        return True

    def dropped(self, item: TurnItem) -> None:
        """Nobody waits."""

    def given_up(self, error: BrokerError) -> None:
        """Nobody waits."""


SILENT = Silent()


class Repeated:
    """The sink of an item over which the store failed, and how often it did."""

    def __init__(self, sink: Sink) -> None:
        before = sink if isinstance(sink, Repeated) else None
        self.faults: int = before.faults + 1 if before else 1
        self._sink: Sink = before._sink if before else sink
        self.settled = self._sink.settled
        self.failed = self._sink.failed
        self.dropped = self._sink.dropped
        self.given_up = self._sink.given_up


#: An item, the job's id as text, and who hears of it.
TurnEntry = tuple[TurnItem, str, Sink]
