"""What the model of the store knows of policies: what a queue says where its jobs say nothing."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2
from jobwire_broker.store.policy import policy_to_text

from tests.support.model_job import Content, Job

#: The one time for which ended jobs are kept that may be over in a test.
SHORT_MS = 1


class Policy(NamedTuple):
    """A policy. 0 and empty say nothing, but for `kept` and `age_ms`: None does."""

    attempts: int = 0
    delays_ms: tuple[int, ...] = ()
    permanent: tuple[str, ...] = ()
    timeout_ms: int = 0
    total_ms: int = 0
    expires_ms: int = 0
    max_depth: int = 0
    max_payload: int = 0
    kept: int | None = None
    """How many jobs of each final state are kept."""
    age_ms: int | None = None
    """And for how long."""
    priority: int | None = None
    """Of jobs that name none."""
    base_ms: int = 0
    factor: float = 0
    most_ms: int = 0
    """Waits that grow, where no list of them is given: the first, by what they grow, and the longest."""

    def text(self, version: int) -> str:
        """In the form of the store."""
        rules = policy_pb2.QueuePolicy(attempts=self.attempts, permanent_errors=self.permanent, max_depth=self.max_depth, max_payload_bytes=self.max_payload)
        if self.delays_ms:
            rules.backoff.CopyFrom(job_pb2.Backoff(delays=[_duration(ms) for ms in self.delays_ms], jitter=0.1))
        if self.base_ms:
            rules.backoff.base.CopyFrom(_duration(self.base_ms))
            rules.backoff.jitter = 0.1
        if self.factor:
            rules.backoff.factor = self.factor
        if self.most_ms:
            rules.backoff.max_delay.CopyFrom(_duration(self.most_ms))
        if self.priority is not None:
            rules.priority = self.priority
        for field, ms in (("timeout", self.timeout_ms), ("total_timeout", self.total_ms), ("expires_in", self.expires_ms)):
            if ms:
                getattr(rules, field).CopyFrom(_duration(ms))
        for state in ("completed", "failed", "cancelled", "expired"):
            if self.kept is not None:
                getattr(rules.retention, state).count = self.kept
            if self.age_ms is not None:
                getattr(rules.retention, state).age.CopyFrom(_duration(self.age_ms))
        return policy_to_text(rules, version)

    def named(self, content: Content) -> Content:
        """What a call says of a job, with the priority that it gets when it names none."""
        return content if content.priority is not None else content._replace(priority=5 if self.priority is None else self.priority)

    def over(self, ended: list[str], own: set[str]) -> list[str]:
        """Which of the ended jobs of a state, the oldest first, are not kept; `own` say for themselves how long they are."""
        if self.age_ms == 0:
            others = [raw_id for raw_id in ended if raw_id not in own]
            return others + _all_but([raw_id for raw_id in ended if raw_id in own], self.kept)
        return _all_but(ended, self.kept)

    def is_short(self, content: Content) -> bool:
        """Whether a job is kept for SHORT_MS."""
        return (self.age_ms if content.retention_ms is None else content.retention_ms) == SHORT_MS

    def attempts_of(self, content: Content) -> int:
        """How many times a job may run."""
        return content.attempts or self.attempts or 3

    def wait_after(self, job: Job) -> tuple[int, int]:
        """The bounds of the wait after a failed attempt, in ms: with jitter up to a tenth more."""
        delays = job.content.delays_ms or self.delays_ms
        if delays:
            wait = delays[min(job.attempt, len(delays)) - 1]
        else:
            wait = min(round((self.base_ms or 2000) * (self.factor or 2) ** (job.attempt - 1)), self.most_ms or 86_400_000)
        return wait, wait + wait // 10

    def is_permanent(self, content: Content, error: str) -> bool:
        """Whether no further attempt mends an error of this name."""
        return error in content.permanent or error in self.permanent

    def timeouts_of(self, content: Content) -> tuple[int, int]:
        """How long an attempt may take, and how long all of them, in ms; 0: any time."""
        return content.timeout_ms or self.timeout_ms, content.total_ms or self.total_ms

    def expires_in(self, content: Content) -> int:
        """How long after its due date a job expires, in ms; 0: never."""
        return content.expires_ms or self.expires_ms

    def is_too_large(self, payload: bytes) -> bool:
        """Whether the queue takes no such payload."""
        return bool(self.max_payload) and len(job_pb2.Payload.FromString(payload).data) > self.max_payload


def _all_but(ended: list[str], kept: int | None) -> list[str]:
    return [] if kept is None else ended[: max(0, len(ended) - kept)]


def _duration(ms: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(ms)
    return duration
