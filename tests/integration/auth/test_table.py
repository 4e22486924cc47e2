"""Identity by RPC by queue over gRPC, every cell."""

import asyncio
import itertools

import pytest
from jobwire.v1 import admin_service_pb2, event_service_pb2, job_service_pb2, queue_service_pb2, worker_service_pb2
from jobwire.v1 import admin_service_pb2 as admin
from jobwire.v1 import queue_service_pb2 as queues
from jobwire_broker.services.verbs import RULES, Reach

from tests.support import Broker
from tests.support.api import Api, api
from tests.support.credentials import Keys, bearer, claims, signed

from .calls import RPCS, Metadata, Rpc, outcome
from .conftest import VERBS

QUEUES = ("mail-table", "other-table", "acme.mail-table")
_FILES = (admin_service_pb2, event_service_pb2, job_service_pb2, queue_service_pb2, worker_service_pb2)


def allows(who: str, verb: str, queue: str) -> bool:
    """What the words of each key mean, said a second time and in another way than the broker does."""
    match who:
        case "all" | "jwt_all":
            return True
        case "mail" | "jwt_mail" | "session_mail":
            return queue.startswith("mail")
        case "acme":
            return queue.startswith("acme.")
        case "gateway":
            return verb in ("watch", "read")
        case "watch_token":
            return verb == "watch" and queue == QUEUES[0]
        case "job_token" | "jwt_nothing":
            return False
        case _:
            return verb == who.removeprefix("only_") and queue.startswith("mail")


def everywhere(who: str, verb: str) -> bool:
    return who in ("all", "jwt_all") or (who == "gateway" and verb in ("watch", "read"))


def somewhere(who: str, verb: str) -> bool:
    if who == "job_token":
        return verb == "watch"
    return any(allows(who, verb, queue) for queue in QUEUES)


def expected(who: str, rpc: Rpc, queue: str) -> str:
    if who == "nobody":
        return "CREDENTIALS_MISSING"
    if who in ("stranger", "forged"):
        return "CREDENTIALS_INVALID"
    if who == "expired":
        return "CREDENTIALS_EXPIRED"
    if rpc.verb is None:
        return "in"
    right = everywhere(who, rpc.verb) if rpc.everywhere else somewhere(who, rpc.verb) if rpc.lists else allows(who, rpc.verb, queue)
    return "in" if right else "NOT_PERMITTED"


async def identities(keys: Keys, api: Api) -> dict[str, Metadata]:
    async def minted(who: str, *names: str) -> Metadata:
        made = await api.admin.CreateWatchToken(admin.CreateWatchTokenRequest(names=names), metadata=bearer(keys.of[who]))
        return bearer(made.token)

    session = await api.admin.CreateSessionToken(admin.CreateSessionTokenRequest(), metadata=bearer(keys.of["mail"]))
    return {
        **{name: bearer(key) for name, key in keys.of.items()},
        "nobody": None,
        "stranger": bearer("jobwire_key_" + "A" * 43),
        "forged": bearer(signed(claims("*:*"), "another secret, which is long enough for its hash as well: 64 bytes.")),
        "jwt_all": bearer(signed(claims("*:*"))),
        "jwt_mail": bearer(signed(claims("*:mail*"))),
        "jwt_nothing": bearer(signed(claims("openid profile"))),
        "watch_token": await minted("all", f"queues/{QUEUES[0]}"),
        "job_token": await minted("all", f"queues/{QUEUES[0]}/jobs/another"),
        "session_mail": bearer(session.token),
    }


async def test_every_cell_of_identity_by_call_by_queue(strict_broker: Broker, keys: Keys) -> None:
    async with api(strict_broker) as connected:
        all_identities = await identities(keys, connected)
        wrong: list[str] = []
        limit = asyncio.Semaphore(32)

        async def check(who: str, name: str, queue: str) -> None:
            async with limit:
                got = await outcome(name, connected, queue, all_identities[who])
            if got != (wanted := expected(who, RPCS[name], queue)):
                wrong.append(f"{who} {name} {queue}: {got}, not {wanted}")

        await asyncio.gather(*(check(*cell) for cell in itertools.product(all_identities, RPCS, QUEUES)))
    assert wrong == []


def test_the_table_has_every_rpc_of_the_contract() -> None:
    methods = {method.name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods}
    assert set(RPCS) == methods
    ours = {name.rpartition("/")[2]: rule for name, rule in RULES.items() if name.startswith("/jobwire.v1.")}
    assert set(ours) == methods
    assert {name: rule.verb or None for name, rule in ours.items()} == {name: rpc.verb for name, rpc in RPCS.items()}
    assert [name for name, rule in ours.items() if rule.reach is Reach.PUBLIC] == []


@pytest.mark.parametrize(("who", "seen"), [("all", set(QUEUES)), ("mail", {QUEUES[0]}), ("acme", {QUEUES[2]}), ("only_read", {QUEUES[0]})])
async def test_a_list_shows_only_what_the_caller_may_read(strict_broker: Broker, keys: Keys, who: str, seen: set[str]) -> None:
    async with api(strict_broker) as connected:
        for queue in QUEUES:
            await outcome("PauseQueue", connected, queue, bearer(keys.of["all"]))
        answer = await connected.queues.ListQueues(queues.ListQueuesRequest(page_size=1000), metadata=bearer(keys.of[who]))
    assert {queue.queue for queue in answer.queues} & set(QUEUES) == seen


def test_every_verb_has_a_key_of_its_own(keys: Keys) -> None:
    assert {f"only_{verb}" for verb in VERBS} <= set(keys.of)
