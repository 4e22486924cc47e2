"""Read a stream's bytes back as an EventSource does."""

import json
from dataclasses import dataclass
from typing import Any

from jobwire.v1.job_pb2 import Job, JobState, Progress


@dataclass(frozen=True)
class Event:
    """One event that would have been fired."""

    id: str
    data: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.data["type"])


def events(stream: bytes) -> list[Event]:
    """All events of a stream. Fails on anything that the standard does not know."""
    found: list[Event] = []
    last_id, data = "", ""
    for line in stream.decode().split("\n"):
        field, _, value = line.partition(": ")
        match field:
            case "":
                if data:
                    found.append(Event(last_id, json.loads(data)))
                data = ""
            case "id":
                last_id = value
            case "data":
                assert not data, "one line of data per event"
                data = value
            case "retry":
                assert value.isdigit()
            case ":":
                pass
            case _:
                raise AssertionError(f"unknown line {line!r}")
    return found


def types(stream: bytes) -> list[str]:
    """The types of all events."""
    return [event.type for event in events(stream)]


def job(revision: int, state: JobState.ValueType = JobState.JOB_STATE_ACTIVE, *, percent: float = 0, queue: str = "q", job_id: str = "j") -> Job:
    """A job at a revision."""
    return Job(
        name=f"queues/{queue}/jobs/{job_id}",
        queue=queue,
        id=job_id,
        job_name="thumbnail",
        state=state,
        revision=revision,
        attempt=1,
        max_attempts=3,
        progress=Progress(percent=percent),
    )
