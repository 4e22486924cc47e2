"""What a delivery is made of."""

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jobwire.v1.job_pb2 import Job, JobState
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.names import JOB_ID_PATTERN
from jobwire_gateway.webhooks import deliveries as module
from jobwire_gateway.webhooks.deliveries import Deliveries, delivery_id
from jobwire_gateway.webhooks.endpoints import Endpoint, Endpoints, QueuePattern
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.secrets import Secret


def ended(age: timedelta = timedelta(0), queue: str = "orders", job_id: str = "a", job_name: str = "order") -> Job:
    job = Job(queue=queue, id=job_id, job_name=job_name, name=f"queues/{queue}/jobs/{job_id}", state=JobState.JOB_STATE_FAILED, revision=7)
    job.finish_time.FromMicroseconds(round((time.time() - age.total_seconds()) * 1e6))
    return job


def test_the_id_is_that_of_the_end_and_fits_both_standards() -> None:
    job = ended()
    made = delivery_id("shop", job)
    assert re.fullmatch(JOB_ID_PATTERN, made)
    assert "." not in made
    same = Job()
    same.CopyFrom(job)
    same.revision, same.resolution.note = 8, "a note"
    assert delivery_id("shop", same) == made
    again = Job()
    again.CopyFrom(job)
    again.finish_time.FromMicroseconds(job.finish_time.ToMicroseconds() + 1)
    others = [delivery_id("other", job), delivery_id("shop", again), delivery_id("shop", ended(queue="mail")), delivery_id("shop", ended(job_id="b"))]
    assert len({made, *others}) == 5


@pytest.mark.parametrize(
    ("of_job", "is_heard"),
    [
        ({}, True),
        ({"age": timedelta(minutes=40)}, True),
        # A note on an old dead letter: its delivery may be forgotten by now.
        ({"age": timedelta(minutes=50)}, False),
        ({"queue": "mail"}, False),
        ({"queue": "webhooks"}, False),
        ({"job_name": "webhook"}, False),
    ],
)
async def test_a_live_end_is_heard_unless_it_is_old_or_nobodys_or_of_a_delivery(of_job: Mapping[str, Any], is_heard: bool) -> None:
    async with hearing() as deliveries:
        deliveries.hear(ended(**of_job))
        assert deliveries.idle.is_set() is not is_heard


async def test_what_waits_is_bounded_by_its_bytes_too_and_one_end_always_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended()
    job.result.json = '"' + "x" * 1_000 + '"'
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 100)
    async with hearing() as deliveries:
        lost: list[str] = []
        deliveries.on_lost = lost.append
        deliveries.hear(job)
        assert lost == []
        deliveries.hear(job)
        assert lost == ["orders"]


@asynccontextmanager
async def hearing() -> AsyncIterator[Deliveries]:
    """Deliveries of one endpoint, with no broker that takes them."""
    queues = (QueuePattern("orders"), QueuePattern("webhooks"))
    endpoint = Endpoint(name="shop", url="https://shop.example/", secrets=(Secret(file=Path("none")),), queues=queues)
    brokers = Brokers(["127.0.0.1:9"], 1.0)
    try:
        yield Deliveries(brokers, Endpoints([endpoint], "webhooks"), "webhooks", timedelta(minutes=15), WebhookMetrics())
    finally:
        await brokers.close()
