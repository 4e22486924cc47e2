"""JobService.Enqueue and EnqueueBatch: identity, verdicts, dates, order, durability."""

import asyncio
import time
from collections.abc import Awaitable

import grpc
import pytest
import redis.asyncio as redis
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work

from tests.integration.broker.asking import (
    completed,
    counts,
    enqueue,
    enqueue_all,
    finish,
    get,
    job_name_of,
    lease,
    listed,
    micros,
    patiently,
    released,
    span,
    spec,
)
from tests.support import Broker, Store
from tests.support.api import Api, refusal
from tests.support.api import api as connected
from tests.support.raw_worker import RawWorker

HEX = set("0123456789abcdef")


async def test_enqueue_answers_with_the_address_and_an_id_that_sorts_by_time(api: Api, queue: str) -> None:
    first = await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue)))
    await asyncio.sleep(0.002)
    second = await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue)))
    assert first.name == job_name_of(queue, first.id)
    assert first.verdict == pb.ENQUEUE_VERDICT_MADE
    assert len(first.id) == 32
    assert set(first.id) <= HEX
    assert first.id < second.id


async def test_a_new_job_carries_what_was_asked_for_and_the_defaults(api: Api, queue: str) -> None:
    before = time.time()
    name = await enqueue(api, queue, "one", payload=job_pb2.Payload(json='{"n": 1}'))
    job = await get(api, name)
    assert (job.queue, job.id, job.job_name, job.state) == (queue, "one", "work", job_pb2.JOB_STATE_WAITING)
    assert (job.priority, job.attempt, job.max_attempts, job.token) == (5, 0, 3, 0)
    assert job.payload.json == '{"n": 1}'
    assert before - 1 <= job.create_time.ToSeconds() <= time.time() + 1
    assert not job.HasField("due_time")
    assert not job.HasField("start_time")
    assert not job.HasField("finish_time")


async def test_the_same_enqueue_twice_makes_one_job(api: Api, queue: str) -> None:
    fields = {"payload": job_pb2.Payload(data=b"\0\1", content_type="image/webp"), "priority": 0, "attempts": 7, "delay": span(60)}
    for _ in range(2):
        answer = await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue, "same", **fields)))
        assert answer.verdict == pb.ENQUEUE_VERDICT_MADE
    assert (await counts(api, queue)).total == 1


@pytest.mark.parametrize(
    "other",
    [{"payload": job_pb2.Payload(json="2")}, {"priority": 6}, {"attempts": 4}, {"job_name": "other"}, {"delay": span(5)}],
    ids=["payload", "priority", "attempts", "job_name", "delay"],
)
async def test_an_id_is_refused_for_other_content_and_the_first_job_stays(api: Api, queue: str, other: dict[str, object]) -> None:
    name = await enqueue(api, queue, "taken", payload=job_pb2.Payload(json="1"))
    before = await get(api, name)
    refused = await refusal(api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue, "taken", **{"payload": job_pb2.Payload(json="1"), **other}))))
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS", ("job.id",))
    assert await get(api, name) == before


async def test_the_same_id_in_another_queue_is_another_job(api: Api, queue: str) -> None:
    await enqueue(api, queue, "one")
    await enqueue(api, f"{queue}.b", "one", job_name="other")
    assert (await get(api, job_name_of(f"{queue}.b", "one"))).job_name == "other"


async def test_repeating_the_enqueue_of_a_job_that_was_deleted_does_not_make_it_again(api: Api, queue: str) -> None:
    name = await enqueue(api, queue, "gone")
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=name))
    assert (await api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue, "gone")))).verdict == pb.ENQUEUE_VERDICT_MADE
    assert (await counts(api, queue)).total == 0


async def test_one_bad_job_in_a_batch_hinders_none_of_the_others(api: Api, queue: str) -> None:
    await enqueue(api, queue, "taken", job_name="before")
    specs = [spec(queue, "a"), spec(queue, "b", attempts=-1), spec(queue, "taken"), spec("bad queue", "c"), spec(f"{queue}.b", "d"), spec(queue)]
    a, b, taken, c, d, minted = await enqueue_all(api, specs)
    made, refused = pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_REFUSED
    assert [item.verdict for item in (a, b, taken, c, d, minted)] == [made, refused, refused, refused, made, made]
    assert (b.error.code, b.error.reason, b.error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD", "jobs[1].attempts")
    assert (taken.error.code, taken.error.reason, taken.error.field) == (grpc.StatusCode.ALREADY_EXISTS.value[0], "JOB_EXISTS", "jobs[2].id")
    assert (c.error.reason, c.error.field) == ("INVALID_FIELD", "jobs[3].queue")
    assert b.error.message
    assert (a.id, d.id, len(minted.id)) == ("a", "d", 32)
    assert set(await listed(api, queue, job_pb2.JOB_STATE_WAITING)) == {"taken", "a", minted.id}
    assert await listed(api, f"{queue}.b", job_pb2.JOB_STATE_WAITING) == ["d"]


async def test_a_batch_of_bad_jobs_alone_gets_its_verdicts_and_makes_no_queue(api: Api, queue: str) -> None:
    items = await enqueue_all(api, [spec(queue, job_name=""), spec(queue, job_name="x" * 129)])
    assert [item.error.field for item in items] == ["jobs[0].job_name", "jobs[1].job_name"]


async def test_the_same_id_twice_in_one_batch_makes_one_job_or_is_refused_for_other_content(api: Api, queue: str) -> None:
    items = await enqueue_all(api, [spec(queue, "one"), spec(queue, "one"), spec(queue, "one", priority=9)])
    assert [item.verdict for item in items] == [pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_MADE, pb.ENQUEUE_VERDICT_REFUSED]
    assert (await counts(api, queue)).total == 1


@pytest.mark.parametrize("size", [0, 1001])
async def test_a_batch_out_of_its_bounds_is_refused_as_a_whole(api: Api, queue: str, size: int) -> None:
    refused = await refusal(enqueue_all(api, [spec(queue) for _ in range(size)]))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")


async def test_a_batch_of_a_thousand_jobs_is_made_in_its_order(api: Api, queue: str) -> None:
    ids = [f"j{i}" for i in range(1000)]
    items = await enqueue_all(api, [spec(queue, job) for job in ids])
    assert {item.verdict for item in items} == {pb.ENQUEUE_VERDICT_MADE}
    assert await listed(api, queue, job_pb2.JOB_STATE_WAITING) == ids


# Bad input -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "job"),
    [
        ("job.queue", spec("")),
        ("job.queue", spec("x" * 101)),
        ("job.queue", spec("a/b")),
        ("job.queue", spec("ä")),
        ("job.queue", spec(".hidden")),
        ("job.job_name", spec("q", job_name=" ")),
        ("job.id", spec("q", "x" * 129)),
        ("job.id", spec("q", "a b")),
        ("job.id", spec("q", "a\n")),
        ("job.attempts", spec("q", attempts=1001)),
        ("job.delay", spec("q", delay=span(-1))),
        ("job.delay", spec("q", delay=span(3651 * 86400))),
        ("job.delay_until", spec("q", delay=span(1), delay_until=Timestamp(seconds=1))),
        ("job.delay_until", spec("q", delay_until=Timestamp(seconds=-1))),
        ("job.backoff.base", spec("q", backoff=job_pb2.Backoff(base=span(-1)))),
        ("job.backoff.factor", spec("q", backoff=job_pb2.Backoff(factor=0.5))),
        ("job.backoff.factor", spec("q", backoff=job_pb2.Backoff(factor=float("nan")))),
        ("job.backoff.jitter", spec("q", backoff=job_pb2.Backoff(jitter=1.1))),
        ("job.backoff.max_delay", spec("q", backoff=job_pb2.Backoff(max_delay=span(31 * 86400)))),
        ("job.payload.content_type", spec("q", payload=job_pb2.Payload(data=b"x", content_type="x" * 129))),
    ],
)
async def test_a_field_out_of_its_bounds_is_named_and_nothing_is_made(api: Api, queue: str, field: str, job: job_pb2.JobSpec) -> None:
    if job.queue == "q":
        job.queue = queue
    refused = await refusal(api.jobs.Enqueue(pb.EnqueueRequest(job=job)))
    assert (refused.code, refused.reason, refused.domain, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "jobwire", (field,))
    assert field in refused.message
    assert await listed(api, queue, job_pb2.JOB_STATE_WAITING) == []


async def test_an_enqueue_without_a_job_is_refused(api: Api) -> None:
    assert (await refusal(api.jobs.Enqueue(pb.EnqueueRequest()))).fields == ("job",)


async def test_a_payload_over_1_mib_is_refused_with_the_limit_and_one_of_1_mib_is_not(api: Api, queue: str) -> None:
    refused = await refusal(enqueue(api, queue, payload=job_pb2.Payload(data=bytes((1 << 20) + 1))))
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", ("job.payload",))
    assert "1048576" in refused.message
    name = await enqueue(api, queue, payload=job_pb2.Payload(data=bytes(1 << 20)))
    assert len((await get(api, name)).payload.data) == 1 << 20


async def test_odd_but_allowed_names_are_kept_as_they_are(api: Api, queue: str) -> None:
    odd = f"{queue}.~-_Z"
    name = await enqueue(api, odd, "Z:@+=-._~9", job_name="a/b:c@1.0")
    job = await get(api, name)
    assert (job.queue, job.id, job.job_name) == (odd, "Z:@+=-._~9", "a/b:c@1.0")


# Dates and order -------------------------------------------------------------------------------------------------------------------------------------


async def test_a_delayed_job_starts_at_its_time_and_not_before(api: Api, shared_broker: Broker, queue: str) -> None:
    name = await enqueue(api, queue, "later", delay=span(0.4))
    job = await get(api, name)
    assert job.state == job_pb2.JOB_STATE_DELAYED
    assert micros(job.due_time) - micros(job.create_time) == pytest.approx(400_000, abs=1_000)
    async with RawWorker(shared_broker.address, queue) as worker:
        await worker.hello(credit=1)
        (delivery,) = await worker.jobs(1)
        assert micros(job.due_time) <= delivery.token <= micros(job.due_time) + 500_000


async def test_delay_until_is_a_date_and_one_in_the_past_means_now(api: Api, queue: str) -> None:
    later, past = Timestamp(), Timestamp(seconds=1)
    later.FromMilliseconds(int(time.time() * 1000) + 3_600_123)
    assert (await get(api, await enqueue(api, queue, delay_until=later))).due_time == later
    assert (await get(api, await enqueue(api, queue, delay_until=past))).state == job_pb2.JOB_STATE_WAITING


async def test_lower_numbers_run_first_and_equal_ones_in_the_order_they_came(api: Api, queue: str) -> None:
    priorities = [5, 10, -3, 5, 0, 20, 1, 0, None, -3]
    specs = [spec(queue, f"j{i}", **({} if p is None else {"priority": p})) for i, p in enumerate(priorities)]
    await enqueue_all(api, specs)
    expected = [f"j{i}" for _, i in sorted((5 if p is None else p, i) for i, p in enumerate(priorities))]
    assert await listed(api, queue, job_pb2.JOB_STATE_WAITING, size=3) == expected
    assert [job.id for job in await lease(api, queue, 100)] == expected


async def test_a_job_that_was_handed_back_regains_its_place(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, job) for job in "abc"])
    (first,) = await lease(api, queue)
    await finish(api, released(first))
    assert await listed(api, queue, job_pb2.JOB_STATE_WAITING) == ["a", "b", "c"]
    assert (await get(api, job_name_of(queue, "a"))).attempt == 0


# Durability ------------------------------------------------------------------------------------------------------------------------------------------


async def test_disk_durability_answers_only_after_the_append_only_file_is_on_disk(store: Store) -> None:
    async with Broker(store) as broker, connected(broker) as api:
        assert (await api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q", "kept"), durability=job_pb2.DURABILITY_DISK))).verdict == pb.ENQUEUE_VERDICT_MADE
        batch = pb.EnqueueBatchRequest(jobs=[spec("q", f"b{i}") for i in range(300)], durability=job_pb2.DURABILITY_DISK)
        began = time.monotonic()
        await asyncio.gather(api.jobs.EnqueueBatch(batch), *(_on_disk(api, f"single{i}") for i in range(20)))
        # Twenty calls one after the other would take twenty seconds at everysec.
        assert time.monotonic() - began < 5
        # What the kernel has of the file is what a crash of the process leaves, and the fsync was behind it.
        await store.kill()
        await store.restart()
        assert (await patiently(lambda: counts(api, "q"))).waiting == 321


async def _on_disk(api: Api, job: str) -> None:
    await api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q", job), durability=job_pb2.DURABILITY_DISK))


@pytest.mark.parametrize("settings", [["--appendonly", "no"], ["--appendfsync", "no"]], ids=["without an append-only file", "with appendfsync no"])
async def test_disk_durability_is_refused_and_nothing_is_made_on_a_store(settings: list[str]) -> None:
    async with Store(extra=settings) as store, Broker(store) as broker, connected(broker) as api:
        await _disk_is_refused(api, "q")


async def test_disk_durability_is_refused_and_nothing_is_made_on_redis_7_0(redis_api: Api, queue: str) -> None:
    await _disk_is_refused(redis_api, queue)


async def _disk_is_refused(api: Api, queue: str) -> None:
    calls: list[Awaitable[object]] = [
        api.jobs.Enqueue(pb.EnqueueRequest(job=spec(queue), durability=job_pb2.DURABILITY_DISK)),
        api.jobs.EnqueueBatch(pb.EnqueueBatchRequest(jobs=[spec(queue)], durability=job_pb2.DURABILITY_DISK)),
    ]
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DURABILITY_UNSUPPORTED")
    assert await listed(api, queue, job_pb2.JOB_STATE_WAITING) == []


async def test_a_full_store_takes_no_job_and_still_lets_its_jobs_be_leased_finished_cancelled_and_deleted(store: Store) -> None:
    client = redis.Redis.from_url(store.url, protocol=2)
    async with Broker(store) as before, connected(before) as api:
        await enqueue_all(api, [spec("q", job) for job in ("a", "b", "c", "d")])
    await client.config_set("maxmemory", "1mb")
    await client.aclose()
    # A broker that comes when the store is full already.
    async with Broker(store) as broker, connected(broker) as api, RawWorker(broker.address, "q", "new") as worker:
        for queue in ("q", "new"):
            refused = await refusal(enqueue(api, queue))
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
            assert refused.retry_after_s
        refused = await refusal(enqueue_all(api, [spec("q"), spec("q")]))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        (ack,) = await worker.finish(completed(job, result="1"))
        assert (ack.verdict, ack.state) == (work.VERDICT_OK, job_pb2.JOB_STATE_COMPLETED)
        (leased,) = await lease(api, "q")
        assert (await finish(api, released(leased)))[0].state == job_pb2.JOB_STATE_WAITING
        assert (await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of("q", "b")))).job.state == job_pb2.JOB_STATE_CANCELLED
        await api.jobs.DeleteJob(pb.DeleteJobRequest(name=job_name_of("q", "c")))
        kept = await counts(api, "q")
        assert (kept.waiting, kept.completed, kept.cancelled, kept.total) == (1, 1, 1, 3)
