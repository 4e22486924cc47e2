"""What the model of the store knows of single jobs and sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from jobwire_broker.store import codec

from tests.support.queue_state import SECTIONS, JobView

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "EXPIRED")


class Content(NamedTuple):
    """What a producer's call says of a job. Bytes are in the form of the store; `priority` and `retention_ms` None, and `attempts` 0, say nothing."""

    priority: int | None = 5
    attempts: int = 3
    payload: bytes = b""
    delay_ms: int = 0
    timeout_ms: int = 0
    total_ms: int = 0
    expires_at: int = 0
    expires_ms: int = 0
    identity: bytes = b""
    retention_ms: int | None = None
    delays_ms: tuple[int, ...] = ()
    permanent: tuple[str, ...] = ()
    labels: bytes = b""
    group: str = ""

    @property
    def sections(self) -> dict[int, bytes]:
        """Those of its rules, in the form of the store, by tag."""
        numbers = {codec.TAG_TIMEOUT: self.timeout_ms or None, codec.TAG_TOTAL_TIMEOUT: self.total_ms or None, codec.TAG_RETENTION: self.retention_ms}
        found = {tag: ms.to_bytes(8, "big") for tag, ms in numbers.items() if ms is not None}
        if self.expires_at or self.expires_ms:
            found[codec.TAG_EXPIRY] = codec.encode_expiry("d", self.expires_at) if self.expires_at else codec.encode_expiry("r", self.expires_ms)
        if self.group:
            found[codec.TAG_GROUP] = self.group.encode()
        if self.labels:
            found[codec.TAG_LABELS] = self.labels
        if self.identity:
            found[codec.TAG_IDENTITY] = self.identity
        if self.delays_ms:
            found[codec.TAG_DELAYS] = codec.encode_delays(1000, self.delays_ms)
        if self.permanent:
            found[codec.TAG_PERMANENT] = codec.encode_names(self.permanent)
        return found

    @property
    def is_timed(self) -> bool:
        """Whether it has rules of time."""
        return bool(self.timeout_ms or self.total_ms or self.expires_at or self.expires_ms)

    @property
    def is_kept(self) -> bool:
        """Whether its end has to do with more than its record."""
        return self.retention_ms is not None or self.identity[:1] in (b"u", b"d")


class Change(NamedTuple):
    """What an update changes of a job that waits; None: nothing. `due_ms` is a date that is far away, or 0 for now."""

    priority: int | None = None
    payload: bytes | None = None
    labels: bytes | None = None
    due_ms: int | None = None

    def of(self, content: Content) -> Content:
        """What a job carries after it."""
        return content._replace(
            priority=content.priority if self.priority is None else self.priority,
            payload=content.payload if self.payload is None else self.payload,
            labels=content.labels if self.labels is None else self.labels,
        )


@dataclass
class Job:
    """A job. `order` is None until the store has given it; `wait_ms` are the bounds of a wait that begins now."""

    content: Content
    state: str = "WAITING"
    order: int | None = None
    wait_ms: tuple[int, int] | None = None
    token: int = 0
    session: str = ""
    attempt: int = 0
    losses: int = 0
    returns: int = 0
    progress: int | None = None
    ended: str = ""
    alone: bool = False
    lost: bool = False
    cancel_requested: bool = False
    cancel_delivered: bool = False
    cancel_deadline: int = 0
    deadline: int | None = 0
    total_deadline: int = 0
    happened: dict[str, bytes] = field(default_factory=dict)
    """What came to its record since it was enqueued."""
    note: str | None = None
    log: list[tuple[int, int, str]] = field(default_factory=list)
    logged: tuple[int, int] = (0, 0)
    checkpoint: bytes = b""
    left: tuple[int, int] = (0, 0)
    """Token and sequence of the report that left the checkpoint, or took it away."""
    made_of: Content | None = None
    """What it was enqueued with, once that was changed."""
    timed: bool = False
    """Whether it has, or had, rules of time."""
    expires_ms: int = 0
    """How long after its due date it expires, by what held when it took its place."""

    def __post_init__(self) -> None:
        self.timed = self.content.is_timed

    def change(self, content: Content) -> None:
        """Let it be another job from now on; a repetition of the call that made it must find it all the same."""
        self.made_of = self.made_of or self.content
        self.content = content
        self.timed = self.timed or content.is_timed
        self.happened["original"] = b""

    @property
    def priority(self) -> int:
        """Its own. One that named none got that of its queue when it was enqueued."""
        assert self.content.priority is not None
        return self.content.priority

    def view(self) -> JobView:
        """As the store keeps it."""
        flags = {
            "ALONE": self.alone,
            "LOST": self.lost,
            "CANCEL_REQUESTED": self.cancel_requested,
            "CANCEL_DELIVERED": self.cancel_delivered,
            "TIMED": self.timed,
            "KEPT": self.content.is_kept,
            "COUNTED": bool(self.content.group),
        }
        sections = {SECTIONS.get(tag, str(tag)): packed for tag, packed in self.content.sections.items()}
        if self.content.delay_ms:
            sections["delay"] = self.content.delay_ms.to_bytes(8, "big")
        return JobView(
            self.state,
            self.attempt,
            self.losses,
            frozenset(name for name, is_set in flags.items() if is_set),
            None if self.progress is None else self.progress / 100,
            self.ended,
            self.returns,
            self.priority,
            self.content.attempts,
            sections | self.happened,
        )


@dataclass
class Group:
    """A group. `most` is a limit of its own, 0 for none; `tag` is what it has paid, in the time of its kind."""

    paused: bool = False
    express: bool = False
    weight: float = 1.0
    most: int = 0
    frozen: bool = False
    tag: float = 0.0


@dataclass
class Session:
    """A session."""

    epoch: int
    deadline: int
    solo: str = ""


class Removed(NamedTuple):
    """What is known of a job that was deleted."""

    state: str
    ended: str
    token: int
