"""Bulk runs as those see them who did not begin them: at another broker, after the broker that ran them was killed, and after their stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.errors import BrokerError
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services import bulk
from jobwire_client import BulkPlan, BulkRunStopped, Client

from tests.integration.broker.asking import counts, enqueue_all, spec
from tests.integration.broker.test_bulk import CANCEL, DELETE, RESOLVE, count, request, run
from tests.support import Broker, Store
from tests.support.api import Api, refusal
from tests.support.api import api as connected
from tests.support.queue_lab import QueueLab, open_lab
from tests.support.relay import Link, Relay
from tests.support.resp import first_words, value_end

RUNNING, FINISHED = pb.BULK_RUN_STATE_RUNNING, pb.BULK_RUN_STATE_FINISHED
STOPPED, ABANDONED = pb.BULK_RUN_STATE_STOPPED, pb.BULK_RUN_STATE_ABANDONED
UNKNOWN = "0" * 16
STEP = 128


@pytest.fixture
async def second_api(second_broker: Broker) -> AsyncIterator[Api]:
    async with connected(second_broker) as api:
        yield api


@pytest.fixture
async def lab(shared_store: Store, queue: str) -> AsyncIterator[QueueLab]:
    """The same queue without a broker."""
    async with open_lab(shared_store, queue) as lab:
        yield lab


async def read(api: Api, name: str) -> pb.BulkRun:
    return (await api.jobs.GetBulkRun(pb.GetBulkRunRequest(name=name))).run


async def listed(api: Api, queue: str) -> list[pb.BulkRun]:
    return list((await api.jobs.ListBulkRuns(pb.ListBulkRunsRequest(parent=f"queues/{queue}"))).runs)


async def stop(api: Api, name: str) -> pb.BulkRun:
    return (await api.jobs.StopBulkRun(pb.StopBulkRunRequest(name=name))).run


async def begun(lab: QueueLab, name: str) -> None:
    """Begin a run as a broker does, and take no step."""
    number = bytes.fromhex(name.rpartition("/")[2])
    assert (await lab.store.begin_run(number, await lab.store.moment(), pb.BulkRun(matched=3).SerializeToString())).word == "OK"


async def silent(lab: QueueLab, name: str) -> None:
    """Let it be eleven seconds ago that anything was heard of a run."""
    await lab.redis.hincrby((lab.base + "B").encode() + bytes.fromhex(name.rpartition("/")[2]), "seen", -11_000)


# What is known of a run -------------------------------------------------------------------------------------------------------------------------------


async def test_a_run_is_known_at_every_broker_with_what_it_does_and_how_it_ended(api: Api, second_api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}", group="acme") for i in range(3)])
    asked = request(queue, CANCEL, states=[job_pb2.JOB_STATE_WAITING], group="acme", grace=Duration(seconds=5))
    dry = await count(api, asked)
    assert (await refusal(second_api.jobs.GetBulkRun(pb.GetBulkRunRequest(name=dry.run)))).reason == "BULK_RUN_NOT_FOUND"
    await enqueue_all(api, [spec(queue, "later", group="acme")])
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=f"queues/{queue}/jobs/j0"))
    answers = await run(api, asked, dry.token)
    assert {answer.run for answer in answers} == {dry.run}
    found = await read(second_api, dry.run)
    assert await listed(second_api, queue) == [found]
    assert (found.name, found.verb, found.filter, found.grace, found.note) == (dry.run, CANCEL, asked.filter, asked.grace, "")
    assert (found.state, found.matched, found.done, found.skipped) == (FINISHED, 3, 2, 1)
    assert (found.started_by, found.stopped_by) == ("", "")
    assert 0 < found.start_time.ToMicroseconds() <= found.finish_time.ToMicroseconds()


async def test_runs_are_listed_page_by_page_the_last_one_first(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    names = []
    for note in ("one", "two", "three"):
        dry = await count(api, request(queue, RESOLVE))
        await run(api, request(queue, RESOLVE, note=note), dry.token)
        names.append(dry.run)
    pages: list[pb.BulkRun] = []
    token = ""
    while len(pages) < 3:
        page = await api.jobs.ListBulkRuns(pb.ListBulkRunsRequest(parent=f"queues/{queue}", page_size=1, page_token=token))
        pages += page.runs
        token = page.next_page_token
    assert (pages, token) == (await listed(api, queue), "")
    assert sorted((found.name, found.note) for found in pages) == sorted(zip(names, ("one", "two", "three"), strict=True))
    starts = [found.start_time.ToMicroseconds() for found in pages]
    assert starts == sorted(starts, reverse=True)


async def test_a_queue_without_runs_lists_none(api: Api, queue: str) -> None:
    assert await listed(api, queue) == []


async def test_a_run_of_which_nothing_is_heard_is_abandoned_and_goes_on_with_its_token(api: Api, second_api: Api, queue: str, lab: QueueLab) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(3)])
    asked = request(queue, DELETE)
    dry = await count(api, asked)
    await begun(lab, dry.run)
    assert (await read(api, dry.run)).state == RUNNING
    await silent(lab, dry.run)
    found = await read(second_api, dry.run)
    assert (found.state, found.HasField("finish_time")) == (ABANDONED, True)
    assert (await run(second_api, asked, dry.token))[-1].done == 3
    assert ((await read(api, dry.run)).state, (await read(api, dry.run)).done) == (FINISHED, 3)


# Its stop ---------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_run_that_was_stopped_does_not_go_on_and_its_caller_is_told(api: Api, second_api: Api, queue: str, lab: QueueLab) -> None:
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(3)])
    asked = request(queue, DELETE)
    dry = await count(api, asked)
    await begun(lab, dry.run)
    stopped = await stop(second_api, dry.run)
    assert (stopped.name, stopped.state, stopped.done, stopped.HasField("finish_time")) == (dry.run, STOPPED, 0, True)
    assert await stop(api, dry.run) == stopped == await read(api, dry.run), "to stop it again is no error"
    asked.token = dry.token
    told = await refusal(api.jobs.BulkJobs(asked).read())
    assert (told.code, told.reason) == (grpc.StatusCode.ABORTED, "BULK_RUN_STOPPED")
    assert (told.metadata, dry.run in told.message) == ({"name": dry.run, "by": "", "done": "0"}, True)
    assert (await counts(api, queue)).waiting == 3


async def test_a_run_that_finds_nothing_to_do_says_that_it_goes_on_and_hears_of_its_stop(
    api: Api, queue: str, lab: QueueLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_QUIET_S", 0.0)
    await enqueue_all(api, [spec(queue, f"j{i}") for i in range(500)])
    registry = Registry(lab.client, 10_000)
    asked = request(queue, DELETE, group="nobody")
    (dry,) = [answer async for answer in bulk.bulk_jobs(registry, asked)]
    asked.token = dry.token
    async with aclosing(bulk.bulk_jobs(registry, asked)) as answers:
        await anext(answers)
        await silent(lab, dry.run)
        assert (await anext(answers), (await read(api, dry.run)).state) == (pb.BulkJobsResponse(run=dry.run), RUNNING)
        await stop(api, dry.run)
        with pytest.raises(BrokerError, match="was stopped; 0 of 0 jobs were done"):
            await anext(answers)


async def test_what_has_finished_is_not_stopped(api: Api, queue: str) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    dry = await count(api, request(queue, DELETE))
    await run(api, request(queue, DELETE), dry.token)
    refused = await refusal(api.jobs.StopBulkRun(pb.StopBulkRunRequest(name=dry.run)))
    assert (refused.code, refused.reason, refused.metadata) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", {"state": "finished"})
    assert (await read(api, dry.run)).state == FINISHED


async def test_no_more_runs_begin_while_a_hundred_are_under_way(api: Api, queue: str, lab: QueueLab) -> None:
    await enqueue_all(api, [spec(queue, "a")])
    asked = request(queue, DELETE)
    asked.token = (await count(api, asked)).token
    names = [f"queues/{queue}/bulkRuns/{i:016x}" for i in range(100)]
    for name in names:
        await begun(lab, name)
        await lab.redis.hincrby((lab.base + "B").encode() + bytes.fromhex(name.rpartition("/")[2]), "seen", 3_600_000)
    refused = await refusal(api.jobs.BulkJobs(asked).read())
    assert (refused.code, refused.reason, refused.quota) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_BULK_RUNS", (f"queues/{queue}",))
    assert refused.retry_after_s == 5
    await stop(api, names[5])
    assert [answer.done async for answer in api.jobs.BulkJobs(asked)][-1] == 1
    assert (await refusal(api.jobs.GetBulkRun(pb.GetBulkRunRequest(name=names[5])))).reason == "BULK_RUN_NOT_FOUND"


# Brokers that are held up, and killed -------------------------------------------------------------------------------------------------------------------


class HoldingStore(Relay):
    """Stands before a store. Lets the first step of a bulk run through, and the others wait until they are let go."""

    def __init__(self, store: Store) -> None:
        super().__init__(str(store.socket))
        self.hold()

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def hold(self) -> None:
        """From now on."""
        self._steps, self._free = 0, asyncio.Event()

    def let_go(self) -> None:
        """Those that wait, and those that come."""
        self._free.set()

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        if not up:
            await super().pump(link, reader, writer, up=up)
            return
        buffer = b""
        while data := await reader.read(1 << 16):
            buffer += data
            while buffer and (end := value_end(buffer, 0)) is not None:
                if first_words(buffer[:end], 2)[-1].endswith(b"_bulk"):
                    self._steps += 1
                    if self._steps > 1:
                        await self._free.wait()
                writer.write(buffer[:end])
                buffer = buffer[end:]
            await writer.drain()


async def carry_on(broker: Broker, plan: BulkPlan, first: asyncio.Future[int]) -> None:
    """A run of the Python client, which asks again when the broker loses its store."""
    async with Client(broker.address, timeout=20) as client:
        async for step in client.run_bulk(plan):
            if not first.done():
                first.set_result(step.done)


async def test_a_run_is_stopped_through_another_broker_and_is_known_for_abandoned_when_its_caller_or_its_own_is_gone(
    shared_store: Store, second_broker: Broker, second_api: Api, queue: str, lab: QueueLab
) -> None:
    await enqueue_all(second_api, [spec(queue, f"j{i}") for i in range(500)])
    async with Client(second_broker.address) as client:
        plan = await client.plan_bulk(queue, "delete")
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with HoldingStore(shared_store) as held, Broker(held.url) as broker, connected(broker) as api:
        running = asyncio.create_task(carry_on(broker, plan, first))
        assert (await first, (await read(second_api, plan.run)).done) == (STEP, STEP)
        assert ((await stop(second_api, plan.run)).done, (await counts(second_api, queue)).waiting) == (STEP, 500 - STEP)
        held.let_go()
        with pytest.raises(BulkRunStopped, match="128 of 500 jobs were done") as told:
            await running
        assert (told.value.by, told.value.done) == ("", STEP)
        assert ((await counts(second_api, queue)).waiting, (await read(second_api, plan.run)).state) == (500 - STEP, STOPPED)

        held.hold()
        asked = request(queue, DELETE)
        dry = await count(second_api, asked)
        asked.token = dry.token
        call = api.jobs.BulkJobs(asked)
        answer = await call.read()
        assert isinstance(answer, pb.BulkJobsResponse)
        assert answer.done == STEP
        call.cancel()
        while (await read(second_api, dry.run)).state == RUNNING:
            await asyncio.sleep(0.01)
        assert (await read(second_api, dry.run)).state == ABANDONED

        held.hold()
        call = api.jobs.BulkJobs(asked)  # which ends when it is let go of
        answer = await call.read()
        assert isinstance(answer, pb.BulkJobsResponse)
        assert (answer.done, (await read(second_api, dry.run)).state) == (2 * STEP, RUNNING)
        await broker.kill()
        await silent(lab, dry.run)
        assert [(found.name, found.state, found.done) for found in await listed(second_api, queue)] == [
            (dry.run, ABANDONED, 2 * STEP),
            (plan.run, STOPPED, STEP),
        ]
        assert (await run(second_api, asked, dry.token))[-1].done == 500 - STEP
        assert (await read(second_api, dry.run)).state == FINISHED
        assert (await counts(second_api, queue)).total == 0


# Bad names ----------------------------------------------------------------------------------------------------------------------------------------------

NO_RUNS = ["", "queues/q", "queues/q/bulkRuns/", "queues/q/bulkRuns/xyz", "queues/q/bulkRuns/" + "0" * 17, "queues/q/bulkRuns/" + "A" * 16]
NO_RUNS += ["queues/q/jobs/" + UNKNOWN, "queues/a b/bulkRuns/" + UNKNOWN, f"queues/q/bulkRuns/{UNKNOWN}/x"]


@pytest.mark.parametrize("name", NO_RUNS)
async def test_a_name_that_is_none_is_named(api: Api, name: str) -> None:
    for call in (api.jobs.GetBulkRun(pb.GetBulkRunRequest(name=name)), api.jobs.StopBulkRun(pb.StopBulkRunRequest(name=name))):
        refused = await refusal(call)
        assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", ("name",))


async def test_what_is_not_known_is_not_found(api: Api, queue: str) -> None:
    name = f"queues/{queue}/bulkRuns/{UNKNOWN}"
    for call in (api.jobs.GetBulkRun(pb.GetBulkRunRequest(name=name)), api.jobs.StopBulkRun(pb.StopBulkRunRequest(name=name))):
        refused = await refusal(call)
        assert (refused.code, refused.reason, refused.metadata) == (grpc.StatusCode.NOT_FOUND, "BULK_RUN_NOT_FOUND", {"name": name})


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"parent": "q"}, "parent", "INVALID_FIELD"),
        ({"page_size": 1001}, "page_size", "INVALID_FIELD"),
        ({"page_size": -1}, "page_size", "INVALID_FIELD"),
        ({"page_token": "x"}, "page_token", "PAGE_TOKEN_INVALID"),
    ],
)
async def test_a_bad_list_is_refused(api: Api, queue: str, fields: dict[str, Any], field: str, reason: str) -> None:
    refused = await refusal(api.jobs.ListBulkRuns(pb.ListBulkRunsRequest(**{"parent": f"queues/{queue}", **fields})))
    assert (refused.code, refused.reason, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, (field,))
