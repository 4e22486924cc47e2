"""Progress, log lines and checkpoints that wait to be sent: of each job the latest progress and checkpoint, and its last lines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb

from ._effects import Lease

INTERVAL_S = 0.1
"""Reports alone make at most ten frames a second."""
MAX_LINES_PER_REPORT = 100
MAX_LINES_KEPT = 1000
"""Per job, while the stream is away."""
_REPORT_BYTES = 320  # queue, id, token and tags, at their longest
_LINE_BYTES = 2048 + 64
_PROGRESS_BYTES = _REPORT_BYTES + 512 + 4096
_CHECKPOINT_BYTES = _REPORT_BYTES + 65_536 + 256
_LINES_BYTES = _REPORT_BYTES + MAX_LINES_PER_REPORT * _LINE_BYTES


class PendingReports:
    """Falsy when there are none."""

    def __init__(self) -> None:
        self._progress: dict[Lease, job_pb2.Progress] = {}
        self._lines: dict[Lease, deque[job_pb2.LogLine]] = {}
        self._checkpoints: dict[Lease, job_pb2.Payload] = {}
        self._sent_at = -math.inf

    def __bool__(self) -> bool:
        return bool(self._progress or self._lines or self._checkpoints)

    def __iter__(self) -> Iterator[Lease]:
        """The leases that have something to report; one may come several times."""
        yield from self._progress
        yield from self._lines
        yield from self._checkpoints

    @property
    def due_at(self) -> float:
        """When they may be sent without anything else."""
        return self._sent_at + INTERVAL_S

    def note(self, lease: Lease, progress: job_pb2.Progress | None, lines: Iterable[job_pb2.LogLine], checkpoint: job_pb2.Payload | None = None) -> None:
        """A newer progress or checkpoint takes the place of an older one."""
        if checkpoint is not None:
            self._checkpoints[lease] = checkpoint
        if progress is not None:
            self._progress[lease] = progress
        for line in lines:
            self._lines.setdefault(lease, deque(maxlen=MAX_LINES_KEPT)).append(line)

    def forget(self, lease: Lease) -> None:
        """Drop what there is of this one."""
        self._progress.pop(lease, None)
        self._lines.pop(lease, None)
        self._checkpoints.pop(lease, None)

    def write(self, frame: pb.WorkRequest, room: int, now: float) -> int:
        """Put as many into the frame as fit into `room` bytes. Returns the bytes that are left."""
        self._sent_at = now
        while self._progress and room >= _PROGRESS_BYTES:
            lease = next(iter(self._progress))
            lease.write_identity(frame.progress.add(progress=self._progress.pop(lease)))
            room -= _PROGRESS_BYTES
        while self._checkpoints and room >= _CHECKPOINT_BYTES:
            lease = next(iter(self._checkpoints))
            lease.write_identity(frame.checkpoints.add(checkpoint=self._checkpoints.pop(lease), sequence=lease.checkpoints))
            room -= _CHECKPOINT_BYTES
        while self._lines and room >= _LINES_BYTES:
            lease, lines = next(iter(self._lines.items()))
            batch = [lines.popleft() for _ in range(min(len(lines), MAX_LINES_PER_REPORT))]
            if not lines:
                del self._lines[lease]
            lease.write_identity(frame.logs.add(lines=batch))
            room -= _REPORT_BYTES + len(batch) * _LINE_BYTES
        return room
