"""What the session tells the program to do, and the leases that it speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from ._outcomes import Outcome

Key = tuple[str, str, int]
"""Queue, id and token: one lease of one job."""


class Lease:
    """A job that was delivered. `run` belongs to whoever runs it; the session never looks at it."""

    __slots__ = ("checkpoint", "checkpoints", "delivery", "id", "key", "listed", "outcome", "queue", "run", "running", "token")

    def __init__(self, delivery: pb.Delivery) -> None:
        self.delivery = delivery
        self.queue = delivery.queue
        self.id = delivery.id
        self.token = delivery.token
        self.key: Key = (self.queue, self.id, self.token)
        self.running = True
        """Takes a slot: its handler has not ended."""
        self.listed = True
        """Belongs in the `held` of a hello. False once the session that it was delivered to is gone."""
        self.outcome: Outcome | None = None
        self.checkpoint: job_pb2.Payload | None = None
        """The latest that the handler left. Sent again on each new stream, since nobody says whether it came through."""
        self.checkpoints = 0
        """How many the handler left; the sequence of the latest."""
        self.run: object = None

    def write_identity(self, message: pb.Finish | pb.Held | pb.ProgressReport | pb.LogReport | pb.CheckpointReport | pb.CancelReceipt) -> None:
        message.queue = self.queue
        message.id = self.id
        message.token = self.token


class Reason(Enum):
    """Why handlers are told to give up."""

    REQUESTED = "requested"
    STALE_LEASE = "stale_lease"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class Cause(Enum):
    """Why a stream is to be closed."""

    GO_AWAY = "go_away"
    """The broker ends."""
    MOVE = "move"
    """The leases run down here, and another broker may reach the store."""
    SILENT = "silent"
    """Nothing came for too long."""
    VIOLATION = "violation"
    """The broker does not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class Start:
    """Run these jobs."""

    leases: list[Lease]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the handlers of these jobs to give up."""

    leases: list[Lease]
    reason: Reason
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeasesUncertain:
    """Nobody can say whether the leases of these jobs still hold (`uncertain`), or they surely hold again."""

    leases: list[Lease]
    uncertain: bool


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The stream is open."""

    broker_id: str
    max_result_bytes: int
    lost: int
    """How many of the jobs that were held are lost."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A finish did not count."""

    lease: Lease
    verdict: pb.Verdict.ValueType


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream and connect anew, not to this address before `retry_after_s` if there is another."""

    cause: Cause
    retry_after_s: float = 0.0


Effect = Start | GiveUp | LeasesUncertain | Welcomed | Refused | Close
