"""The names of queues and jobs, and the topics that stand for them on the feed.

The broker ends a whole feed that asks for a topic that is none, so names from outside are checked here before they become topics.
"""

import re

from jobwire_gateway.problems import Problem, Violation

QUEUES = "queues"
"""The topic of all queues' counts."""

QUEUE_PATTERN = "[A-Za-z0-9][A-Za-z0-9._~-]{0,99}"
JOB_ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}"
JOB_NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}"

GROUP_PATTERN = JOB_ID_PATTERN
BULK_RUN_PATTERN = "[0-9a-f]{16}"
LABEL_PATTERN = "[A-Za-z0-9._/-]{1,63}"

_LABEL_KEY = re.compile(LABEL_PATTERN, re.ASCII)
_MAX_LABEL_BYTES = 128
_QUEUE = re.compile(QUEUE_PATTERN, re.ASCII)
_JOB_ID = re.compile(JOB_ID_PATTERN, re.ASCII)
_BULK_RUN = re.compile(BULK_RUN_PATTERN)


def queue_name(queue: str) -> str:
    """Give `queues/{queue}`.

    Raises:
        Problem: 400, the queue's name is out of its bounds.
    """
    if not _QUEUE.fullmatch(queue):
        raise _bad_name("queue", queue, "1 to 100 of A-Z a-z 0-9 . _ ~ -, the first a letter or digit")
    return f"queues/{queue}"


def job_name(queue: str, job_id: str) -> str:
    """Give `queues/{queue}/jobs/{id}`.

    Raises:
        Problem: 400, one of the two is out of its bounds.
    """
    parent = queue_name(queue)
    if not _JOB_ID.fullmatch(job_id):
        raise _bad_name("id", job_id, "1 to 128 of A-Z a-z 0-9 . _ ~ : @ + = -, the first a letter or digit")
    return f"{parent}/jobs/{job_id}"


def group_name(queue: str, group: str) -> str:
    """Give `queues/{queue}/groups/{group}`.

    Raises:
        Problem: 400, one of the two is out of its bounds.
    """
    parent = queue_name(queue)
    if not _JOB_ID.fullmatch(group):
        raise _bad_name("group", group, "1 to 128 of A-Z a-z 0-9 . _ ~ : @ + = -, the first a letter or digit")
    return f"{parent}/groups/{group}"


def bulk_run_name(queue: str, run: str) -> str:
    """Give `queues/{queue}/bulkRuns/{run}`.

    Raises:
        Problem: 400, one of the two is out of its bounds.
    """
    parent = queue_name(queue)
    if not _BULK_RUN.fullmatch(run):
        raise _bad_name("run", run, "16 hexadecimal digits in lower case")
    return f"{parent}/bulkRuns/{run}"


def label_name(queue: str, label: str) -> str:
    """Give `queues/{queue}/labels/{key}={value}`.

    Raises:
        Problem: 400, one of them is out of its bounds.
    """
    parent = queue_name(queue)
    key, is_pair, value = label.partition("=")
    if not (is_pair and _LABEL_KEY.fullmatch(key) and _is_label_value(value)):
        raise _bad_name("label", label, "KEY=VALUE, the key 1 to 63 of A-Z a-z 0-9 . _ / -, the value at most 128 bytes")
    return f"{parent}/labels/{label}"


def is_job(topic: str) -> bool:
    """Whether a topic is one job."""
    return topic.split("/", 3)[2:3] == ["jobs"]


def queue_of(topic: str) -> str:
    """The queue's bare name in `queues/{queue}` or `queues/{queue}/jobs/{id}`."""
    return topic.split("/", 2)[1]


def _is_label_value(text: str) -> bool:
    try:
        return len(text.encode()) <= _MAX_LABEL_BYTES
    except UnicodeEncodeError:
        # Half a surrogate pair, which no job can have in a label.
        return False


def _bad_name(field: str, value: str, rule: str) -> Problem:
    shown = value if len(value) <= 40 else value[:40] + "…"
    return Problem(400, f"The {field} {shown!r} is no name: {rule}.", reason="INVALID_FIELD", violations=(Violation(field, rule),))
