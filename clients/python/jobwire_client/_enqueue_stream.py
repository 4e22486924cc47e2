"""Enqueues as messages of one stream to one broker: a message costs a fifth of a call.

1. One task reads and one writes, with never a timeout around either; a message that is not answered in time fails by a timer of its own, and its stream is
   not used again.
2. What a message is known by is how its answer begins on the wire. When all its jobs were made, that is the whole answer, so nothing has to be parsed.
3. A stream that has had nothing to do for a minute is closed, before something between here and the broker forgets it in silence.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeAlias

import grpc
import grpc.aio
from jobwire.v1 import job_service_pb2

from jobwire_client._status import error_of_status
from jobwire_client._wire import varint
from jobwire_client.errors import JobwireError, QueueUnavailable

Item = job_service_pb2.EnqueueStreamResponse.Item
Verdicts = Mapping[int, Item]
"""What there is to say of the jobs of one message, by their places in it. Those that are not named were made."""
ALL_MADE: Verdicts = {}

Tell: TypeAlias = Callable[[Verdicts | BaseException], None]
"""Called once, with what became of a message's jobs: a JobwireError when it is not known or was refused, CancelledError when the stream was closed here."""

Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

_IDLE_S = 60.0
_NUMBER = b"\x18"
"""The tag of `EnqueueStreamRequest.number`."""
_ANSWER = b"\x08"
"""The tag of `EnqueueStreamResponse.number`."""


class EnqueueStream:
    """One stream. Belongs to one event loop."""

    def __init__(self, call: Call, address: str, explain: Callable[[grpc.aio.AioRpcError], JobwireError], on_end: Callable[[bool], None]) -> None:
        """Begin to read and write.

        Args:
            call: the stream, just opened, whose messages are bytes.
            address: whom it asks, for errors.
            explain: the error that a broken stream stands for.
            on_end: called once when it takes no more messages; True: because the broker is going, or gone.
        """
        self.open = True
        """Whether it takes messages."""
        self._call = call
        self._address = address
        self._explain = explain
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._asked: dict[bytes, tuple[Tell, asyncio.TimerHandle]] = {}
        self._outgoing: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._number = 0
        self._number_when_idle = 0
        self._idle_timer = self._loop.call_later(_IDLE_S, self._close_when_idle)
        self._reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())

    def ask(self, frames: bytes, limit_s: float, tell: Tell) -> None:
        """Send the joined frames of a batch. `tell` is called by the reader itself, which saves a round of the event loop; after `limit_s` at the latest."""
        self._number += 1
        number = varint(self._number)
        key = _ANSWER + number
        self._asked[key] = (tell, self._loop.call_later(limit_s, self._late, key))
        self._outgoing.append(b"".join((frames, _NUMBER, number)))
        self._wake.set()

    async def close(self) -> None:
        """End it. What was not answered is told that it was cancelled."""
        self._end(broker_gone=False)
        self._wake.set()
        self._call.cancel()
        self._writer.cancel()
        await asyncio.wait([self._reader, self._writer])

    # ------------------------------------------------------------------ the two roles

    async def _read(self) -> None:
        error: BaseException = QueueUnavailable(f"the stream to {self._address} has ended", accepted="unknown")
        broker_gone = False
        try:
            while isinstance(answer := await self._call.read(), bytes):  # else it is the end
                asked = self._asked.pop(answer, None)
                if asked is not None:
                    _tell(asked, ALL_MADE)
                else:
                    self._take(answer)
                if not self.open and not self._asked:
                    self._call.cancel()
        except grpc.aio.AioRpcError as failure:
            error = self._explain(failure)
            broker_gone = True
        except asyncio.CancelledError as closed:
            error = closed
            raise
        finally:
            self._end(broker_gone)
            self._writer.cancel()
            asked_still, self._asked = self._asked, {}
            for asked in asked_still.values():
                _tell(asked, error)

    async def _write(self) -> None:
        # A stream that is over makes the write fail; the reader says why.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                while self._outgoing:
                    await self._call.write(self._outgoing.popleft())
                self._wake.clear()
                await self._wake.wait()

    def _take(self, answer: bytes) -> None:
        """An answer with more to say than that all jobs were made."""
        response = job_service_pb2.EnqueueStreamResponse.FromString(answer)
        asked = self._asked.pop(_ANSWER + varint(response.number), None)
        if asked is None:
            return  # too late
        if response.HasField("error"):
            _tell(asked, error_of_status(response.error))
        else:
            _tell(asked, {item.at: item for item in response.items})

    # ------------------------------------------------------------------ ends

    def _late(self, key: bytes) -> None:
        asked = self._asked.pop(key)
        self._end(broker_gone=True)
        _tell(asked, QueueUnavailable(f"no broker answers at {self._address}: no answer in time", accepted="unknown"))
        if not self._asked:
            self._call.cancel()

    def _close_when_idle(self) -> None:
        if self._number != self._number_when_idle or self._asked:
            self._number_when_idle = self._number
            self._idle_timer = self._loop.call_later(_IDLE_S, self._close_when_idle)
        else:
            self._end(broker_gone=False)
            self._call.cancel()

    def _end(self, broker_gone: bool) -> None:
        if self.open:
            self.open = False
            self._idle_timer.cancel()
            self._on_end(broker_gone)


def _tell(asked: tuple[Tell, asyncio.TimerHandle], said: Verdicts | BaseException) -> None:
    tell, timer = asked
    timer.cancel()
    tell(said.again() if isinstance(said, JobwireError) else said)
