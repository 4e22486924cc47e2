"""An end becomes one job in the delivery queue for each endpoint that wants it, whoever sees the end and however often.

1. The id is made of endpoint, queue, job and the moment of the end, so that several processes beside one another, and one that looks back, make the same.
2. The same is its idempotency key, which is known for longer than anybody looks back: retention may have removed the delivery by then.
3. The body is fixed here: a delivery that is tried for days tells what was true at the end.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import grpc
from jobwire.v1.job_pb2 import Idempotency, Job, JobSpec
from jobwire.v1.job_service_pb2 import EnqueueBatchRequest, EnqueueBatchResponse, EnqueueVerdict, GetJobRequest

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.problems import Problem
from jobwire_gateway.webhooks.bodies import body_of
from jobwire_gateway.webhooks.endpoints import EVENT_OF, JOB_NAME, Endpoint, Endpoints
from jobwire_gateway.webhooks.metrics import WebhookMetrics

_log = logging.getLogger("jobwire.webhooks")

DELAYS = tuple(timedelta(seconds=seconds) for seconds in (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600))
"""The waits between attempts, as Standard Webhooks asks: about three days in all."""
JITTER = 0.2
TOTAL = timedelta(days=14)
"""A delivery ends by then whatever its receiver says: one that always asks to come later is not asked for ever."""

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 32 << 20
"""Ends that were heard of and are not enqueued yet, and their bytes, since each has its result with it. What is more is looked for later, as after a gap."""
_MOST_AT_ONCE = 100
_MOST_READS = 16
_MOST_TRIES = 3
"""How often a job is asked for that a broker does not give."""
_AWAY = (401, 503, 504)
"""Statuses that say nothing of the job that was asked for: a broker or a store that is away, a key that is being exchanged."""
_MOST_REMEMBERED = 50_000
_BACKOFF_S = (0.1, 10.0)
_LATE = timedelta(minutes=30)
"""How much older than `look_back` an end may be that is heard of live, since clocks differ and a process may lag. What is older was told before, and somebody
has left a note since."""
_KEY_MARGIN = timedelta(hours=1)
_NO_ROOM = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_THERE_ALREADY = ("JOB_EXISTS", "IDEMPOTENCY_CONFLICT")
"""Somebody made it, with a body that tells the same end in other words: a note was left at the job meanwhile, or its payload was gone."""


_End = tuple[str, str, int]
"""The queue and id of a job, and the moment of its end."""


class _Wanted(NamedTuple):
    id: str
    endpoint: Endpoint
    job: Job


class Deliveries:
    """Makes the jobs. Where there is no room for an end that is heard, `on_lost` is called with the name of its queue, and `on_doubt` when there is some."""

    def __init__(self, brokers: Brokers, endpoints: Endpoints, queue: str, look_back: timedelta, metrics: WebhookMetrics) -> None:
        self.on_doubt: Callable[[str], None] = _nothing
        self.on_lost: Callable[[str], None] = _nothing
        self._brokers = brokers
        self._endpoints = endpoints
        self._queue = queue
        self._oldest_s = (look_back + _LATE).total_seconds()
        self._key_ttl = look_back + _KEY_MARGIN
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._waiting_bytes = 0
        self._dropped: set[str] = set()
        self._remembered: OrderedDict[str, None] = OrderedDict()
        self._arrived = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while all that was heard is enqueued."""
        self.idle.set()

    def hear(self, job: Job) -> None:
        """Take the end of a job from the feed."""
        if not self._endpoints.wanting(job) or self._is_old(job):
            return
        size = job.ByteSize()
        if self._waiting and (len(self._waiting) >= MOST_WAITING or self._waiting_bytes + size > MOST_WAITING_BYTES):
            self._dropped.add(job.queue)
            self.on_lost(job.queue)
            return
        self._waiting.append(job)
        self._waiting_bytes += size
        self.idle.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Enqueue what is heard, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self.make(self._taken())
            self.idle.set()
            while self._dropped:
                self.on_doubt(self._dropped.pop())

    def _taken(self) -> list[Job]:
        """The next of those that wait."""
        jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
        self._waiting_bytes -= sum(job.ByteSize() for job in jobs)
        return jobs

    async def make(self, jobs: Iterable[Job]) -> None:
        """Enqueue the deliveries of these ends, however long it takes to reach a broker that takes them."""
        wanted = [_Wanted(delivery_id(endpoint.name, job), endpoint, job) for job in jobs for endpoint in self._endpoints.wanting(job)]
        wanted = [one for one in wanted if one.id not in self._remembered]
        for start in range(0, len(wanted), _MOST_AT_ONCE):
            await self._make_patiently(wanted[start : start + _MOST_AT_ONCE])

    async def _make_patiently(self, wanted: Sequence[_Wanted]) -> None:
        failures = 0
        while wanted:
            try:
                wanted = await self._make_once(wanted, failures)
            except (Problem, ValueError) as error:
                _log.warning("webhooks.not_enqueued count=%d error=%s", len(wanted), error)
            if wanted:
                failures += 1
                await asyncio.sleep(_backoff_s(failures))

    async def _make_once(self, wanted: Sequence[_Wanted], failures: int) -> list[_Wanted]:
        """Gives those for which there was no room, to be tried again. Raises Problem, and ValueError where the key can't be read."""
        bodies = await self._bodies({_end_of(one.job): one.job for one in wanted}, failures)
        specs = [self._spec(one, bodies[_end_of(one.job)]) for one in wanted]
        response: EnqueueBatchResponse = await self._brokers.call(lambda broker: broker.jobs.EnqueueBatch, EnqueueBatchRequest(jobs=specs))
        left, error = [], ""
        for one, item in zip(wanted, response.items, strict=True):
            if item.error.code == _NO_ROOM:
                left.append(one)
                error = item.error.message
                continue
            if item.verdict == EnqueueVerdict.ENQUEUE_VERDICT_MADE:
                self._metrics.enqueued(one.endpoint.name)
            elif item.verdict == EnqueueVerdict.ENQUEUE_VERDICT_REFUSED and item.error.reason not in _THERE_ALREADY:
                # Another try would be refused as well, and all that wait behind it would wait for ever.
                _log.error("webhooks.refused endpoint=%s job=%s reason=%s error=%s", one.endpoint.name, one.job.name, item.error.reason, item.error.message)
            self._remember(one.id)
        if left:
            _log.warning("webhooks.not_enqueued count=%d error=%s", len(left), error)
        return left

    async def _bodies(self, ends: Mapping[_End, Job], failures: int) -> dict[_End, str]:
        """What is said of each end. A job is read once, however many want to hear of it, and no longer held than it takes to write its body."""
        room = asyncio.Semaphore(_MOST_READS)

        async def body(ended: Job) -> str:
            async with room:
                return body_of(await self._read(ended, failures)).decode()

        return dict(zip(ends, await asyncio.gather(*map(body, ends.values())), strict=True))

    async def _read(self, ended: Job, failures: int) -> Job:
        """The job as REST shows it. One that is gone, was retried, or can't be read, is as it was heard of: without payload."""
        try:
            job: Job = (await self._brokers.call(lambda broker: broker.jobs.GetJob, GetJobRequest(name=ended.name))).job
        except Problem as problem:
            if problem.status == 404:
                return ended
            if problem.status in _AWAY or failures < _MOST_TRIES - 1:
                raise
            # All that wait behind it would wait for ever.
            _log.error("webhooks.not_read job=%s error=%s", ended.name, problem)
            return ended
        return job if job.state == ended.state and job.finish_time == ended.finish_time else ended

    def _spec(self, one: _Wanted, body: str) -> JobSpec:
        job = one.job
        spec = JobSpec(queue=self._queue, id=one.id, job_name=JOB_NAME, group=one.endpoint.name, attempts=len(DELAYS) + 1)
        spec.payload.json = body
        spec.backoff.jitter = JITTER
        for delay in DELAYS:
            spec.backoff.delays.add().FromTimedelta(delay)
        spec.total_timeout.FromTimedelta(TOTAL)
        spec.labels.update({"event": EVENT_OF[job.state], "queue": job.queue, "job": job.id})
        spec.idempotency.CopyFrom(Idempotency(key=one.id))
        spec.idempotency.ttl.FromTimedelta(self._key_ttl)
        return spec

    def _is_old(self, job: Job) -> bool:
        return time.time() - job.finish_time.ToNanoseconds() / 1e9 > self._oldest_s

    def _remember(self, delivery: str) -> None:
        """So that to look back costs nothing for what this process has made itself."""
        self._remembered[delivery] = None
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)


def delivery_id(endpoint: str, job: Job) -> str:
    """The id of a delivery, and its `webhook-id`. A job that is retried and ends again has another end, and so another delivery."""
    # Unlike the revision, the moment of the end stays when a note is left at the job. It is the store's, in microseconds, and no two ends of a job share it.
    digest = hashlib.sha256("\0".join((endpoint, *map(str, _end_of(job)))).encode()).hexdigest()
    return f"msg_{digest[:32]}"


def _end_of(job: Job) -> _End:
    return job.queue, job.id, job.finish_time.ToMicroseconds()


def _backoff_s(failures: int) -> float:
    first, longest = _BACKOFF_S
    return random.uniform(0.5, 1.0) * min(longest, first * 2.0 ** min(failures - 1, 10))


def _nothing(queue: str) -> None: ...
