"""The proxies break exactly what they are told to break."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from jobwire.v1 import worker_service_pb2 as work
from jobwire.v1.worker_service_pb2_grpc import WorkerServiceStub
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.support.cutting_proxy import Cut, CuttingProxy
from tests.support.lossy_store import Loss, LossyStore
from tests.support.store import Store

if TYPE_CHECKING:
    from jobwire.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

ECHO = "#!lua name=echo\nredis.register_function('echo', function(keys, args) redis.call('INCR', keys[1]) return args[1] end)"


class Echo:
    """The Work stream alone: answers every pong by a ping of the same number, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[int] = []

    async def Work(self, request_iterator: AsyncIterator[work.WorkRequest], context: object) -> AsyncIterator[work.WorkResponse]:
        async for request in request_iterator:
            self.got.append(request.pong.number)
            yield work.WorkResponse(ping=work.Ping(number=request.pong.number))


def _work_handler(echo: Echo) -> "grpc.RpcMethodHandler[work.WorkRequest, work.WorkResponse]":
    return grpc.stream_stream_rpc_method_handler(echo.Work, work.WorkRequest.FromString, work.WorkResponse.SerializeToString)


@asynccontextmanager
async def echo_behind(cut: Cut | None) -> AsyncIterator[tuple[Echo, CuttingProxy, "WorkerServiceAsyncStub"]]:
    echo, server = Echo(), grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobwire.v1.WorkerService", {"Work": _work_handler(echo)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with CuttingProxy(f"127.0.0.1:{port}", cut) as proxy, grpc.aio.insecure_channel(proxy.address) as channel:
            yield echo, proxy, WorkerServiceStub(channel)
    finally:
        await server.stop(0)


async def exchange(stub: "WorkerServiceAsyncStub", count: int) -> list[int]:
    """Send and receive one by one. Returns what came back until the stream broke."""
    # Waiting: after a cut the channel needs a moment to connect anew, and a call that does not wait fails at once.
    call, heard = stub.Work(wait_for_ready=True), []
    try:
        for number in range(1, count + 1):
            await call.write(work.WorkRequest(pong=work.Pong(number=number)))
            response = await call.read()
            if response is grpc.aio.EOF:
                break
            assert isinstance(response, work.WorkResponse)
            heard.append(response.ping.number)
    except grpc.aio.AioRpcError:
        pass
    call.cancel()
    return heard


async def test_a_proxy_without_a_cut_counts_the_frames_each_way() -> None:
    async with echo_behind(None) as (_, proxy, stub):
        assert await exchange(stub, 5) == [1, 2, 3, 4, 5]
        assert (proxy.frames_up, proxy.frames_down) == (5, 5)


@pytest.mark.parametrize("frame", [1, 3])
async def test_a_cut_after_a_frame_down_lets_that_frame_arrive_and_no_more(frame: int) -> None:
    async with echo_behind(Cut(up=False, frame=frame)) as (_, proxy, stub):
        assert await exchange(stub, 5) == list(range(1, frame + 1))
        assert proxy.done.is_set()
        assert await exchange(stub, 2) == [1, 2], "it cuts once"


@pytest.mark.parametrize("frame", [1, 3])
async def test_a_cut_after_a_frame_up_lets_that_frame_arrive_and_no_answer_come_back(frame: int) -> None:
    async with echo_behind(Cut(up=True, frame=frame)) as (echo, proxy, stub):
        assert await exchange(stub, 5) == list(range(1, frame))
        assert proxy.done.is_set()
        assert len(echo.got) == frame


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=0.5)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.mark.parametrize("loss", Loss)
async def test_every_tenth_answer_is_lost_though_its_function_has_run(store: Store, loss: Loss) -> None:
    async with LossyStore(store, seed=1, reply_every=10, loss=loss) as lossy, client(lossy.url) as redis:
        await redis.function_load(ECHO)
        answers = 0
        for _ in range(30):
            with suppress(RedisError):
                answers += await redis.fcall("echo", 1, "calls", "x") == b"x"
        assert (answers, lossy.replies_lost) == (27, 3)
        assert await redis.get("calls") == b"30"


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_share_of_the_messages_is_lost_and_the_same_ones_for_the_same_seed(store: Store, protocol: int) -> None:
    async def heard(seed: int) -> list[int]:
        async with (
            LossyStore(store, seed=seed, message_share=0.3) as lossy,
            client(f"{lossy.url}?protocol={protocol}") as redis,
            redis.pubsub() as pubsub,
        ):
            await pubsub.subscribe("c")
            await pubsub.get_message(timeout=1)
            for number in range(50):
                await redis.publish("c", number)
            found = []
            while message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.3):
                found.append(int(message["data"]))
            assert lossy.messages == 50
            assert len(found) == 50 - lossy.messages_lost
            return found

    first = await heard(7)
    assert 10 < len(first) < 50
    assert first == await heard(7)
