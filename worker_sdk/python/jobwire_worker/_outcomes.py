"""How an attempt ended, as the session keeps it until it is acked.

An outcome writes itself into a frame when it is sent, and again when it is sent again: building the protobuf message inside the frame costs half of
building it apart and copying it in.
"""

from __future__ import annotations

from typing import Protocol

from jobwire.v1 import worker_service_pb2 as pb

TYPE_LIMIT_CHARS = 128
MESSAGE_LIMIT_BYTES = 2048
STACK_LIMIT_BYTES = 8192
_ENVELOPE_BYTES = 320  # queue, id, token and tags, at their longest


class Outcome(Protocol):
    """One end of an attempt."""

    @property
    def size_bytes(self) -> int:
        """About how much of a frame it takes; never less than it does."""
        ...

    @property
    def result_bytes(self) -> int:
        """The bytes of the result; 0 when there is none."""
        ...

    def write(self, finish: pb.Finish) -> None:
        """Put the outcome into `finish`."""
        ...


class Completed:
    """The handler returned. At most one of `json` and `data`."""

    __slots__ = ("data", "json", "result_bytes", "size_bytes")

    def __init__(self, json: str | None = None, data: bytes | None = None) -> None:
        self.json = json
        self.data = data
        self.result_bytes = _utf8_length(json) if json is not None else len(data or b"")
        self.size_bytes = _ENVELOPE_BYTES + self.result_bytes

    def write(self, finish: pb.Finish) -> None:
        if self.json is not None:
            finish.complete.result.json = self.json
        elif self.data is not None:
            finish.complete.result.data = self.data
        else:
            finish.complete.SetInParent()


NO_RESULT = Completed()


class Failed:
    """The handler failed. `retry_after_s` None leaves the wait to the job's backoff. Texts are cut to what the broker keeps."""

    __slots__ = ("message", "permanent", "reason", "result_bytes", "retry_after_s", "size_bytes", "stack", "type")

    def __init__(self, type: str, message: str, *, stack: str = "", permanent: bool = False, retry_after_s: float | None = None, reason: str = "") -> None:
        self.type = _sendable(type)[:TYPE_LIMIT_CHARS]
        self.message = head(message, MESSAGE_LIMIT_BYTES)
        self.stack = tail(stack, STACK_LIMIT_BYTES)
        self.permanent = permanent
        self.retry_after_s = retry_after_s
        self.reason = reason
        self.result_bytes = 0
        self.size_bytes = _ENVELOPE_BYTES + 4 * TYPE_LIMIT_CHARS + MESSAGE_LIMIT_BYTES + STACK_LIMIT_BYTES

    def write(self, finish: pb.Finish) -> None:
        fail = finish.fail
        failure = fail.failure
        failure.type = self.type
        failure.message = self.message
        failure.stack = self.stack
        failure.reason = self.reason
        fail.permanent = self.permanent
        if self.retry_after_s is not None:
            fail.retry_after.FromNanoseconds(round(self.retry_after_s * 1e9))


class Snoozed:
    """The handler asks to be run later."""

    __slots__ = ("delay_s", "result_bytes", "size_bytes")

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.result_bytes = 0
        self.size_bytes = _ENVELOPE_BYTES

    def write(self, finish: pb.Finish) -> None:
        finish.snooze.delay.FromNanoseconds(round(self.delay_s * 1e9))


class GroupLimited:
    """What the job's group needs has had enough for now."""

    __slots__ = ("delay_s", "result_bytes", "size_bytes")

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.result_bytes = 0
        self.size_bytes = _ENVELOPE_BYTES

    def write(self, finish: pb.Finish) -> None:
        finish.limit_group.delay.FromNanoseconds(round(self.delay_s * 1e9))


class Released:
    """The job was not run, or not to its end, and goes back to its place."""

    __slots__ = ("reason", "result_bytes", "size_bytes")

    def __init__(self, reason: pb.ReleaseReason.ValueType) -> None:
        self.reason = reason
        self.result_bytes = 0
        self.size_bytes = _ENVELOPE_BYTES

    def write(self, finish: pb.Finish) -> None:
        finish.release.reason = self.reason


NOT_RUN = Released(pb.RELEASE_REASON_UNSPECIFIED)
DRAINING = Released(pb.RELEASE_REASON_DRAINING)
NO_HANDLER = Released(pb.RELEASE_REASON_NO_HANDLER)


def result_too_large(size_bytes: int, limit_bytes: int) -> Failed:
    """What a result over the broker's limit turns into. It is checked before it is sent: the frame would end the stream, and each one after it."""
    return Failed(
        "RESULT_TOO_LARGE",
        f"the result is {size_bytes} bytes and the broker takes at most {limit_bytes}; store it elsewhere and return where it is",
        permanent=True,
        reason="RESULT_TOO_LARGE",
    )


def head(text: str, limit_bytes: int) -> str:
    """The first `limit_bytes` bytes of `text`, never half a character."""
    data = _sendable(text[:limit_bytes]).encode()
    return data[:limit_bytes].decode(errors="ignore")


def tail(text: str, limit_bytes: int) -> str:
    """The last `limit_bytes` bytes of `text`, never half a character. The end of a stack trace says the most."""
    data = _sendable(text[-limit_bytes:]).encode()
    return data[-limit_bytes:].decode(errors="ignore")


def _sendable(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot carry."""
    return text.encode(errors="replace").decode()


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
