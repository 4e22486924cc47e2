"""The two that are compared. Each brings up a rig: its own store, one producer process, one worker process, and what it needs in between."""

import asyncio
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc.aio
from jobwire.v1 import job_pb2, queue_service_pb2, queue_service_pb2_grpc

from bench.driver import Driver, DriverError
from bench.store import Store

ROOT = Path(__file__).resolve().parent.parent
BROKER_STARTUP_TIMEOUT_S = 20.0
BROKER_STOP_TIMEOUT_S = 10.0
# Names are of equal length, so that keys are, too.
QUEUE = "bench"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many jobs are where."""

    waiting: int
    active: int


class Rig(ABC):
    """One contender's processes, running."""

    def __init__(self, store: Store, producer: Driver, worker: Driver) -> None:
        self.store = store
        self.producer = producer
        self.worker = worker

    @property
    def pids(self) -> dict[str, int]:
        """The processes whose CPU is counted."""
        return {"store": self.store.pid, "producer": self.producer.pid, "worker": self.worker.pid}

    @abstractmethod
    async def counts(self) -> Counts:
        """Return how many jobs wait and run."""

    def forget_events(self) -> None:  # noqa: B027 - most contenders keep none
        """Drop what the contender keeps for watchers, so that a memory figure holds jobs alone."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What both sides have."""

    concurrency: int
    """Of the one Worker."""
    payload_bytes: int = 100
    """The length of each job's payload as JSON."""
    bulk_calls: int
    """How many calls with 1,000 jobs each are under way at once in the bulk figure."""
    feed_batch: int
    """Jobs per call while the worker runs, too."""
    feed_calls: int
    """Calls under way at once then."""


OneSettings = TypeVar("OneSettings", bound=Settings)


class Contender(ABC, Generic[OneSettings]):
    """How to bring up a rig. `settings` go to the drivers and into the report."""

    name: str

    def __init__(self, settings: OneSettings) -> None:
        self.settings = settings

    @abstractmethod
    def rig(self, settings: OneSettings) -> AbstractAsyncContextManager[Rig]:
        """Return an async context manager of a Rig that runs with these settings."""

    def for_memory(self) -> OneSettings:
        """Return the settings for the memory figures."""
        return self.settings


@dataclass(frozen=True, kw_only=True)
class BullMqSettings(Settings):
    """What was tried for BullMQ, and is kept at its best; README.md has the tries."""

    concurrency: int = 200
    bulk_calls: int = 1
    feed_batch: int = 100
    feed_calls: int = 2
    instances: int = 1
    """Worker objects in the worker's process, each with its own connections."""
    keep: int | None = 0
    """`removeOnComplete: {count}` of the worker; None leaves BullMQ's default, which keeps all."""
    long_ids: bool = False
    """Ids of 32 hexadecimal digits, as Jobwire's are, in place of BullMQ's counter."""
    driver: str = "ioredis"
    """Or node-redis."""
    auto_pipelining: bool = False
    """ioredis' enableAutoPipelining."""


class BullMqRig(Rig):
    """BullMQ needs nothing between its processes and the store."""

    async def counts(self) -> Counts:
        client: Any = self.store.client
        return Counts(waiting=client.llen(f"bull:{QUEUE}:wait"), active=client.llen(f"bull:{QUEUE}:active"))

    def forget_events(self) -> None:
        self.store.client.xtrim(f"bull:{QUEUE}:events", maxlen=0, approximate=False)


class BullMq(Contender[BullMqSettings]):
    """BullMQ's Queue and Worker, in Node."""

    name = "bullmq"

    def for_memory(self) -> BullMqSettings:
        return replace(self.settings, long_ids=True, keep=None)

    @asynccontextmanager
    async def rig(self, settings: BullMqSettings) -> AsyncIterator[Rig]:
        folder = ROOT / "bench" / "bullmq"
        async with Store() as store:
            told = {**asdict(settings), "socket": str(store.socket), "queue": QUEUE}
            producer = Driver("bullmq producer", ["node", "producer.mjs"], told, folder)
            worker = Driver("bullmq worker", ["node", "worker.mjs"], told, folder)
            async with producer, worker:
                yield BullMqRig(store, producer, worker)


@dataclass(frozen=True, kw_only=True)
class JobwireSettings(Settings):
    """What Jobwire runs with. Everything else is its default."""

    concurrency: int = 500
    bulk_calls: int = 2
    feed_batch: int = 1_000
    feed_calls: int = 2
    uvloop: bool = True
    """The producer and the worker run on uvloop, as the broker does."""
    profile_dir: str | None = None
    """Where each process writes its cProfile, or None. A profiled run is for reading the profile, not for comparing."""


class JobwireRig(Rig):
    """Jobwire has its broker in between."""

    def __init__(self, store: Store, producer: Driver, worker: Driver, broker: "Broker") -> None:
        super().__init__(store, producer, worker)
        self._broker = broker

    @property
    def pids(self) -> dict[str, int]:
        return {**super().pids, "broker": self._broker.pid}

    async def counts(self) -> Counts:
        counts = await self._broker.queue_counts()
        return Counts(waiting=counts.waiting, active=counts.active)


class Broker:
    """One `jobwire broker` process. Use it as an async context manager."""

    def __init__(self, store: Store, profile_dir: str | None) -> None:
        self._store = store
        self._profile_dir = profile_dir
        self._process: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None
        self._drain: asyncio.Task[None] | None = None
        self.target = ""

    @property
    def pid(self) -> int:
        """The broker's process."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> "Broker":
        command = [*python_program("jobwire_cli.main", self._profile_dir, "broker"), "broker", "--store", self._store.url, "--grpc", "127.0.0.1:0"]
        self._process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, cwd=ROOT)
        try:
            self.target = await asyncio.wait_for(self._ready(), BROKER_STARTUP_TIMEOUT_S)
        except TimeoutError:
            await self.__aexit__()
            raise DriverError(f"the broker was not ready within {BROKER_STARTUP_TIMEOUT_S:.0f} s") from None
        self._drain = asyncio.create_task(self._pass_on_errors())
        self._channel = grpc.aio.insecure_channel(self.target)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._process is not None
        if self._channel is not None:
            await self._channel.close()
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), BROKER_STOP_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._drain is not None:
            await self._drain

    async def queue_counts(self) -> job_pb2.JobCounts:
        """Return the JobCounts of the benchmark's queue."""
        assert self._channel is not None
        stub: queue_service_pb2_grpc.QueueServiceAsyncStub = queue_service_pb2_grpc.QueueServiceStub(self._channel)
        answer = await stub.GetQueue(queue_service_pb2.GetQueueRequest(name=f"queues/{QUEUE}"))
        return answer.queue.counts

    async def _ready(self) -> str:
        seen = []
        async for line in self._stderr():
            found = re.search(r"broker\.ready.*?grpc=(\S+)", line)
            if found:
                return found[1]
            seen.append(line)
        raise DriverError("the broker ended before it was ready:\n" + "".join(seen[-20:]))

    async def _pass_on_errors(self) -> None:
        async for line in self._stderr():
            if re.search(r"warn|error|Traceback", line, re.IGNORECASE):
                sys.stderr.write(f"broker: {line}")

    async def _stderr(self) -> AsyncIterator[str]:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            yield line.decode(errors="replace")


class Jobwire(Contender[JobwireSettings]):
    """Jobwire's client, broker and worker SDK, in Python."""

    name = "jobwire"

    @asynccontextmanager
    async def rig(self, settings: JobwireSettings) -> AsyncIterator[Rig]:
        async with Store() as store, Broker(store, settings.profile_dir) as broker:
            told = {**asdict(settings), "target": broker.target, "queue": QUEUE}
            producer = Driver("jobwire producer", python_program("bench.jobwire.producer", settings.profile_dir, "producer"), told, ROOT)
            worker = Driver("jobwire worker", python_program("bench.jobwire.worker", settings.profile_dir, "worker"), told, ROOT)
            async with producer, worker:
                yield JobwireRig(store, producer, worker, broker)


def python_program(module: str, profile_dir: str | None, role: str) -> Sequence[str]:
    """Return the command that runs a module in a process of its own, under the profiler if asked."""
    if profile_dir is None:
        return [sys.executable, "-m", module]
    return [sys.executable, "-m", "bench.profiled", str(Path(profile_dir) / f"{role}.prof"), module]
