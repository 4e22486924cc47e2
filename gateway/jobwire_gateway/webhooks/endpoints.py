"""What an endpoint wants to hear of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from jobwire.v1.job_pb2 import Job, JobState

from jobwire_gateway.jobs import state_word
from jobwire_gateway.webhooks.secrets import Secret

EVENT_OF: "Mapping[JobState.ValueType, str]" = {
    state: f"job.{state_word(state)}"
    for state in (JobState.JOB_STATE_COMPLETED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED, JobState.JOB_STATE_EXPIRED)
}
"""The event that tells of a job's end, by its final state."""

EVENTS = tuple(EVENT_OF.values())
JOB_NAME = "webhook"
"""The job name of deliveries, in whatever queue they are. Of their ends nobody is told, or two sets of webhooks would tell of each other for ever."""


@dataclass(frozen=True, slots=True)
class QueuePattern:
    """One queue by its name, or all whose names begin with a prefix (`mail*`), as in scopes."""

    text: str

    @property
    def is_prefix(self) -> bool:
        """Whether it stands for queues that are not named."""
        return self.text.endswith("*")

    def fits(self, queue: str) -> bool:
        """Whether a queue is meant."""
        return queue.startswith(self.text[:-1]) if self.is_prefix else queue == self.text


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One address, and what is sent there."""

    name: str
    """It is the group of its deliveries, too."""
    url: str = field(repr=False)
    secrets: tuple[Secret, ...]
    queues: tuple[QueuePattern, ...]
    events: frozenset[str] = frozenset(EVENTS)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that a job must have, all of them."""

    @property
    def host(self) -> str:
        """The host, which unlike the rest of the address is no secret."""
        return urlsplit(self.url).hostname or ""

    def wants(self, job: Job) -> bool:
        """Whether it wants to hear of a job's end."""
        return EVENT_OF.get(job.state) in self.events and self.listens_to(job.queue) and all(job.labels.get(key) == value for key, value in self.labels.items())

    def listens_to(self, queue: str) -> bool:
        """Whether it wants to hear of a queue at all."""
        return any(pattern.fits(queue) for pattern in self.queues)


class Endpoints:
    """All of them, and the queue of their deliveries, which none of them hears of."""

    def __init__(self, endpoints: Iterable[Endpoint], queue: str) -> None:
        self._by_name = {endpoint.name: endpoint for endpoint in endpoints}
        self._queue = queue

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str) -> Endpoint | None:
        """The endpoint of a name."""
        return self._by_name.get(name)

    def wanting(self, job: Job) -> list[Endpoint]:
        """Those that want to hear of a job's end."""
        if job.queue == self._queue or job.job_name == JOB_NAME:
            return []
        return [endpoint for endpoint in self._by_name.values() if endpoint.wants(job)]

    def events_of(self, queue: str) -> frozenset[str]:
        """The events of a queue that somebody wants. None of the deliveries' own."""
        if queue == self._queue:
            return frozenset()
        return frozenset().union(*(endpoint.events for endpoint in self._by_name.values() if endpoint.listens_to(queue)))

    @property
    def queues(self) -> list[str]:
        """The queues that are wanted by their names."""
        return sorted({pattern.text for pattern in self._patterns if not pattern.is_prefix} - {self._queue})

    @property
    def has_prefixes(self) -> bool:
        """Whether somebody wants queues that are not named."""
        return any(pattern.is_prefix for pattern in self._patterns)

    @property
    def _patterns(self) -> Sequence[QueuePattern]:
        return [pattern for endpoint in self._by_name.values() for pattern in endpoint.queues]
