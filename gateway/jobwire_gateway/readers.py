"""A reader of one topic, as the stream that writes to it sees it: bytes to write, and whether there will be more."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from jobwire_gateway.cursors import Cursor
from jobwire_gateway.frames import Frame
from jobwire_gateway.mailbox import GATEWAY, Mailbox
from jobwire_gateway.problems import Problem
from jobwire_gateway.topics import Topics
from jobwire_gateway.watches import JobWatch, QueueWatch


class Reader(Protocol):
    """What a stream writes out."""

    @property
    @abstractmethod
    def on_ready(self) -> Callable[[], None]:
        """Called whenever there is something to take; it may be called without need."""

    @on_ready.setter
    def on_ready(self, on_ready: Callable[[], None]) -> None:
        """Let another be called."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nothing comes after what can be taken now."""

    @property
    @abstractmethod
    def holding(self) -> bool:
        """Whether it says nothing yet, until it has heard of all its topics or `settle` is called."""

    def settle(self) -> None:
        """Wait no longer."""

    @abstractmethod
    def take(self) -> bytes:
        """Take all that waits, as one write. Empty when nothing does."""

    @abstractmethod
    def cursor(self) -> bytes:
        """What moves the browser's `Last-Event-ID` to where the reader is. Empty when it is there by itself."""

    def put(self, frame: Frame) -> None:
        """Show a frame of the gateway's own: `drain`."""

    def end(self) -> None:
        """Let nothing more come."""

    def leave(self) -> None:
        """Watch no more. To leave twice is no error."""

    def problem(self) -> Problem | None:
        """Why there is no stream at all, for one who can be told with a status."""


class OneReader:
    """A reader of one job or queue."""

    __slots__ = ("_topics", "mailbox", "watch")

    holding = False

    def __init__(self, topics: Topics, mailbox: Mailbox, watch: JobWatch | QueueWatch) -> None:
        self.mailbox = mailbox
        self.watch = watch
        self._topics = topics
        topics.join(watch)

    @classmethod
    def of_job(cls, topics: Topics, name: str, cursor: Cursor | None, on_ready: Callable[[], None]) -> "OneReader":
        """Read one job, after what `cursor` says has been seen."""
        mailbox = Mailbox(topics.bounds, on_ready)
        return cls(topics, mailbox, JobWatch(name, cursor, mailbox, topics.heartbeat_ms))

    @classmethod
    def of_queue(cls, topics: Topics, name: str, cursor: Cursor | None, on_ready: Callable[[], None]) -> "OneReader":
        """Read all changes in one queue. With a cursor, a gap is told."""
        mailbox = Mailbox(topics.bounds, on_ready)
        return cls(topics, mailbox, QueueWatch(name, mailbox, topics.heartbeat_ms, resuming=cursor is not None))

    @property
    def on_ready(self) -> Callable[[], None]:
        return self.mailbox.on_ready

    @on_ready.setter
    def on_ready(self, on_ready: Callable[[], None]) -> None:
        self.mailbox.on_ready = on_ready

    @property
    def ended(self) -> bool:
        return self.mailbox.ended

    def settle(self) -> None:
        pass

    def take(self) -> bytes:
        taken = self.mailbox.take()
        if len(taken) == 1:
            return taken[0].data
        return b"".join([frame.data for frame in taken]) if taken else b""

    def cursor(self) -> bytes:
        # Every frame that changes anything had its id with it.
        return b""

    def put(self, frame: Frame) -> None:
        self.mailbox.put(GATEWAY, frame)

    def end(self) -> None:
        self.mailbox.end()

    def leave(self) -> None:
        self.mailbox.end()
        self._topics.leave(self.watch)

    def problem(self) -> Problem | None:
        if self.watch.missing:
            return Problem(404, "There is no such job, or it is gone.", reason="JOB_NOT_FOUND", code="not_found")
        if not self.watch.started:
            return cut_off(self._topics)
        return None


def cut_off(topics: Topics) -> Problem:
    """The broker or its store cannot be heard."""
    return Problem(503, "The gateway is cut off.", reason=(topics.trouble or "broker_unavailable").upper(), retry_after_ms=1_000)
