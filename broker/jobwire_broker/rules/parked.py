"""What workers said and the store could not hear: kept within bounds until it is back.

All finishes are kept: nothing else is left of an attempt. Of what a job reports on its way, its latest progress and checkpoint are, and the last lines of the
logs of all jobs: their sequence shows that some are missing. A stream that has said much more than that is not read any further (services/work_stream.py).
"""

from __future__ import annotations

from collections import deque

from jobwire_broker.rules.sinks import TurnEntry, turn_size
from jobwire_broker.store.arguments import FINISHES

#: Of the logs of a queue.
MAX_LOG_BYTES = 1 << 20


class Parked:
    """The entries of one queue."""

    def __init__(self) -> None:
        self.dropped = 0
        """How many entries of logs were dropped."""
        self._finishes: list[TurnEntry] = []
        self._latest: dict[tuple[str, bytes, int], TurnEntry] = {}
        self._logs: deque[TurnEntry] = deque()
        self._log_bytes = 0

    def __len__(self) -> int:
        return len(self._finishes) + len(self._latest) + len(self._logs)

    def put(self, entry: TurnEntry) -> None:
        """Keep an entry that is newer than all others."""
        item = entry[0]
        if item.kind in FINISHES:
            self._finishes.append(entry)
        elif item.kind == "L":
            self._put_log(entry)
        else:
            key = item.kind, item.raw_id, item.token
            before = self._latest.pop(key, None)
            self._latest[key] = entry
            if before is not None:
                _drop(before)

    def _put_log(self, entry: TurnEntry) -> None:
        self._logs.append(entry)
        self._log_bytes += turn_size(entry[0])
        while self._log_bytes > MAX_LOG_BYTES and len(self._logs) > 1:
            oldest = self._logs.popleft()
            self._log_bytes -= turn_size(oldest[0])
            self.dropped += 1
            _drop(oldest)

    def in_order(self) -> list[TurnEntry]:
        """All of it, as it is to be settled: first the finishes, behind the last that their jobs reported, then the reports of those that still run."""
        ended = {_job(entry) for entry in self._finishes}
        reports = [*self._logs, *self._latest.values()]
        last = [entry for entry in reports if _job(entry) in ended]
        others = [entry for entry in reports if _job(entry) not in ended]
        return [*last, *self._finishes, *others]


def _job(entry: TurnEntry) -> tuple[bytes, int]:
    return entry[0].raw_id, entry[0].token


def _drop(entry: TurnEntry) -> None:
    item, _, sink = entry
    sink.dropped(item)
