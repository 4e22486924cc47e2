"""The commands against a real broker, gateway and worker, as a user types them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobwire_cli.exits import Exit
from jobwire_cli.main import main

from tests.support import Broker, Gateway
from tests.support.process import Process, python

_WORKER = """
import asyncio
from jobwire_worker import Job, Permanent, Worker

worker = Worker(queues=[{queue!r}], concurrency=5)

@worker.handler("steps")
async def steps(job: Job, count: int) -> dict[str, int]:
    for step in range(count):
        job.progress(100 * step / count, f"step {{step}}")
        job.log(f"line {{step}}")
        await asyncio.sleep(0.05)
    return {{"count": count}}

@worker.handler("bad")
async def bad(job: Job) -> None:
    raise Permanent("this can't work")

@worker.handler("fails")
async def fails(job: Job) -> None:
    raise ValueError("not yet")
"""


class CliWorker(Process):
    """`jobwire worker MODULE:WORKER` in a directory."""

    ready_line = r"worker\.connected"

    def __init__(self, directory: Path, target: str) -> None:
        super().__init__("cli worker")
        self._directory, self._target = directory, target

    def command(self) -> list[str]:
        program = f"import os; os.chdir({str(self._directory)!r}); from jobwire_cli.main import main; main()"
        return python("-c", program, "worker", "tasks:worker", "--target", self._target)


class Jobwire:
    """Runs commands in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.code, self.out, self.err = 0, "", ""

    def __call__(self, *arguments: str) -> str:
        """What the command printed; `code` and `err` tell the rest."""
        self._monkeypatch.setattr(sys, "argv", ["jobwire", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self._capsys.readouterr()
        self.code = int(ended.value.code or 0)
        return self.out.strip()

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """What the command printed with --json."""
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]


@pytest.fixture
def jobwire(shared_broker: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Jobwire:
    monkeypatch.setenv("JOBWIRE_TARGET", shared_broker.address)
    return Jobwire(monkeypatch, capsys)


@pytest.fixture
def worker(tmp_path: Path, shared_broker: Broker, queue: str) -> Iterator[CliWorker]:
    (tmp_path / "tasks.py").write_text(_WORKER.format(queue=queue))
    with CliWorker(tmp_path, shared_broker.address).started() as worker:
        yield worker


def test_a_job_is_made_and_shown(jobwire: Jobwire, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", '{"a": [1, "höhe"]}', "--priority", "high", "--attempts", "2")
    assert name.startswith(f"queues/{queue}/jobs/")
    assert jobwire.code == Exit.OK
    (job,) = jobwire.lines("jobs", "get", name)
    assert (job["state"], job["payload"], job["priority"], job["maxAttempts"]) == ("waiting", {"a": [1, "höhe"]}, 1, 2)
    shown = jobwire("jobs", "get", name.rpartition("/")[2], "--queue", queue)
    assert "höhe" in shown
    assert "0 of 2" in shown


def test_letters_that_stdout_does_not_have_are_escaped(jobwire: Jobwire, queue: str, shared_broker: Broker) -> None:
    name = jobwire("enqueue", queue, "steps", '"höhe"', "--label", "town=Köln")
    command = [sys.executable, "-m", "jobwire_cli", "jobs", "get", name, "--target", shared_broker.address]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown, as_json = (
        subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, check=True, timeout=30).stdout for flags in ([], ["--json"])
    )
    assert r"K\xf6ln" in shown
    assert r"h\u00f6he" in shown
    assert json.loads(as_json)["payload"] == "höhe"


def test_jobs_come_from_the_lines_of_standard_input(jobwire: Jobwire, queue: str, shared_broker: Broker) -> None:
    command = [sys.executable, "-m", "jobwire_cli", "enqueue", queue, "steps", "-", "--json", "--target", shared_broker.address]
    done = subprocess.run(command, input="1\n\n2\n3\n", capture_output=True, text=True, check=True, timeout=30)
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["made"] * 3
    assert len(jobwire.lines("jobs", "list", queue)) == 3


def test_an_empty_list_tells_a_queue_that_never_was(jobwire: Jobwire, queue: str) -> None:
    assert jobwire("jobs", "list", queue) == f"no waiting jobs in {queue}: nothing was ever enqueued there"
    assert (jobwire.code, jobwire.err) == (Exit.OK, "")
    assert jobwire("jobs", "list", queue, "--json") == ""
    jobwire("enqueue", queue, "steps", "1")
    assert jobwire("jobs", "list", queue, "--state", "failed") == f"no failed jobs in {queue}"


@pytest.mark.parametrize(
    ("command", "line"),
    [("jobs failures", "nothing has failed in {}"), ("jobs bulk-runs", "no bulk runs are known in {}"), ("queues groups list", "no groups in {}")],
)
def test_other_lists_tell_it_in_the_same_words(jobwire: Jobwire, queue: str, command: str, line: str) -> None:
    line = line.format(queue)
    assert jobwire(*command.split(), queue) == f"{line}: nothing was ever enqueued there"
    assert (jobwire.code, jobwire.err) == (Exit.OK, "")
    assert jobwire(*command.split(), queue, "--json") == ""
    jobwire("enqueue", queue, "steps", "1")
    assert jobwire(*command.split(), queue) == line


def test_what_the_broker_refuses_is_one_line_with_the_field(jobwire: Jobwire, queue: str) -> None:
    assert jobwire("enqueue", "no good name!", "steps") == ""
    assert jobwire.code == Exit.USAGE
    assert "queue" in jobwire.err
    assert jobwire.err.count("\n") == 1
    jobwire("enqueue", queue, "steps", "1", "--id", "a")
    jobwire("enqueue", queue, "steps", "2", "--id", "a")
    assert jobwire.code == Exit.CONFLICT


def test_a_job_is_given_its_times_and_shows_its_attempts(jobwire: Jobwire, worker: CliWorker, queue: str) -> None:
    times = ("--timeout", "5s", "--total-timeout", "1h", "--expires-in", "10m", "--backoff", "100ms,1h", "--permanent-error", "OSError")
    name = jobwire("enqueue", queue, "steps", "1", "--delay", "1h", *times)
    (job,) = jobwire.lines("jobs", "get", name)
    assert (job["timeout"], job["totalTimeout"], "expireTime" in job, "attempts" in job) == ("5s", "3600s", True, False)
    assert "timeout" in jobwire("jobs", "get", name)
    jobwire("jobs", "promote", name)
    jobwire("jobs", "watch", name)
    (job,) = jobwire.lines("jobs", "get", name)
    assert [(attempt["number"], attempt["end"]) for attempt in job["attempts"]] == [(1, job["state"])]
    assert job["state"] in jobwire("jobs", "get", name)
    assert jobwire("enqueue", queue, "steps", "--timeout", "1ms") == ""
    assert jobwire.code != Exit.OK


def test_a_job_is_given_dates_and_a_backoff(jobwire: Jobwire, worker: CliWorker, queue: str) -> None:
    later = jobwire("enqueue", queue, "steps", "1", "--delay-until", "2100-01-01T00:00Z", "--expires-at", "2100-01-02T00:00Z")
    (job,) = jobwire.lines("jobs", "get", later)
    assert (job["state"], job["dueTime"], job["expireTime"]) == ("delayed", "2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z")
    failing = jobwire("enqueue", queue, "fails", "--backoff", "exponential:1ms,factor=2,max=2ms,jitter=0", "--attempts", "3")
    jobwire("jobs", "watch", failing)
    (job,) = jobwire.lines("jobs", "get", failing)
    assert (job["state"], [attempt["end"] for attempt in job["attempts"]]) == ("failed", ["failed"] * 3)
    jobwire("enqueue", queue, "steps", "--backoff", "exponential:2s,factor=11")
    assert (jobwire.code, "factor" in jobwire.err) == (Exit.USAGE, True)


def test_a_job_is_acted_on_by_its_name(jobwire: Jobwire, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", "1", "--delay", "1h")
    assert [job["name"] for job in jobwire.lines("jobs", "list", queue, "--state", "delayed")] == [name]
    assert jobwire("jobs", "promote", name) == f"{name} is waiting"
    assert jobwire("jobs", "cancel", name, "--grace", "5s") == f"{name} is cancelled"
    assert jobwire("jobs", "retry", name) == f"{name} is waiting"
    assert jobwire("jobs", "delete", name) == f"{name} is deleted"
    jobwire("jobs", "get", name)
    assert jobwire.code == Exit.NOT_FOUND


def test_a_job_that_does_not_run_is_explained(jobwire: Jobwire, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", "1")
    jobwire("queues", "pause", queue)
    assert jobwire("jobs", "explain", name) == f"{name}: The queue {queue} is paused; no worker is connected that takes jobs from {queue}."
    (found,) = jobwire.lines("jobs", "explain", name)
    assert (found["state"], [hold["reason"] for hold in found["holds"]]) == ("waiting", ["queue_paused", "no_worker"])
    assert "would not help" in jobwire("queues", "stats", queue)
    jobwire("jobs", "explain", "nope", "--queue", queue)
    assert jobwire.code == Exit.NOT_FOUND


def test_queues_are_shown_paused_and_resumed(jobwire: Jobwire, queue: str) -> None:
    jobwire("queues", "stats", queue)
    assert jobwire.code == Exit.NOT_FOUND
    jobwire("enqueue", queue, "steps", "1")
    assert jobwire("queues", "pause", queue) == f"{queue} is paused"
    assert {found["queue"]: found["paused"] for found in jobwire.lines("queues", "list")}[queue]
    assert "paused" in jobwire("queues", "stats", queue)
    assert jobwire("queues", "resume", queue) == f"{queue} runs"
    assert jobwire.lines("queues", "stats", queue)[0]["counts"]["waiting"] == 1
    assert queue in jobwire("queues", "list")


def test_a_queue_is_cleaned_of_what_has_ended(jobwire: Jobwire, queue: str) -> None:
    jobwire("queues", "clean", queue)
    assert jobwire.code == Exit.NOT_FOUND
    for number in "123":
        jobwire("jobs", "cancel", jobwire("enqueue", queue, "steps", number))
    assert jobwire("queues", "clean", queue) == "0 jobs deleted"
    assert jobwire("queues", "clean", queue, "--state", "cancelled", "--grace", "1h") == "0 jobs deleted"
    assert jobwire.lines("queues", "clean", queue, "--state", "cancelled") == [{"queue": queue, "deleted": 3}]
    jobwire("jobs", "cancel", jobwire("enqueue", queue, "steps", "1"))
    assert jobwire("queues", "clean", queue, "--state", "cancelled") == "1 job deleted"
    for bad in (("--state", "waiting"), ("--state", "gone"), ("--grace", "soon"), ("--grace", "4000d")):
        jobwire("queues", "clean", queue, *bad)
        assert jobwire.code == Exit.USAGE


def test_the_version_of_the_server_is_that_of_the_store_too(jobwire: Jobwire) -> None:
    assert "valkey" in jobwire("version", "--server")
    assert jobwire.lines("version", "--server")[0]["server"]["storeAvailable"]


def test_watching_shows_progress_logs_and_the_end(jobwire: Jobwire, worker: CliWorker, queue: str) -> None:
    good, bad = jobwire("enqueue", queue, "steps", "5"), jobwire("enqueue", queue, "bad")

    shown = jobwire("jobs", "watch", good)
    assert jobwire.code == Exit.OK
    assert "100 % completed" in shown

    changes = jobwire.lines("jobs", "watch", bad, good)
    assert jobwire.code == Exit.NOT_COMPLETED
    assert {change["name"]: change["state"] for change in changes if change["type"] == "final"} == {good: "completed", bad: "failed"}
    assert jobwire.err == f"jobwire: {bad} is failed: this can't work\n"

    jobwire("jobs", "watch", f"queues/{queue}/jobs/nope")
    assert jobwire.code == Exit.NOT_FOUND

    assert "this can't work" in jobwire("jobs", "get", bad)
    (connected,) = [found for found in jobwire.lines("workers") if queue in found["queues"]]
    assert connected["concurrency"] == 5
    assert connected["instanceId"] in jobwire("workers")


def test_logs_are_shown_and_followed(jobwire: Jobwire, worker: CliWorker, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", "3")
    followed = jobwire.lines("jobs", "logs", name, "--follow")
    assert [(line["cursor"], line["attempt"], line["level"], line["message"]) for line in followed] == [(i + 1, 1, "info", f"line {i}") for i in range(3)]
    assert jobwire.lines("jobs", "logs", name, "--after", "1") == followed[1:]
    assert [line.split("  ", 1)[1] for line in jobwire("jobs", "logs", name).splitlines()] == [f"info     line {i}" for i in range(3)]
    jobwire("jobs", "logs", "nope", "--queue", queue)
    assert jobwire.code == Exit.NOT_FOUND


def test_watching_an_event_stream_shows_the_same(jobwire: Jobwire, worker: CliWorker, shared_gateway: Gateway, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", "6")
    changes = jobwire.lines("jobs", "watch", "--url", f"{shared_gateway.url}/v1/{name}/events")
    assert jobwire.code == Exit.OK
    assert changes[0]["type"] == "connected"
    assert changes[-1]["type"] == "final"
    assert changes[-1]["result"] == {"count": 6}
    jobwire("jobs", "watch", "--url", f"{shared_gateway.url}/v1/queues/{queue}/jobs/nope/events")
    assert jobwire.code == Exit.NOT_FOUND


def test_a_watch_has_its_time(jobwire: Jobwire, queue: str) -> None:
    name = jobwire("enqueue", queue, "steps", "1")
    jobwire("jobs", "watch", name, "--timeout", "300ms")
    assert jobwire.code == Exit.TIMEOUT
    assert "0.3 s" in jobwire.err


def test_ctrl_c_ends_a_watch_with_code_130_and_no_traceback(jobwire: Jobwire, queue: str, shared_broker: Broker) -> None:
    name = jobwire("enqueue", queue, "steps", "1")
    # As from a terminal: a test run in the background has SIGINT ignored, and its children inherit that.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jobwire_cli.main import main; main()"
    command = [sys.executable, "-u", "-c", program, "jobs", "watch", name, "--json", "--target", shared_broker.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline())["state"] == "waiting"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == Exit.INTERRUPTED
        assert watching.stderr.read() == "jobwire: interrupted\n"


def test_groups_are_listed_paused_and_given_rules(jobwire: Jobwire, queue: str) -> None:
    jobwire("enqueue", queue, "steps", "1", "--group", "acme")
    assert jobwire("queues", "groups", "pause", queue, "acme") == "acme: paused, weight 1, limit -"
    assert jobwire("queues", "groups", "resume", queue, "acme") == "acme: open, weight 1, limit -"
    changed = jobwire("queues", "groups", "set", queue, "acme", "--weight", "2", "--express", "--concurrency", "3", "--rate", "100/1m")
    assert changed == "acme: express, weight 2, limit 3 at once, 100/1m 0s"
    (group,) = jobwire.lines("queues", "groups", "list", queue)
    assert (group["waiting"], group["express"], group["limit"]) == (1, True, {"concurrency": 3, "rate": {"count": 100, "period": "60s", "burst": 1}})
    jobwire("queues", "groups", "set", queue, "acme", "--rate", "fast")
    assert jobwire.code == Exit.USAGE
