"""A connection that is silent for long may be kept alive by HTTP/2 pings, as the gateway's is: the broker allows one every 5 s."""

import asyncio

import grpc
import grpc.aio
import pytest
from jobwire.v1 import event_service_pb2 as pb
from jobwire.v1.event_service_pb2_grpc import EventServiceStub

from tests.support import Broker, Store
from tests.support.meanwhile import meanwhile

_EVERY_S = 6
_OPTIONS = (("grpc.keepalive_time_ms", _EVERY_S * 1000), ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0))


@pytest.mark.slow
@meanwhile
async def test_a_silent_stream_with_a_ping_every_six_seconds_is_not_ended() -> None:
    async with Store() as store, Broker(store) as broker, grpc.aio.insecure_channel(broker.address, options=_OPTIONS) as channel:
        stream = EventServiceStub(channel).Subscribe()
        await stream.write(pb.SubscribeRequest())
        first = await stream.read()
        assert isinstance(first, pb.SubscribeResponse)
        silence = asyncio.ensure_future(stream.read())
        # Two pings too many are forgiven; the fifth one would not be.
        done, _ = await asyncio.wait([silence], timeout=5 * _EVERY_S + 1)
        assert not done, "the broker ended a stream for its pings"
        stream.cancel()
        await asyncio.wait([silence])
