"""What Prometheus reads of a gateway, over HTTP."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support import Broker, Gateway
from tests.support.process import ProcessEnded

from .reading import enqueue, reading


@pytest.fixture
async def measured(shared_broker: Broker) -> AsyncIterator[Gateway]:
    async with Gateway(shared_broker, extra=["--metrics", "127.0.0.1:0"]) as gateway:
        yield gateway


async def scrape(gateway: Gateway) -> str:
    address = re.findall(r"gateway\.metrics http=(\S+)", gateway.tail(50))[0]
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        return (await http.get(f"http://{address}/metrics")).text


async def test_requests_are_counted_by_route_and_streams_are_not(measured: Gateway, queue: str) -> None:
    async with httpx.AsyncClient(base_url=measured.url, trust_env=False, timeout=20) as http:
        job = await enqueue(http, queue)
        await http.get(f"/v1/{job['name']}")
        await http.get(f"/v1/queues/{queue}/jobs/nope")
        await http.get("/v1/nothing/secret?token=s3cret")
        await http.post(f"/v1/queues/{queue}/jobs", json={"jobName": "t"}, headers={"Origin": "https://evil.example"})
        async with reading(http, job["eventsUrl"]) as stream:
            await stream.until("update")
            text = await scrape(measured)
    lines = text.splitlines()
    assert 'jobwire_gateway_requests_total{method="POST",route="/v1/queues/{queue}/jobs",status="202"} 1.0' in lines
    assert 'jobwire_gateway_requests_total{method="GET",route="/v1/queues/{queue}/jobs/{id}",status="200"} 1.0' in lines
    assert 'jobwire_gateway_requests_total{method="GET",route="/v1/queues/{queue}/jobs/{id}",status="404"} 1.0' in lines
    assert 'jobwire_gateway_requests_total{method="GET",route="other",status="404"} 1.0' in lines
    assert 'jobwire_gateway_requests_total{method="POST",route="other",status="403"} 1.0' in lines
    assert 'jobwire_gateway_request_seconds_count{route="/v1/queues/{queue}/jobs"} 1.0' in lines
    assert "jobwire_gateway_streams 1.0" in lines
    assert "jobwire_gateway_feed_up 1.0" in lines
    assert "secret" not in text
    assert "s3cret" not in text
    assert queue not in text


async def test_an_address_that_is_taken_ends_the_gateway_with_a_sentence(measured: Gateway, shared_broker: Broker) -> None:
    taken = re.findall(r"gateway\.metrics http=(\S+)", measured.tail(50))[0]
    second = Gateway(shared_broker, extra=["--metrics", taken])
    with pytest.raises(ProcessEnded):
        await second.start()
    assert "gateway.no_address" in second.tail()
    assert "Traceback" not in second.tail()


async def test_metrics_for_everybody_need_the_same_word_as_the_port_itself(shared_broker: Broker) -> None:
    gateway = Gateway(shared_broker, extra=["--metrics", "0.0.0.0:0"])
    with pytest.raises(ProcessEnded):
        await gateway.start()
    assert "--insecure" in gateway.tail()
