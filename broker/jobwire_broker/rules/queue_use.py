"""What one session has of one queue: the jobs it holds, and how many it has been sent."""

from __future__ import annotations


class QueueUse:
    """`tokens` are those of the jobs that the worker may be running or still has to hear an ack for, by id; negative from when it said that an attempt ended.

    One entry per job, since each job passes here three times.
    """

    __slots__ = ("ended", "sent", "tokens")

    def __init__(self) -> None:
        self.tokens: dict[bytes, int] = {}
        self.ended = 0
        """How many of them are negative."""
        self.sent = 0
        """How many jobs were delivered on this stream."""

    def hold(self, raw_id: bytes, token: int) -> int:
        """It is the session's now. Returns by how many jobs it holds more: none when it takes the place of an older lease."""
        before = self.tokens.get(raw_id)
        self.tokens[raw_id] = token
        if before is None:
            return 1
        if before < 0:
            self.ended -= 1
        return 0

    def end(self, raw_id: bytes, token: int) -> None:
        """The worker runs it no more, and holds it until the ack."""
        if self.tokens.get(raw_id) == token:
            self.tokens[raw_id] = -token
            self.ended += 1

    def drop(self, raw_id: bytes, token: int) -> int:
        """It is not the session's any more. Returns how many jobs that were: none when another lease of it is held."""
        held = self.tokens.get(raw_id)
        if held == -token:
            self.ended -= 1
        elif held != token:
            return 0
        del self.tokens[raw_id]
        return 1

    @property
    def running(self) -> int:
        """How many the worker runs, as far as it has told."""
        return len(self.tokens) - self.ended

    def held(self) -> list[tuple[bytes, int]]:
        """Ids and tokens."""
        return [(raw_id, abs(token)) for raw_id, token in self.tokens.items()]
