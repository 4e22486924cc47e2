"""Workers as processes: signals, brokers that go and come, and the command line."""

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jobwire_client import Client
from jobwire_worker import Job, Worker

from tests.support import Broker, Process, Store
from tests.support.process import python

PROGRAM = """
import asyncio, time
from jobwire_worker import Job, Worker

worker = Worker(queues=[{queue!r}], concurrency=1, drain_grace=10)

@worker.handler("coroutine")
async def coroutine(job: Job, seconds: float) -> int:
    print("began", job.job_name, flush=True)
    await asyncio.sleep(seconds)
    return job.attempt

@worker.handler("function")
def function(job: Job, seconds: float) -> int:
    print("began", job.job_name, flush=True)
    time.sleep(seconds)
    return job.attempt

@worker.handler("blocks")
async def blocks(job: Job, seconds: float) -> int:
    print("began", job.job_name, flush=True)
    time.sleep(seconds)
    return job.attempt
"""


class WorkerProgram(Process):
    """`jobwire worker module:worker`, started in the folder of the module."""

    ready_line = r"worker\.connected"

    def __init__(self, folder: Path, target: str, queue: str) -> None:
        super().__init__("worker program")
        (folder / "program.py").write_text(PROGRAM.format(queue=queue))
        self._folder = folder
        self._target = target

    def command(self) -> list[str]:
        start = f"import os, sys; os.chdir({str(self._folder)!r}); from jobwire_cli.main import main; sys.argv = sys.argv[:1] + {self._arguments!r}; main()"
        return python("-c", start)

    @property
    def _arguments(self) -> list[str]:
        return ["worker", "program:worker", "--target", self._target]


@pytest.fixture
async def client(shared_broker: Broker) -> AsyncIterator[Client]:
    async with Client(shared_broker.address) as client:
        yield client


@pytest.fixture
async def program(tmp_path: Path, shared_broker: Broker, queue: str) -> AsyncIterator[WorkerProgram]:
    async with WorkerProgram(tmp_path, shared_broker.address, queue) as program:
        yield program


@pytest.mark.parametrize(
    ("kind", "number"), [("coroutine", signal.SIGTERM), ("coroutine", signal.SIGINT), ("function", signal.SIGTERM), ("blocks", signal.SIGINT)]
)
async def test_a_signal_lets_what_runs_end_and_leaves_the_rest(program: WorkerProgram, client: Client, queue: str, kind: str, number: signal.Signals) -> None:
    began = asyncio.ensure_future(program.line(f"began {kind}"))
    running = await client.enqueue(queue, kind, 1.0)
    await began
    waiting = await client.enqueue(queue, kind, 0)
    program.send(number)
    assert await program.ended() == 0
    done, left = await client.get(running), await client.get(waiting)
    assert (done.state, done.result) == ("completed", 1)
    assert (left.state, left.attempt) == ("waiting", 0)


@pytest.mark.parametrize("kind", ["function", "blocks"])
async def test_a_second_signal_ends_the_process_at_once(program: WorkerProgram, client: Client, queue: str, kind: str) -> None:
    began = asyncio.ensure_future(program.line(f"began {kind}"))
    await client.enqueue(queue, kind, 60.0)
    await began
    draining = program.line(r"worker\.draining")
    program.send(signal.SIGTERM)
    await draining
    program.send(signal.SIGTERM)
    assert await program.ended(timeout=3) == 128 + signal.SIGTERM


FORKING = """
import os, signal, sys
from jobwire_worker import Worker

worker = Worker({target!r}, queues=[{queue!r}])

@worker.handler("n")
async def n() -> int:
    return os.getpid()

children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(worker.run())
    children.append(child)
signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
print("forked", flush=True)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


class ForkingProgram(Process):
    """One worker object, run by two forked processes."""

    ready_line = "forked"

    def __init__(self, target: str, queue: str) -> None:
        super().__init__("forking program")
        self._program = FORKING.format(target=target, queue=queue)

    def command(self) -> list[str]:
        return python("-c", self._program)


async def test_each_forked_process_is_a_session_of_its_own(shared_broker: Broker, client: Client, queue: str) -> None:
    async with ForkingProgram(shared_broker.address, queue) as program:
        async with asyncio.timeout(20):
            while len(mine := [worker for worker in await client.workers() if queue in worker.queues]) < 2:
                await asyncio.sleep(0.05)
        assert len({worker.session for worker in mine}) == len({worker.instance_id for worker in mine}) == 2
        assert (await client.wait(await client.enqueue(queue, "n"), timeout=10)).state == "completed"
        assert await program.stop() == 0


@asynccontextmanager
async def worker_that_counts(target: list[str], queue: str, starts: list[str], go_on: asyncio.Event) -> AsyncIterator[Worker]:
    given: dict[str, Any] = {"concurrency": 100, "drain_grace": 1, "health": "127.0.0.1:0"}
    worker = Worker(target, queues=[queue], **given)

    @worker.handler("n")
    async def n(job: Job) -> int:
        starts.append(job.id)
        await go_on.wait()
        return job.attempt

    async with worker:
        yield worker


async def until_started(starts: list[str], count: int) -> None:
    async with asyncio.timeout(20):
        while len(starts) < count:
            await asyncio.sleep(0.01)


async def test_a_broker_that_comes_back_finds_its_jobs_still_running(store: Store, broker: Broker, queue: str) -> None:
    starts: list[str] = []
    go_on = asyncio.Event()
    async with worker_that_counts([broker.address], queue, starts, go_on):
        async with Client(broker.address) as client:
            jobs = [await client.enqueue(queue, "n") for _ in range(20)]
            await until_started(starts, 20)
        await broker.kill()
        await broker.restart()
        async with Client(broker.address) as client:
            await asyncio.sleep(2.5)  # longer than the session time of 2 s: a job that was lost would start again
            go_on.set()
            done = [await client.wait(job, timeout=10) for job in jobs]
    assert len(starts) == 20
    assert {(job.state, job.result) for job in done} == {("completed", 1)}


def health_of(worker: Worker) -> int:
    """What the worker's health port answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.health_port}/") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def until_health_is(worker: Worker, status: int) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(health_of, worker) != status:
            await asyncio.sleep(0.05)


async def test_the_health_port_turns_red_when_the_broker_is_silent_and_green_when_it_speaks_again(broker: Broker, queue: str) -> None:
    """A frozen process keeps its connection open: only frames that do not come tell."""
    async with worker_that_counts([broker.address], queue, [], asyncio.Event()) as worker:
        await until_health_is(worker, 200)
        broker.freeze()
        await until_health_is(worker, 503)
        broker.thaw()
        await until_health_is(worker, 200)


async def connected_to(worker: Worker, *brokers: Broker) -> tuple[Broker, Broker]:
    """The broker that the worker is connected to, and the other one."""
    await worker.wait_connected()

    def ask() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.health_port}/") as answer:
            address: str = json.load(answer)["broker"]
            return address

    address = await asyncio.to_thread(ask)
    (mine,) = (broker for broker in brokers if broker.address == address)
    (other,) = (broker for broker in brokers if broker.address != address)
    return mine, other


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_the_worker_goes_on_through_the_other_broker_with_all_its_jobs(store: Store, broker: Broker, queue: str, end: str) -> None:
    starts: list[str] = []
    go_on = asyncio.Event()
    async with (
        Broker(store, session_time="2s") as second,
        worker_that_counts([broker.address, second.address], queue, starts, go_on) as worker,
    ):
        mine, other = await connected_to(worker, broker, second)
        async with Client(other.address) as client:
            jobs = [await client.enqueue(queue, "n") for _ in range(20)]
            await until_started(starts, 20)
            await (mine.kill() if end == "killed" else mine.stop())
            await asyncio.sleep(2.5)  # longer than the session time
            assert (await connected_to(worker, broker, second))[0] is other
            go_on.set()
            done = [await client.wait(job, timeout=10) for job in jobs]
    assert len(starts) == 20
    assert {(job.state, job.result) for job in done} == {("completed", 1)}


async def test_a_store_that_is_away_for_longer_than_the_session_costs_nothing(store: Store, broker: Broker, queue: str) -> None:
    starts: list[str] = []
    go_on = asyncio.Event()
    async with worker_that_counts([broker.address], queue, starts, go_on), Client(broker.address) as client:
        jobs = [await client.enqueue(queue, "n", durability="disk") for _ in range(20)]
        await until_started(starts, 20)
        await asyncio.sleep(1.5)  # the store writes what it was told once a second
        await store.kill()
        await asyncio.sleep(4)
        go_on.set()  # they end while the store is away: the results are kept
        await asyncio.sleep(0.5)
        await store.restart()
        done = [await client.wait(job, timeout=20) for job in jobs]
    assert len(starts) == 20
    assert {(job.state, job.result) for job in done} == {("completed", 1)}
