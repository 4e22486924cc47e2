"""The scopes that docs/webhooks.md names are all that webhooks need, and what becomes of ends that a key may not read."""

import asyncio
import base64
import dataclasses
import json
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from jobwire.v1.job_pb2 import JobSpec, JobState, Payload
from jobwire.v1.job_service_pb2 import CancelJobRequest, EnqueueRequest, ListJobsRequest, PromoteJobRequest
from jobwire.v1.queue_service_pb2 import ListGroupsRequest
from jobwire_gateway.credentials import BrokerCredentials
from jobwire_gateway.webhooks import deliveries as module
from jobwire_gateway.webhooks.config import WebhookConfig, WebhookSettings
from jobwire_gateway.webhooks.endpoints import Endpoint, QueuePattern
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.secrets import Secret
from jobwire_gateway.webhooks.server import Webhooks

from tests.support import Broker, Store
from tests.support.api import api
from tests.support.credentials import Keys
from tests.support.webhooks import OK, WAIT_S, Receiver, answer


async def test_x12_x09_a_key_for_these_queues_and_for_that_of_the_deliveries_is_enough(
    shared_store: Store, tmp_path: Path, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELAYS", (timedelta(hours=1),) * len(module.DELAYS))
    deliveries = f"{queue}-deliveries"
    watched = f"watch:{queue}.* read:{queue}.*"
    needed = f"{watched} enqueue:{deliveries} work:{deliveries}"
    keys = Keys(hooks=f"{needed} manage:{deliveries}", less=needed, other="*:*")
    metadata = [("authorization", f"Bearer {keys.of['other']}")]
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    async with (
        Broker(shared_store, env={"JOBWIRE_KEYS": keys.text}) as broker,
        api(broker) as services,
        Receiver.listening([answer(410), answer(410)]) as receiver,
    ):
        endpoint = Endpoint(name="shop", url=receiver.url, secrets=(Secret(file=tmp_path / "secret"),), queues=(QueuePattern(f"{queue}.*"),))
        settings = WebhookSettings(endpoints=(endpoint,), queue=deliveries, allow_private=(ip_network("127.0.0.0/8"),))
        config = WebhookConfig(settings=settings, broker=broker.address, credentials=BrokerCredentials(key=keys.of["hooks"]))
        spec = JobSpec(queue=f"{queue}.orders", job_name="order")
        name = (await services.jobs.Enqueue(EnqueueRequest(job=spec), metadata=metadata)).name
        await services.jobs.CancelJob(CancelJobRequest(name=name), metadata=metadata)
        waiting = ListJobsRequest(parent=f"queues/{deliveries}", state=JobState.JOB_STATE_DELAYED)
        # Without the last of them a receiver that is gone can't be paused, which the delivery says.
        less = dataclasses.replace(config, credentials=BrokerCredentials(key=keys.of["less"]))
        async with Webhooks(less, WebhookMetrics()).running(), asyncio.timeout(WAIT_S):
            while not (delayed := (await services.jobs.ListJobs(waiting, metadata=metadata)).jobs):
                await asyncio.sleep(0.02)
        assert delayed[0].failure.message.endswith("answered 410; shop could not be paused")
        await services.jobs.PromoteJob(PromoteJobRequest(name=delayed[0].name), metadata=metadata)
        async with Webhooks(config, WebhookMetrics()).running(), asyncio.timeout(WAIT_S):
            await receiver.next(2)
            # It answered that it is gone, so it is paused, which takes a right of its own.
            while not [
                group
                for group in (await services.queues.ListGroups(ListGroupsRequest(parent=f"queues/{deliveries}"), metadata=metadata)).groups
                if group.paused
            ]:
                await asyncio.sleep(0.02)


async def test_an_end_whose_job_the_key_may_not_read_is_told_as_it_was_heard_of_and_holds_up_no_other(shared_store: Store, tmp_path: Path, queue: str) -> None:
    deliveries, hidden, open_to_all = f"{queue}-deliveries", f"{queue}.hidden", f"{queue}.orders"
    keys = Keys(hooks=f"watch:{queue}.* read:{open_to_all} enqueue:{deliveries} work:{deliveries}", other="*:*")
    metadata = [("authorization", f"Bearer {keys.of['other']}")]
    (tmp_path / "secret").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    async with (
        Broker(shared_store, env={"JOBWIRE_KEYS": keys.text}) as broker,
        api(broker) as services,
        Receiver.listening([OK, OK]) as receiver,
    ):
        endpoint = Endpoint(
            name="shop", url=receiver.url, secrets=(Secret(file=tmp_path / "secret"),), queues=(QueuePattern(hidden), QueuePattern(open_to_all))
        )
        settings = WebhookSettings(endpoints=(endpoint,), queue=deliveries, allow_private=(ip_network("127.0.0.0/8"),))
        webhooks = Webhooks(WebhookConfig(settings=settings, broker=broker.address, credentials=BrokerCredentials(key=keys.of["hooks"])), WebhookMetrics())
        async with webhooks.running(), asyncio.timeout(WAIT_S):
            await webhooks._ends.live.wait()
            for watched in (hidden, open_to_all):
                spec = JobSpec(queue=watched, job_name="order", payload=Payload(json='"17"'))
                name = (await services.jobs.Enqueue(EnqueueRequest(job=spec), metadata=metadata)).name
                await services.jobs.CancelJob(CancelJobRequest(name=name), metadata=metadata)
            told = [json.loads(request.body)["data"] for request in await receiver.next(2)]
    assert {job["queue"]: job.get("payload") for job in told} == {hidden: None, open_to_all: "17"}
