"""Webhooks with real brokers and real receivers. The tests of the checklist's line are those whose names begin with it."""

import asyncio
import base64
import json
import signal
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from jobwire.v1.job_pb2 import Job as JobMessage
from jobwire.v1.job_pb2 import JobSpec, JobState, Payload
from jobwire.v1.job_service_pb2 import (
    CancelJobRequest,
    DeleteJobRequest,
    EnqueueRequest,
    GetJobRequest,
    ListJobsRequest,
    PromoteJobRequest,
    ResolveJobRequest,
    RetryJobRequest,
)
from jobwire.v1.queue_service_pb2 import ListGroupsRequest, ResumeGroupRequest
from jobwire_gateway.webhooks import bodies, deliveries
from jobwire_gateway.webhooks.config import WebhookConfig, WebhookSettings
from jobwire_gateway.webhooks.endpoints import Endpoint, QueuePattern
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.network import Resolve, resolve_by_system
from jobwire_gateway.webhooks.secrets import Secret
from jobwire_gateway.webhooks.server import Webhooks
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support import Broker
from tests.support.api import Api, api
from tests.support.relay import Relay
from tests.support.tls import Authority
from tests.support.webhooks import OK, WAIT_S, Received, Receiver, WebhooksProcess, answer, silence

from .reading import complete, fail, lease

LOOPBACK = (ip_network("127.0.0.0/8"),)


def secret_text(byte: int = 7) -> str:
    return "whsec_" + base64.b64encode(bytes([byte]) * 32).decode()


class Lab:
    """A queue with an endpoint, and what is made of its ends."""

    def __init__(self, api: Api, broker: Broker, queue: str, directory: Path) -> None:
        self.api = api
        self.queue = queue
        self.deliveries = f"{queue}-webhooks"
        self.address = broker.address
        self._directory = directory

    def secret(self, byte: int = 7) -> Secret:
        file = self._directory / f"secret-{byte}"
        file.write_text(secret_text(byte) + "\n")
        return Secret(file=file)

    def endpoint(self, url: str, name: str = "shop", **members: Any) -> Endpoint:
        return Endpoint(**{"name": name, "url": url, "secrets": (self.secret(),), "queues": (QueuePattern(self.queue),), **members})

    @asynccontextmanager
    async def running(
        self, *endpoints: Endpoint, resolve: Resolve = resolve_by_system, tls: ssl.SSLContext | None = None, **settings: Any
    ) -> AsyncIterator[Webhooks]:
        made = WebhookSettings(**{"endpoints": endpoints, "queue": self.deliveries, "allow_private": LOOPBACK, **settings})
        webhooks = Webhooks(WebhookConfig(settings=made, broker=self.address), WebhookMetrics(), resolve=resolve, tls=tls)
        async with webhooks.running():
            yield webhooks

    async def enqueue(self, **members: Any) -> str:
        spec = JobSpec(queue=self.queue, job_name="order", **members)
        return (await self.api.jobs.Enqueue(EnqueueRequest(job=spec))).name

    async def ended(self, **members: Any) -> str:
        """A job that is cancelled at once."""
        name = await self.enqueue(**members)
        await self.api.jobs.CancelJob(CancelJobRequest(name=name))
        return name

    async def delivery(self, delivery: str, *states: JobState.ValueType) -> JobMessage:
        """A delivery as soon as it is in one of these states."""
        async with asyncio.timeout(WAIT_S):
            while True:
                job = (await self.api.jobs.GetJob(GetJobRequest(name=f"queues/{self.deliveries}/jobs/{delivery}"))).job
                if job.state in states:
                    return job
                await asyncio.sleep(0.02)

    async def in_state(self, state: JobState.ValueType, count: int = 1) -> list[JobMessage]:
        """The deliveries in a state, as soon as there are so many."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await self.api.jobs.ListJobs(ListJobsRequest(parent=f"queues/{self.deliveries}", state=state, page_size=1_000))
                if len(found.jobs) >= count:
                    return list(found.jobs)
                await asyncio.sleep(0.02)

    def file(self, url: str) -> Path:
        """Settings for a process, with this address."""
        file = self._directory / "webhooks.yaml"
        file.write_text(
            f"queue: {self.deliveries}\nallow_http: true\nallow_private: [127.0.0.0/8]\n"
            f"endpoints:\n  shop:\n    url: {url}\n    secrets: [{{env: SHOP_SECRET}}]\n    queues: [{self.queue}]\n"
        )
        return file

    async def again(self, delivery: str) -> None:
        """Let a delivery that waits for its next attempt have it now."""
        job = await self.delivery(delivery, JobState.JOB_STATE_DELAYED)
        await self.api.jobs.PromoteJob(PromoteJobRequest(name=job.name))


@pytest.fixture
def lab(worker: Api, shared_broker: Broker, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    # What waits for its next attempt does so until `again`, on a machine that is slow as well.
    monkeypatch.setattr(deliveries, "DELAYS", (timedelta(hours=1),) * len(deliveries.DELAYS))
    return Lab(worker, shared_broker, queue, tmp_path)


def told(request: Received) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(request.body)
    return members


async def test_x12_an_end_is_told_by_a_signed_request_with_the_job_as_rest_shows_it(lab: Lab) -> None:
    async with Receiver.listening() as receiver, lab.running(lab.endpoint(receiver.url)):
        spec = {"labels": {"tenant": "acme"}}
        name = await lab.enqueue(**spec)
        await complete(lab.api, await lease(lab.api, lab.queue), '{"pages": 3}')
        (request,) = await receiver.next()
        delivered = await lab.delivery(request.id, JobState.JOB_STATE_COMPLETED)
    assert request.path == "/hook?of=test"
    assert request.headers["content-type"] == "application/json"
    Webhook(secret_text()).verify(request.body, dict(request.headers))
    body = told(request)
    assert (body["type"], body["timestamp"]) == ("job.completed", body["data"]["finishTime"])
    assert (body["data"]["name"], body["data"]["result"], body["data"]["labels"]) == (name, {"pages": 3}, {"tenant": "acme"})
    assert delivered.group == "shop"
    assert dict(delivered.labels) == {"event": "job.completed", "queue": lab.queue, "job": name.rpartition("/")[2]}
    assert json.loads(delivered.result.json) == {"status": 204}


async def test_x12_a_host_that_leads_to_a_private_address_is_refused_for_good_and_nothing_is_connected_to(lab: Lab) -> None:
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        # One that may be connected to does not help the other.
        return ["127.0.0.1", "10.1.2.3"] if len(asked) == 1 else ["127.0.0.1"]

    async with Receiver.listening() as receiver:
        endpoint = lab.endpoint(receiver.url.replace("127.0.0.1", "hooks.example"))
        async with lab.running(endpoint, resolve=resolve):
            await lab.ended()
            (name,) = [job.name for job in await lab.in_state(JobState.JOB_STATE_FAILED)]
            failed = (await lab.api.jobs.GetJob(GetJobRequest(name=name))).job
            assert receiver.connections == 0
            # Replayed by hand, when the name leads elsewhere: under the same id.
            await lab.api.jobs.RetryJob(RetryJobRequest(name=name))
            (request,) = await receiver.next()
            assert request.id == failed.id
    assert failed.attempt == 1
    assert failed.failure.type == "AddressNotAllowed"
    assert "hooks.example leads to 10.1.2.3" in failed.failure.message
    assert "allow_private" in failed.failure.message
    # Asked once for each request: an answer that changes behind the check finds nobody who asks.
    assert asked == ["hooks.example", "hooks.example"]


async def test_x12_a_redirect_is_not_followed(lab: Lab) -> None:
    async with (
        Receiver.listening() as elsewhere,
        Receiver.listening([answer(302, Location=elsewhere.url)]) as receiver,
        lab.running(lab.endpoint(receiver.url)),
    ):
        await lab.ended()
        (request,) = await receiver.next()
        waiting = await lab.delivery(request.id, JobState.JOB_STATE_DELAYED)
        assert waiting.failure.message == "127.0.0.1 answered 302"
        assert elsewhere.connections == 0


async def test_x12_a_certificate_must_be_of_the_host_and_not_of_its_address(lab: Lab, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("receiver")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(pair.certificate, pair.key)
    trusted = ssl.create_default_context(cafile=str(authority.file))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with Receiver.listening(tls=served) as receiver:
        hosts = {"right": "localhost", "right-too": "localhost.", "wrong": "hooks.example"}
        endpoints = [lab.endpoint(f"https://{host}:{receiver.port}/", name) for name, host in hosts.items()]
        async with lab.running(*endpoints, resolve=resolve, tls=trusted):
            await lab.ended()
            requests = await receiver.next(2)
            (waiting,) = await lab.in_state(JobState.JOB_STATE_DELAYED)
    assert sorted(request.headers["host"] for request in requests) == [f"localhost.:{receiver.port}", f"localhost:{receiver.port}"]
    assert waiting.group == "wrong"
    assert "certificate" in waiting.failure.message


async def test_x12_while_keys_change_a_receiver_may_know_either(lab: Lab) -> None:
    async with Receiver.listening() as receiver, lab.running(lab.endpoint(receiver.url, secrets=(lab.secret(1), lab.secret(2)))):
        await lab.ended()
        (request,) = await receiver.next()
    for byte in (1, 2):
        Webhook(secret_text(byte)).verify(request.body, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(3)).verify(request.body, dict(request.headers))


async def test_a_receiver_that_failed_gets_the_same_again_with_a_new_time(lab: Lab) -> None:
    async with Receiver.listening([answer(500, b"out of\r\norder " + b"!" * 5_000)]) as receiver, lab.running(lab.endpoint(receiver.url)):
        await lab.ended()
        (first,) = await receiver.next()
        waiting = await lab.delivery(first.id, JobState.JOB_STATE_DELAYED)
        while int(time.time()) == int(first.headers["webhook-timestamp"]):
            await asyncio.sleep(0.05)
        await lab.again(first.id)
        _, second = await receiver.next(2)
        done = await lab.delivery(first.id, JobState.JOB_STATE_COMPLETED)
    assert waiting.failure.message.startswith("127.0.0.1 answered 500: out of order !!!")
    assert len(waiting.failure.message) < 300
    assert (second.id, second.body) == (first.id, first.body)
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    Webhook(secret_text()).verify(second.body, dict(second.headers))
    assert (done.attempt, done.max_attempts) == (2, 10)


async def test_an_endpoint_that_is_gone_is_paused_until_somebody_resumes_it(lab: Lab) -> None:
    async with Receiver.listening([answer(410)]) as receiver, lab.running(lab.endpoint(receiver.url)):
        await lab.ended()
        (first,) = await receiver.next()
        waiting = await lab.delivery(first.id, JobState.JOB_STATE_DELAYED)
        (group,) = (await lab.api.queues.ListGroups(ListGroupsRequest(parent=f"queues/{lab.deliveries}"))).groups
        assert group.paused
        await lab.again(first.id)
        await lab.ended()
        assert len(await lab.in_state(JobState.JOB_STATE_WAITING, 2)) == 2
        assert receiver.connections == 1
        await lab.api.queues.ResumeGroup(ResumeGroupRequest(name=group.name))
        assert len({request.id for request in await receiver.next(3)}) == 2
    assert "answered 410" in waiting.failure.message


@pytest.mark.parametrize("status", [429, 503])
async def test_who_asks_to_come_later_is_not_charged_for_it(lab: Lab, status: int) -> None:
    async with Receiver.listening([answer(status, Retry_After="1")]) as receiver, lab.running(lab.endpoint(receiver.url)):
        began = time.monotonic()
        await lab.ended()
        requests = await receiver.next(2)
        took = time.monotonic() - began
        done = await lab.delivery(requests[0].id, JobState.JOB_STATE_COMPLETED)
    assert took >= 1
    assert len({request.id for request in requests}) == 1
    assert done.attempt == 1


async def test_an_answer_that_never_comes_is_not_waited_for(lab: Lab) -> None:
    async with Receiver.listening([silence]) as receiver, lab.running(lab.endpoint(receiver.url), timeout=timedelta(seconds=1)):
        await lab.ended()
        (late,) = await lab.in_state(JobState.JOB_STATE_DELAYED)
    assert late.failure.message == "127.0.0.1 did not answer within 1 s"


async def test_an_answer_that_never_ends_is_not_read_to_its_end(lab: Lab) -> None:
    given_up = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        finally:
            given_up.set()

    async with Receiver.listening([endless]) as receiver, lab.running(lab.endpoint(receiver.url)):
        await lab.ended()
        async with asyncio.timeout(WAIT_S):
            await given_up.wait()
        (long,) = await lab.in_state(JobState.JOB_STATE_DELAYED)
    assert long.failure.message.startswith("127.0.0.1 answered 500: xxx")
    assert len(long.failure.message) < 300


async def test_a_receiver_that_is_not_there_is_tried_again(lab: Lab) -> None:
    async with Receiver.listening() as receiver:
        endpoint = lab.endpoint(receiver.url)
    async with lab.running(endpoint):
        await lab.ended()
        (waiting,) = await lab.in_state(JobState.JOB_STATE_DELAYED)
    assert waiting.failure.type == "DeliveryFailed"
    assert waiting.failure.message.startswith("127.0.0.1 can't be reached: ")


async def test_two_beside_one_another_make_one_delivery_of_each_end(lab: Lab) -> None:
    async with Receiver.listening() as receiver:
        endpoint = lab.endpoint(receiver.url)
        async with lab.running(endpoint) as one, lab.running(endpoint) as other:
            await asyncio.gather(one.caught_up(), other.caught_up())
            await asyncio.gather(*(lab.ended() for _ in range(30)))
            await receiver.next(30)
            made = await lab.in_state(JobState.JOB_STATE_COMPLETED, 30)
            await asyncio.gather(one.caught_up(), other.caught_up())
        assert len({request.id for request in receiver.received}) == len(receiver.received) == len(made) == 30


async def test_what_ended_while_nobody_was_there_is_told_and_not_what_is_older(lab: Lab) -> None:
    async with Receiver.listening() as receiver:
        endpoint = lab.endpoint(receiver.url)
        names = [await lab.ended() for _ in range(3)]
        async with lab.running(endpoint, look_back=timedelta(0)) as webhooks:
            await webhooks.caught_up()
            names.append(await lab.ended())
            assert [told(request)["data"]["name"] for request in await receiver.next()] == names[3:]
        async with lab.running(endpoint):
            requests = await receiver.next(4)
            assert sorted(told(request)["data"]["name"] for request in requests) == sorted(names)
        # What was told is found, also by one that remembers nothing, and after the delivery was deleted.
        await lab.api.jobs.DeleteJob(DeleteJobRequest(name=f"queues/{lab.deliveries}/jobs/{requests[0].id}"))
        async with lab.running(endpoint) as webhooks:
            names.append(await lab.ended())
            await receiver.next(5)
            await webhooks.caught_up()
        assert len(receiver.received) == 5


async def test_what_there_is_no_room_for_is_looked_back_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MOST_WAITING", 1)
    async with Receiver.listening() as receiver, lab.running(lab.endpoint(receiver.url)) as webhooks:
        await webhooks.caught_up()
        names = await asyncio.gather(*(lab.ended() for _ in range(30)))
        requests = await receiver.next(30)
        await webhooks.caught_up()
    assert sorted(told(request)["data"]["name"] for request in requests) == sorted(names)


async def test_an_endpoint_that_this_process_does_not_know_may_be_known_to_another(lab: Lab) -> None:
    body = '{"type": "job.failed",  "data": 1e400}'  # it is sent as it stands there, whatever it is
    async with Receiver.listening() as receiver:
        async with lab.running(lab.endpoint(receiver.url, "other", queues=(QueuePattern("none"),))):
            spec = JobSpec(queue=lab.deliveries, id="msg_1", job_name="webhook", group="shop", payload=Payload(json=body))
            spec.backoff.delays.add().FromTimedelta(timedelta(hours=1))
            await lab.api.jobs.Enqueue(EnqueueRequest(job=spec))
            waiting = await lab.delivery("msg_1", JobState.JOB_STATE_DELAYED)
        async with lab.running(lab.endpoint(receiver.url)):
            await lab.again("msg_1")
            (request,) = await receiver.next()
    assert (waiting.failure.type, request.body) == ("EndpointUnknown", body.encode())


async def test_an_endpoint_hears_of_what_it_wants_and_never_of_deliveries(lab: Lab) -> None:
    prefix = (QueuePattern(f"{lab.queue}*"),)  # the queue of the deliveries fits as well
    async with Receiver.listening() as receiver:
        url = receiver.url
        wanted = [
            lab.endpoint(f"{url}&all", "all", queues=prefix),
            lab.endpoint(f"{url}&acme", "acme", queues=prefix, labels={"tenant": "acme"}),
            lab.endpoint(f"{url}&done", "done", events=frozenset({"job.completed"})),
        ]
        await lab.enqueue()
        async with lab.running(*wanted):
            await complete(lab.api, await lease(lab.api, lab.queue))
            await receiver.next(2)
            await lab.ended(labels={"tenant": "acme"})
            await receiver.next(4)
            made = await lab.in_state(JobState.JOB_STATE_COMPLETED, 4)
        heard = sorted((request.path.rpartition("&")[2], told(request)["type"]) for request in receiver.received)
    assert heard == [("acme", "job.cancelled"), ("all", "job.cancelled"), ("all", "job.completed"), ("done", "job.completed")]
    assert len(made) == 4


async def test_a_job_is_read_once_however_many_want_to_hear_of_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def body_of(job: JobMessage) -> bytes:
        read.append(job.id)
        return bodies.body_of(job)

    monkeypatch.setattr(deliveries, "body_of", body_of)
    await lab.ended()
    async with Receiver.listening() as receiver, lab.running(*(lab.endpoint(receiver.url, f"shop-{n}") for n in range(5)), look_back=timedelta(0)) as webhooks:
        await webhooks.caught_up()
        name = await lab.ended()
        requests = await receiver.next(5)
    assert len({request.id for request in requests}) == 5
    assert len({request.body for request in requests}) == 1
    assert read == [name.rpartition("/")[2]]


async def test_a_job_that_ends_again_is_told_again_and_a_note_is_no_end(lab: Lab) -> None:
    async with Receiver.listening() as receiver:
        endpoint = lab.endpoint(receiver.url)
        async with lab.running(endpoint) as webhooks:
            await webhooks.caught_up()
            name = await lab.enqueue()
            await fail(lab.api, await lease(lab.api, lab.queue), "no paper")
            await receiver.next()
            await lab.api.jobs.ResolveJob(ResolveJobRequest(name=name, note="ordered some"))
        # One that remembers nothing finds a job that says something else of the same end.
        async with lab.running(endpoint) as webhooks:
            await webhooks.caught_up()
            await lab.api.jobs.RetryJob(RetryJobRequest(name=name))
            await complete(lab.api, await lease(lab.api, lab.queue))
            requests = await receiver.next(2)
            await webhooks.caught_up()
    assert [told(request)["type"] for request in requests] == ["job.failed", "job.completed"]
    assert told(requests[0])["data"]["failure"]["message"] == "no paper"
    assert len({request.id for request in requests}) == 2


async def test_what_is_long_is_left_out_and_said(lab: Lab) -> None:
    async with Receiver.listening() as receiver, lab.running(lab.endpoint(receiver.url)):
        await lab.ended(payload=Payload(json=json.dumps("x" * 30_000)))
        (request,) = await receiver.next()
    data = told(request)["data"]
    assert len(request.body) < 20_000
    assert "payload" not in data
    assert (data["truncated"], data["url"]) == (True, f"/v1/{data['name']}")


async def test_killed_while_a_receiver_thinks_and_started_again_it_delivers(broker: Broker, tmp_path: Path, queue: str) -> None:
    asked = asyncio.Event()

    async def thinking(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await silence(writer)

    async with Receiver.listening([thinking]) as receiver, api(broker) as services:
        lab = Lab(services, broker, queue, tmp_path)
        async with WebhooksProcess(broker, lab.file(receiver.url), env={"SHOP_SECRET": secret_text()}) as process:
            missed = await lab.ended()
            async with asyncio.timeout(WAIT_S):
                await asked.wait()
            await process.kill()
            later = await lab.ended()
            await process.restart()
            requests = await receiver.next(3)
        assert {told(request)["data"]["name"] for request in requests} == {missed, later}
        assert len({request.id for request in requests}) == 2


async def test_the_first_signal_lets_a_request_end(shared_broker: Broker, lab: Lab) -> None:
    process = WebhooksProcess(shared_broker, lab.file("http://127.0.0.1:9/"), env={"SHOP_SECRET": secret_text()})

    async def slow(writer: asyncio.StreamWriter) -> None:
        draining = process.line(r"webhooks\.draining")
        process.send(signal.SIGTERM)
        await draining
        writer.write(OK)
        await writer.drain()

    async with Receiver.listening([slow]) as receiver:
        lab.file(receiver.url)
        async with process:
            await lab.ended()
            (request,) = await receiver.next()
            assert await process.ended(WAIT_S) == 0
        assert (await lab.delivery(request.id, JobState.JOB_STATE_COMPLETED)).attempt == 1


async def test_what_ended_while_no_broker_was_there_is_told_however_long_that_was(lab: Lab, shared_broker: Broker) -> None:
    async with Relay(shared_broker.address) as relay, Receiver.listening() as receiver:
        lab.address = relay.address
        async with lab.running(lab.endpoint(receiver.url), look_back=timedelta(0)) as webhooks:
            await webhooks.caught_up()
            relay.refuse()
            relay.cut_all()
            async with asyncio.timeout(WAIT_S):
                while webhooks._feed.open:
                    await asyncio.sleep(0.02)
            name = await lab.ended()
            relay.refuse(False)
            (request,) = await receiver.next()
    assert told(request)["data"]["name"] == name
