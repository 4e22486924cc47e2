"""What is asked for is read strictly, and what is wrong is named."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jobwire.v1.job_pb2 import Durability, JobSpec
from jobwire_gateway import lines
from jobwire_gateway.batches import Batches
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.contract import shown
from jobwire_gateway.enqueue import durability_of, job_members, job_spec, minting, new_id
from jobwire_gateway.names import job_name, queue_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import json_body, preferred_wait, query_of
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message


def request(body: bytes, content_type: str | None = "application/json", *, chunks: int = 1) -> Request:
    async def parts() -> AsyncIterator[Message]:
        step = max(1, -(-len(body) // chunks))
        for start in range(0, max(1, len(body)), step):
            yield {"type": "http.request", "body": body[start : start + step], "more_body": start + step < len(body)}

    iterator = parts()
    headers = [(b"content-type", content_type.encode())] if content_type else []
    return Request({"type": "http", "method": "POST", "headers": headers, "query_string": b""}, iterator.__anext__)


async def refused(body: bytes, content_type: str | None = "application/json", limit: int = 1_000, *, chunks: int = 1) -> Problem:
    with pytest.raises(Problem) as caught:
        await json_body(request(body, content_type, chunks=chunks), limit)
    return caught.value


async def test_a_json_object_is_read_whatever_the_charset_parameter() -> None:
    assert await json_body(request('{"a":"ü"}'.encode(), "Application/JSON; charset=utf-8"), 100) == {"a": "ü"}


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_another_content_type_is_415(content_type: str | None) -> None:
    assert (await refused(b"{}", content_type)).status == 415


async def test_a_body_over_the_limit_is_413_also_when_its_length_was_not_said() -> None:
    assert (await refused(b'"' + b"x" * 2_000 + b'"', chunks=10)).status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":1,"a":2}',
        b"\xff{}",
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 400 + b"]" * 400 + b"x",
        b'{"a":' + b"1" * 900 + b"}x",
        b"\xef\xbb\xbf{}",
    ],
)
async def test_malformed_json_is_400(body: bytes) -> None:
    problem = await refused(body, limit=10_000)
    assert (problem.status, problem.reason) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a":' + b"1" * 4_301 + b"}", "A whole number in the body may have 4300 digits."),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark: send UTF-8 without one."),
    ],
)
async def test_what_is_wrong_with_json_is_said_in_our_words_and_not_in_pythons(body: bytes, said: str) -> None:
    assert (await refused(body, limit=10_000)).detail.endswith(said)


async def test_a_whole_number_of_as_many_digits_as_there_may_be_is_read() -> None:
    assert (await json_body(request(b'{"a":-' + b"1" * 4_300 + b"}"), 10_000))["a"] == -int("1" * 4_300)


def test_a_query_of_too_many_parameters_is_told_how_many_there_may_be() -> None:
    scope = {"query_string": b"&".join([b"a=1"] * 33)}
    with pytest.raises(Problem, match="A query may have 32 parameters"):
        query_of(scope, ("a",))


@pytest.mark.parametrize("depth", [501, *range(900, 1_000, 7), 100_000])
async def test_json_nested_too_deeply_is_400(depth: int) -> None:
    problem = await refused(b'{"a":' * depth + b"0" + b"}" * depth, limit=1_000_000)
    assert (problem.status, problem.detail) == (400, "The body is nested too deeply.")


async def test_a_member_that_is_twice_among_very_many_is_found_at_once() -> None:
    names = [f'"{number}":0' for number in range(200_000)]
    body = "{" + ",".join([*names, '"7":1', '"199999":1']) + "}"
    began = time.process_time()
    problem = await refused(body.encode(), limit=5_000_000)
    assert time.process_time() - began < 2
    assert "the member '7' is there twice" in problem.detail


async def test_no_body_will_do_where_none_is_needed() -> None:
    assert await json_body(request(b"", None), 100, optional=True) == {}


@pytest.mark.parametrize(("part_s", "all_s", "sentence"), [(0.02, 5.0, "Nothing of the body came"), (5.0, 0.1, "was waited for longer")])
async def test_x06_lines_that_come_too_slowly_are_408(monkeypatch: pytest.MonkeyPatch, part_s: float, all_s: float, sentence: str) -> None:
    monkeypatch.setattr(lines, "BODY_S", part_s)
    monkeypatch.setattr(lines, "LINES_S", all_s)

    async def drip() -> Message:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b"{", "more_body": True}

    slow = Request({"type": "http", "method": "POST", "headers": [], "query_string": b"", "path": "/"}, drip)
    batches = Batches(Brokers(["127.0.0.1:1"], 1.0), 1.0)
    with pytest.raises(Problem, match=sentence) as caught:
        await lines.LinesEnqueue(batches, "q", Durability.DURABILITY_STORE, minting("q", Headers()), max_line=1_000, max_body=1_000).run(slow)
    assert caught.value.status == 408


@pytest.mark.parametrize("query", [b"nope=1", b"state=a&state=b", b"state=%ff", b"state", b"=1"])
def test_a_query_that_is_not_known_whole_is_400(query: bytes) -> None:
    with pytest.raises(Problem) as caught:
        query_of({"query_string": query}, ("state",))
    assert caught.value.status == 400


def spec(**members: Any) -> JobSpec:
    return job_spec("q", members, 0, minting("q", Headers()))


def test_all_fields_of_an_enqueue_arrive() -> None:
    job = spec(
        jobName="thumbnail",
        payload={"big": 12345678901234567890123, "text": "ü"},
        id="a:b",
        priority="HIGH",
        delay="1.5s",
        attempts=7,
        backoff={"base": "0s", "factor": 1, "maxDelay": "60s", "jitter": 0},
    )
    assert job.payload.json == '{"big":12345678901234567890123,"text":"ü"}'
    assert (job.queue, job.id, job.job_name, job.priority, job.attempts) == ("q", "a:b", "thumbnail", 1, 7)
    assert job.delay.ToTimedelta().total_seconds() == 1.5
    assert job.backoff.HasField("base")
    assert job.backoff.HasField("jitter")
    assert (job.backoff.jitter, job.backoff.factor, job.backoff.max_delay.seconds) == (0, 1, 60)


def test_all_rules_of_a_job_arrive() -> None:
    job = spec(
        jobName="t",
        backoff={"delays": ["1s", "0s"], "jitter": 0.5},
        group="acme",
        labels={"order": "17", "empty": ""},
        requiredLabels={"gpu": "a100"},
        units=3,
        expiresAt="2030-01-01T00:00:00Z",
        timeout="1.5s",
        totalTimeout="60s",
        permanentErrors=["ValueError"],
        retention="0s",
        debounce={"key": "k", "delay": "2s", "maxWait": "9s"},
    )
    assert [length.seconds for length in job.backoff.delays] == [1, 0]
    assert (job.group, dict(job.labels), dict(job.required_labels), job.units) == ("acme", {"order": "17", "empty": ""}, {"gpu": "a100"}, 3)
    assert (job.expires_at.seconds, job.timeout.nanos, job.total_timeout.seconds) == (1_893_456_000, 500_000_000, 60)
    assert (list(job.permanent_errors), job.HasField("retention"), job.retention.seconds) == (["ValueError"], True, 0)
    assert (job.debounce.key, job.debounce.delay.seconds, job.debounce.max_wait.seconds) == ("k", 2, 9)


@pytest.mark.parametrize(
    ("identity", "members"),
    [
        ("idempotency", {"key": "k", "ttl": "60s"}),
        ("idempotency", {"key": "k"}),
        ("unique", {"key": "k"}),
        ("unique", {}),
        ("throttle", {"key": "k", "period": "60s"}),
    ],
)
def test_every_identity_arrives(identity: str, members: dict[str, str]) -> None:
    job = spec(jobName="t", **{identity: members})
    assert job.WhichOneof("identity") == identity
    assert shown(getattr(job, identity)) == members


def test_two_identities_are_refused_although_the_contract_would_keep_the_last() -> None:
    with pytest.raises(Problem, match="throttle can't stand beside unique"):
        spec(jobName="t", unique={}, throttle={"key": "k", "period": "1s"})


def test_an_answer_waits_for_the_store_unless_the_disk_is_asked_for() -> None:
    assert durability_of({}) == durability_of({"durability": "store"}) == Durability.DURABILITY_STORE
    assert durability_of({"durability": "disk"}) == Durability.DURABILITY_DISK


@pytest.mark.parametrize("value", ["memory", 1, None])
def test_another_durability_is_400(value: object) -> None:
    with pytest.raises(Problem, match="durability"):
        durability_of({"durability": value})


def test_an_enqueue_without_an_id_gets_one_that_sorts_by_time() -> None:
    ids = [spec(jobName="t").id for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(len(job_id) == 32 and int(job_id, 16) and job_id[12] == "7" and job_id[16] in "89ab" for job_id in ids)
    assert new_id()[:11] >= ids[0][:11]


def test_an_idempotency_key_gives_each_place_of_each_queue_an_id_of_its_own_that_stays() -> None:
    key = Headers({"Idempotency-Key": '"order-17"'})
    once, again, other = minting("q", key), minting("q", key), minting("r", key)
    assert [once(0), once(1)] == [again(0), again(1)]
    assert len({once(0), once(1), other(0), minting("q", Headers({"Idempotency-Key": "order-17"}))(0)}) == 4
    job_name("q", once(0))


@pytest.mark.parametrize("key", ["", "k" * 256, "ü", "a b"])
def test_an_idempotency_key_out_of_its_bounds_is_400(key: str) -> None:
    with pytest.raises(Problem, match="Idempotency-Key"):
        minting("q", Headers(raw=[(b"idempotency-key", key.encode("latin-1"))]))


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("wait=5", 5),
        ("respond-async, wait=10", 10),
        ('WAIT = "7"', 7),
        ("wait=3; strict", 3),
        ("wait=5, wait=9", 5),
        ("wait", None),
        ("wait=-1", None),
        ("wait=soon", None),
        ("wait=1.5", None),
        ("awaited=5", None),
        ("", None),
    ],
)
def test_a_preference_is_taken_as_rfc_7240_has_it_and_one_that_makes_no_sense_as_none(value: str, wait_s: float | None) -> None:
    assert preferred_wait(Headers({"Prefer": value})) == wait_s


@pytest.mark.parametrize("jobs", [[], [{}] * 1001, {}, "x", None])
def test_a_body_of_many_holds_1_to_1000_jobs(jobs: object) -> None:
    with pytest.raises(Problem, match="jobs must be an array"):
        job_members({"jobs": jobs})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jobName", ""),
        ("jobName", 5),
        ("id", ""),
        ("id", None),
        ("priority", "URGENT"),
        ("priority", True),
        ("priority", 2**31),
        ("priority", 1.5),
        ("delay", "-5s"),
        ("delay", 5),
        ("delay", "5"),
        ("delay", "5m"),
        ("delay", "1e400s"),
        ("delayUntil", "tomorrow"),
        ("attempts", 0),
        ("attempts", "3"),
        ("backoff", []),
        ("backoff", {"base": "-1s"}),
        ("backoff", {"factor": "2"}),
        ("backoff", {"factor": 0}),
        ("backoff", {"factor": 10**400}),
        ("backoff", {"speed": 2}),
        ("prority", 1),
        ("group", ""),
        ("labels", {"a": 1}),
        ("labels", ["a"]),
        ("units", 0),
        ("permanentErrors", "E"),
        ("permanentErrors", [""]),
        ("timeout", "-1s"),
        ("unique", {"key": ""}),
        ("unique", True),
        ("debounce", {"delay": 5}),
        ("backoff", {"delays": ["1s", "x"]}),
        ("queue", "other"),
    ],
)
def test_a_field_that_is_wrong_is_named(field: str, value: object) -> None:
    with pytest.raises(Problem) as caught:
        spec(**{"jobName": "t", field: value})
    assert caught.value.status == 400
    assert caught.value.violations


def test_a_job_without_a_handlers_name_is_refused() -> None:
    with pytest.raises(Problem, match="jobName is required"):
        spec()


@pytest.mark.parametrize("queue", ["", " ", ".q", "q" * 101, "a b", "a/b", "ü", "a\n", "a:b", "-q", "{q}"])
def test_an_odd_queue_name_is_400(queue: str) -> None:
    with pytest.raises(Problem) as caught:
        queue_name(queue)
    assert caught.value.status == 400


@pytest.mark.parametrize("job_id", ["", "j" * 129, ".j", "a b", "a/b", "é", "a\x00"])
def test_an_odd_job_id_is_400(job_id: str) -> None:
    with pytest.raises(Problem) as caught:
        job_name("q", job_id)
    assert caught.value.status == 400


def test_names_at_their_bounds_are_good() -> None:
    assert queue_name("q" * 100) == "queues/" + "q" * 100
    assert job_name("a.b_c~d-e", "a:b@c+d=e-f.g_h~i") == "queues/a.b_c~d-e/jobs/a:b@c+d=e-f.g_h~i"
