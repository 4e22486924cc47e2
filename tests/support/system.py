"""A whole system for one fault test: a store, brokers on ports of their own, workers, a producer and the history of it all."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from jobwire.v1 import job_pb2

from tests.support import outcomes
from tests.support.api import Api, api
from tests.support.broker import Broker
from tests.support.events import EventLog
from tests.support.history import History
from tests.support.process import Process
from tests.support.producer import Producer, settled, spec
from tests.support.raw_worker import job_ids
from tests.support.seeds import seeded
from tests.support.store import Store
from tests.support.worker import WorkerProcess


class System:
    """What a test holds in its hands. All parts end with it."""

    def __init__(self, test: str, stack: AsyncExitStack, store: Store, brokers: Sequence[Broker], apis: Sequence[Api], log: EventLog) -> None:
        self.test = test
        self.store = store
        self.brokers = list(brokers)
        self.apis = list(apis)
        self.log = log
        self.queue = "q"
        self.random: random.Random = seeded(test)
        self.producer = Producer(self.apis, log.history)
        self.workers: list[WorkerProcess] = []
        self._stack = stack

    @property
    def history(self) -> History:
        return self.log.history

    async def start_workers(self, count: int, *, concurrency: int) -> list[WorkerProcess]:
        """Start some at once, each with all brokers as its targets."""
        made = [WorkerProcess(self.brokers, self.queue, self.log, concurrency=concurrency) for _ in range(count)]
        await asyncio.gather(*(self._stack.enter_async_context(worker) for worker in made))
        self.workers += made
        return made

    async def enqueue(self, count: int, ms: tuple[int, int], producer: Producer | None = None, **fields: object) -> list[str]:
        """Enqueue jobs that run for a random time from `ms`, in batches. Returns their ids."""
        ids = job_ids(count)
        specs = [spec(self.queue, job, {"ms": self.random.randint(*ms)}, **fields) for job in ids]
        for start in range(0, count, 500):
            await (producer or self.producer).enqueue(specs[start : start + 500])
        return ids

    async def running(self, jobs: int, timeout: float = 15.0) -> None:
        """Wait until so many jobs run at the same moment."""
        history = self.history
        await self.log.until(lambda: history.running() >= jobs, timeout, f"{jobs} jobs running")

    async def all_done(self, timeout: float, api: Api | None = None) -> job_pb2.JobCounts:
        """Wait until every job that was acknowledged has run, and the store says so, too."""
        history = self.history
        await self.log.until(lambda: not (history.acknowledged.keys() - history.completed), timeout, "every job done")
        return await settled(api or self.apis[0], self.queue, 0, timeout)

    async def kill_worker(self, worker: WorkerProcess) -> float:
        """`kill -9`; the history is told. Returns when."""
        killed_s = await kill(worker)
        self.history.killed(worker.pid, killed_s)
        return killed_s

    async def moment(self, longest_s: float) -> None:
        """Let a random time pass: faults come when they come."""
        await asyncio.sleep(self.random.uniform(0, longest_s))


async def kill(process: Process) -> float:
    """`kill -9`, counted. Returns the moment."""
    killed_s = time.monotonic()
    outcomes.count_kill()
    await process.kill()
    return killed_s


@asynccontextmanager
async def system(test: str, *, brokers: int = 2, session_time: str | None = "2s", store: Store | None = None) -> AsyncIterator[System]:
    """Start a store and some brokers; workers are the test's business."""
    async with AsyncExitStack() as stack:
        log = stack.enter_context(EventLog())
        store = await stack.enter_async_context(store or Store())
        made = [Broker(store, session_time=session_time) for _ in range(brokers)]
        await asyncio.gather(*(stack.enter_async_context(broker) for broker in made))
        apis = [await stack.enter_async_context(api(broker)) for broker in made]
        # A failure is raised inside, so that each part adds its last lines to it.
        yield System(test, stack, store, made, apis, log)
