"""5 % of the pub/sub messages and every tenth answer of the store are lost: nobody is more than two seconds late, nothing is lost or doubled."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import grpc.aio
from jobwire.v1 import job_service_pb2 as pb

from tests.support import outcomes
from tests.support.api import Api, api
from tests.support.broker import Broker
from tests.support.events import EventLog
from tests.support.lossy_store import Loss, LossyStore
from tests.support.meanwhile import afterwards
from tests.support.producer import Producer, settled, spec
from tests.support.raw_worker import job_ids
from tests.support.seeds import seeded
from tests.support.store import Store
from tests.support.worker import WorkerProcess

QUEUE = "q"
LATE_S = 2.0


@dataclass
class Seen:
    """When jobs were made and how late their ends were seen, by the store's clock, which is this machine's."""

    made_s: dict[str, float] = field(default_factory=dict)
    ends_late_s: list[float] = field(default_factory=list)


@afterwards
async def test_lost_messages_and_answers_lost_with_their_connection_make_nobody_later_than_two_seconds() -> None:
    await _nobody_is_late(Loss.CUT, jobs=400, per_second=40)


@afterwards
async def test_lost_messages_and_answers_that_never_come_make_nobody_later_than_two_seconds() -> None:
    await _nobody_is_late(Loss.STALL, jobs=400, per_second=40)


async def _nobody_is_late(loss: Loss, *, jobs: int, per_second: int) -> None:
    """Jobs come one by one through one broker, to a worker that idles at the other, watched at both."""
    random = seeded(f"lossy {loss.value}")
    async with AsyncExitStack() as stack:
        log = stack.enter_context(EventLog())
        store = await stack.enter_async_context(Store())
        proxies = [LossyStore(store, seed=random.getrandbits(30), message_share=0.05, reply_every=10, loss=loss) for _ in range(2)]
        brokers = [Broker((await stack.enter_async_context(proxy)).url) for proxy in proxies]
        await asyncio.gather(*(stack.enter_async_context(broker) for broker in brokers))
        near, far = [await stack.enter_async_context(api(broker)) for broker in brokers]
        await stack.enter_async_context(WorkerProcess(brokers[1], QUEUE, log, concurrency=jobs))
        seen = Seen()
        async with asyncio.TaskGroup() as tasks:
            for job in job_ids(jobs):
                tasks.create_task(_life_of(job, random.randint(50, 1_500), Producer([near], log.history), (near, far), seen))
                await asyncio.sleep(random.expovariate(per_second))
        settled_counts = await settled(near, QUEUE, jobs, 15)
        verdict = log.history.verdict()
        wall_s = time.time() - time.monotonic()
        late_starts = [event.at_s + wall_s - seen.made_s[event.job] for event in log.history.starts]
        lost = f"{sum(p.messages_lost for p in proxies)} messages and {sum(p.replies_lost for p in proxies)} answers lost"
        late = f"starts late by {_spread(late_starts)}, ends seen late by {_spread(seen.ends_late_s)}"
        outcomes.tell(f"lossy store, {loss.value}", f"{verdict}; {lost}; {late}")
        assert verdict.valid, verdict
        assert not verdict.duplicated, verdict
        assert settled_counts.completed_total == jobs
        assert not [job for job, n in Counter(event.job for event in log.history.starts).items() if n > 1]
        assert all(proxy.messages_lost and proxy.replies_lost for proxy in proxies), "the test lost nothing"
        assert max(late_starts) <= LATE_S
        assert max(seen.ends_late_s) <= LATE_S


def _spread(late_s: list[float]) -> str:
    """Half, nineteen of twenty, and all of them by at most so many seconds."""
    ordered = sorted(late_s)
    return " / ".join(f"{ordered[int(share * (len(ordered) - 1))]:.2f}" for share in (0.5, 0.95, 1)) + " s"


async def _life_of(job: str, ms: int, producer: Producer, watched_at: tuple[Api, Api], seen: Seen) -> None:
    await producer.enqueue([spec(QUEUE, job, {"ms": ms})])
    await asyncio.gather(*(_watch(services, job, seen) for services in watched_at))


async def _watch(services: Api, job: str, seen: Seen) -> None:
    """Follow one job to its end, from now on: what had ended before is seen late by nobody's fault. A watch that is refused is repeated at once."""
    began_s = time.time()
    while True:
        try:
            async for response in services.jobs.WatchJobs(pb.WatchJobsRequest(names=[f"queues/{QUEUE}/jobs/{job}"]), timeout=30):
                _note(response, began_s, seen)
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


def _note(response: pb.WatchJobsResponse, began_s: float, seen: Seen) -> None:
    now_s = time.time()
    for change in response.changes:
        if change.job.HasField("create_time"):
            seen.made_s[change.job.id] = change.job.create_time.ToNanoseconds() / 1e9
        if change.type == pb.CHANGE_TYPE_FINAL:
            seen.ends_late_s.append(now_s - max(change.job.finish_time.ToNanoseconds() / 1e9, began_s))
