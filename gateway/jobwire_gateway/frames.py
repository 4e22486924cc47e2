r"""The one encoder of stream frames, for job streams, queue streams and the overview alike.

A frame is what `EventSource` calls an event: an `id:` line when a reader may resume from it, one `data:` line of JSON, an empty line. There is
never an `event:` line, so a page with `onmessage` alone sees everything; `data.type` says what it is:

    connected  {name, resumed, heartbeatMs}    the watch is live: nothing that happens from here on is missed
    update     a job's members (jobs.py), or {queues: […]} in the overview; the first one is the snapshot
    final      a job's members at its end
    log        {name, queue, id, lines: [{sequence, level, message, timeMs}]}, or {name, lines: [], dropped} where lines are missing
    gap        {name, reason}                  something may have been missed; of a job, an update with its present state follows
    degraded   {degraded: true|false, reason}  the gateway is cut off from broker or store; the stream lives on
    drain      {reconnectMs}                   this gateway ends; reconnect
    error      {name, reason, detail}          trouble of the stream, never of the job; where it is not of one topic, there is no name
               {reason, detail, expiresAt}     the credentials end soon (`CREDENTIALS_EXPIRING`); without a time: now (`CREDENTIALS_EXPIRED`), and a close
    unsubscribed {name}                        over WebSocket: nothing more comes of this topic

Over a WebSocket a frame is its JSON alone. In a stream of many topics it gets an id of that stream (cursors.py).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from jobwire.v1.job_pb2 import Job, LogLine
from jobwire.v1.queue_service_pb2 import Queue
from websockets.frames import Frame as SocketFrame
from websockets.frames import Opcode

from jobwire_gateway.jobs import job_json, line_json, queue_json, without_contents
from jobwire_gateway.json_text import encoded

HEARTBEAT = b":\n\n"
"""A comment: keeps proxies and half-open connections honest, and fires no event."""

_DATA = b"data: "

MISSING = "0.end"
"""The id of an `error`: there is no such job, and a reconnect learns no more."""

MAX_FRAME_BYTES = 64 * 1024
"""A job that is larger comes without its payload, its result and whatever else may be long, with `truncated` and the address of the whole; lines of a log that
are more come in several frames."""

_LOG_HEAD_BYTES = 1024
"""More than all of a log frame that is not lines."""


class Kind(StrEnum):
    """What a frame is to its reader."""

    CONNECTED = "connected"
    UPDATE = "update"
    FINAL = "final"
    ERROR = "error"
    GAP = "gap"
    DEGRADED = "degraded"
    DRAIN = "drain"
    LOG = "log"
    UNSUBSCRIBED = "unsubscribed"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An encoded frame, shared by all who read it."""

    kind: Kind
    data: bytes
    name: str = ""
    """The job that it is about."""
    id: str = ""
    """What a reader of its topic alone has seen with it."""
    mark: tuple[object, ...] | None = None
    """Of two frames with the same name and equal marks the later says everything. Of an update it is all but its progress; None: nothing can
    take its place."""
    lines: int = 0
    """How many logged lines are in it, or are said to be missing."""
    _message: bytes = field(default=b"", init=False)

    @property
    def json(self) -> bytes:
        """What the frame says, without its form."""
        return self.data[self.data.index(_DATA) + len(_DATA) : -2]

    @property
    def message(self) -> bytes:
        """What the frame says as a message of a WebSocket, ready to be written. Made once for all."""
        if not self._message:
            object.__setattr__(self, "_message", SocketFrame(Opcode.TEXT, self.json).serialize(mask=False))
        return self._message

    def truncated(self) -> "Frame":
        """The same of a job, without what may be long."""
        members = json.loads(self.json)
        del members["type"]
        return replace(self, data=_encode(self.kind, without_contents(members), self.id))

    def with_id(self, event_id: str) -> bytes:
        """The same with another id. Whatever stands before the data, but for an id, stays."""
        head = b"" if self.id else self.data[: self.data.index(_DATA)]
        return b"%sid: %s\n%s" % (head, event_id.encode(), self.data[self.data.index(_DATA) :])


def connected(name: str, *, resumed: bool, heartbeat_ms: int) -> Frame:
    """The first frame of a stream."""
    return _control(Kind.CONNECTED, {"name": name, "resumed": resumed, "heartbeatMs": heartbeat_ms})


def update(job: Job) -> Frame:
    """A job as it is now."""
    mark = (job.state, job.attempt, job.token, job.cancel_requested, job.cancel_delivered, job.losses)
    event_id = str(job.revision)
    return Frame(Kind.UPDATE, _job(Kind.UPDATE, job, event_id), job.name, event_id, mark)


def final(job: Job) -> Frame:
    """A job at its end."""
    event_id = f"{job.revision}.end"
    return Frame(Kind.FINAL, _job(Kind.FINAL, job, event_id), job.name, event_id)


def logs(job: Job, lines: Iterable[LogLine]) -> Iterator[tuple[Frame, int]]:
    """Lines that a handler logged, in as many frames as they need. Gives with each frame the cursor of its last line."""
    head = b'data: {"type":"log",' + encoded({"name": job.name, "queue": job.queue, "id": job.id})[1:-1] + b',"lines":['
    parts: list[bytes] = []
    size = cursor = 0
    for line in lines:
        part = encoded(line_json(line))
        if parts and size + len(part) > MAX_FRAME_BYTES - _LOG_HEAD_BYTES:
            yield _lines(head, parts, job.name), cursor
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
        cursor = line.cursor
    if parts:
        yield _lines(head, parts, job.name), cursor


def logs_dropped(name: str, count: int) -> Frame:
    """Stands where lines are missing: they were dropped for a slow reader, or are kept no more."""
    return Frame(Kind.LOG, _encode(Kind.LOG, {"name": name, "lines": [], "dropped": count}), name, lines=count)


def gap(name: str, reason: str) -> Frame:
    """Something may have been missed: `resumed`, `slow_reader`, `broker_lost`, `store_lost`, `not_shown`."""
    return _control(Kind.GAP, {"name": name, "reason": reason})


def degraded(on: bool, reason: str) -> Frame:
    """The gateway is cut off, or no longer: `broker_unavailable`, `store_unavailable`."""
    return Frame(Kind.DEGRADED, _encode(Kind.DEGRADED, {"degraded": on, "reason": reason}), mark=())


def drain(reconnect_ms: int) -> Frame:
    """The gateway ends; its reader is to come back after so many milliseconds."""
    return Frame(Kind.DRAIN, b"retry: %d\n" % reconnect_ms + _encode(Kind.DRAIN, {"reconnectMs": reconnect_ms}))


def error(name: str, reason: str, detail: str) -> Frame:
    """The stream has no more to say, and a reconnect neither."""
    return Frame(Kind.ERROR, _encode(Kind.ERROR, {"name": name, "reason": reason, "detail": detail}, MISSING), name, MISSING)


def credentials_expiring(expires_at: float) -> Frame:
    """The reader's credentials end at this time, in seconds since 1970, and the stream with them. It may begin another with new ones before."""
    at = datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _control(Kind.ERROR, {"reason": "CREDENTIALS_EXPIRING", "detail": "The credentials expire soon, and the stream ends with them.", "expiresAt": at})


def credentials_expired(reconnect_ms: int) -> Frame:
    """The stream ends here. To come back is of use with other credentials alone; an EventSource tries it once, and is spread like all others."""
    members = {"reason": "CREDENTIALS_EXPIRED", "detail": "The credentials have ended. Come back with new ones."}
    return Frame(Kind.ERROR, b"retry: %d\n" % reconnect_ms + _encode(Kind.ERROR, members))


def unsubscribed(name: str) -> Frame:
    """Nothing more comes of a topic, as its reader wished. Over WebSocket alone."""
    return _control(Kind.UNSUBSCRIBED, {"name": name})


def cursor(event_id: str) -> bytes:
    """An id alone: moves what the browser will send as `Last-Event-ID`, and fires no event."""
    return b"id: %s\n\n" % event_id.encode()


def retry(milliseconds: int) -> bytes:
    """How long a browser waits before it reconnects. Fires no event."""
    return b"retry: %d\n\n" % milliseconds


def queue_fragment(queue: Queue) -> bytes:
    """One queue's members, to be joined by `overview`."""
    return encoded(queue_json(queue))


def overview(fragments: Sequence[bytes]) -> Frame:
    """Queues with their counts, each encoded before."""
    return Frame(Kind.UPDATE, b'data: {"type":"update","queues":[' + b",".join(fragments) + b"]}\n\n")


def _lines(head: bytes, parts: Sequence[bytes], name: str) -> Frame:
    return Frame(Kind.LOG, head + b",".join(parts) + b"]}\n\n", name, lines=len(parts))


def _job(kind: Kind, job: Job, event_id: str) -> bytes:
    members = job_json(job)
    frame = _encode(kind, members, event_id)
    if len(frame) <= MAX_FRAME_BYTES:
        return frame
    return _encode(kind, without_contents(members), event_id)


def _control(kind: Kind, members: Mapping[str, object]) -> Frame:
    return Frame(kind, _encode(kind, members))


def _encode(kind: Kind, members: Mapping[str, object], event_id: str = "") -> bytes:
    # JSON escapes every line break, so the data is always one line.
    head = b"id: %s\n" % event_id.encode() if event_id else b""
    return head + b"data: " + encoded({"type": kind.value, **members}) + b"\n\n"
