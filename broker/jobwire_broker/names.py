"""Names and ids: what they may be, and how an id stands in the store.

An id of ours is 16 bytes in the layout of UUIDv7, so ids sort by time; as text it is 32 hexadecimal digits in lower case. In the store it stands as those 16
bytes, whose first one is below 0x20 until the year 2527. Any other id stands as its text, whose first character is a letter or digit, so the two never meet.
"""

from __future__ import annotations

import os
import re
import time

from jobwire_broker.errors import InvalidField

QUEUE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@+=-]{0,127}")
JOB_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}")
BULK_RUN_PATTERN = re.compile(r"[0-9a-f]{16}")

_QUEUE_RULE = "1 to 100 of [A-Za-z0-9._~-], the first a letter or digit"
_ID_RULE = "1 to 128 of [A-Za-z0-9._~:@+=-], the first a letter or digit"
_JOB_NAME_RULE = "1 to 128 of [A-Za-z0-9._~:/@+=-], the first a letter or digit"


#: Names that were found right: there are few, and each comes with every job.
_right_queues: set[str] = set()
_right_job_names: set[str] = set()
_MAX_REMEMBERED = 10_000


def _remember(right: set[str], name: str) -> None:
    if len(right) >= _MAX_REMEMBERED:
        right.clear()
    right.add(name)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def check_queue(queue: str, field: str = "queue") -> str:
    """Return the queue's name. Raises InvalidField."""
    if queue in _right_queues:
        return queue
    if not QUEUE_PATTERN.fullmatch(queue):
        raise InvalidField(f"{field} must be {_QUEUE_RULE}; it is {_shown(queue)}", field=field)
    _remember(_right_queues, queue)
    return queue


def check_job_name(job_name: str, field: str = "job_name") -> str:
    """Return the job name. Raises InvalidField."""
    if job_name in _right_job_names:
        return job_name
    if not JOB_NAME_PATTERN.fullmatch(job_name):
        raise InvalidField(f"{field} must be {_JOB_NAME_RULE}; it is {_shown(job_name)}", field=field)
    _remember(_right_job_names, job_name)
    return job_name


def check_group(group: str, field: str = "group") -> str:
    """Return the group. Raises InvalidField."""
    if not ID_PATTERN.fullmatch(group):
        raise InvalidField(f"{field} must be {_ID_RULE}; it is {_shown(group)}", field=field)
    return group


def mint_id() -> bytes:
    """Make an id: 48 bits of milliseconds, version and variant of UUIDv7, 74 random bits."""
    random = bytearray(os.urandom(10))
    random[0] = random[0] & 0x0F | 0x70
    random[2] = random[2] & 0x3F | 0x80
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + random


def id_to_bytes(text: str, field: str = "id") -> bytes:
    """The form of an id in the store. Raises InvalidField."""
    if len(text) == 32 and text[0] in "01":
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        if raw.hex() == text:
            return raw
    if not ID_PATTERN.fullmatch(text):
        raise InvalidField(f"{field} must be {_ID_RULE}; it is {_shown(text)}", field=field)
    return text.encode()


def id_to_text(raw: bytes) -> str:
    """The form of an id in the contract."""
    return raw.hex() if raw[0] < 0x20 else raw.decode()


def parse_job(name: str, field: str = "name") -> tuple[str, bytes]:
    """Split `queues/{queue}/jobs/{id}` into the queue and the id's form in the store. Raises InvalidField."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "queues" or parts[2] != "jobs":
        raise InvalidField(f"{field} must be queues/{{queue}}/jobs/{{id}}; it is {_shown(name)}", field=field)
    return check_queue(parts[1], field), id_to_bytes(parts[3], field)


def parse_queue(name: str, field: str = "name") -> str:
    """Take the queue out of `queues/{queue}`. Raises InvalidField."""
    parts = name.split("/")
    if len(parts) != 2 or parts[0] != "queues":
        raise InvalidField(f"{field} must be queues/{{queue}}; it is {_shown(name)}", field=field)
    return check_queue(parts[1], field)


def parse_group(name: str, field: str = "name") -> tuple[str, str]:
    """Take queue and group out of `queues/{queue}/groups/{group}`. Raises InvalidField."""
    parts = name.split("/")
    if len(parts) != 4 or (parts[0], parts[2]) != ("queues", "groups"):
        raise InvalidField(f"{field} must be queues/{{queue}}/groups/{{group}}; it is {_shown(name)}", field=field)
    return check_queue(parts[1], field), check_group(parts[3], field)


def parse_bulk_run(name: str, field: str = "name") -> tuple[str, bytes]:
    """Take queue and number out of `queues/{queue}/bulkRuns/{run}`. Raises InvalidField."""
    parts = name.split("/")
    if len(parts) != 4 or (parts[0], parts[2]) != ("queues", "bulkRuns") or not BULK_RUN_PATTERN.fullmatch(parts[3]):
        raise InvalidField(f"{field} must be queues/{{queue}}/bulkRuns/{{run}}, the run 16 hexadecimal digits; it is {_shown(name)}", field=field)
    return check_queue(parts[1], field), bytes.fromhex(parts[3])


def bulk_run_path(queue: str, number: bytes) -> str:
    """`queues/{queue}/bulkRuns/{run}`."""
    return f"queues/{queue}/bulkRuns/{number.hex()}"


def job_path(queue: str, raw_id: bytes) -> str:
    """`queues/{queue}/jobs/{id}`."""
    return f"queues/{queue}/jobs/{id_to_text(raw_id)}"
