"""QueueService, AdminService, health, reflection, and what is not served yet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from jobwire.v1 import admin_service_pb2, job_pb2
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import queue_service_pb2 as pb
from jobwire.v1 import worker_service_pb2 as work
from jobwire_broker import __version__

from tests.integration.broker.asking import completed, counts, enqueue, enqueue_all, failed, finish, lease, released, span, spec
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.raw_worker import RawWorker

SERVICES = [f"jobwire.v1.{name}" for name in ("JobService", "WorkerService", "QueueService", "EventService", "AdminService")]


@pytest.fixture
async def channel(shared_broker: Broker) -> AsyncIterator[grpc.aio.Channel]:
    """A connection without stubs."""
    async with shared_broker.channel() as channel:
        yield channel


# Queues ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_counts_say_how_many_jobs_are_where_and_what_was_ever_done(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(7)])
    await enqueue(api, queue, "later", delay=span(60))
    a, b, c, _ = await lease(api, queue, 4)
    await finish(api, completed(a), failed(b, permanent=True), completed(c))
    await api.jobs.CancelJob(jobs.CancelJobRequest(name=f"queues/{queue}/jobs/j6"))
    await api.jobs.DeleteJob(jobs.DeleteJobRequest(name=f"queues/{queue}/jobs/j0"))
    expected = job_pb2.JobCounts(waiting=2, active=1, delayed=1, completed=1, failed=1, cancelled=1, total=7, completed_total=2, failed_total=1)
    assert await counts(api, queue) == expected


async def test_a_queue_that_nobody_ever_used_is_not_found(api: Api, queue: str) -> None:
    refused = await refusal(counts(api, queue))
    assert (refused.code, refused.reason, refused.metadata) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND", {"queue": queue})
    assert (await refusal(api.queues.GetQueue(pb.GetQueueRequest(name=queue)))).fields == ("name",)


async def test_queues_list_by_name_page_by_page(api: Api, queue: str) -> None:
    names = [f"{queue}.{letter}" for letter in "cabZ9"]
    for name in names:
        await enqueue(api, name)
    found: list[pb.Queue] = []
    token = ""
    while True:
        page = await api.queues.ListQueues(pb.ListQueuesRequest(page_size=2, page_token=token))
        found += page.queues
        token = page.next_page_token
        if not token:
            break
    assert [q.queue for q in found if q.queue.startswith(f"{queue}.")] == sorted(names)
    assert [q.queue for q in found] == sorted({q.queue for q in found})
    assert {q.counts.waiting for q in found if q.queue in names} == {1}
    assert {q.name for q in found} == {f"queues/{q.queue}" for q in found}


@pytest.mark.parametrize(("size", "token", "field"), [(-1, "", "page_size"), (1001, "", "page_size"), (0, "AAAAAAAAAAAA", "page_token")])
async def test_a_page_of_queues_or_workers_out_of_its_bounds_is_refused(api: Api, size: int, token: str, field: str) -> None:
    for call in (
        api.queues.ListQueues(pb.ListQueuesRequest(page_size=size, page_token=token)),
        api.admin.ListWorkers(admin_service_pb2.ListWorkersRequest(page_size=size, page_token=token)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


async def test_a_paused_queue_delivers_nothing_and_goes_on_when_resumed(api: Api, shared_broker: Broker, second_broker: Broker, queue: str) -> None:
    name = f"queues/{queue}"
    await enqueue(api, queue, "running")
    async with RawWorker(shared_broker.address, queue) as worker, RawWorker(second_broker.address, queue) as other:
        await worker.hello(credit=1)
        (running,) = await worker.jobs(1)
        await other.hello(credit=5)
        for _ in range(2):
            assert (await api.queues.PauseQueue(pb.PauseQueueRequest(name=name))).queue.paused
        await enqueue_all(api, [spec(queue, "a"), spec(queue, "b")])
        assert await lease(api, queue, 5) == []
        # What runs goes on.
        assert (await worker.finish(completed(running)))[0].verdict == work.VERDICT_OK
        await other.finish(work.Finish(queue=queue, id="fence", token=1, release=work.Release()))
        assert not any(frame.jobs for frame in other.heard)
        paused = (await api.queues.GetQueue(pb.GetQueueRequest(name=name))).queue
        assert (paused.paused, paused.counts.waiting, paused.counts.completed, paused.workers) == (True, 2, 1, 2)
        for _ in range(2):
            assert not (await api.queues.ResumeQueue(pb.ResumeQueueRequest(name=name))).queue.paused
        # It was resumed through one broker, and its only worker with room is connected to another.
        async with asyncio.timeout(2):
            assert sorted(job.id for job in await other.jobs(2)) == ["a", "b"]


async def test_pausing_makes_a_queue_before_its_first_job(api: Api, queue: str) -> None:
    await api.queues.PauseQueue(pb.PauseQueueRequest(name=f"queues/{queue}"))
    assert (await counts(api, queue)).total == 0
    await enqueue(api, queue)
    assert await lease(api, queue) == []


@pytest.mark.parametrize("name", ["", "queues/", "queues/a/b", "a", "queues/a b"])
async def test_pausing_what_is_no_queue_is_refused(api: Api, name: str) -> None:
    for call in (api.queues.PauseQueue(pb.PauseQueueRequest(name=name)), api.queues.ResumeQueue(pb.ResumeQueueRequest(name=name))):
        refused = await refusal(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("name",))


# Admin -----------------------------------------------------------------------------------------------------------------------------------------------


async def workers_of(api: Api, queue: str, size: int = 1000) -> dict[str, admin_service_pb2.Worker]:
    """The workers of one queue by their labels, read page by page."""
    found: list[admin_service_pb2.Worker] = []
    token = ""
    while True:
        page = await api.admin.ListWorkers(admin_service_pb2.ListWorkersRequest(page_size=size, page_token=token))
        found += page.workers
        token = page.next_page_token
        if not token:
            break
    assert [w.session for w in found] == sorted({w.session for w in found})
    return {w.instance_id: w for w in found if queue in w.queues}


async def test_workers_list_with_what_they_said_and_what_they_hold_over_all_brokers(api: Api, shared_broker: Broker, second_broker: Broker, queue: str) -> None:
    a, b = f"{queue}.a", f"{queue}.b"
    await enqueue_all(api, [spec(q) for q in (a, a, b)])
    async with RawWorker(shared_broker.address, a, b) as worker, RawWorker(second_broker.address, a) as other:
        hello = work.Hello(session=worker.session, epoch=1, instance_id="host-1", queues=[a, b], sdk="test 1.0", concurrency=7)
        await worker.send(work.WorkRequest(hello=hello, credit=work.Credit(jobs=3)))
        jobs_held = await worker.jobs(3)
        await other.hello()
        found = await workers_of(api, a, size=1)
        assert set(found) == {"host-1", "raw"}
        one = found["host-1"]
        assert (one.session, list(one.queues), one.active, one.concurrency, one.sdk) == (worker.session.hex(), [a, b], 3, 7, "test 1.0")
        assert one.broker_id != found["raw"].broker_id
        assert one.connect_time.seconds > 0
        await worker.finish(*(released(job) for job in jobs_held))
        await worker.send(work.WorkRequest(goodbye=work.Goodbye()))
        await worker._call.read()
    assert "host-1" not in await workers_of(api, a)


async def test_server_info_says_which_broker_and_which_store(api: Api, redis_api: Api) -> None:
    info = await api.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
    assert (info.version, info.store_available, info.disk_durability) == (__version__, True, True)
    assert info.store_version.startswith("valkey ")
    assert info.broker_id
    assert info.HasField("uptime")
    redis_info = await redis_api.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
    assert redis_info.store_version.startswith("redis 7.0")
    assert not redis_info.disk_durability
    assert redis_info.broker_id != info.broker_id


# Standard services -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_is_serving_for_the_server_and_each_service(channel: grpc.aio.Channel, service: str) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    assert (await refusal(stub.Check(health_pb2.HealthCheckRequest(service="none")))).code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_every_service_and_gives_its_file(channel: grpc.aio.Channel, version: str) -> None:
    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    standard = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == {*SERVICES, *standard}
    for name in [*SERVICES, "grpc.health.v1.Health"]:
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        packages = {FileDescriptorProto.FromString(file).package for file in files}
        assert name.rpartition(".")[0] in packages
    call.cancel()


UNSERVED: list[Callable[[Api], Awaitable[object]]] = [
    lambda api: api.admin.DrainWorker(admin_service_pb2.DrainWorkerRequest()),
    lambda api: api.admin.CheckConsistency(admin_service_pb2.CheckConsistencyRequest()),
]


async def test_what_is_not_served_says_so_and_leaves_no_trace_in_the_log(api: Api, channel: grpc.aio.Channel, shared_broker: Broker) -> None:
    before = len(shared_broker.lines())
    for call in UNSERVED:
        refused = await refusal(call(api))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SERVED")
    unknown: Any = channel.unary_unary("/jobwire.v1.ScheduleService/CreateSchedule")
    assert (await refusal(unknown(b""))).code == grpc.StatusCode.UNIMPLEMENTED
    assert not [line for line in shared_broker.lines()[before:] if "Traceback" in line or "UNIMPLEMENTED" in line]


async def test_a_message_over_16_mib_and_headers_over_16_kib_are_refused_and_the_broker_goes_on(api: Api, queue: str) -> None:
    big = jobs.EnqueueBatchRequest(jobs=[spec(queue, payload=job_pb2.Payload(data=bytes(1 << 20))) for _ in range(17)])
    assert (await refusal(api.jobs.EnqueueBatch(big))).code == grpc.StatusCode.RESOURCE_EXHAUSTED
    call = api.jobs.GetJob(jobs.GetJobRequest(name=f"queues/{queue}/jobs/a"), metadata=(("x-huge", "x" * 40_000),))
    assert (await refusal(call)).code == grpc.StatusCode.RESOURCE_EXHAUSTED
    await enqueue(api, queue)
