"""What a queue has done is counted from the batches that pass."""

import time
from typing import Any

from jobwire.v1 import job_pb2
from jobwire_broker.rules.meter import MAX_WORDS, OTHER, Clock, Histogram, Meter
from jobwire_broker.store.answers import Lease, Settled
from jobwire_broker.store.arguments import TurnItem
from jobwire_broker.store.codec import HEADER, Header, encode_body

COMPLETED, FAILED, DELAYED = job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_DELAYED


def now_us() -> int:
    return int(time.time() * 1e6)


def lease(job_name: str, token: int, waited_s: float) -> Lease:
    record = HEADER.pack(*Header(order=token - int(waited_s * 1e6))) + encode_body(job_name, b"", None, 0)
    return Lease("OK", [(b"a", token, record)])


def fail(token: int, error_type: str) -> TurnItem:
    return TurnItem("F", b"a", token, job_pb2.Failure(type=error_type).SerializeToString())


def counted(histogram: Histogram) -> dict[float, int]:
    return {bound: count for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True) if count}


def test_a_wait_runs_from_the_moment_when_the_job_could_run_to_its_lease() -> None:
    meter = Meter(Clock())
    meter.delivered([lease("t", now_us(), 0.3), lease("t", now_us(), 5_000)])
    assert counted(meter.waits) == {0.5: 1, float("inf"): 1}
    assert abs(meter.waits.sum - 5000.3) < 0.01
    assert meter.leased == 2


def test_an_end_is_counted_under_the_name_that_its_lease_had_and_lasts_from_its_token_on() -> None:
    meter = Meter(Clock())
    earlier, later = now_us() - 4_000_000, now_us()
    meter.delivered([lease("thumbnail", earlier, 0)])
    meter.delivered([lease("mail", later, 0)])
    meter.settled([TurnItem("C", b"a", earlier), fail(later, "ValueError")], [Settled("OK", COMPLETED), Settled("OK", FAILED)])
    assert dict(meter.completions.items()) == {"thumbnail": 1}
    assert dict(meter.failures.items()) == {"mail": 1}
    assert (dict(meter.errors.items()), meter.retries) == ({"ValueError": 1}, 0)
    assert counted(meter.durations) == {0.005: 1, 5.0: 1}


def test_an_attempt_that_is_repeated_is_an_error_and_no_failure() -> None:
    meter = Meter(Clock())
    meter.settled([fail(now_us(), "E")], [Settled("OK", DELAYED)])
    assert (meter.retries, dict(meter.errors.items()), dict(meter.failures.items())) == (1, {"E": 1}, {})


def test_what_was_refused_counts_for_nothing() -> None:
    meter = Meter(Clock())
    items: list[Any] = [TurnItem("C", b"a", 5), TurnItem("P", b"a", 5), TurnItem("R", b"a", 5)]
    meter.settled(items, [Settled("STALE_LEASE", 0), Settled("OK", 0), Settled("OK", 0)])
    assert (dict(meter.completions.items()), meter.handed_back, counted(meter.durations)) == ({}, 1, {})


def test_whatever_is_handed_back_uncharged_is_counted_and_its_name_is_forgotten() -> None:
    meter = Meter(Clock())
    for kind in ("S", "R", "G"):
        token = now_us()
        meter.delivered([lease("mail", token, 0)])
        meter.settled([TurnItem(kind, b"a", token)], [Settled("OK", DELAYED)])
        # A second end of the same lease finds no name.
        meter.settled([TurnItem("C", b"a", token)], [Settled("OK", COMPLETED)])
    assert (meter.handed_back, dict(meter.completions.items())) == (3, {"": 3})


def test_words_from_outside_are_bounded() -> None:
    meter = Meter(Clock())
    for number in range(MAX_WORDS + 50):
        meter.settled([fail(now_us(), f"E{number}")], [Settled("OK", DELAYED)])
    counts = dict(meter.errors.items())
    assert (len(counts), counts[OTHER]) == (MAX_WORDS + 1, 50)


def test_a_clock_that_differs_from_the_stores_makes_no_difference() -> None:
    clock = Clock()
    hour_us = 3_600_000_000
    clock.saw(now_us() - hour_us)
    meter = Meter(clock)
    token = now_us() - hour_us - 2_000_000
    meter.settled([TurnItem("C", b"a", token)], [Settled("OK", COMPLETED)])
    assert counted(meter.durations) == {2.5: 1}
