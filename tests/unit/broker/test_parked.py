"""What is kept for a store that is away, and in which order it goes on."""

from jobwire_broker.rules.parked import MAX_LOG_BYTES, Parked
from jobwire_broker.rules.sinks import SILENT, Silent, TurnEntry
from jobwire_broker.store.arguments import TurnItem


def _entry(kind: str, job: str, a: bytes | int = b"", *, token: int = 1) -> TurnEntry:
    return TurnItem(kind, job.encode(), token, a), job, SILENT


def _kept(parked: Parked) -> list[tuple[str, str, object]]:
    return [(item.kind, text_id, item.a) for item, text_id, _ in parked.in_order()]


def test_of_progress_and_checkpoints_the_latest_of_each_lease_are_kept() -> None:
    parked = Parked()
    for i in range(1000):
        parked.put(_entry("P", "one", i))
        parked.put(_entry("P", "two", i))
        parked.put(_entry("K", "one", b"%d" % i))
    parked.put(_entry("P", "one", 7, token=2))
    assert _kept(parked) == [("P", "one", 999), ("P", "two", 999), ("K", "one", b"999"), ("P", "one", 7)]


def test_of_logs_the_last_are_kept_within_their_bound() -> None:
    parked = Parked()
    lines = [b"%06d" % i + bytes(2000) for i in range(3000)]
    for body in lines:
        parked.put(_entry("L", "one", body))
    kept = [a for _, _, a in _kept(parked)]
    assert kept == lines[-len(kept) :]
    assert MAX_LOG_BYTES * 0.75 < sum(map(len, lines[-len(kept) :])) <= MAX_LOG_BYTES
    assert parked.dropped == 3000 - len(kept)


def test_finishes_are_all_kept() -> None:
    parked = Parked()
    for i in range(1000):
        parked.put(_entry("C", f"j{i}", bytes(1 << 10)))
    assert len(_kept(parked)) == len(parked) == 1000


def test_who_said_what_is_dropped_hears_that_it_is_out_of_the_way() -> None:
    class Counting(Silent):
        dropped_kinds = ""

        def dropped(self, item: TurnItem) -> None:
            self.dropped_kinds += item.kind

    parked, sink = Parked(), Counting()
    for kind, size in (("P", 10), ("L", MAX_LOG_BYTES // 2), ("L", MAX_LOG_BYTES // 2), ("K", 10), ("P", 10), ("P", 10), ("K", 10)):
        parked.put((TurnItem(kind, b"one", 1, bytes(size)), "one", sink))
    assert sink.dropped_kinds == "LPPK"


def test_finishes_go_first_and_behind_what_their_jobs_reported() -> None:
    parked = Parked()
    for kind, job in (("L", "runs"), ("P", "runs"), ("P", "ends"), ("L", "ends"), ("C", "ends"), ("L", "runs"), ("X", "runs"), ("F", "silent")):
        parked.put(_entry(kind, job))
    order = [(kind, job) for kind, job, _ in _kept(parked)]
    assert order == [("L", "ends"), ("P", "ends"), ("C", "ends"), ("F", "silent"), ("L", "runs"), ("L", "runs"), ("P", "runs"), ("X", "runs")]
