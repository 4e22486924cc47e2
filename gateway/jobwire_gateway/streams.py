"""All open streams of this process: how many there may be, their heartbeats, and their end.

Draining spreads the reconnections: each stream is told `drain` with a `retry:` of its own, at a moment of its own in the window, and is closed. And a storm
of reconnections is let in at a pace that leaves room for those who are in already; the others are told to come back.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from jobwire_gateway import frames
from jobwire_gateway.allowance import Allowance
from jobwire_gateway.callers import Rights, caller
from jobwire_gateway.wheel import Beating, Wheel

WARN_S = 30.0
"""How long before its credentials end a stream is told; at once when less is left."""

EARLY_S = 2.0
"""How long before that it ends at most."""


class OpenStream(Beating, Protocol):
    """What the registry does with a stream."""

    def drain(self, reconnect_ms: int) -> None:
        """Say that it is over here, and close."""

    def close(self) -> None:
        """Close without a word."""

    def say(self, frame: frames.Frame) -> None:
        """Show a frame of the gateway's own."""

    def expire(self, frame: frames.Frame) -> None:
        """Show it, which says that its caller's credentials have ended, and close."""


class Streams:
    """The registry. `draining` is said by readiness, too."""

    def __init__(
        self,
        *,
        limit: int,
        starts_per_s: int,
        retry_s: float,
        drain_s: float,
        heartbeat_s: float,
        on_turned_away: Callable[[str], None] | None = None,
    ) -> None:
        self.draining = False
        self.started = 0
        self.turned_away: Counter[str] = Counter()
        self.heartbeat_ms = round(heartbeat_s * 1000)
        self.wheel = Wheel(heartbeat_s)
        self._limit = limit
        self._on_turned_away = on_turned_away
        self._starts = Allowance(starts_per_s, 2 * starts_per_s)
        self._retry_s = retry_s
        self._drain_s = drain_s
        self._open: set[OpenStream] = set()
        # With what credentials a stream was opened, and what they were good for then.
        self._credentials: dict[OpenStream, tuple[str, Rights]] = {}
        self._ends: dict[OpenStream, asyncio.TimerHandle] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether nobody more may wait here."""
        return self.draining or len(self._open) >= self._limit

    def refusal(self, of_topics: str = "") -> str:
        """Why one more is to come back later, as a word, which may be that of its topics; empty when it may come in, which counts as a start."""
        if word := of_topics or self._refusal():
            self.turned_away[word] += 1
            if self._on_turned_away is not None:
                self._on_turned_away(word)
        return word

    def _refusal(self) -> str:
        if self.draining:
            return "SHUTTING_DOWN"
        if len(self._open) >= self._limit:
            return "TOO_MANY_STREAMS"
        return "" if self._starts.take(asyncio.get_running_loop().time()) else "TOO_MANY_AT_ONCE"

    def add(self, stream: OpenStream) -> None:
        """Count a stream in."""
        self.started += 1
        self._open.add(stream)
        self._end_with_credentials(stream)
        self.wheel.add(stream)
        self._idle.clear()

    def remove(self, stream: OpenStream) -> None:
        """Count it out. To do so twice is no error."""
        self._open.discard(stream)
        self._credentials.pop(stream, None)
        if (timer := self._ends.pop(stream, None)) is not None:
            timer.cancel()
        self.wheel.remove(stream)
        if not self._open:
            self._idle.set()

    def retry_line(self) -> bytes:
        """How long a browser waits before it reconnects: jittered, so that they do not come back all at once."""
        return frames.retry(self._jittered_ms(self._retry_s))

    def come_back_line(self) -> bytes:
        """The same for a browser that is turned away."""
        return frames.retry(self._jittered_ms(max(self._retry_s, self._drain_s)))

    async def drain(self) -> None:
        """Close all streams over the window. Returns when none is left, or when the window is over and the rest were closed without a word."""
        self.draining = True
        loop = asyncio.get_running_loop()
        streams = list(self._open)
        random.shuffle(streams)
        # One in each slice of the window: chance alone would make some seconds half as busy again.
        slice_s = self._drain_s / max(1, len(streams))
        timers = [loop.call_later((index + random.random()) * slice_s, self._drain_one, stream) for index, stream in enumerate(streams)]
        try:
            async with asyncio.timeout(self._drain_s + 1.0):
                await self._idle.wait()
        except TimeoutError:
            self.close_all()
        finally:
            for timer in timers:
                timer.cancel()

    def close_all(self) -> None:
        """Close all at once."""
        self.draining = True
        for stream in list(self._open):
            stream.close()

    def credentials(self) -> set[str]:
        """With what credentials streams are open."""
        return {credentials for credentials, _ in self._credentials.values()}

    def expire(self, rights: Mapping[str, Rights | None]) -> None:
        """Close the streams of credentials, of those given, that are good no longer, or for something else than when they were opened."""
        for stream in [stream for stream, (credentials, before) in self._credentials.items() if rights.get(credentials, before) != before]:
            self._expire_one(stream)

    def _end_with_credentials(self, stream: OpenStream) -> None:
        """A stream ends when its caller's credentials do: whoever comes back with the same ones is refused for good."""
        asking = caller()
        if asking is not None:
            self._credentials[stream] = asking.credentials, asking.identity.rights
        if asking is not None and (expires_at := asking.identity.expires_at) is not None:
            self._at(stream, expires_at - WARN_S, self._warn_one, stream, expires_at)

    def _at(self, stream: OpenStream, moment: float, act: Callable[..., None], *arguments: object) -> None:
        self._ends[stream] = asyncio.get_running_loop().call_later(max(0.0, moment - time.time()), act, *arguments)

    def _warn_one(self, stream: OpenStream, expires_at: float) -> None:
        if stream in self._open:
            stream.say(frames.credentials_expiring(expires_at))
            # Never later; and many streams of one token come back for new ones at moments of their own.
            early_s = min(EARLY_S, (expires_at - time.time()) / 10) * random.uniform(0.1, 1.0)
            self._at(stream, expires_at - early_s, self._expire_one, stream)

    def _drain_one(self, stream: OpenStream) -> None:
        if stream in self._open:
            stream.drain(self._jittered_ms(max(self._retry_s, self._drain_s) / 2))

    def _expire_one(self, stream: OpenStream) -> None:
        if stream in self._open:
            stream.expire(frames.credentials_expired(self._jittered_ms(max(self._retry_s, self._drain_s) / 2)))

    @staticmethod
    def _jittered_ms(least_s: float) -> int:
        return round(1000 * least_s * random.uniform(1.0, 2.0))
