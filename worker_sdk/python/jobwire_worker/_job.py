"""What a handler sees of its job."""

from __future__ import annotations

import math
import time
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from ._cancellation import Cancellation
from ._outcomes import MESSAGE_LIMIT_BYTES, head
from ._payloads import decode_json, encoder
from .errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRESS_MESSAGE_LIMIT_BYTES = 512
PROGRESS_DATA_LIMIT_BYTES = 4096
CHECKPOINT_LIMIT_BYTES = 65_536
MAX_LOG_LINES_WAITING = 1000
if TYPE_CHECKING:
    # A checker reads a bare `Job` as `Job[Any]`. At run time only Python 3.13 knows defaults, which is what pyright says here.
    T = TypeVar("T", default=Any)  # pyright: ignore[reportGeneralTypeIssues]
else:
    T = TypeVar("T")

LEVELS = frozenset({"debug", "info", "warning", "error"})
_UNSET: Any = object()


class Reports(Protocol):
    """Where a job leaves word that it has something to report. Called from any thread."""

    def put(self, item: Any, /) -> None: ...


class Job(Generic[T]):
    """One attempt of one job, as its handler sees it. Its methods may be called from any thread and from coroutines, and never block.

    A handler that takes `job: Job[Request]` finds its payload as a Request in `job.payload`; with `job: Job` it is the plain JSON value, or bytes.
    """

    __slots__ = (
        "_checkpoint",
        "_delivery",
        "_lease",
        "_lines",
        "_percent",
        "_progress",
        "_reported",
        "_reports",
        "_sent",
        "_sequence",
        "_taken",
        "_value",
        "cancelled",
    )

    def __init__(self, delivery: pb.Delivery, reports: Reports, lease: Any = None) -> None:
        self._delivery = delivery
        self._reports = reports
        self._reported = False
        self._percent = 0.0
        self._progress: tuple[float, str, str] | None = None
        self._taken: tuple[float, str, str] | None = None
        self._lines: deque[job_pb2.LogLine] | None = None
        self._checkpoint: job_pb2.Payload | None = None
        self._sent: job_pb2.Payload | None = None
        self._sequence = 0
        self._lease = lease
        self._value: Any = _UNSET
        self.cancelled = Cancellation()
        """Truthy with a `reason` when the attempt is to be given up."""

    def __repr__(self) -> str:
        return f"<Job {self.name} attempt={self.attempt}>"

    @property
    def name(self) -> str:
        """`queues/{queue}/jobs/{id}`: the one string by which clients, the CLI and browsers find the job."""
        return f"queues/{self._delivery.queue}/jobs/{self._delivery.id}"

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._delivery.queue

    @property
    def id(self) -> str:
        """The id, unique in its queue."""
        return self._delivery.id

    @property
    def job_name(self) -> str:
        """The name by which the handler was chosen."""
        return self._delivery.job_name

    @property
    def token(self) -> int:
        """The fencing token: it only grows, over all leases of the job. Store it with what you write, and refuse to overwrite a greater one."""
        return self._delivery.token

    @property
    def attempt(self) -> int:
        """Which run this is, from 1."""
        return self._delivery.attempt

    @property
    def max_attempts(self) -> int:
        """How many runs there may be."""
        return self._delivery.max_attempts

    @property
    def last_attempt(self) -> bool:
        """Whether a failure of this run is the end."""
        return self._delivery.attempt >= self._delivery.max_attempts

    @property
    def priority(self) -> int:
        """The job's priority; lower runs first."""
        return self._delivery.priority

    @property
    def timeout(self) -> timedelta | None:
        """How long this attempt may take before the broker ends it; None: as long as it wants. The handler may have a shorter timeout of its own."""
        return self._delivery.timeout.ToTimedelta() if self._delivery.HasField("timeout") else None

    @property
    def group(self) -> str:
        """Whose job it is; empty: nobody's."""
        return self._delivery.group

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self._delivery.labels)

    @property
    def payload(self) -> T:
        """The payload: what `Job[…]` names, else parsed JSON or bytes, parsed anew at each call. Raises PayloadError for JSON that is none."""
        if self._value is not _UNSET:
            return cast("T", self._value)
        payload = self._delivery.payload
        return cast("T", payload.data if payload.WhichOneof("content") == "data" else decode_json(payload))

    @property
    def checkpoint(self) -> Any:
        """What an attempt before this one left with `save_checkpoint`: parsed JSON or bytes; None when there is nothing."""
        if not self._delivery.HasField("checkpoint"):
            return None
        checkpoint = self._delivery.checkpoint
        return checkpoint.data if checkpoint.WhichOneof("content") == "data" else decode_json(checkpoint)

    def progress(self, percent: float, message: str = "", *, data: Any = None) -> None:
        """Tell how far the job is.

        `percent` is from 0 to 100 and never falls: a lower one than before is taken as the one before. `message` is one line for people, of which 512 bytes
        are kept; `data` is JSON for programs, at most 4,096 bytes. Of many calls in a short time only the latest is sent, so call it as often as you like.

        Raises ValueError for a percent that is no number, or data over the limit.
        """
        if math.isnan(percent):
            raise ValueError("progress needs a percent from 0 to 100, got nan")
        data_json = ""
        if data is not None:
            data_json = encoder.encode(data)
            if len(data_json.encode()) > PROGRESS_DATA_LIMIT_BYTES:
                raise ValueError(f"the data of progress is at most {PROGRESS_DATA_LIMIT_BYTES} bytes of JSON, got {len(data_json.encode())}")
        self._percent = max(self._percent, min(100.0, max(0.0, float(percent))))
        self._progress = (self._percent, message, data_json)
        self._report()

    def log(self, message: str, *, level: str = "info") -> None:
        """Write a line into the job's own log, for those who watch it. `level` is debug, info, warning or error; 2,048 bytes of the line are kept.

        Raises ValueError for another level. When the broker is away for long, the latest 1,000 lines are kept.
        """
        if level not in LEVELS:
            raise ValueError(f"level must be debug, info, warning or error, got {level!r}")
        if self._lines is None:
            self._lines = deque(maxlen=MAX_LOG_LINES_WAITING)
        self._sequence += 1
        text = head(str(message), MESSAGE_LIMIT_BYTES)
        self._lines.append(job_pb2.LogLine(sequence=self._sequence, level=level, message=text, time_ms=time.time_ns() // 1_000_000))
        self._report()

    def save_checkpoint(self, value: Any) -> None:
        """Leave something for the next attempt, should there be one: JSON, a dataclass or bytes, at most 64 KiB. None takes the last one away.

        It is there for the next attempt however this one ends: by a failure, a hand-back, the loss of the worker. Of many calls in a short time only the latest
        is sent, within a tenth of a second; what was not sent before a worker is killed is lost. A completed job keeps none.

        Raises ValueError for a value over the limit, and TypeError or ValueError for one that is no JSON.
        """
        if value is None:
            payload = job_pb2.Payload()
        elif isinstance(value, bytes | bytearray | memoryview):
            payload = job_pb2.Payload(data=bytes(value))
        else:
            payload = job_pb2.Payload(json=encoder.encode(value))
        size = max(len(payload.json.encode()), len(payload.data))
        if size > CHECKPOINT_LIMIT_BYTES:
            raise ValueError(f"a checkpoint is at most {CHECKPOINT_LIMIT_BYTES} bytes, got {size}; save a reference to it instead")
        self._checkpoint = payload
        self._report()

    def check_cancelled(self) -> None:
        """Raise Cancelled when the attempt is surely to be given up. For handlers in threads: call it in loops and let it rise.

        LEASE_UNCERTAIN does not raise, since it may pass; look at `cancelled` where work without a sure lease does harm.
        """
        if self.cancelled.definite:
            reason = self.cancelled.reason
            raise Cancelled(f"the attempt is to be given up: {reason.value if reason else ''}")

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            self._reports.put(self)

    def _take_reports(self) -> tuple[job_pb2.Progress | None, Sequence[job_pb2.LogLine], job_pb2.Payload | None]:
        """What there is to report since the last call. For the stream, which calls it on its own thread."""
        self._reported = False  # first: what comes while we read puts itself in again
        progress, checkpoint = self._progress, self._checkpoint  # never cleared: a value set between reading and clearing would be lost
        waiting = self._lines
        lines: list[job_pb2.LogLine] = []
        while waiting:
            lines.append(waiting.popleft())
        if checkpoint is self._sent:
            checkpoint = None
        else:
            self._sent = checkpoint
        if progress is None or progress is self._taken:
            return None, lines, checkpoint
        self._taken = progress
        percent, message, data_json = progress
        return job_pb2.Progress(percent=percent, message=head(message, PROGRESS_MESSAGE_LIMIT_BYTES), data_json=data_json), lines, checkpoint
