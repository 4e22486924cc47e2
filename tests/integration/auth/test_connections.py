"""How programs bring their credentials: client, worker, command line, over plain text and TLS; and what becomes of a stream whose credentials end."""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from jobwire.v1 import admin_service_pb2 as admin
from jobwire.v1 import job_service_pb2 as jobs
from jobwire.v1 import worker_service_pb2 as work
from jobwire_client import Client, Credentials, Enqueued, InvalidRequest, JobSpec, JobwireError, NotPermitted, QueueUnavailable, SyncClient, Unauthenticated
from jobwire_worker import Credentials as WorkerCredentials
from jobwire_worker import RegistrationError, Worker

from tests.support import Broker, Gateway, ProcessEnded, Store
from tests.support.api import api, refusal
from tests.support.credentials import SECRET, Keys, bearer, claims, signed
from tests.support.tls import Authority

# Keys ----------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_client_and_a_worker_work_with_a_key(strict_broker: Broker, keys: Keys, queue: str) -> None:
    queue = f"mail-{queue}"
    worker = Worker(strict_broker.address, queues=[queue], credentials=WorkerCredentials(key=keys.of["only_work"]))

    @worker.handler("*")
    async def handle() -> str:
        return "done"

    async with worker, Client(strict_broker.address, credentials=Credentials(key=keys.of["mail"])) as client:
        many = await asyncio.gather(*(client.enqueue(queue, "work") for _ in range(50)))
        ended = await asyncio.gather(*(client.wait(job, timeout=20) for job in many))
    assert {job.result for job in ended} == {"done"}


@pytest.mark.parametrize(("who", "kind"), [("", Unauthenticated), ("expired", Unauthenticated), ("only_read", NotPermitted), ("acme", NotPermitted)])
async def test_an_enqueue_that_is_not_allowed_raises_at_once_and_is_not_repeated(
    strict_broker: Broker, keys: Keys, queue: str, who: str, kind: type[JobwireError]
) -> None:
    credentials = Credentials(key=keys.of[who]) if who else Credentials()
    async with Client(strict_broker.address, credentials=credentials, timeout=10) as client:
        began = time.monotonic()
        with pytest.raises(kind) as caught:
            await client.enqueue(f"mail-{queue}", "work")
        assert time.monotonic() - began < 3
    assert "jobwire_key" not in str(caught.value)


async def test_a_forbidden_queue_does_not_disturb_the_enqueues_beside_it(strict_broker: Broker, keys: Keys, queue: str) -> None:
    """They share one stream."""
    async with Client(strict_broker.address, credentials=Credentials(key=keys.of["only_enqueue"])) as client:
        calls = [client.enqueue(f"mail-{queue}" if number % 3 else "other", "work") for number in range(60)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    good, bad = results[1::3] + results[2::3], results[0::3]
    assert {type(result) for result in bad} == {NotPermitted}
    assert {type(result) for result in good} == {Enqueued}


@pytest.mark.parametrize("who", ["only_read", "only_enqueue"])
async def test_each_job_that_is_not_permitted_is_told_by_its_own_queue(strict_broker: Broker, keys: Keys, queue: str, who: str) -> None:
    """To a key without the verb, and to one that has it for other queues."""
    other = f"{queue}-other"
    async with Client(strict_broker.address, credentials=Credentials(key=keys.of[who])) as client:
        with pytest.raises(NotPermitted, match=rf"lack the scope enqueue:{queue} \(queue {queue}\)$"):
            await client.enqueue(queue, "work")
        results = await client.enqueue_many([JobSpec(queue, "work"), JobSpec(other, "work"), JobSpec(queue, "work")])
    errors = [result.error for result in results]
    assert [(type(error), error and error.metadata["queue"]) for error in errors] == [(NotPermitted, queue), (NotPermitted, other), (NotPermitted, queue)]


async def test_a_refusal_in_the_middle_of_a_stream_is_logged(shared_store: Store, keys: Keys) -> None:
    # A broker of its own: one writes only so many of these lines in a second.
    async with Broker(shared_store, env={"JOBWIRE_KEYS": keys.text}) as broker:
        async with Client(broker.address, credentials=Credentials(key=keys.of["only_read"])) as client:
            with pytest.raises(NotPermitted):
                await client.enqueue("mail-1", "work")
        await broker.line(r"auth\.refused call=\S+EnqueueStream .*verb=enqueue queue=mail-1", past=True)


def test_a_sync_client_takes_the_key_from_the_environment(strict_broker: Broker, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBWIRE_API_KEY", keys.of["all"])
    with SyncClient(strict_broker.address) as client:
        assert client.server_info().store_available
        assert client.watch_token(["queues/a"]).token.startswith("jobwire_token_")


async def test_a_key_file_is_followed(strict_broker: Broker, keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(keys.of["only_read"] + "\n")
    async with Client(strict_broker.address, credentials=Credentials(key_file=file)) as client:
        with pytest.raises(NotPermitted):
            await client.workers()
        file.write_text(keys.of["all"])
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.workers()
                except NotPermitted:
                    await asyncio.sleep(0.1)
                else:
                    break


@pytest.mark.parametrize(
    "settings", [{"JOBWIRE_API_KEY": "a b"}, {"JOBWIRE_API_KEY": "ä"}, {"JOBWIRE_API_KEY_FILE": "/nowhere"}, {"JOBWIRE_CLIENT_CERT": __file__}]
)
def test_credentials_that_do_not_fit_are_refused_when_the_client_is_made(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest, match="credentials"):
        Client()
    with pytest.raises(RegistrationError, match="credentials"):
        Worker(queues=["q"])


def test_a_key_does_not_show_in_its_holder() -> None:
    assert "secret" not in repr(Credentials(key="secret"))
    assert "secret" not in repr(WorkerCredentials(key="secret"))


def test_the_command_line_makes_keys_and_tokens_and_says_when_it_is_denied(strict_broker: Broker, keys: Keys, tmp_path: Path) -> None:
    def run(*arguments: str, key: str = "") -> "subprocess.CompletedProcess[str]":
        env = {"PATH": "/usr/bin:/bin", "JOBWIRE_TARGET": strict_broker.address, **({"JOBWIRE_API_KEY": key} if key else {})}
        return subprocess.run([sys.executable, "-m", "jobwire_cli", *arguments], capture_output=True, text=True, timeout=60, env=env, check=False)

    file = tmp_path / "keys"
    made = run("key", "ann", "read:mail*", "--file", str(file), "--expires", "90d")
    assert made.returncode == 0
    assert made.stdout.strip().startswith("jobwire_key_")
    assert made.stdout.strip() not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert run("queues", "list", key=keys.of["all"]).returncode == 0
    denied = run("queues", "list")
    assert (denied.returncode, "say who you are" in denied.stderr) == (8, True)
    assert denied.stderr.endswith("; a command takes its key from JOBWIRE_API_KEY, or from the file that JOBWIRE_API_KEY_FILE names\n")
    token = json.loads(run("token", "queues/a", "--ttl", "60s", "--json", key=keys.of["all"]).stdout)
    assert token["token"].startswith("jobwire_token_")


async def test_keys_are_added_and_taken_away_without_a_restart(store: Store, tmp_path: Path) -> None:
    old, new = Keys(first="*:*"), Keys(second="*:*")
    file = tmp_path / "keys"
    file.write_text(old.text)
    info = admin.GetServerInfoRequest()
    async with Broker(store, extra=["--keys", str(file)]) as broker, api(broker) as connected:
        token = (await connected.admin.CreateSessionToken(admin.CreateSessionTokenRequest(), metadata=bearer(old.of["first"]))).token
        ticket = admin.CreateWatchTokenRequest(names=["queues/q"], single_use=True)
        made = await connected.admin.CreateWatchToken(ticket, metadata=bearer(old.of["first"]))
        opened = (await connected.admin.GetIdentity(admin.GetIdentityRequest(), metadata=bearer(made.token))).stream_token
        await connected.admin.GetServerInfo(info, metadata=bearer(token))
        stream = connected.jobs.WatchJobs(jobs.WatchJobsRequest(names=["queues/q"]), metadata=bearer(old.of["first"]))
        file.write_text("this is no line of keys")
        await broker.line("keys_not_reloaded", past=True)
        await connected.admin.GetServerInfo(info, metadata=bearer(old.of["first"]))
        file.write_text(new.text)
        await broker.line("keys_reloaded", past=True)
        await connected.admin.GetServerInfo(info, metadata=bearer(new.of["second"]))
        gone = [await refusal(connected.admin.GetServerInfo(info, metadata=bearer(credentials))) for credentials in (old.of["first"], token)]
        gone.append(await refusal(connected.admin.GetIdentity(admin.GetIdentityRequest(), metadata=bearer(opened))))
        assert [refused.code for refused in gone] == [grpc.StatusCode.UNAUTHENTICATED] * 3
        # What the key had opened ends with it.
        assert (await refusal(_drained(stream))).reason == "CREDENTIALS_EXPIRED"


async def test_a_token_says_what_its_key_has_left_of_it(store: Store, tmp_path: Path) -> None:
    keys = Keys(pages="watch:*", other="*:*")
    file = tmp_path / "keys"
    file.write_text(keys.text)

    async def identity(credentials: str) -> admin.GetIdentityResponse:
        return await connected.admin.GetIdentity(admin.GetIdentityRequest(), metadata=bearer(credentials))

    async with Broker(store, extra=["--keys", str(file)]) as broker, api(broker) as connected:
        asked = admin.CreateWatchTokenRequest(names=["queues/acme.a", "queues/b"])
        token = (await connected.admin.CreateWatchToken(asked, metadata=bearer(keys.of["pages"]))).token
        ticket = (
            await connected.admin.CreateWatchToken(admin.CreateWatchTokenRequest(names=asked.names, single_use=True), metadata=bearer(keys.of["pages"]))
        ).token
        assert (await identity(token)).scopes == ["watch:acme.a", "watch:b"]
        file.write_text(keys.text.replace("watch:*", "watch:a* tenant=acme"))
        await broker.line("keys_reloaded", past=True)
        left = [await identity(token), await identity(ticket)]
        left.append(await identity(left[1].stream_token))
        assert [(list(found.scopes), found.tenant) for found in left] == [(["watch:acme.a"], "acme")] * 3


async def test_a_keys_file_that_is_wrong_is_a_clear_error_at_the_start(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("billing jobwire_key_inplaintext read:a")
    broker = Broker(store, extra=["--keys", str(file)])
    with pytest.raises(ProcessEnded, match="line 1"):
        await broker.start()
    assert "inplaintext" not in broker.tail()
    assert "Traceback" not in broker.tail()


# The end of credentials ----------------------------------------------------------------------------------------------------------------------------------


async def test_a_worker_stream_is_sent_away_when_its_token_ends(strict_broker: Broker, queue: str) -> None:
    token = signed(claims("work:*", exp=int(time.time()) + 3))
    async with api(strict_broker) as connected:
        call = connected.workers.Work(metadata=bearer(token))
        await call.write(work.WorkRequest(hello=work.Hello(session=b"s" * 16, epoch=1, queues=[queue])))
        async with asyncio.timeout(15):
            while isinstance(frame := await call.read(), work.WorkResponse) and not frame.HasField("go_away"):
                await call.write(work.WorkRequest())
            assert isinstance(frame, work.WorkResponse)
            # One that stays all the same is cut off.
            assert (await refusal(_read_on(call))).reason == "CREDENTIALS_EXPIRED"


async def test_enqueues_go_on_over_the_end_of_a_token_that_is_renewed_in_time(strict_broker: Broker, tmp_path: Path, queue: str) -> None:
    file = tmp_path / "token"
    file.write_text(signed(claims("enqueue:*", exp=int(time.time()) + 3)))
    async with Client(strict_broker.address, credentials=Credentials(key_file=file), timeout=5) as client:
        until = time.monotonic() + 6
        file.write_text(signed(claims("enqueue:*")))
        while time.monotonic() < until:
            await client.enqueue(queue, "work")
            await asyncio.sleep(0.02)


async def test_the_broker_of_a_worker_without_a_right_says_so_in_its_log(strict_broker: Broker, keys: Keys, queue: str) -> None:
    worker = Worker(strict_broker.address, queues=[queue], credentials=WorkerCredentials(key=keys.of["only_read"]))
    worker.handler("*")(_nothing)
    async with worker:
        await strict_broker.line(rf"auth.refused.*call=/jobwire.v1.WorkerService/Work.*queue={queue}", past=True)


# TLS -----------------------------------------------------------------------------------------------------------------------------------------------------


async def test_tls_with_renewal_and_without_a_restart(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("broker")
    other = Authority(tmp_path, "other")
    async with Broker(store, extra=["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]) as broker:
        first = await _serial(broker.address)
        async with Client(broker.address, credentials=Credentials(ca=authority.file)) as client:
            assert (await client.server_info()).store_available
            authority.issue("broker", to=pair)
            async with asyncio.timeout(10):
                while await _serial(broker.address) == first:
                    await asyncio.sleep(0.1)
            # The old connection lives on.
            assert (await client.server_info()).store_available
        for credentials in (Credentials(), Credentials(ca=other.file)):
            async with Client(broker.address, credentials=credentials, timeout=1) as client:
                with pytest.raises(QueueUnavailable):
                    await client.server_info()
        # Half of a pair: the last good one stays.
        pair.key.write_bytes(b"no key")
        assert await _serial(broker.address) != first
        await broker.line("tls.not_renewed", past=True)


async def test_mtls_lets_in_only_those_with_a_certificate_and_knows_them_by_it(store: Store, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    pair, ann, bob = (authority.issue(name) for name in ("broker", "ann.example", "bob.example"))
    mallory = stranger.issue("ann.example")
    env = {"JOBWIRE_KEYS": "ann cert:ann.example enqueue:mail*"}
    flags = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-client-ca", str(authority.file)]
    async with Broker(store, extra=flags, env=env) as broker:

        def credentials(of: object = None) -> Credentials:
            if of is None:
                return Credentials(ca=authority.file)
            return Credentials(ca=authority.file, certificate=of.certificate, certificate_key=of.key)  # type: ignore[attr-defined]

        async with Client(broker.address, credentials=credentials(ann)) as client:
            await client.enqueue("mail-1", "work")
            with pytest.raises(NotPermitted):
                await client.enqueue("other", "work")
        async with Client(broker.address, credentials=credentials(bob)) as client:
            with pytest.raises(Unauthenticated):
                await client.enqueue("mail-1", "work")
        for nobody in (credentials(), credentials(mallory)):
            async with Client(broker.address, credentials=nobody, timeout=1) as client:
                with pytest.raises(QueueUnavailable):
                    await client.enqueue("mail-1", "work")


async def test_worker_and_gateway_reach_a_broker_over_tls(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("broker")
    keys = Keys(gateway="watch:* read:*", all="*:*")
    async with Broker(store, extra=["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)], env={"JOBWIRE_KEYS": keys.text}) as broker:
        env = {"JOBWIRE_TLS_CA": str(authority.file), "JOBWIRE_API_KEY": keys.of["gateway"]}
        async with Gateway(broker, env=env) as gateway:
            await gateway.line(r"feed\.open", past=True)
        name = f"localhost:{broker.address.rpartition(':')[2]}"
        worker = Worker(name, queues=["q"], credentials=WorkerCredentials(ca=authority.file, key=keys.of["all"]))
        worker.handler("*")(_nothing)
        async with worker:
            await worker.wait_connected()


async def test_authorities_and_certificates_of_both_sides_are_exchanged_without_a_restart_of_the_gateway(store: Store, tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    pair, own, ann = old.issue("broker"), old.issue("gateway.example"), old.issue("ann.example")
    flags = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-client-ca", str(old.file)]
    env = {"JOBWIRE_KEYS": "gateway cert:gateway.example watch:* read:*\nann cert:ann.example *:*"}
    certified = {"JOBWIRE_TLS_CA": str(old.file), "JOBWIRE_CLIENT_CERT": str(own.certificate), "JOBWIRE_CLIENT_KEY": str(own.key)}
    async with Broker(store, extra=flags, env=env) as broker, Gateway(broker, env=certified) as gateway:
        await gateway.line(r"feed\.open", past=True)
        of_old = tmp_path / "of-old.pem"
        of_old.write_bytes(old.file.read_bytes())
        # Half of it: the broker's clients must be of the new authority, and the gateway is not yet.
        new.issue("broker", to=pair)
        old.file.write_bytes(new.file.read_bytes())
        bob = new.issue("ann.example")
        renewed = Credentials(ca=new.file, certificate=bob.certificate, certificate_key=bob.key)
        async with asyncio.timeout(20), Client(broker.address, credentials=renewed) as client:
            assert (await client.server_info()).store_available
        outdated = Credentials(ca=new.file, certificate=ann.certificate, certificate_key=ann.key)
        async with Client(broker.address, credentials=outdated, timeout=1) as client:
            with pytest.raises(QueueUnavailable):
                await client.server_info()
        await broker.kill()
        await broker.restart()
        back = asyncio.create_task(gateway.line(r"feed\.open", timeout=20))
        new.issue("gateway.example", to=own)
        await back


async def test_clients_and_workers_follow_their_certificates(store: Store, tmp_path: Path, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    pair, own = old.issue("broker"), old.issue("ann.example")
    flags = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tls-client-ca", str(old.file)]
    async with Broker(store, extra=flags, env={"JOBWIRE_KEYS": "ann cert:ann.example *:*"}) as broker:
        worker = Worker(broker.address, queues=[queue], credentials=WorkerCredentials(ca=old.file, certificate=own.certificate, certificate_key=own.key))
        worker.handler("*")(_nothing)
        credentials = Credentials(ca=old.file, certificate=own.certificate, certificate_key=own.key)
        async with worker, Client(broker.address, credentials=credentials, timeout=20) as client:
            await client.wait(await client.enqueue(queue, "before"), timeout=20)
            await broker.kill()
            # In the middle of an exchange: of an empty key gRPC would end this process.
            own.key.write_bytes(b"")
            async with asyncio.timeout(20):
                while f"{own.key} is empty" not in caplog.text:
                    await asyncio.sleep(0.05)
            old.file.write_bytes(new.file.read_bytes())
            new.issue("broker", to=pair)
            new.issue("ann.example", to=own)
            await broker.restart()
            await client.wait(await client.enqueue(queue, "after"), timeout=20)


async def test_a_certificate_of_no_use_is_a_clear_error_at_the_start(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    broker = Broker(store, extra=["--tls-cert", str(one.certificate), "--tls-key", str(two.key)])
    with pytest.raises(ProcessEnded, match="of no use"):
        await broker.start()
    assert "Traceback" not in broker.tail()


async def test_a_broker_that_knows_its_callers_may_listen_for_all(store: Store) -> None:
    broker = Broker(store, env={"JOBWIRE_KEYS": Keys(a="*:*").text})
    broker.address = "0.0.0.0:0"
    async with broker:
        assert "keys_in_plain_text" in broker.tail(200)
        assert SECRET not in broker.tail(200)


async def _nothing() -> None:
    return


async def _read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _drained(stream: Any) -> None:
    async for _ in stream:
        pass


async def _serial(address: str) -> str:
    """Of the certificate that a new connection gets."""
    host, _, port = address.rpartition(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
