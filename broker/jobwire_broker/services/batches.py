"""Jobs that came in one message, from their check to their verdicts: the half that the unary calls and the stream share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import BrokerError, IdempotencyConflict, InvalidField, JobExists, QueueFull, StoreFull, StoreUnavailable
from jobwire_broker.names import id_to_text
from jobwire_broker.rules.partition import Ticket
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.identities import differences
from jobwire_broker.services.specs import item_of
from jobwire_broker.store.answers import Other, Word
from jobwire_broker.store.arguments import JobItem

MAX_BATCH = 1000

Results = Sequence[str | Other | BrokerError]
VERDICTS = {Word.FOUND: pb.ENQUEUE_VERDICT_FOUND, Word.REPLACED: pb.ENQUEUE_VERDICT_REPLACED}


class Outcome(NamedTuple):
    """What is to be said of the jobs of a message, by their places. Those that neither names were made."""

    refused: dict[int, BrokerError]
    others: dict[int, Other]


class Batch:
    """The jobs of one message. Those that are right stand in `queues` and `items`; `places` says where in the message each of them was."""

    __slots__ = ("items", "minted", "places", "queues", "refused", "size")

    def __init__(self) -> None:
        self.size = 0
        self.queues: list[str] = []
        self.items: list[JobItem] = []
        self.refused: dict[int, BrokerError] = {}
        self.minted: list[int] = []
        """Places of the jobs that came without an id."""
        self.places: Sequence[int] = ()

    def add(self, spec: job_pb2.JobSpec) -> None:
        """Check one more job."""
        try:
            queue, item = item_of(spec)
        except InvalidField as error:
            self.refused[self.size] = error.under(f"jobs[{self.size}]")
        else:
            if not spec.id:
                self.minted.append(self.size)
            self.queues.append(queue)
            self.items.append(item)
        self.size += 1

    def close(self) -> Batch:
        """All jobs are there. Raises InvalidField when they are none, or too many."""
        if not 1 <= self.size <= MAX_BATCH:
            raise InvalidField(f"jobs may hold 1 to {MAX_BATCH}; it holds {self.size}", field="jobs", reason="BATCH_TOO_LARGE")
        self.places = [i for i in range(self.size) if i not in self.refused] if self.refused else range(self.size)
        return self

    def withhold(self, forbidden: Mapping[str, BrokerError]) -> None:
        """Refuse the jobs of these queues, each for itself: the jobs of a message may be those of many callers. After `close`."""
        kept = [i for i, queue in enumerate(self.queues) if queue not in forbidden]
        for place, queue in zip(self.places, self.queues, strict=True):
            if queue in forbidden:
                self.refused[place] = forbidden[queue]
        self.places = [self.places[i] for i in kept]
        self.queues, self.items = [self.queues[i] for i in kept], [self.items[i] for i in kept]

    def outcome(self, results: Results) -> Outcome:
        """Which jobs were not made, and why. Raises the error of the whole batch when the caller has to repeat all of it."""
        outcome = Outcome(dict(self.refused), {})
        if results.count(Word.MADE) == len(results):
            return outcome
        _raise_for_all(results)
        for place, queue, item, result in zip(self.places, self.queues, self.items, results, strict=True):
            if refusal := refusal_of(queue, item, result, f"jobs[{place}]"):
                outcome.refused[place] = refusal
            elif isinstance(result, Other):
                outcome.others[place] = result
        return outcome

    def ids(self) -> dict[int, str]:
        """The ids of the jobs that were right, by their places."""
        return {place: id_to_text(item.raw_id) for place, item in zip(self.places, self.items, strict=True)}


def batch_of(specs: Iterable[job_pb2.JobSpec]) -> Batch:
    """Check all jobs. Raises InvalidField when they are none, or too many."""
    batch = Batch()
    for spec in specs:
        batch.add(spec)
    return batch.close()


def _raise_for_all(results: Results) -> None:
    """A batch whose outcome is unknown for one job is unknown as a whole: the caller repeats all of it, with the same ids."""
    if results.count(Word.STORE_FULL) == len(results):
        raise _store_full()
    errors = [result for result in results if isinstance(result, BrokerError)]
    away = [error for error in errors if isinstance(error, StoreUnavailable)]
    if away:
        nothing_made = len(away) == len(results) and all(error.accepted == "no" for error in away)
        raise StoreUnavailable(away[0].message, accepted="no" if nothing_made else "unknown")
    if len(errors) == len(results):
        raise errors[0]


def refusal_of(queue: str, item: JobItem, result: str | Other | BrokerError, path: str) -> BrokerError | None:
    """Why a job was not made and no other stands for it; None when neither is so. `path` leads to its spec."""
    if isinstance(result, BrokerError):
        return result
    if isinstance(result, Other):
        return _conflict(item, result, path) if result.word == Word.CONFLICT else None
    if result == Word.EXISTS:
        return JobExists(f"the id {id_to_text(item.raw_id)} is taken by a job with other content: choose another id", field=f"{path}.id")
    if result == Word.TOO_LARGE:
        return payload_too_large(f"{path}.payload")
    if result == Word.STORE_FULL:
        return _store_full()
    return _queue_full(queue) if result == Word.FULL else None


def payload_too_large(field: str) -> InvalidField:
    """The payload in `field` is larger than the queue takes."""
    message = f"{field} has more bytes than the queue's policy allows (max_payload_bytes): send a reference to it instead"
    return InvalidField(message, field=field, reason="PAYLOAD_TOO_LARGE")


def _store_full() -> StoreFull:
    return StoreFull("the store is near its memory limit (maxmemory): repeat when jobs have ended or were cleaned, or raise it")


def _queue_full(queue: str) -> QueueFull:
    return QueueFull("the queue is at its maximum depth (max_depth of its policy): repeat when jobs have ended, or raise it", quota=f"queues/{queue}")


def _conflict(item: JobItem, other: Other, path: str) -> IdempotencyConflict:
    differs = differences(item.ask.signature if item.ask else b"", other.signature)
    message = f"the idempotency key is that of job {id_to_text(other.raw_id)}, which has another {' and '.join(differs)}: choose another key"
    return IdempotencyConflict(message, field=f"{path}.idempotency.key", metadata={"differs": ",".join(differs), "id": id_to_text(other.raw_id)})


def item_error(error: BrokerError) -> pb.ItemError:
    """Why one job of several was refused. What is used up stands in the metadata, as QuotaFailure's subject."""
    metadata = {**error.metadata, "quota": error.quota} if error.quota else error.metadata
    item = pb.ItemError(code=error.code.value[0], reason=error.reason, field=error.field, message=error.message, metadata=metadata)
    if error.retry_after_s is not None:
        item.retry_after.FromMilliseconds(int(error.retry_after_s * 1000))
    return item


def say_verdict(answer: pb.EnqueueBatchResponse.Item | pb.EnqueueStreamResponse.Item, place: int, ids: Mapping[int, str], outcome: Outcome) -> None:
    """Fill in what became of the job at a place."""
    if place in outcome.refused:
        answer.id, answer.verdict = ids.get(place, ""), pb.ENQUEUE_VERDICT_REFUSED
        answer.error.CopyFrom(item_error(outcome.refused[place]))
    elif place in outcome.others:
        other = outcome.others[place]
        answer.id, answer.verdict = id_to_text(other.raw_id), VERDICTS[Word(other.word)]
    else:
        answer.id, answer.verdict = ids[place], pb.ENQUEUE_VERDICT_MADE


class Maker:
    """Makes batches of checked jobs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def check_durability(self, durability: int) -> None:
        """Raises InvalidField, and Precondition when the store can't promise it."""
        if durability not in (job_pb2.DURABILITY_UNSPECIFIED, job_pb2.DURABILITY_STORE, job_pb2.DURABILITY_DISK):
            raise InvalidField(f"durability {durability} is not known", field="durability")
        if durability == job_pb2.DURABILITY_DISK:
            self._registry.client.check_disk_durability()

    async def make(self, queues: Sequence[str], items: Sequence[JobItem], durability: int) -> Results:
        """Make the jobs, and wait as long as `durability` says. A word or an error for each. Raises StoreUnavailable."""
        if not items:
            return []
        for name in set(queues):
            await self._registry.register(name)
        done: asyncio.Future[Results] = asyncio.get_running_loop().create_future()

        def tell(results: Results) -> None:
            if not done.done():
                done.set_result(results)

        self._put(queues, items, tell)
        results = await done
        # Where nothing was made, there is nothing to wait for: a store that is away would be waited for in vain.
        if durability == job_pb2.DURABILITY_DISK and not all(isinstance(result, BrokerError) for result in results):
            await self._registry.client.sync_to_disk()
        return results

    def make_soon(self, batch: Batch, tell: Callable[[Results], None]) -> bool:
        """Make jobs of queues that are known to exist, without a task: `tell` is called with a word or an error for each. False: `make` is needed."""
        known = self._registry.queues
        for name in set(batch.queues):
            queue = known.get(name)
            if queue is None or not queue.is_registered:
                return False
        self._put(batch.queues, batch.items, tell)
        return True

    def _put(self, queues: Sequence[str], items: Sequence[JobItem], tell: Callable[[Results], None]) -> None:
        ticket = Ticket(len(items), tell)
        known = self._registry.queues
        if len(set(queues)) == 1:
            known[queues[0]].partition.enqueue(items, range(len(items)), ticket)
            return
        places: dict[str, list[int]] = {}
        for i, name in enumerate(queues):
            places.setdefault(name, []).append(i)
        for name, own in places.items():
            known[name].partition.enqueue([items[i] for i in own], own, ticket)
