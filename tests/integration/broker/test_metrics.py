"""What Prometheus reads of a broker, over HTTP, while real jobs run."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from jobwire.v1.job_pb2 import Failure, JobSpec
from jobwire.v1.job_service_pb2 import EnqueueBatchRequest, EnqueueRequest
from jobwire.v1.policy_pb2 import QUEUE_CLASS_HIGH, QueuePolicy
from jobwire.v1.queue_service_pb2 import PauseQueueRequest, Queue, UpdateQueueRequest
from jobwire.v1.worker_service_pb2 import Complete, Fail, Finish, FinishJobsRequest, LeaseJobsRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Broker, Store
from tests.support.api import api
from tests.support.process import ProcessEnded
from tests.support.raw_worker import RawWorker


@pytest.fixture
async def measured(shared_store: Store) -> AsyncIterator[Broker]:
    async with Broker(shared_store, extra=["--metrics", "127.0.0.1:0"]) as broker:
        yield broker


async def scrape(broker: Broker) -> dict[str, float]:
    """All samples, as `name{label="value"}` with the labels in order."""
    address = re.findall(r"broker\.metrics http=(\S+)", broker.tail(50))[0]
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answer = await http.get(f"http://{address}/metrics")
    assert answer.status_code == 200, answer.text
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def test_starts_are_counted_against_the_target_of_the_queue(measured: Broker, queue: str) -> None:
    async with api(measured) as services:
        policy = QueuePolicy(queue_class=QUEUE_CLASS_HIGH, start_target=Duration(nanos=1_000_000))
        update = UpdateQueueRequest(queue=Queue(name=f"queues/{queue}", policy=policy), update_mask=FieldMask(paths=["policy"]))
        await services.queues.UpdateQueue(update)
        await services.jobs.EnqueueBatch(EnqueueBatchRequest(jobs=[JobSpec(queue=queue, job_name="mail") for _ in range(4)]))
        await services.jobs.Enqueue(EnqueueRequest(job=JobSpec(queue=queue, job_name="mail")))
        await asyncio.sleep(0.01)  # ten times the target
        assert len((await services.workers.LeaseJobs(LeaseJobsRequest(queue=queue, max_jobs=5))).jobs) == 5
        seen = await scrape(measured)
    of = f'class="high",queue="{queue}"'
    assert seen[f"jobwire_jobs_started_total{{{of}}}"] == 5
    assert seen[f"jobwire_jobs_started_late_total{{{of}}}"] == 5
    assert seen[f"jobwire_queue_start_target_seconds{{{of}}}"] == 0.001


async def test_jobs_are_counted_and_timed_by_queue(measured: Broker, queue: str) -> None:
    async with api(measured) as services:
        jobs = [JobSpec(queue=queue, job_name="mail", attempts=1) for _ in range(4)]
        await services.jobs.EnqueueBatch(EnqueueBatchRequest(jobs=jobs))
        leased = (await services.workers.LeaseJobs(LeaseJobsRequest(queue=queue, max_jobs=3))).jobs
        done, broken, _ = (Finish(queue=queue, id=job.id, token=job.token) for job in leased)
        done.complete.CopyFrom(Complete())
        broken.fail.CopyFrom(Fail(failure=Failure(type="ValueError", message="no")))
        await services.workers.FinishJobs(FinishJobsRequest(finishes=[done, broken]))
        await services.queues.PauseQueue(PauseQueueRequest(name=f"queues/{queue}"))
        seen = await scrape(measured)
    of = f'queue="{queue}"'
    assert seen[f"jobwire_jobs_enqueued_total{{{of}}}"] == 4
    assert seen[f"jobwire_jobs_leased_total{{{of}}}"] == 3
    assert seen[f'jobwire_job_completions_total{{job_name="mail",{of}}}'] == 1
    assert seen[f'jobwire_job_failures_total{{job_name="mail",{of}}}'] == 1
    assert seen[f'jobwire_job_errors_total{{error_type="ValueError",{of}}}'] == 1
    assert seen[f"jobwire_job_duration_seconds_count{{{of}}}"] == 2
    assert seen[f'jobwire_job_duration_seconds_bucket{{le="600.0",{of}}}'] == 2
    assert seen[f"jobwire_job_wait_seconds_count{{{of}}}"] == 3
    assert {f'jobwire_job_wait_seconds_bucket{{le="{edge}",{of}}}' for edge in ("1.0", "5.0", "30.0", "300.0")} <= set(seen)
    assert seen[f"jobwire_queue_depth{{{of}}}"] == 1
    assert seen[f'jobwire_queue_jobs{{{of},state="active"}}'] == 1
    assert seen[f'jobwire_queue_jobs{{{of},state="failed"}}'] == 1
    assert 0 < seen[f"jobwire_queue_lag_seconds{{{of}}}"] < 60
    assert seen[f"jobwire_queue_paused{{{of}}}"] == 1
    assert seen[f"jobwire_queue_completed_total{{{of}}}"] == 1
    assert (seen["jobwire_store_up"], seen["jobwire_store_memory_bytes"] > 100_000) == (1, True)
    assert seen["process_resident_memory_bytes"] > 1_000_000


async def test_workers_and_their_room_are_told(measured: Broker, queue: str) -> None:
    async with RawWorker(measured.address, queue) as worker:
        await worker.hello(credit=5)
        async with api(measured) as services:
            await services.jobs.EnqueueBatch(EnqueueBatchRequest(jobs=[JobSpec(queue=queue, job_name="t")] * 2))
        await worker.jobs(2)
        seen = await scrape(measured)
    assert seen["jobwire_work_streams"] == 1
    assert seen["jobwire_worker_slots_busy"] == 2
    assert seen[f'jobwire_credit_free{{queue="{queue}"}}'] == 3
    assert seen[f'jobwire_queue_workers{{queue="{queue}"}}'] == 1


async def test_metrics_are_served_while_the_store_is_away_without_what_it_alone_knows(store: Store, queue: str) -> None:
    async with Broker(store, extra=["--metrics", "127.0.0.1:0"]) as broker:
        async with api(broker) as services:
            await services.jobs.EnqueueBatch(EnqueueBatchRequest(jobs=[JobSpec(queue=queue, job_name="t")]))
        noticed = broker.line(r"store\.unavailable")
        await store.kill()
        await noticed
        seen = await scrape(broker)
    assert seen["jobwire_store_up"] == 0
    assert f'jobwire_queue_depth{{queue="{queue}"}}' not in seen
    assert seen[f'jobwire_jobs_enqueued_total{{queue="{queue}"}}'] == 1


async def test_an_address_that_is_taken_ends_the_broker_with_a_sentence(measured: Broker, shared_store: Store) -> None:
    taken = re.findall(r"broker\.metrics http=(\S+)", measured.tail(50))[0]
    second = Broker(shared_store, extra=["--metrics", taken])
    with pytest.raises(ProcessEnded):
        await second.start()
    assert f"{taken} can't be listened on" in second.tail()
    assert "Traceback" not in second.tail()


async def test_metrics_for_everybody_need_the_same_word_as_the_port_itself(shared_store: Store) -> None:
    broker = Broker(shared_store, extra=["--metrics", "0.0.0.0:0"])
    with pytest.raises(ProcessEnded):
        await broker.start()
    assert "--insecure" in broker.tail()


async def test_a_broker_can_log_json(shared_store: Store) -> None:
    broker = Broker(shared_store, extra=["--log-format", "json"])
    broker.ready_line = r"^({.*broker\.ready.*})$"
    async with broker:
        lines = [json.loads(line) for line in broker.tail(20).splitlines()]
    (ready,) = [line for line in lines if line["event"] == "broker.ready"]
    assert ready["level"] == "info"
    assert ready["grpc"].startswith("127.0.0.1:")
    assert {"timestamp", "id"} <= set(ready)
