"""Which stores a broker works with: passwords, rights, TLS, settings; and which it refuses."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from jobwire.v1 import admin_service_pb2, job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire.v1.queue_service_pb2 import ListQueuesRequest

from tests.integration.broker.asking import completed, enqueue, lease, patiently, spec
from tests.integration.broker.certificates import make_certificates
from tests.support import Broker, Store, StoreKind
from tests.support.api import Api, refusal
from tests.support.api import api as connected
from tests.support.process import python
from tests.support.raw_worker import RawWorker
from tests.support.store import free_port

#: Odd on purpose: it must be quoted in a URL.
PASSWORD = "p@ss/w:rd#1"
QUOTED = "p%40ss%2Fw%3Ard%231"


class ConfiguredBroker(Broker):
    """A broker that is told of its store by variables alone."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__("")
        self._variables = dict(variables)

    def command(self) -> list[str]:
        return python("-m", "jobwire_cli.main", "broker", "--grpc", self.address)

    def environment(self) -> Mapping[str, str]:
        return self._variables


@asynccontextmanager
async def serving(broker: Broker) -> AsyncIterator[Api]:
    """A broker that has reached its store."""
    async with broker, connected(broker) as api:
        await patiently(lambda: api.queues.ListQueues(ListQueuesRequest()))
        yield api


async def runs_a_job(api: Api, broker: Broker) -> None:
    """A job goes all the way, over a stream and with watchers."""
    name = await enqueue(api, "q")
    watch = api.jobs.WatchJobs(pb.WatchJobsRequest(names=[name]))
    await anext(aiter(watch))
    async with RawWorker(broker.address, "q") as worker, asyncio.timeout(5):
        await worker.hello(credit=1)
        (job,) = await worker.jobs(1)
        await worker.finish(completed(job))
        states = [change.job.state async for response in watch for change in response.changes]
    assert states[-1] == job_pb2.JOB_STATE_COMPLETED


# Password --------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_store_with_a_password_is_reached_by_url_and_by_variables_and_the_password_is_in_no_log() -> None:
    async with Store(tcp=True, extra=["--requirepass", PASSWORD]) as store:
        address = f"127.0.0.1:{store.port}"
        by_url = Broker(f"redis://:{QUOTED}@{address}")
        by_parts = ConfiguredBroker({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(store.port), "REDIS_PASSWORD": PASSWORD})
        async with serving(by_url) as api, serving(by_parts) as second:
            await runs_a_job(api, by_url)
            await enqueue(api, "q", "one")
            assert [job.id for job in await lease(second, "q")] == ["one"]
            for broker in (by_url, by_parts):
                assert not [line for line in broker.lines() if PASSWORD in line or QUOTED in line]


async def test_a_wrong_password_is_logged_as_such_without_it_and_every_call_is_unavailable() -> None:
    async with Store(tcp=True, extra=["--requirepass", PASSWORD]) as store, Broker(f"redis://:wrong-one@127.0.0.1:{store.port}") as broker:
        line = (await broker.line(r"store\.unavailable.*", past=True))[0]
        assert "Authentication" in line or "WRONGPASS" in line
        async with connected(broker) as api:
            assert (await refusal(enqueue(api, "q"))).reason == "STORE_UNAVAILABLE"
        assert not [line for line in broker.lines() if "wrong-one" in line]


# Rights ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_user_who_may_not_configure_the_store_is_enough() -> None:
    async with Store() as store:
        client: Any = redis.Redis.from_url(store.url, protocol=2)
        await client.execute_command(
            "ACL", "SETUSER", "jobs", "on", ">secret", "~jw:*", "&jw:*", "+@all", "-@admin", "-@dangerous", "+info", "-config", "+waitaof"
        )
        await client.aclose()
        broker = Broker(f"unix://jobs:secret@{store.socket}")
        async with serving(broker) as api:
            info = await api.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
            assert info.disk_durability
            await runs_a_job(api, broker)
            await api.jobs.Enqueue(pb.EnqueueRequest(job=spec("q"), durability=job_pb2.DURABILITY_DISK))


# TLS -------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_store_over_tls_is_reached_only_when_its_certificate_is_good(tmp_path: Path) -> None:
    authority, certificate, key = make_certificates(tmp_path)
    port = free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(authority), "--tls-auth-clients", "no"]
    async with Store(StoreKind.REDIS, extra=["--tls-port", str(port), *files]):
        broker = Broker(f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}")
        async with serving(broker) as api:
            await runs_a_job(api, broker)
        async with Broker(f"rediss://127.0.0.1:{port}") as unsure:
            line = (await unsure.line(r"store\.unavailable.*", past=True))[0]
            assert "certificate" in line.lower() or "ssl" in line.lower()


# Eviction --------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_store_that_may_evict_jobs_is_refused_unless_that_is_allowed() -> None:
    async with Store(extra=["--maxmemory-policy", "allkeys-lru"]) as store:
        refused = Broker(store)
        refused.spawn()
        assert await refused.ended() == 1
        line = refused.lines()[-1]
        assert "maxmemory-policy" in line
        assert "allkeys-lru" in line
        assert "--allow-eviction" in line
        async with serving(Broker(store, extra=["--allow-eviction"])) as api:
            await enqueue(api, "q")
