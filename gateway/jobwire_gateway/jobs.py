"""Jobs and queues as JSON: what REST answers and stream frames both show.

The names are those of proto JSON (lowerCamelCase), with these decisions:

1. State words are in lower case and without their prefix: `waiting`, not `JOB_STATE_WAITING`. An unknown number is shown as it is.
2. 64-bit numbers are JSON numbers, not strings: revisions and tokens are microseconds since 1970 and fit a double until 2255.
3. Where the contract carries a JSON text, the value itself stands here: `payload`, `result`, `progress.data`. A payload that is no JSON is
   base64 in `payloadBase64` with its type in `payloadContentType`, and likewise for results.
4. What has no value is left out; the numbers of a job's life (`priority`, `attempt`, `revision`, …) are always there.

Messages that hold plain data (rules, runs, groups) are shown by their descriptors: `contract.py`.
"""

import base64
import json
from collections.abc import Mapping
from typing import NoReturn

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1.admin_service_pb2 import GetServerInfoResponse, Worker
from jobwire.v1.job_pb2 import Failure, Job, JobCounts, JobState, LogLine, Payload, Progress
from jobwire.v1.queue_service_pb2 import ClassStats, Queue

from jobwire_gateway.contract import shown
from jobwire_gateway.json_text import is_too_deep

_PREFIX = "JOB_STATE_"
_WORDS: dict[int, str] = {number: name.removeprefix(_PREFIX).lower() for name, number in JobState.items()}
_RULES = frozenset(
    (
        "group",
        "labels",
        "required_labels",
        "units",
        "expire_time",
        "timeout",
        "total_timeout",
        "attempts",
        "cancel_stage",
        "cancel_time",
        "fingerprint",
        "resolution",
        "log_lines",
    )
)
_COUNTS = tuple((field.name, field.json_name) for field in JobCounts.DESCRIPTOR.fields)

STATES = tuple(_WORDS[number] for number in sorted(_WORDS) if number not in (JobState.JOB_STATE_UNSPECIFIED, JobState.JOB_STATE_REMOVED))
"""The words of all states that a list may be asked for."""

_CONTENTS = ("payload", "result", "checkpoint", "attempts")
_SHORT = 500

FINAL_STATES = frozenset(
    (
        JobState.JOB_STATE_COMPLETED,
        JobState.JOB_STATE_FAILED,
        JobState.JOB_STATE_CANCELLED,
        JobState.JOB_STATE_EXPIRED,
        JobState.JOB_STATE_REMOVED,
    )
)


def state_word(state: int) -> str | int:
    """The word of a state; a number that has none is given back."""
    return _WORDS.get(state, state)


def state_of(word: str) -> JobState.ValueType | None:
    """The state of a word of `STATES`, or None."""
    return JobState.Value(_PREFIX + word.upper()) if word in STATES else None


def job_json(job: Job) -> dict[str, object]:
    """A job's members."""
    members: dict[str, object] = {
        "name": job.name or f"queues/{job.queue}/jobs/{job.id}",
        "queue": job.queue,
        "id": job.id,
        "state": state_word(job.state),
        "revision": job.revision,
        "priority": job.priority,
        "attempt": job.attempt,
        "maxAttempts": job.max_attempts,
        "token": job.token,
        "losses": job.losses,
    }
    if job.job_name:
        members["jobName"] = job.job_name
    if job.HasField("progress"):
        members["progress"] = _progress(job.progress)
    if job.HasField("payload"):
        members |= _content("payload", job.payload)
    if job.HasField("result"):
        members |= _content("result", job.result)
    if job.HasField("failure"):
        members["failure"] = _failure(job.failure)
    members |= _dates(job)
    if job.worker:
        members["worker"] = job.worker
    if job.cancel_requested:
        members |= {"cancelRequested": True, "cancelDelivered": job.cancel_delivered}
    if job.HasField("checkpoint"):
        members |= _content("checkpoint", job.checkpoint)
    return members | shown(job, _RULES)


def without_contents(members: Mapping[str, object]) -> dict[str, object]:
    """A job's members without what may be long, and with the address of the whole."""
    small = {name: value for name, value in members.items() if not name.startswith(_CONTENTS)}
    for name, left_out in (("failure", ("stack",)), ("progress", ("data", "dataText"))):
        if isinstance(inner := small.get(name), dict):
            small[name] = {key: value[:_SHORT] if isinstance(value, str) else value for key, value in inner.items() if key not in left_out}
    return small | {"truncated": True, "url": f"/v1/{members['name']}"}


def queue_json(queue: Queue) -> dict[str, object]:
    """A queue's members."""
    members: dict[str, object] = {"name": queue.name, "queue": queue.queue, "paused": queue.paused, "workers": queue.workers}
    if queue.HasField("oldest_waiting_age"):
        members["oldestWaitingAge"] = queue.oldest_waiting_age.ToJsonString()
    if queue.HasField("oldest_active_age"):
        members["oldestActiveAge"] = queue.oldest_active_age.ToJsonString()
    if queue.HasField("more_workers_help"):
        # Where this is known, so are the rates, although 0 is not sent.
        members |= {"moreWorkersHelp": queue.more_workers_help, "rateIn": queue.rate_in, "rateOut": queue.rate_out}
    if queue.HasField("policy"):
        members["policy"] = shown(queue.policy)
    return members | {"counts": counts_json(queue.counts)}


def class_json(stats: ClassStats) -> dict[str, object]:
    """A class's members, zeros too."""
    zeros: dict[str, object] = {"queues": [], "paused": 0, "started": 0, "startedLate": 0}
    return zeros | shown(stats) | {"counts": counts_json(stats.counts)}


def worker_json(worker: Worker) -> dict[str, object]:
    """A worker session's members."""
    members: dict[str, object] = {
        "session": worker.session,
        "instanceId": worker.instance_id,
        "queues": list(worker.queues),
        "active": worker.active,
        "concurrency": worker.concurrency,
        "sdk": worker.sdk,
        "brokerId": worker.broker_id,
    }
    return members | shown(worker, ("connect_time", "reserved"))


def server_json(info: GetServerInfoResponse) -> dict[str, object]:
    """A broker's members."""
    return {
        "brokerId": info.broker_id,
        "version": info.version,
        "storeAvailable": info.store_available,
        "storeVersion": info.store_version,
        "diskDurability": info.disk_durability,
        "uptime": info.uptime.ToJsonString(),
    }


def counts_json(counts: JobCounts) -> dict[str, int]:
    """All counts, zeros too."""
    return {json_name: getattr(counts, name) for name, json_name in _COUNTS}


def line_json(line: LogLine) -> dict[str, object]:
    """One logged line."""
    members: dict[str, object] = {"sequence": line.sequence, "level": line.level, "message": line.message, "timeMs": line.time_ms}
    return members | ({"cursor": line.cursor, "attempt": line.attempt} if line.cursor else {})


def _progress(progress: Progress) -> dict[str, object]:
    members: dict[str, object] = {"percent": progress.percent, "message": progress.message}
    if progress.data_json:
        try:
            members["data"] = _value(progress.data_json)
        except ValueError:
            members["dataText"] = progress.data_json
    return members


def _content(name: str, payload: Payload) -> dict[str, object]:
    if payload.WhichOneof("content") == "json":
        try:
            return {name: _value(payload.json)}
        except ValueError:
            return {f"{name}Text": payload.json}
    if not payload.data:
        return {}
    return {f"{name}Base64": base64.b64encode(payload.data).decode(), f"{name}ContentType": payload.content_type or "application/octet-stream"}


def _failure(failure: Failure) -> dict[str, object]:
    members = {"type": failure.type, "message": failure.message, "stack": failure.stack, "reason": failure.reason}
    return {name: value for name, value in members.items() if value}


def _dates(job: Job) -> dict[str, object]:
    dates: tuple[tuple[str, str, Timestamp], ...] = (
        ("create_time", "createTime", job.create_time),
        ("due_time", "dueTime", job.due_time),
        ("start_time", "startTime", job.start_time),
        ("finish_time", "finishTime", job.finish_time),
    )
    return {json_name: date.ToJsonString() for name, json_name, date in dates if job.HasField(name)}  # type: ignore[arg-type]


def _value(text: str) -> object:
    """Parse what a worker or producer sent as JSON. Python alone would take NaN, which no browser reads."""
    try:
        value: object = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if is_too_deep(text, value):
        raise ValueError("nested too deeply")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _no_constant(text)
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
