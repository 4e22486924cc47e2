"""The Work stream is cut after every frame of a scripted run, each way, with and without a second broker: no job is stuck, none is run twice."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from jobwire_worker import Job, Worker

from tests.support import outcomes
from tests.support.api import Api, api
from tests.support.broker import Broker
from tests.support.cutting_proxy import Cut, CuttingProxy
from tests.support.history import Event, History
from tests.support.producer import Producer, settled, spec
from tests.support.raw_worker import job_ids
from tests.support.store import Store

JOBS = 10
CONCURRENCY = 2
HANDLER_S = 0.1
WITHIN_S = 30
RUNS_AT_ONCE = 8


async def test_wherever_the_stream_is_cut_every_job_runs_once_and_none_stays_active() -> None:
    async with Store() as store, Broker(store, session_time="2s") as first, Broker(store, session_time="2s") as second, api(first) as one:
        frames = await _frames_of_an_uncut_run(first, one)
        cuts = [Cut(up=up, frame=frame) for up in (True, False) for frame in range(1, frames[up] + 1)]
        turns = asyncio.Semaphore(RUNS_AT_ONCE)
        took = await asyncio.gather(*(_cut_run(turns, first, other, one, cut) for cut in cuts for other in (None, second)))
    outcomes.tell(
        "cut streams", f"{len(took)} runs of {JOBS} jobs, cut after each of {frames[True]} frames up and {frames[False]} down; {max(took):.1f} s at most"
    )


async def _frames_of_an_uncut_run(broker: Broker, services: Api) -> Counter[bool]:
    async with CuttingProxy(broker.address) as proxy:
        await _run("uncut", [proxy.address], services, asyncio.Event())
        return proxy.frames


async def _cut_run(turns: asyncio.Semaphore, first: Broker, second: Broker | None, services: Api, cut: Cut) -> float:
    """One run through a proxy that cuts. With a second broker, the first is gone after the cut, and the second is there only from then on."""
    queue = f"cut-{'up' if cut.up else 'down'}-{cut.frame}-{'two' if second else 'one'}"
    async with turns, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(CuttingProxy(first.address, cut, then_refuse=second is not None))
        targets = [proxy.address]
        if second is not None:
            other = await stack.enter_async_context(CuttingProxy(second.address))
            other.refuse()
            proxy.on_cut = lambda: other.refuse(False)
            targets.append(other.address)
        return await _run(queue, targets, services, proxy.done)


async def _run(queue: str, targets: list[str], services: Api, cut_done: asyncio.Event) -> float:
    """A few jobs through one worker. Returns how long it took until all was settled."""
    history = History()
    began_s = time.monotonic()
    async with _worker(queue, targets, history):
        await Producer([services], history).enqueue([spec(queue, job) for job in job_ids(JOBS)])
        if queue != "uncut":
            await asyncio.wait_for(cut_done.wait(), WITHIN_S)
        counts = await settled(services, queue, JOBS, WITHIN_S)
    took_s = time.monotonic() - began_s
    verdict = history.verdict()
    assert verdict.valid, f"{queue}: {verdict}"
    assert not verdict.duplicated, f"{queue}: {verdict}"
    again = {job: count for job, count in Counter(event.job for event in history.starts).items() if count > 1}
    assert not again, f"{queue}: a cut made jobs start again: {again}"
    assert counts.completed_total == JOBS, f"{queue}: {counts}"
    return took_s


@asynccontextmanager
async def _worker(queue: str, targets: list[str], history: History) -> AsyncIterator[None]:
    worker = Worker(targets, queues=[queue], concurrency=CONCURRENCY)

    @worker.handler("work")
    async def work(job: Job) -> None:
        _add(history, "start", job)
        await asyncio.sleep(HANDLER_S / 2)
        job.progress(50)
        await asyncio.sleep(HANDLER_S / 2)
        _add(history, "done", job)

    async with worker:
        yield


def _add(history: History, kind: str, job: Job) -> None:
    history.add(Event(kind=kind, job=job.id, token=job.token, attempt=job.attempt, at_s=time.monotonic(), pid=0))
