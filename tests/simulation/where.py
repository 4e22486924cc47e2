"""Which jobs a bulk verb asks for, and once more, in plain words, which of them it must find."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as jobs_pb
from jobwire_broker.store import codec

from tests.simulation.plan import JobPlan
from tests.support.fingerprint import fingerprint

_STATE = job_pb2.JobState
_BEFORE_ITS_END = frozenset(("WAITING", "DELAYED", "ACTIVE"))
_ENDED = frozenset(("COMPLETED", "FAILED", "CANCELLED", "EXPIRED"))
#: The states that each verb fits.
FITTING = {
    "cancel": _BEFORE_ITS_END,
    "retry": _ENDED - {"COMPLETED"},
    "promote": frozenset(("DELAYED",)),
    "delete": _ENDED | {"WAITING", "DELAYED"},
    "resolve": frozenset(("FAILED",)),
}


@dataclass(frozen=True, slots=True)
class Where:
    """A filter. What is empty or None says nothing; dates are in seconds before the call."""

    name: str = ""
    group: str = ""
    team: str = ""
    states: tuple[str, ...] = ()
    created_after_s: float | None = None
    created_before_s: float | None = None
    finished_after_s: float | None = None
    finished_before_s: float | None = None
    failure: str = ""
    """The message of failures of jobs with the name `work`."""
    resolved: bool | None = None


class Wanted:
    """A filter at the moment of a call."""

    def __init__(self, where: Where, verb: str, now_us: int) -> None:
        self._where = where
        self._states = frozenset(where.states) & FITTING[verb] or FITTING[verb]
        self._created = _dates(now_us, where.created_after_s, where.created_before_s)
        self._finished = _dates(now_us, where.finished_after_s, where.finished_before_s)
        failure = job_pb2.Failure(type="Error", message=where.failure)
        self._fingerprint = fingerprint("work", failure.SerializeToString()) if where.failure else b""

    def message(self) -> jobs_pb.JobFilter:
        """As callers send it."""
        where = self._where
        wanted = jobs_pb.JobFilter(job_name=where.name, group=where.group, fingerprint=self._fingerprint.hex())
        if where.states:
            wanted.states.extend(_STATE.Value(f"JOB_STATE_{word}") for word in sorted(self._states))
        if where.team:
            wanted.labels["team"] = where.team
        if where.resolved is not None:
            wanted.resolved = where.resolved
        dates = (
            (self._created[0], "created_after"),
            (self._created[1], "created_before"),
            (self._finished[0], "finished_after"),
            (self._finished[1], "finished_before"),
        )
        for us, name in dates:
            if us is not None:
                getattr(wanted, name).CopyFrom(Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000))
        return wanted

    def may_find(self, job: JobPlan) -> bool:
        """Whether it finds this job in some state at some time."""
        where = self._where
        is_of_team = job.changes_team or where.team in ("", job.team)
        return where.name in ("", job.name) and where.group in ("", job.group) and is_of_team and not (where.failure and job.name != "work")

    def finds(self, job: JobPlan, team: str, record: bytes) -> bool:
        """Whether it finds this job now, when it has the label of this team."""
        header = codec.header_of(record)
        sections = codec.sections(record, codec.body_start(record))
        state = _STATE.Name(_STATE.ValueType(header.state)).removeprefix("JOB_STATE_")
        if state not in self._states or (state == "ACTIVE" and header.flags & codec.FLAG_CANCEL_REQUESTED):
            return False
        if not self.may_find(job) or self._where.team not in ("", team) or not _holds(self._created, codec.created_of(record)):
            return False
        if self._finished != (None, None) and (state not in _ENDED or not _holds(self._finished, codec.ended_us(record, sections))):
            return False
        if self._fingerprint and (state != "FAILED" or fingerprint(job.name, sections.get(codec.TAG_FAILURE, b"")) != self._fingerprint):
            return False
        return self._where.resolved is None or (state == "FAILED" and (codec.TAG_RESOLUTION in sections) == self._where.resolved)


def _dates(now_us: int, after_s: float | None, before_s: float | None) -> tuple[int | None, int | None]:
    return tuple(None if ago_s is None else now_us - round(ago_s * 1e6) for ago_s in (after_s, before_s))  # type: ignore[return-value]  # two go in


def _holds(dates: tuple[int | None, int | None], us: int) -> bool:
    after, before = dates
    return (after is None or us >= after) and (before is None or us < before)
