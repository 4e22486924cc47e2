"""Filters, failures, notes and bulk verbs as a user types them."""

import asyncio
import sys
from typing import Any

import pytest
from jobwire.v1.job_service_pb2 import BulkRun, BulkVerb
from jobwire_cli.exits import Exit
from jobwire_client import BulkPlan, Client

from tests.integration.cli.test_commands import CliWorker, Jobwire, jobwire, worker
from tests.support import Store
from tests.support.queue_lab import open_lab

__all__ = ["jobwire", "worker"]


def make(jobwire: Jobwire, queue: str) -> list[str]:
    """Six jobs: of two names, two groups, and with labels."""
    return [
        jobwire("enqueue", queue, f"h{i % 2}", str(i), "--group", "acme" if i < 3 else "zeta", "--label", f"n={i}", "--label", "plan=free") for i in range(6)
    ]


def test_jobs_are_listed_by_what_they_are(jobwire: Jobwire, queue: str) -> None:
    names = make(jobwire, queue)

    def listed(*options: str) -> list[str]:
        return [job["name"] for job in jobwire.lines("jobs", "list", queue, *options)]

    assert listed() == names
    assert listed("--name", "h1") == names[1::2]
    assert listed("--group", "zeta", "--name", "h0") == [names[4]]
    assert listed("--label", "n=2", "-l", "plan=free") == [names[2]]
    assert listed("--since", "1m") == names
    assert listed("--until", "1m") == []
    assert listed("--since", "2026-01-01", "--until", "2026-01-02T00:00Z") == []
    (job,) = jobwire.lines("jobs", "get", names[0])
    assert (job["group"], job["labels"]) == ("acme", {"n": "0", "plan": "free"})
    assert "plan=free" in jobwire("jobs", "get", names[0])


@pytest.mark.parametrize("options", [("--label", "n"), ("--since", "yesterday"), ("--fingerprint", "xyz"), ("--group", "a b")])
def test_a_bad_filter_is_one_sentence(jobwire: Jobwire, queue: str, options: tuple[str, ...]) -> None:
    jobwire("jobs", "list", queue, *options)
    assert (jobwire.code, jobwire.err.count("\n")) == (Exit.USAGE, 1)


def test_failures_are_grouped_and_resolved(jobwire: Jobwire, queue: str, worker: CliWorker) -> None:
    assert jobwire("jobs", "failures", queue) == f"nothing has failed in {queue}"
    names = [jobwire("enqueue", queue, "bad") for _ in range(3)]
    for name in names:
        jobwire("jobs", "watch", name, "--timeout", "20s")
        assert jobwire.code == Exit.NOT_COMPLETED
    (group,) = jobwire.lines("jobs", "failures", queue)
    assert (group["count"], group["resolved"], group["jobName"], group["message"]) == (3, 0, "bad", "this can't work")
    assert group["fingerprint"] in jobwire("jobs", "failures", queue)
    assert jobwire("jobs", "resolve", names[0], "--note", "known") == f"{names[0]} is resolved"
    shown = jobwire("jobs", "get", names[0])
    assert "known" in shown
    assert group["fingerprint"] in shown
    fingerprint = ("--fingerprint", group["fingerprint"])
    assert [job["name"] for job in jobwire.lines("jobs", "list", queue, "--state", "failed", *fingerprint, "--resolved")] == [names[0]]
    assert jobwire("jobs", "bulk", "delete", queue, *fingerprint, "--unresolved", "--dry-run") == "2 jobs would be deleted"
    assert jobwire("jobs", "bulk", "delete", queue, *fingerprint, "--unresolved", "--yes") == "2 jobs deleted"
    assert jobwire("jobs", "bulk", "resolve", queue, "--note", "all", "--yes") == "1 job resolved"
    assert jobwire.lines("jobs", "failures", queue)[0]["resolved"] == 1


def test_a_bulk_verb_counts_first_and_asks(jobwire: Jobwire, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(jobwire, queue)
    (plan,) = jobwire.lines("jobs", "bulk", "cancel", queue, "--group", "acme", "--dry-run")
    assert (plan["matched"], bool(plan["token"])) == (3, True)
    jobwire("jobs", "bulk", "cancel", queue, "--group", "acme")
    assert (jobwire.code, "--yes" in jobwire.err) == (Exit.USAGE, True)
    asked: list[str] = []

    def answer(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", answer)
    assert jobwire("jobs", "bulk", "cancel", queue, "--group", "acme") == "nothing was done"
    assert jobwire("jobs", "bulk", "cancel", queue, "--group", "acme") == "3 jobs cancelled"
    assert asked == [f"cancel 3 jobs of {queue}?"] * 2
    assert len(jobwire.lines("jobs", "list", queue)) == 3


def test_a_run_tells_its_steps_to_programs(jobwire: Jobwire, queue: str) -> None:
    make(jobwire, queue)
    steps = jobwire.lines("jobs", "bulk", "delete", queue, "--yes")
    (run,) = jobwire.lines("jobs", "bulk-runs", queue)
    assert steps[-1] == {"matched": 6, "done": 6, "skipped": 0, "finished": True, "run": run["name"]}
    assert jobwire("jobs", "bulk", "delete", queue, "--yes") == "0 jobs deleted"


def test_a_bulk_run_is_shown_and_stopped_by_whoever_did_not_begin_it(jobwire: Jobwire, shared_store: Store, queue: str) -> None:
    assert jobwire("jobs", "bulk-runs", queue) == f"no bulk runs are known in {queue}: nothing was ever enqueued there"
    make(jobwire, queue)
    jobwire("jobs", "bulk", "resolve", queue, "--name", "h0", "--note", "known", "--yes")
    (run,) = jobwire.lines("jobs", "bulk-runs", queue)
    assert run.pop("startTime") <= run.pop("finishTime")
    shown = {"verb": "resolve", "filter": {"jobName": "h0"}, "note": "known", "state": "finished", "matched": 0, "done": 0, "skipped": 0}
    assert run == {"name": run["name"], **shown}
    text = jobwire("jobs", "bulk-run", run["name"])
    assert all(word in text for word in ("resolve", "name=h0", "finished", "0 of 0", "known"))
    jobwire("jobs", "bulk-stop", run["name"])
    assert (jobwire.code, "it has finished" in jobwire.err) == (Exit.CONFLICT, True)

    (plan,) = jobwire.lines("jobs", "bulk", "cancel", queue, "--group", "acme", "--dry-run")
    short = plan["run"].rpartition("/")[2]
    jobwire("jobs", "bulk-run", plan["run"])
    assert jobwire.code == Exit.NOT_FOUND
    asyncio.run(begin_elsewhere(shared_store, queue, bytes.fromhex(short)))
    assert "running" in jobwire("jobs", "bulk-runs", queue, "--limit", "1")
    assert jobwire("jobs", "bulk-stop", short, "--queue", queue) == f"{plan['run']} is stopped; 0 of 3 jobs were done"
    (stopped,) = jobwire.lines("jobs", "bulk-stop", plan["run"])
    assert (stopped["state"], stopped) == ("stopped", jobwire.lines("jobs", "bulk-run", short, "-q", queue)[0])


async def begin_elsewhere(store: Store, queue: str, number: bytes) -> None:
    """Begin a run as a broker does, and take no step."""
    async with open_lab(store, queue) as lab:
        head = BulkRun(verb=BulkVerb.BULK_VERB_CANCEL, matched=3).SerializeToString()
        await lab.store.begin_run(number, await lab.store.moment(), head)


def test_who_began_a_run_is_told_of_its_stop(jobwire: Jobwire, shared_store: Store, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(jobwire, queue)

    async def plan_and_stop(client: Client, *args: Any, **kwargs: Any) -> BulkPlan:
        plan = await plan_bulk(client, *args, **kwargs)
        async with open_lab(shared_store, queue) as lab:
            number = bytes.fromhex(plan.run.rpartition("/")[2])
            await lab.store.begin_run(number, await lab.store.moment(), b"")
            await lab.store.end_run(number, "STOPPED", stopped_by="ops")
        return plan

    plan_bulk = Client.plan_bulk
    monkeypatch.setattr(Client, "plan_bulk", plan_and_stop)
    jobwire("jobs", "bulk", "delete", queue, "--yes")
    assert (jobwire.code, "was stopped by ops; 0 of 6 jobs were done" in jobwire.err) == (Exit.NOT_COMPLETED, True)
    assert len(jobwire.lines("jobs", "list", queue)) == 6


@pytest.mark.parametrize("command", ["bulk-run", "bulk-stop"])
def test_a_run_that_is_none_is_one_sentence(jobwire: Jobwire, queue: str, command: str) -> None:
    for options in (("xyz", "--queue", queue), (f"queues/{queue}/jobs/a",), (f"queues/{queue}/bulkRuns/{'0' * 16}", "--queue", queue)):
        jobwire("jobs", command, *options)
        assert (jobwire.code, jobwire.err.count("\n")) == (Exit.USAGE, 1), options


def test_what_a_bulk_verb_is_refused_for(jobwire: Jobwire, queue: str) -> None:
    jobwire("jobs", "bulk", "delete", queue, "--yes")
    assert jobwire.code == Exit.NOT_FOUND
    make(jobwire, queue)
    for options in (("destroy", queue), ("retry", queue, "--state", "waiting"), ("delete", queue, "--note", "x"), ("cancel", queue, "--grace", "soon")):
        jobwire("jobs", "bulk", *options, "--yes")
        assert (jobwire.code, jobwire.err.count("\n")) == (Exit.USAGE, 1), options
