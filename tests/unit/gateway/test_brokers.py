"""Which broker is asked."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from jobwire.v1.job_service_pb2 import BulkJobsRequest, BulkJobsResponse, BulkVerb
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.problems import Problem

Context = grpc.aio.ServicerContext[Any, Any]


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A broker that counts a hundred jobs, and refuses a verb without a number."""

    async def bulk(request: BulkJobsRequest, context: Context) -> AsyncIterator[BulkJobsResponse]:
        if not request.verb:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no verb")
        yield BulkJobsResponse(matched=100)

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        bulk, request_deserializer=BulkJobsRequest.FromString, response_serializer=BulkJobsResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("jobwire.v1.JobService", {"BulkJobs": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_call_with_many_answers_begins_at_the_next_broker_when_one_is_away(address: str) -> None:
    brokers = Brokers(["127.0.0.1:1", address], 1.0)
    call, first = await brokers.begin(lambda broker: broker.jobs.BulkJobs, BulkJobsRequest(verb=BulkVerb.BULK_VERB_CANCEL), 5.0)
    assert first.matched == 100
    call.cancel()
    assert brokers.current.address == address
    with pytest.raises(Problem) as caught:
        await brokers.begin(lambda broker: broker.jobs.BulkJobs, BulkJobsRequest(), 5.0)
    assert caught.value.status == 400
    await brokers.close()


async def test_when_all_are_away_that_is_said() -> None:
    brokers = Brokers(["127.0.0.1:1", "127.0.0.1:2"], 1.0)
    with pytest.raises(Problem) as caught:
        await brokers.begin(lambda broker: broker.jobs.BulkJobs, BulkJobsRequest(), 2.0)
    assert caught.value.status == 503
    await brokers.close()
