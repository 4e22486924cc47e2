"""The checker tells a good history from a bad one. If these fail, no fault test proves anything."""

import time

import pytest

from tests.support.history import Event, History

NOW = time.monotonic()


def start(job: str, token: int, *, at: float = NOW, pid: int = 1) -> Event:
    return Event(kind="start", job=job, token=token, attempt=1, at_s=at, pid=pid)


def done(job: str, token: int, *, at: float = NOW, pid: int = 1) -> Event:
    return Event(kind="done", job=job, token=token, attempt=1, at_s=at, pid=pid)


@pytest.fixture
def history() -> History:
    """Two jobs tried and acknowledged, the first of them run."""
    history = History()
    history.attempt(["a", "b"])
    history.acknowledge(["a", "b"])
    history.add(start("a", 1))
    history.add(done("a", 1))
    return history


def complete(history: History, job: str, token: int, *, at: float = NOW, pid: int = 1) -> None:
    history.add(start(job, token, at=at, pid=pid))
    history.add(done(job, token, at=at, pid=pid))


def test_a_history_in_which_each_job_ran_once_is_valid(history: History) -> None:
    complete(history, "b", 2)
    verdict = history.verdict()
    assert verdict.valid
    assert not verdict.duplicated
    assert str(verdict).startswith("attempted 2, acknowledged 2, completed 2, lost 0, duplicated 0, unexpected 0")


def test_an_acknowledged_job_that_never_completed_is_lost(history: History) -> None:
    history.add(start("b", 2))
    verdict = history.verdict()
    assert verdict.lost == {"b"}
    assert not verdict.valid


def test_a_job_that_nobody_enqueued_is_unexpected(history: History) -> None:
    complete(history, "b", 2)
    complete(history, "ghost", 3)
    verdict = history.verdict()
    assert verdict.unexpected == {"ghost"}
    assert not verdict.valid


def test_a_job_that_was_refused_and_runs_all_the_same_is_unexpected(history: History) -> None:
    complete(history, "b", 2)
    history.attempt(["c"])
    history.refuse(["c"])
    complete(history, "c", 3)
    assert history.verdict().unexpected == {"c"}


def test_a_job_whose_enqueue_had_no_answer_is_recovered_when_it_runs_and_not_lost_when_it_does_not(history: History) -> None:
    complete(history, "b", 2)
    history.attempt(["c", "d"])
    complete(history, "c", 3)
    verdict = history.verdict()
    assert verdict.recovered == {"c"}
    assert verdict.valid


def test_a_lease_that_was_started_twice_is_never_valid(history: History) -> None:
    complete(history, "b", 2)
    history.add(start("b", 2, pid=2))
    verdict = history.verdict()
    assert verdict.restarted == {("b", 2)}
    assert not verdict.valid


def test_a_second_completion_without_a_reason_is_unexcused(history: History) -> None:
    complete(history, "b", 2)
    complete(history, "b", 3, pid=2)
    verdict = history.verdict()
    assert [(d.job, d.tokens, d.reason) for d in verdict.unexcused] == [("b", (2, 3), None)]
    assert "1 NO REASON" in str(verdict)


def test_a_completion_just_before_its_worker_was_killed_may_be_repeated(history: History) -> None:
    complete(history, "b", 2, at=NOW, pid=7)
    history.killed(7, at_s=NOW + 0.1)
    complete(history, "b", 3, at=NOW + 3, pid=8)
    verdict = history.verdict()
    assert [d.reason for d in verdict.duplicated] == ["worker killed before its ack"]
    assert not verdict.unexcused


def test_a_completion_long_before_its_worker_was_killed_may_not_be_repeated(history: History) -> None:
    complete(history, "b", 2, at=NOW, pid=7)
    history.killed(7, at_s=NOW + 60)
    complete(history, "b", 3, at=NOW + 63, pid=8)
    assert history.verdict().unexcused


def test_the_kill_of_one_worker_excuses_no_other(history: History) -> None:
    complete(history, "b", 2, at=NOW, pid=6)
    history.killed(7, at_s=NOW + 0.1)
    complete(history, "b", 3, at=NOW + 3, pid=8)
    assert history.verdict().unexcused


def test_a_completion_after_the_lease_was_over_may_be_a_repeat(history: History) -> None:
    history.add(start("b", 2, at=NOW, pid=7))
    history.lease_over(7, NOW + 1, NOW + 5)
    complete(history, "b", 3, at=NOW + 4, pid=8)
    history.add(done("b", 2, at=NOW + 4.5, pid=7))
    assert [d.reason for d in history.verdict().duplicated] == ["lease was over"]


def test_two_completions_under_one_token_have_no_excuse(history: History) -> None:
    complete(history, "b", 2, pid=7)
    history.killed(7, at_s=NOW + 0.1)
    history.add(done("b", 2, pid=7))
    assert history.verdict().unexcused


def test_what_a_dead_worker_held_is_known_with_when_it_started_again(history: History) -> None:
    history.add(start("b", 2, at=NOW, pid=7))
    complete(history, "b", 3, at=NOW + 2, pid=8)
    assert history.unfinished_of(7, NOW + 1) == {("b", 2)}
    again = history.next_start("b", 2)
    assert again is not None
    assert (again.token, again.pid) == (3, 8)
    assert history.next_start("b", 3) is None
