"""Identities over gRPC: what the verdicts say, on every way in, and that brokers agree."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from tests.integration.broker.asking import completed, enqueue_all, finish, get, job_name_of, lease, listed, spec
from tests.integration.broker.test_enqueue_stream import asking
from tests.support import Broker
from tests.support.api import Api, refusal
from tests.support.api import api as connected

MADE, FOUND, REPLACED, REFUSED = (pb.EnqueueVerdict.Value(f"ENQUEUE_VERDICT_{word}") for word in ("MADE", "FOUND", "REPLACED", "REFUSED"))
State = job_pb2.JobState
MINUTE = Duration(seconds=60)
UNIQUE = {"unique": job_pb2.Unique(key="k")}
IDEMPOTENT = {"idempotency": job_pb2.Idempotency(key="k")}
THROTTLED = {"throttle": job_pb2.Throttle(key="k", period=MINUTE)}
DEBOUNCED = {"debounce": job_pb2.Debounce(key="k", delay=MINUTE)}


async def ask(api: Api, spec: job_pb2.JobSpec) -> tuple[str, int]:
    answer = await api.jobs.Enqueue(pb.EnqueueRequest(job=spec))
    assert answer.name == job_name_of(spec.queue, answer.id)
    return answer.id, answer.verdict


async def test_the_answer_names_the_job_that_is_there(api: Api, queue: str) -> None:
    assert await ask(api, spec(queue, "a", **UNIQUE)) == ("a", MADE)
    assert await ask(api, spec(queue, "b", **UNIQUE, priority=1)) == ("a", FOUND)
    assert await ask(api, spec(queue, "", **UNIQUE)) == ("a", FOUND)
    assert [(x.id, x.verdict) for x in await enqueue_all(api, [spec(queue, "c", **UNIQUE), spec(queue, "d"), spec(queue, "a", **UNIQUE)])] == [
        ("a", FOUND),
        ("d", MADE),
        ("a", MADE),
    ]
    async with asking(api) as stream:
        answer = await stream.ask(spec(queue, "e"), spec(queue, "f", **UNIQUE), spec(queue, "", **UNIQUE))
        assert [(x.at, x.id, x.verdict) for x in answer.items] == [(1, "a", FOUND), (2, "a", FOUND)]


async def test_a_unique_job_without_a_key_is_known_by_its_name_and_payload(api: Api, queue: str) -> None:
    def one(job: str, text: str, name: str = "work") -> job_pb2.JobSpec:
        return spec(queue, job, job_name=name, payload=job_pb2.Payload(json=text), unique=job_pb2.Unique())

    verdicts = await enqueue_all(api, [one("a", "1"), one("b", "1"), one("c", "2"), one("d", "1", "other")])
    assert [(x.id, x.verdict) for x in verdicts] == [("a", MADE), ("a", FOUND), ("c", MADE), ("d", MADE)]
    first, *_ = await lease(api, queue)
    await finish(api, completed(first))
    assert await ask(api, one("e", "1")) == ("e", MADE)


async def test_an_idempotency_key_with_other_content_says_what_differs(api: Api, queue: str) -> None:
    first = spec(queue, "a", **IDEMPOTENT, payload=job_pb2.Payload(json="1"), labels={"a": "b"})
    again = spec(queue, "b", **IDEMPOTENT, payload=job_pb2.Payload(json="1"), labels={"a": "b"})
    assert [await ask(api, first), await ask(api, again)] == [("a", MADE), ("a", FOUND)]
    other = spec(queue, "c", **IDEMPOTENT, job_name="other", payload=job_pb2.Payload(json="2"), priority=1, attempts=2, delay=MINUTE)
    found = await refusal(api.jobs.Enqueue(pb.EnqueueRequest(job=other)))
    assert (found.code, found.reason, found.fields) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT", ("job.idempotency.key",))
    assert found.metadata == {"differs": "job_name,payload,delay,labels,attempts,priority", "id": "a"}
    (item,) = await enqueue_all(api, [other])
    assert (item.verdict, item.error.reason, item.error.field) == (REFUSED, "IDEMPOTENCY_CONFLICT", "jobs[0].idempotency.key")
    assert await listed(api, queue, State.JOB_STATE_WAITING) == ["a"]


async def test_a_key_is_known_after_its_job_is_gone(api: Api, queue: str) -> None:
    await ask(api, spec(queue, "a", **IDEMPOTENT))
    await api.jobs.DeleteJob(pb.DeleteJobRequest(name=job_name_of(queue, "a")))
    assert await ask(api, spec(queue, "b", **IDEMPOTENT)) == ("a", FOUND)


async def test_a_debounced_job_carries_what_the_last_call_brought(api: Api, queue: str) -> None:
    assert await ask(api, spec(queue, "a", **DEBOUNCED, payload=job_pb2.Payload(json="1"))) == ("a", MADE)
    assert await ask(api, spec(queue, "b", **DEBOUNCED, payload=job_pb2.Payload(json="2"))) == ("a", REPLACED)
    job = await get(api, job_name_of(queue, "a"))
    assert (job.state, job.payload.json) == (State.JOB_STATE_DELAYED, "2")


async def test_a_debounced_job_starts_by_itself_when_no_call_comes(api: Api, queue: str) -> None:
    short = {"debounce": job_pb2.Debounce(key="k", delay=Duration(nanos=200_000_000), max_wait=Duration(nanos=500_000_000))}
    for i in range(3):
        await ask(api, spec(queue, f"j{i}", **short, payload=job_pb2.Payload(json=str(i))))
    (job,) = await lease(api, queue, wait_s=5)
    assert (job.id, job.payload.json) == ("j0", "2")


@pytest.mark.parametrize("fields", [UNIQUE, IDEMPOTENT, THROTTLED, DEBOUNCED], ids=["unique", "idempotency", "throttle", "debounce"])
async def test_fifty_callers_of_two_brokers_make_one_job(api: Api, second_broker: Broker, queue: str, fields: dict[str, object]) -> None:
    async with connected(second_broker) as other:
        answers = await asyncio.gather(*(ask((api, other)[i % 2], spec(queue, "", **fields)) for i in range(50)))
    assert len({job for job, _ in answers}) == 1
    assert [verdict for _, verdict in answers].count(MADE) == 1
    assert {verdict for _, verdict in answers} == {MADE, REPLACED if fields is DEBOUNCED else FOUND}
    assert len(await listed(api, queue, State.JOB_STATE_WAITING) + await listed(api, queue, State.JOB_STATE_DELAYED)) == 1


async def test_a_retry_is_refused_while_another_job_has_the_key(api: Api, queue: str) -> None:
    await ask(api, spec(queue, "a", **UNIQUE))
    await api.jobs.CancelJob(pb.CancelJobRequest(name=job_name_of(queue, "a")))
    await ask(api, spec(queue, "b", **UNIQUE))
    found = await refusal(api.jobs.RetryJob(pb.RetryJobRequest(name=job_name_of(queue, "a"))))
    assert (found.code, found.reason, found.metadata) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", {"holder": job_name_of(queue, "b")})
