"""Policies and classes through the client, against a real broker."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from jobwire_client import Backoff, Client, InvalidRequest, Limit, QueuePolicy, RateLimit, Retention, SyncClient

from tests.support import Broker, Store
from tests.support.process import PATIENT_S

FULL = QueuePolicy(
    queue_class="high",
    priority=0,
    attempts=7,
    backoff=Backoff(base=timedelta(seconds=10), factor=3, max_delay=timedelta(minutes=5), jitter=0),
    permanent_errors=("KeyError", "Gone"),
    timeout=timedelta(seconds=30),
    total_timeout=timedelta(hours=1),
    expires_in=timedelta(days=1),
    retention={"failed": Retention(count=0), "completed": Retention(age=timedelta(days=2))},
    limit=Limit(concurrency=5, rate=RateLimit(count=100, period=timedelta(seconds=1), burst=3)),
    job_limits={"mail": Limit(concurrency=1)},
    group_limit=Limit(rate=RateLimit(count=1, period=timedelta(seconds=2))),
    ageing=timedelta(minutes=1),
    start_target=timedelta(milliseconds=1500),
    max_payload_bytes=1000,
    max_depth=50,
    worker_slots=4,
)


@pytest.fixture
async def client(shared_broker: Broker) -> AsyncIterator[Client]:
    async with Client(shared_broker.address, timeout=PATIENT_S) as client:
        yield client


async def test_a_policy_is_set_and_read_in_full(client: Client, queue: str) -> None:
    assert (await client.update_queue(queue, FULL)).policy == FULL
    assert (await client.queue(queue)).policy == FULL
    assert [q.policy for q in await client.queues() if q.name == queue] == [QueuePolicy(queue_class="high")]
    assert (await client.update_queue(queue, QueuePolicy())).policy == QueuePolicy()


async def test_only_the_fields_that_are_named_are_taken(client: Client, queue: str) -> None:
    await client.update_queue(queue, QueuePolicy(attempts=7, timeout=30, retention={"failed": Retention(count=5)}))
    changed = QueuePolicy(attempts=9, priority="low", retention={"failed": Retention(age=60)})
    after = await client.update_queue(queue, changed, fields=["priority", "timeout", "retention.failed.age"])
    expected = QueuePolicy(attempts=7, priority=10, retention={"failed": Retention(count=5, age=timedelta(seconds=60))})
    assert after.policy == expected


async def test_a_policy_as_json_is_that_of_rest() -> None:
    assert QueuePolicy.from_json(FULL.to_json()) == FULL
    assert QueuePolicy(queue_class="normal", timeout=1.5).to_json() == {"queueClass": "medium", "timeout": "1.500s"}
    for members, sentence in (
        ({"attemps": 3}, "there is no field 'attemps' in a policy; there are ageing, attempts"),
        ({"limit": {"rate": {"max": 3}}}, "there is no field 'limit.rate.max' in a policy; there are burst, count, period"),
        ({"retention": 5}, "retention is made of cancelled, completed, expired, failed; it can't be 5"),
        ({"attempts": "many"}, "this is no policy"),
    ):
        with pytest.raises(InvalidRequest, match=sentence):
            QueuePolicy.from_json(members)


@pytest.mark.parametrize(
    ("policy", "sentence"), [(QueuePolicy(queue_class="urgent"), "no class"), (QueuePolicy(retention={"active": Retention()}), "retention")]
)
async def test_words_that_are_none_are_refused_before_they_are_sent(client: Client, queue: str, policy: QueuePolicy, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        await client.update_queue(queue, policy)


async def test_a_field_out_of_its_bounds_is_told(client: Client, queue: str) -> None:
    with pytest.raises(InvalidRequest, match="attempts must be from 1 to 1000"):
        await client.update_queue(queue, QueuePolicy(attempts=2000))
    with pytest.raises(InvalidRequest, match="update_mask"):
        await client.update_queue(queue, QueuePolicy(), fields=["attemps"])
    with pytest.raises(InvalidRequest, match="fields must be several names, not one text: \\['attempts'\\]"):
        await client.update_queue(queue, QueuePolicy(), fields="attempts")


async def test_classes_are_counted_paused_and_resumed(store: Store) -> None:
    async with Broker(store) as broker, Client(broker.address) as client:
        await client.update_queue("mail", QueuePolicy(queue_class="high"))
        await client.enqueue("mail", "send")
        (found,) = await client.classes()
        assert (found.queue_class, found.queues, found.paused, found.counts.waiting, found.started) == ("high", ("mail",), 0, 1, 0)
        assert await client.pause_class("high") == ["mail"]
        assert (await client.queue("mail")).paused
        assert await client.resume_class("HIGH") == ["mail"]
        assert not (await client.queue("mail")).paused


def test_the_sync_client_does_the_same(shared_broker: Broker, queue: str) -> None:
    with SyncClient(shared_broker.address, timeout=PATIENT_S) as client:
        assert client.update_queue(queue, QueuePolicy(attempts=2, queue_class="batch")).policy.attempts == 2
        assert queue in next(found for found in client.classes() if found.queue_class == "batch").queues
        assert queue in client.pause_class("batch")
        assert queue in client.resume_class("batch")
