"""`jobwire queues policy`, `classes`, and files of policies on the command line."""

from pathlib import Path

import pytest
from jobwire_cli.exits import Exit

from tests.integration.cli.test_commands import Jobwire, jobwire  # noqa: F401  # a fixture
from tests.support import Broker


def test_a_policy_is_set_field_by_field_and_shown(jobwire: Jobwire, queue: str) -> None:  # noqa: F811  # the fixture
    changes = ["class=high", "attempts=7", "timeout=30s", "limit.concurrency=5", "backoff.base=500ms", "permanentErrors=KeyError,Gone", "priority=critical"]
    (set_now,) = jobwire.lines("queues", "policy", "set", queue, *changes)
    assert set_now == {
        "queueClass": "high",
        "priority": 0,
        "attempts": 7,
        "backoff": {"base": "0.500s", "factor": 2.0},
        "permanentErrors": ["KeyError", "Gone"],
        "timeout": "30s",
        "limit": {"concurrency": 5},
    }
    (fixed,) = jobwire.lines("queues", "policy", "set", queue, "backoff=fixed:30s")
    assert fixed["backoff"] == {"base": "30s", "factor": 1.0}
    shown = jobwire("queues", "policy", "get", queue)
    assert "queueClass       high" in shown
    assert jobwire.lines("queues", "policy", "set", queue, "attempts=", "limit.concurrency=")[0].keys() == set_now.keys() - {"attempts", "limit"}
    assert jobwire.lines("queues", "stats", queue)[0]["policy"]["timeout"] == "30s"


def test_the_limit_of_one_job_name_is_set_and_the_others_stay(jobwire: Jobwire, queue: str) -> None:  # noqa: F811  # the fixture
    change = ("queues", "policy", "set", queue)
    jobwire.lines(*change, "jobLimits.import.concurrency=1", "jobLimits.mail.v2.rate.count=100", "jobLimits.mail.v2.rate.period=1s")
    (after,) = jobwire.lines(*change, "jobLimits.push.concurrency=3", "jobLimits.import=")
    assert after["jobLimits"] == {"mail.v2": {"rate": {"count": 100, "period": "1s", "burst": 1}}, "push": {"concurrency": 3}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("attempts", "'attempts' is no change; write FIELD=VALUE"),
        ("attempts=many", "attempts must be a number; it is 'many'"),
        ("attempts=1001", "attempts must be from 1 to 1000"),
        ("attemps=3", "there is no field 'attemps' in a policy; there are ageing, attempts,"),
        ("backoff.bas=3", "there is no field 'backoff.bas' in a policy; there are base, delays,"),
        ("backoff=quick:3s", "'quick:3s' is no backoff; write exponential:2s"),
        ("limit.rate.period=1s", "queue.policy.limit.rate.count must be from 1 to 1000000; it is 0"),
        ("limit=5", "limit is made of concurrency, rate; it can't be 5"),
        ("priority=urgent", "priority must be a number or one of critical, high, normal, low, batch; it is 'urgent'"),
        ("timeout=soon", "timeout: 'soon' is not a duration"),
        ("class=urgent", "'urgent' is no class"),
        ("attempts=2000", "attempts must be from 1 to 1000"),
    ],
)
def test_a_change_that_can_not_be_is_refused(jobwire: Jobwire, queue: str, change: str, sentence: str) -> None:  # noqa: F811  # the fixture
    jobwire("queues", "policy", "set", queue, "priority=1", change)
    assert jobwire.code == Exit.USAGE
    assert sentence in jobwire.err
    jobwire("queues", "stats", queue)
    assert jobwire.code == Exit.NOT_FOUND


def test_classes_are_listed_paused_and_resumed(jobwire: Jobwire, queue: str) -> None:  # noqa: F811  # the fixture
    jobwire("queues", "policy", "set", queue, "class=batch")
    assert queue in jobwire("queues", "pause-class", "batch")
    found = next(row for row in jobwire.lines("queues", "classes") if row["queueClass"] == "batch")
    assert (queue in found["queues"], found["paused"] >= 1) == (True, True)
    assert queue in jobwire("queues", "resume-class", "batch")
    assert "batch" in jobwire("queues", "classes")
    jobwire("queues", "pause-class", "urgent")
    assert "no class" in jobwire.err


def test_a_file_with_a_mistake_is_told_with_its_line_and_nothing_is_started(
    jobwire: Jobwire,  # noqa: F811  # the fixture
    shared_broker: Broker,
    tmp_path: Path,
) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text("queues:\n  mail:\n    attemps: 3\n")
    for command in ("broker", "up"):
        jobwire(command, "--queues", str(file))
        assert jobwire.code == Exit.USAGE
        assert "queues.yaml:3: 'attemps' is no field" in jobwire.err.replace("\n", "")
