"""A worker that speaks the Work stream frame by frame, for tests that must say exactly what is sent and see exactly what comes."""

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio
from jobwire.v1 import worker_service_pb2 as pb
from jobwire.v1.worker_service_pb2_grpc import WorkerServiceStub

from tests.support.broker import connect

if TYPE_CHECKING:
    from jobwire.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub


class RawWorker:
    """One stream of one session. Entering it connects and says nothing; `hello` begins. Pings are answered while something is waited for."""

    def __init__(self, address: str, *queues: str, session: bytes | None = None, epoch: int = 1) -> None:
        self.address = address
        self.queues = queues
        self.session = session or os.urandom(16)
        self.epoch = epoch
        self.heard: list[pb.WorkResponse] = []

    async def __aenter__(self) -> Self:
        self._connection = connect(self.address)
        channel = await self._connection.__aenter__()
        stub: WorkerServiceAsyncStub = WorkerServiceStub(channel)
        self._call = stub.Work()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._call.cancel()
        await self._connection.__aexit__(None, None, None)

    async def send(self, frame: pb.WorkRequest) -> None:
        await self._call.write(frame)

    async def hello(self, *held: pb.Held, credit: int = 0, concurrency: int = 0, reserved: Sequence[pb.Reserve] = ()) -> pb.Welcome:
        """Say hello, take the welcome, and grant credit."""
        hello = pb.Hello(session=self.session, epoch=self.epoch, instance_id="raw", queues=self.queues, held=held, concurrency=concurrency, reserved=reserved)
        await self.send(pb.WorkRequest(hello=hello))
        welcome = (await self.receive(lambda frame: frame.HasField("welcome"))).welcome
        if credit:
            await self.send(pb.WorkRequest(credit=pb.Credit(jobs=credit)))
        return welcome

    async def receive(self, wanted: Callable[[pb.WorkResponse], bool]) -> pb.WorkResponse:
        """Give the next frame that is wanted. Raises AioRpcError when the stream ends before."""
        while True:
            frame = await self._call.read()
            if not isinstance(frame, pb.WorkResponse):
                code = await self._call.code()
                raise grpc.aio.AioRpcError(code, await self._call.initial_metadata(), await self._call.trailing_metadata(), await self._call.details())
            self.heard.append(frame)
            if frame.HasField("ping"):
                with suppress(asyncio.InvalidStateError):  # the stream has ended, which the next read tells
                    await self.send(pb.WorkRequest(pong=pb.Pong(number=frame.ping.number)))
            if wanted(frame):
                return frame

    async def jobs(self, count: int) -> list[pb.Delivery]:
        """Wait for so many deliveries."""
        found: list[pb.Delivery] = []
        while len(found) < count:
            found += (await self.receive(lambda frame: bool(frame.jobs))).jobs
        return found

    async def finish(self, *finishes: pb.Finish) -> list[pb.Ack]:
        """Send finishes and wait for their acks, in the order of the finishes."""
        await self.send(pb.WorkRequest(finishes=finishes))
        acks: dict[tuple[str, str, int], pb.Ack] = {}
        wanted = [(f.queue, f.id, f.token) for f in finishes]
        while not all(key in acks for key in wanted):
            frame = await self.receive(lambda frame: bool(frame.acks))
            acks |= {(a.queue, a.id, a.token): a for a in frame.acks}
        return [acks[key] for key in wanted]

    async def ended(self) -> grpc.aio.AioRpcError:
        """Wait for the end of the stream and give the error it ended with."""
        try:
            await self.receive(lambda frame: False)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("unreachable")


def complete(job: pb.Delivery, *, token: int | None = None) -> pb.Finish:
    """The finish of a delivery, or of the same job under another token."""
    return pb.Finish(queue=job.queue, id=job.id, token=job.token if token is None else token, complete=pb.Complete())


_ids = itertools.count(1)


def job_ids(count: int, prefix: str = "j") -> list[str]:
    """Ids that are not repeated within the test run."""
    return [f"{prefix}{next(_ids)}" for _ in range(count)]
