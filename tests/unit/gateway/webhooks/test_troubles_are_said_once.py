"""A right that is missing is missing at each try, so that is said when it begins, when it becomes something else, and when it comes back."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from jobwire.v1.job_service_pb2 import ListJobsRequest, ListJobsResponse
from jobwire.v1.queue_service_pb2 import ListQueuesRequest, ListQueuesResponse
from jobwire_gateway.webhooks import look_back, server
from jobwire_gateway.webhooks.config import WebhookConfig, WebhookSettings
from jobwire_gateway.webhooks.endpoints import Endpoint, QueuePattern
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.secrets import Secret
from jobwire_gateway.webhooks.server import Webhooks

Context = grpc.aio.ServicerContext[Any, Any]

TRIES = ("no right to list", "no right to list", "", "no right to list", "no right at all", "no right at all")
SAID = ["no right to list", "no right to list", "no right at all"]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_back, "_RETRY_S", 0.0)
    monkeypatch.setattr(server, "_NEW_QUEUES_S", 0.0)


class Refusing:
    """A broker that answers its calls as TRIES say, and then says nothing more. `all_tried` is set by then."""

    def __init__(self) -> None:
        self.all_tried = asyncio.Event()
        self._tries = iter(TRIES)

    async def list_jobs(self, request: ListJobsRequest, context: Context) -> ListJobsResponse:
        await self._answer(context)
        return ListJobsResponse()

    async def list_queues(self, request: ListQueuesRequest, context: Context) -> ListQueuesResponse:
        await self._answer(context)
        return ListQueuesResponse()

    async def _answer(self, context: Context) -> None:
        refusal = next(self._tries, None)
        if refusal is None:
            self.all_tried.set()
            await asyncio.Event().wait()
        if refusal:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)


@asynccontextmanager
async def refused() -> AsyncIterator[tuple[Refusing, Webhooks]]:
    broker = Refusing()
    grpc_server = grpc.aio.server()
    for service, method, answer, request, response in (
        ("JobService", "ListJobs", broker.list_jobs, ListJobsRequest, ListJobsResponse),
        ("QueueService", "ListQueues", broker.list_queues, ListQueuesRequest, ListQueuesResponse),
    ):
        handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString)
        grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"jobwire.v1.{service}", {method: handler}),))
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    endpoint = Endpoint(
        name="shop", url="https://shop.example/", secrets=(Secret(file=Path("none")),), queues=(QueuePattern("orders"),), events=frozenset({"job.failed"})
    )
    webhooks = Webhooks(WebhookConfig(settings=WebhookSettings(endpoints=(endpoint,)), broker=f"127.0.0.1:{port}"), WebhookMetrics())
    try:
        yield broker, webhooks
    finally:
        await webhooks._brokers.close()
        await grpc_server.stop(None)


async def test_a_queue_that_cant_be_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    async with refused() as (broker, webhooks):
        looking = webhooks._look_back

        async def doubting() -> None:
            """As each new stream to a broker does."""
            while True:
                looking.doubt("orders")
                await looking.idle.wait()

        await until_all_are_tried(broker, looking.run, doubting)
    assert said(caplog, "webhooks.look_back_failed queue=orders error=") == SAID


async def test_queues_that_cant_be_listed(caplog: pytest.LogCaptureFixture) -> None:
    async with refused() as (broker, webhooks):
        await until_all_are_tried(broker, webhooks._find_queues)
    assert said(caplog, "webhooks.queues_not_read error=") == SAID


async def until_all_are_tried(broker: Refusing, *works: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(work()) for work in works]
    async with asyncio.timeout(60):
        await broker.all_tried.wait()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def said(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    """What the warnings with this beginning end with."""
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [warning.removeprefix(beginning) for warning in warnings if warning.startswith(beginning)]
