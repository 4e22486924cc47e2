"""Bytes that are no message: refused as such, on every kind of call, and without a traceback in the log."""

from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support import Broker, Store
from tests.support.api import Refusal

#: A field with a length that goes beyond the end.
GARBAGE = b"\x0a\xff\x01x"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/jobwire.v1.JobService/GetJob", "unary_unary"),
        ("/jobwire.v1.JobService/WatchJobs", "unary_stream"),
        ("/jobwire.v1.WorkerService/Work", "stream_stream"),
        ("/jobwire.v1.EventService/Subscribe", "stream_stream"),
        ("/grpc.health.v1.Health/Check", "unary_unary"),
    ],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument(shared_broker: Broker, method: str, kind: str) -> None:
    async with shared_broker.channel() as channel:
        made = getattr(channel, kind)(method, request_serializer=None, response_deserializer=None)
        call = made(iter([GARBAGE]) if kind == "stream_stream" else GARBAGE)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (call if kind == "unary_unary" else _to_the_end(call))
    refused = Refusal.of(raised.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def _to_the_end(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_they_leave_no_traceback(store: Store) -> None:
    async with Broker(store) as broker, broker.channel() as channel:
        for method in ("GetJob", "Enqueue"):
            call: Any = channel.unary_unary(f"/jobwire.v1.JobService/{method}", request_serializer=None, response_deserializer=None)
            with pytest.raises(grpc.aio.AioRpcError):
                await call(GARBAGE)
        assert not [line for line in broker.lines() if "Traceback" in line]
