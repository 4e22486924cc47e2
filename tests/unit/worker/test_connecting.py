"""Which broker comes next, after how long, and what the end of a stream says."""

import asyncio
import random
import socket
from itertools import pairwise
from typing import Any

import grpc
import pytest
from jobwire.v1 import error_pb2
from jobwire_worker._backoff import Backoff
from jobwire_worker._mailbox import Mailbox
from jobwire_worker._status import read_status
from jobwire_worker._targets import Targets, parse_targets

from tests.unit.worker.scripts import seconds


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("host:1", ("host:1",)),
        ("host", ("host:7410",)),
        ("a:1, b:2,", ("a:1", "b:2")),
        (["a:1,b:2", "a:1"], ("a:1", "b:2")),
        ("[::1]:5", ("[::1]:5",)),
        ("::1", ("[::1]:7410",)),
        ("[::1]", ("[::1]:7410",)),
        ("unix:/run/x.sock", ("unix:/run/x.sock",)),
    ],
)
def test_a_target_is_one_address_a_comma_list_or_a_sequence(target: Any, addresses: tuple[str, ...]) -> None:
    assert parse_targets(target) == addresses


async def test_every_address_has_its_turn_from_a_random_first() -> None:
    firsts = set()
    for seed in range(20):
        targets = Targets(["a:1", "b:2", "unix:c"], random.Random(seed))
        await literal(targets)
        turn = [targets.next(0.0)[0] for _ in range(6)]
        assert turn[:3] == turn[3:]
        assert sorted(turn[:3]) == ["a:1", "b:2", "unix:c"]
        firsts.add(turn[0])
    assert len(firsts) == 3


async def literal(targets: Targets) -> None:
    """Take the names as they are."""
    targets._addresses = list(targets._names)
    targets._rng.shuffle(targets._addresses)


async def test_an_address_that_asked_for_rest_is_avoided_while_there_is_another() -> None:
    targets = Targets(["127.0.0.1:1", "127.0.0.1:2"], random.Random(1))
    await targets.refresh()
    first, wait_s = targets.next(0.0)
    assert (wait_s, targets.others(0.0), targets.count) == (0.0, True, 2)
    targets.avoid(first, 10.0)
    second, wait_s = targets.next(1.0)
    assert (second != first, wait_s, targets.others(1.0)) == (True, 0.0, False)
    targets.avoid(second, 30.0)
    assert targets.next(4.0) == (first, 6.0)


async def test_a_name_is_resolved_before_each_try_and_kept_when_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [["10.0.0.1", "10.0.0.2"], OSError("no such name"), ["10.0.0.3"]]

    async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    targets = Targets(["brokers.example:7410"])
    found = []
    for _ in range(3):
        await targets.refresh()
        found.append(sorted(targets._addresses))
    assert found == [["10.0.0.1:7410", "10.0.0.2:7410"], ["brokers.example:7410"], ["10.0.0.3:7410"]]


async def test_localhost_and_literal_addresses_are_one_broker_each() -> None:
    targets = Targets(["localhost:1", "127.0.0.1:1", "[::1]:1"])
    await targets.refresh()
    assert sorted(targets._addresses) == ["127.0.0.1:1", "[::1]:1", "localhost:1"]


def waits(**options: Any) -> list[float]:
    backoff = Backoff(random.Random(1))
    given: dict[str, Any] = {"addresses": 1, "holds_jobs": False, "session_time_s": 9.0, **options}
    return [backoff.next_wait_s(**given) for _ in range(20)]


def test_the_backoff_grows_to_five_seconds_and_has_jitter() -> None:
    assert waits()[0] <= 0.1
    assert all(0 < wait <= 5 for wait in waits())
    assert max(waits()) > 4
    assert all(one != other for one, other in pairwise(waits()))


def test_with_jobs_held_no_wait_is_longer_than_a_third_of_the_session_time() -> None:
    assert max(waits(holds_jobs=True)) <= 3.0


def test_a_round_through_several_brokers_counts_once() -> None:
    assert max(waits(addresses=4)[:4]) <= 0.1


def test_after_a_reset_the_first_wait_is_short_again() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(10):
        backoff.next_wait_s(addresses=1, holds_jobs=False, session_time_s=9.0)
    backoff.reset()
    assert backoff.next_wait_s(addresses=1, holds_jobs=False, session_time_s=9.0) <= 0.1


def trailers(*details: tuple[str, Any]) -> list[tuple[str, str | bytes]]:
    status = error_pb2.ErrorStatus(code=10)
    for kind, message in details:
        status.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=message.SerializeToString())
    return [("other", "x"), ("grpc-status-details-bin", status.SerializeToString())]


def test_the_end_of_a_stream_says_why_and_when_to_come_back() -> None:
    found = trailers(("ErrorInfo", error_pb2.ErrorInfo(reason="SHUTTING_DOWN")), ("RetryInfo", error_pb2.RetryInfo(retry_delay=seconds(2.5))))
    status = read_status(grpc.StatusCode.UNAVAILABLE, "bye", found)
    assert (status.reason, status.retry_after_s, status.superseded, status.our_fault) == ("SHUTTING_DOWN", 2.5, False, False)


def test_a_session_that_moved_is_superseded_and_another_abort_is_not() -> None:
    assert read_status(grpc.StatusCode.ABORTED, None, trailers(("ErrorInfo", error_pb2.ErrorInfo(reason="SESSION_MOVED")))).superseded
    assert read_status(grpc.StatusCode.ABORTED, None, None).superseded
    assert not read_status(grpc.StatusCode.ABORTED, None, trailers(("ErrorInfo", error_pb2.ErrorInfo(reason="OTHER")))).superseded


def test_details_that_cannot_be_read_are_left_out() -> None:
    assert read_status(grpc.StatusCode.INTERNAL, "x", [("grpc-status-details-bin", b"\xff\xff")]).reason == ""


async def test_a_mailbox_wakes_its_loop_once_per_batch_and_loses_nothing() -> None:
    batches: list[list[int]] = []
    mailbox = Mailbox[int](asyncio.get_running_loop(), batches.append)
    for number in range(100):
        mailbox.put(number)
    await asyncio.sleep(0)
    assert batches == [list(range(100))]

    def write() -> None:
        for number in range(10_000):
            mailbox.put(number)

    await asyncio.gather(*(asyncio.to_thread(write) for _ in range(4)))
    await asyncio.sleep(0)
    assert sorted(number for batch in batches[1:] for number in batch) == sorted(list(range(10_000)) * 4)
