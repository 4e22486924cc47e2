"""One EnqueueStream: one reader and one writer, and never a timeout around either (RULES 8).

What is under way has been read and its answer not been written; its bounds are what holds up a caller that sends faster than the store takes, or does not read.
A stream ends in one of four ways: the caller's end of stream, a message that is none, go_away, or the caller is gone. In all but the last, what is under way is
answered first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from functools import partial
from typing import Any

import grpc
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.auth.caller import checker, end_with
from jobwire_broker.auth.errors import NotPermitted
from jobwire_broker.errors import BrokerError, InvalidField, ShuttingDown, StoreFailed, StoreFault
from jobwire_broker.services.answers import abort, details_of, end_tasks
from jobwire_broker.services.batch_bytes import Malformed, Message, read
from jobwire_broker.services.batches import Batch, Maker, Outcome, Results, say_verdict
from jobwire_broker.store.wire import varint

log = logging.getLogger(__name__)

MAX_MESSAGES = 16
MAX_BYTES = 16 << 20
#: How long the answers to what is under way may take when the stream is to end: longer than a call to the store, with its sync to disk.
_LAST_ANSWERS_S = 8.0

Context = grpc.aio.ServicerContext[Any, Any]


class EnqueueStreams:
    """All streams of this broker."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._streams: set[EnqueueStream] = set()
        self._stopping = False
        self._closed = asyncio.Event()
        self._closed.set()

    def go_away(self) -> None:
        """End all streams after what is under way; refuse new ones."""
        self._stopping = True
        for stream in self._streams:
            stream.go_away()

    async def all_closed(self) -> None:
        """Return when no stream is open."""
        await self._closed.wait()

    async def serve(self, context: Context) -> None:
        """Serve one stream."""
        if self._stopping:
            await abort(context, ShuttingDown())
        stream = EnqueueStream(self._maker, context)
        self._streams.add(stream)
        end_with(stream.go_away)
        self._closed.clear()
        try:
            await stream.run()
        except BrokerError as error:
            await abort(context, error)
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._closed.set()


class EnqueueStream:
    """One stream, from its first message to its last answer."""

    def __init__(self, maker: Maker, context: Context) -> None:
        self._maker = maker
        self._context = context
        self._check = checker("enqueue")
        self._answers: deque[tuple[bytes, int]] = deque()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._messages = 0
        self._bytes = 0
        self._ending = False

    # Life ---------------------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the stream. Raises BrokerError when it ends with one."""
        reader, writer = (asyncio.create_task(role()) for role in (self._read, self._write))
        try:
            await asyncio.wait([reader, writer, self._over], return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                reader.cancel()
            await self._answer_the_rest(writer)
        finally:
            self._ending = True
            self._wake.set()
            await end_tasks(writer, reader, *self._tasks)
        if self._over.done():
            raise ShuttingDown(accepted="unknown" if self._messages else "no")
        if not reader.cancelled():
            reader.result()

    def go_away(self) -> None:
        """End the stream after what is under way."""
        if not self._over.done():
            self._over.set_result(None)

    async def _answer_the_rest(self, writer: asyncio.Task[None]) -> None:
        async def written() -> None:
            while self._messages:
                self._written.clear()
                await self._written.wait()

        rest = asyncio.create_task(written())
        await asyncio.wait([rest, writer], timeout=_LAST_ANSWERS_S, return_when=asyncio.FIRST_COMPLETED)
        rest.cancel()

    # The two roles ------------------------------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:
            self._messages += 1
            self._bytes += len(data)
            self._take(data)
            while self._messages >= MAX_MESSAGES or self._bytes >= MAX_BYTES:
                self._written.clear()
                await self._written.wait()

    async def _write(self) -> None:
        # A caller that is gone makes the write fail; what it had under way goes on without it.
        with contextlib.suppress(grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            while not self._ending:
                await self._wake.wait()
                self._wake.clear()
                while self._answers:
                    answer, size = self._answers.popleft()
                    await self._context.write(answer)
                    self._messages -= 1
                    self._bytes -= size
                    self._written.set()

    # One message --------------------------------------------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        try:
            message = read(data)
        except Malformed as error:
            self._messages -= 1
            raise InvalidField(f"a message is no EnqueueStreamRequest: {error}", field="") from error
        size = len(data)
        try:
            self._start(message, size)
        except BrokerError as error:
            self._refuse(message, size, error)

    def _start(self, message: Message, size: int) -> None:
        if message.error is not None:
            raise message.error
        self._withhold_forbidden(message.batch)
        self._maker.check_durability(message.durability)
        if (
            message.durability == job_pb2.DURABILITY_DISK
            or not message.batch.items
            or not self._maker.make_soon(message.batch, partial(self._made, message, size))
        ):
            task = asyncio.create_task(self._make(message, size))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _withhold_forbidden(self, batch: Batch) -> None:
        """Raises NotPermitted when all jobs are of one queue, to which the caller may not enqueue; those of several are refused job by job."""
        if self._check is None:
            return
        forbidden: dict[str, BrokerError] = {}
        queues = set(batch.queues)
        for queue in queues:
            try:
                self._check((queue,))
            except NotPermitted as error:
                forbidden[queue] = error
        if forbidden and len(queues) == 1:
            raise forbidden.popitem()[1]
        if forbidden:
            batch.withhold(forbidden)

    async def _make(self, message: Message, size: int) -> None:
        """For queues that are new to this broker, and for what has to be on disk."""
        try:
            results = await self._maker.make(message.batch.queues, message.batch.items, message.durability)
        except BrokerError as error:
            self._refuse(message, size, error)
        except StoreFault as error:
            log.error("call.store_fault call=EnqueueStream error=%s", error)
            self._refuse(message, size, StoreFailed(error))
        else:
            self._made(message, size, results)

    def _made(self, message: Message, size: int, results: Results) -> None:
        batch = message.batch
        try:
            outcome = batch.outcome(results)
        except BrokerError as error:
            self._refuse(message, size, error)
            return
        # An answer with a number alone is made by hand: it is that of nearly every message.
        self._say(_in_full(message, outcome) if outcome.refused or outcome.others or batch.minted else b"\x08" + varint(message.number), size)

    def _refuse(self, message: Message, size: int, error: BrokerError) -> None:
        self._say(pb.EnqueueStreamResponse(number=message.number, error=details_of(error)).SerializeToString(), size)

    def _say(self, answer: bytes, size: int) -> None:
        self._answers.append((answer, size))
        self._wake.set()


def _in_full(message: Message, outcome: Outcome) -> bytes:
    """The answer when there is more to say than that all were made."""
    ids = message.batch.ids()
    answer = pb.EnqueueStreamResponse(number=message.number)
    for place in sorted({*outcome.refused, *outcome.others, *message.batch.minted}):
        say_verdict(answer.items.add(at=place), place, ids, outcome)
    return answer.SerializeToString()
