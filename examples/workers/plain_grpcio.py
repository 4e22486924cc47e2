"""A Jobwire worker in plain gRPC: the generated stubs and grpcio. It uses no SDK, and shows how little the protocol asks for.

    python examples/workers/plain_grpcio.py 127.0.0.1:7410 mail 4

It takes jobs named `echo` and `wait` from the queue `mail`, at most 4 at once. Several brokers are separated by commas.
1. A session is 16 random bytes; each connection of it has the next epoch.
2. Credit is a running total per stream: what was delivered on it, and the free slots.
3. A finish is kept until its ack, and sent again after a reconnect; `held` names all that is kept or running.
4. Some frame goes up at least every heartbeat interval; nothing heard for half the session time means that the stream is dead.
5. When the lease is over, nothing new is started.
6. SESSION_MOVED means that this session is lost: begin a new one.
7. SIGTERM: take nothing more, end what runs, wait for the acks, say goodbye.
"""

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine

import grpc.aio
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire.v1 import worker_service_pb2_grpc as pb_grpc

Key = tuple[str, str, int]
# A connection of its own for each stream: a shared one would lead back to a broker that asked us to go.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20), ("grpc.enable_retries", 0)]


async def echo(job: pb.Delivery, progress: Callable[[float], None]) -> object:
    return json.loads(job.payload.json)


async def wait(job: pb.Delivery, progress: Callable[[float], None]) -> object:
    for step in range(10):
        progress(step * 10)
        await asyncio.sleep(json.loads(job.payload.json)["seconds"] / 10)
    return "done"


HANDLERS: dict[str, Callable[[pb.Delivery, Callable[[float], None]], Coroutine[None, None, object]]] = {"echo": echo, "wait": wait}


def key_of(message: pb.Delivery | pb.Ack | pb.Cancel) -> Key:
    return message.queue, message.id, message.token


class Worker:
    def __init__(self, targets: list[str], queue: str, concurrency: int) -> None:
        self.targets, self.queue, self.concurrency = targets, queue, concurrency
        self.session, self.epoch = secrets.token_bytes(16), 0  # (1)
        self.held: dict[Key, pb.Finish | None] = {}  # (3) None while it runs
        self.running: dict[Key, asyncio.Task[object]] = {}
        self.session_s, self.heartbeat_s, self.retry_after_s = 10.0, 2.0, 0.0
        self.draining = self.over = False
        self.ready = pb.WorkRequest()  # what goes up next; it grows while a frame is on its way
        self.writable, self.moved = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Go from stream to stream until the worker was told to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: asyncio.ensure_future(self.drain()))
        for target in itertools.cycle(self.targets):
            try:
                await self.stream(target)
            except grpc.aio.AioRpcError as error:
                print(f"worker.disconnected target={target} code={error.code().name}", flush=True)
                if error.code() is grpc.StatusCode.ABORTED:  # (6) what comes of the handlers that still run is dropped
                    self.session, self.epoch, self.held = secrets.token_bytes(16), 0, {}
            if self.over:
                return
            await asyncio.sleep(self.retry_after_s + random.uniform(0.1, min(1.0, self.session_s / 5)))

    async def stream(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            self.open()
            stub: pb_grpc.WorkerServiceAsyncStub = pb_grpc.WorkerServiceStub(channel)
            call = stub.Work()
            writer = asyncio.create_task(self.write(call))
            try:
                with contextlib.suppress(asyncio.CancelledError):  # (4)
                    async for frame in call:
                        self.receive(frame)
                        if frame.HasField("go_away"):
                            self.retry_after_s = frame.go_away.retry_after.ToNanoseconds() / 1e9
                            return  # leaving the channel ends the call
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    def open(self) -> None:
        """Make the first frame of a stream. The finishes may follow the hello at once."""
        self.epoch += 1
        self.delivered, self.told_to_drain, self.retry_after_s, self.heard_at = 0, False, 0.0, time.monotonic()
        self.lease_until = self.heard_at + self.session_s
        hello = pb.Hello(session=self.session, epoch=self.epoch, queues=[self.queue], sdk="plain-grpcio", concurrency=self.concurrency)
        hello.held.extend(pb.Held(queue=queue, id=id_, token=token) for queue, id_, token in self.held)
        self.ready = pb.WorkRequest(hello=hello, finishes=[finish for finish in self.held.values() if finish is not None])
        self.offer_room()

    async def write(self, call: "grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]") -> None:
        while not self.ready.HasField("goodbye"):
            frame, self.ready = self.ready, pb.WorkRequest()
            self.writable.clear()
            await call.write(frame)
            with contextlib.suppress(TimeoutError):  # an empty frame is a heartbeat
                async with asyncio.timeout(self.heartbeat_s * 0.7):
                    await self.writable.wait()
            if time.monotonic() - self.heard_at > self.session_s / 2:  # (4)
                call.cancel()
        await call.write(self.ready)  # the broker ends the stream when it has read the goodbye

    def send(self, **parts: object) -> None:
        self.ready.MergeFrom(pb.WorkRequest(**parts))  # type: ignore[arg-type]  # checked at run time
        self.writable.set()

    def offer_room(self) -> None:
        """(2) On a new stream `delivered` is 0 again."""
        if self.draining:
            self.send(draining=pb.Draining())
        elif not self.told_to_drain:
            self.send(credit=pb.Credit(jobs=self.delivered + self.concurrency - len(self.running)))

    def receive(self, frame: pb.WorkResponse) -> None:
        self.heard_at = time.monotonic()
        if frame.HasField("welcome"):
            self.session_s, self.heartbeat_s = (d.ToNanoseconds() / 1e9 for d in (frame.welcome.session_time, frame.welcome.heartbeat_interval))
            print(f"worker.connected broker={frame.welcome.broker_id} epoch={self.epoch} held={len(self.held)}", flush=True)
        for ack in (*frame.welcome.held, *frame.acks):
            self.held.pop(key_of(ack), None)
        for job in frame.jobs:
            self.start(job)
        for cancel in frame.cancels:
            self.cancel(cancel)
        if frame.HasField("ping"):
            self.lease_until = self.heard_at + frame.ping.lease_left.ToNanoseconds() / 1e9
            self.send(pong=pb.Pong(number=frame.ping.number))
        if frame.HasField("drain") or frame.HasField("resume"):
            self.told_to_drain = frame.HasField("drain")
            self.offer_room()
        self.moved.set()

    def cancel(self, cancel: pb.Cancel) -> None:
        if cancel.reason == pb.CANCEL_REASON_STALE_LEASE:
            self.held.pop(key_of(cancel), None)
        else:
            self.send(cancel_receipts=[pb.CancelReceipt(queue=cancel.queue, id=cancel.id, token=cancel.token)])
        if task := self.running.get(key_of(cancel)):
            task.cancel()

    def start(self, job: pb.Delivery) -> None:
        key = key_of(job)
        self.delivered += 1
        self.held[key] = None
        known = job.job_name in HANDLERS
        if not known or self.draining or time.monotonic() > self.lease_until:  # (5)
            self.ended(key, pb.Finish(release=pb.Release(reason=pb.RELEASE_REASON_DRAINING if known else pb.RELEASE_REASON_NO_HANDLER)))
        else:
            print(f"job.started id={job.id} token={job.token} attempt={job.attempt}", flush=True)
            task = self.running[key] = asyncio.create_task(HANDLERS[job.job_name](job, lambda percent: self.progress(key, percent)))
            task.add_done_callback(lambda task: self.done(key, task))

    def progress(self, key: Key, percent: float) -> None:
        if key in self.held:
            self.send(progress=[pb.ProgressReport(queue=key[0], id=key[1], token=key[2], progress=job_pb2.Progress(percent=percent))])

    def done(self, key: Key, task: "asyncio.Task[object]") -> None:
        del self.running[key]
        if error := RuntimeError("gave way") if task.cancelled() else task.exception():
            self.ended(key, pb.Finish(fail=pb.Fail(failure=job_pb2.Failure(type=type(error).__name__, message=str(error)))))
        else:
            self.ended(key, pb.Finish(complete=pb.Complete(result=job_pb2.Payload(json=json.dumps(task.result())))))

    def ended(self, key: Key, finish: pb.Finish) -> None:
        """The slot is free; the finish is kept, unless the lease was lost meanwhile."""
        if key in self.held:
            finish.queue, finish.id, finish.token = key
            self.held[key] = finish
            self.send(finishes=[finish])
        self.offer_room()
        self.moved.set()

    async def drain(self) -> None:  # (7)
        self.draining = True
        self.offer_room()
        while self.held or self.running:
            self.moved.clear()
            await self.moved.wait()
        self.over = True
        self.send(goodbye=pb.Goodbye())


if __name__ == "__main__":
    asyncio.run(Worker(sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])).run())
