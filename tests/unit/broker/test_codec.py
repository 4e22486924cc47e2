"""Records and wire forms: what goes in comes out, and hand-made bytes are what protobuf makes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_broker.names import id_to_text, mint_id
from jobwire_broker.store import codec, wire

u8, u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
i32 = st.integers(-(1 << 31), (1 << 31) - 1)
dates_us = st.integers(1, 253_402_300_799_000_000)
job_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", fullmatch=True)
raw_ids = st.one_of(st.builds(mint_id), job_names.map(lambda name: name.replace("/", "-").encode()))
payloads = st.one_of(
    st.just(job_pb2.Payload()),
    st.builds(lambda text: job_pb2.Payload(json=text), st.text(max_size=300)),
    st.builds(lambda data, kind: job_pb2.Payload(data=data, content_type=kind), st.binary(max_size=300), st.sampled_from(["", "image/webp"])),
)
labels = st.dictionaries(st.from_regex(r"[A-Za-z0-9._/-]{1,63}", fullmatch=True), st.text(max_size=32), max_size=16)


def header(**values: int) -> bytes:
    return codec.HEADER.pack(*codec.Header()._replace(**values))


@settings(deadline=None)
@given(job_names, payloads, st.none() | st.builds(codec.Backoff, u64, u32, u64, u16), u64)
def test_a_body_holds_what_was_asked_for(job_name: str, payload: job_pb2.Payload, backoff: codec.Backoff | None, delay_ms: int) -> None:
    record = header() + codec.encode_body(job_name, payload.SerializeToString(), backoff, delay_ms)
    found = codec.sections(record, codec.body_start(record))
    assert found.get(codec.TAG_PAYLOAD, b"") == payload.SerializeToString()
    assert (codec.TAG_BACKOFF in found, codec.TAG_DELAY in found) == (backoff is not None, delay_ms > 0)
    if backoff is not None:
        assert codec._BACKOFF.unpack(found[codec.TAG_BACKOFF]) == backoff
    job = codec.job_from_record("q", b"a", record)
    assert (job.job_name, job.payload) == (job_name, payload)


@settings(deadline=None)
@given(job_names, labels, labels, st.integers(2, 1000), payloads)
def test_a_body_holds_the_rules_that_a_job_uses(group: str, own: dict[str, str], required: dict[str, str], units: int, payload: job_pb2.Payload) -> None:
    rules = {
        codec.TAG_UNITS: codec.encode_units(units),
        codec.TAG_GROUP: group.encode(),
        codec.TAG_LABELS: codec.encode_labels(own),
        codec.TAG_REQUIRED_LABELS: codec.encode_labels(required),
    }
    body = codec.encode_body("work", payload.SerializeToString(), None, 0, rules)
    # In the order of their tags, the payload last: the same job has the same bytes.
    assert body == codec.encode_body("work", payload.SerializeToString(), None, 0, dict(sorted(rules.items())))
    if payload.SerializeToString():
        assert body.endswith(payload.SerializeToString())
    job = codec.job_from_record("q", b"a", header() + body)
    assert (job.group, dict(job.labels), dict(job.required_labels), job.units) == (group, own, required, units)


def test_labels_in_any_order_have_the_same_bytes() -> None:
    assert codec.encode_labels({"b": "1", "a": ""}) == codec.encode_labels({"a": "", "b": "1"}) == b"\1a\0\1b\1" + b"1"


def test_a_job_that_uses_no_rule_says_nothing_of_them() -> None:
    job = codec.job_from_record("q", b"a", header() + codec.encode_body("work", b"", None, 0))
    assert (job.group, dict(job.labels), dict(job.required_labels), job.units) == ("", {}, {}, 0)


@settings(deadline=None)
@given(
    raw_ids,
    st.builds(
        dict,
        state=st.sampled_from(range(1, 9)),
        flags=st.integers(0, 7),
        losses=u8,
        priority=i32,
        revision=dates_us,
        order=dates_us,
        token=st.just(0) | dates_us,
        created=dates_us,
        attempt=u16,
        attempts=u16,
        progress=st.just(codec.NO_PROGRESS) | st.integers(0, 10_000),
    ),
)
def test_a_job_says_what_its_record_says(raw_id: bytes, values: dict[str, int]) -> None:
    job = codec.job_from_record("q", raw_id, header(**values) + codec.encode_body("work", b"", None, 0))
    assert job.name == f"queues/q/jobs/{id_to_text(raw_id)}"
    assert [job.state, job.losses, job.priority, job.revision, job.token, job.attempt, job.max_attempts] == [
        values[key] for key in ("state", "losses", "priority", "revision", "token", "attempt", "attempts")
    ]
    record = header(**values)
    assert [codec.state_of(record), codec.revision_of(record), codec.token_of(record), codec.created_of(record)] == [
        values[key] for key in ("state", "revision", "token", "created")
    ]
    assert (job.cancel_requested, job.cancel_delivered) == (bool(values["flags"] & 1), bool(values["flags"] & 2))
    assert job.create_time.ToMicroseconds() == values["created"]
    assert job.HasField("progress") == (values["progress"] != codec.NO_PROGRESS)
    assert job.HasField("due_time") == (values["state"] == job_pb2.JOB_STATE_DELAYED)
    assert job.HasField("start_time") == (values["token"] > 0)
    assert job.HasField("finish_time") == (values["state"] >= job_pb2.JOB_STATE_COMPLETED)
    if values["progress"] != codec.NO_PROGRESS:
        assert job.progress.percent == values["progress"] / 100


def sectioned(state: int, **sections: Any) -> bytes:
    tags = {"progress": codec.TAG_PROGRESS, "result": codec.TAG_RESULT, "failure": codec.TAG_FAILURE}
    parts = b"".join(codec.SECTION.pack(tags[name], len(body)) + body for name, body in ((n, m.SerializeToString()) for n, m in sections.items()))
    return header(state=state, progress=5000) + codec.encode_body("work", b"", None, 0) + parts


def test_a_result_shows_in_completed_alone_and_a_failure_in_all_else() -> None:
    outcome: dict[str, Any] = {"result": job_pb2.Payload(json="1"), "failure": job_pb2.Failure(type="Boom"), "progress": job_pb2.Progress(message="half")}
    done = codec.job_from_record("q", b"a", sectioned(job_pb2.JOB_STATE_COMPLETED, **outcome))
    assert (done.result.json, done.HasField("failure"), done.progress.message, done.progress.percent) == ("1", False, "half", 50)
    waits = codec.job_from_record("q", b"a", sectioned(job_pb2.JOB_STATE_DELAYED, **outcome))
    assert (waits.HasField("result"), waits.failure.type) == (False, "Boom")


def test_a_section_of_an_unknown_tag_hinders_nobody() -> None:
    body = codec.SECTION.pack(50, 3) + b"new" + codec.SECTION.pack(120, 0)
    job = codec.job_from_record("q", b"a", header() + codec.encode_body("work", job_pb2.Payload(json="1").SerializeToString(), None, 0) + body)
    assert job.payload.json == "1"


# The wire ---------------------------------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(u64)
def test_a_number_on_the_wire_is_what_protobuf_makes(number: int) -> None:
    value = number if number < 1 << 63 else number - (1 << 64)
    expected = pb.Delivery(token=value).SerializeToString()[1:]
    for encode in (wire.varint, wire.token_varint):
        assert encode(number) == (expected or b"\0")


@pytest.mark.parametrize("queue", ["q", "q" * 100])
@settings(deadline=None)
@given(
    raw_id=raw_ids,
    job_name=job_names,
    payload=payloads,
    token=st.integers(1, (1 << 63) - 1),
    priority=i32,
    attempt=st.integers(0, 999),
    attempts=st.integers(0, 1000),
    group=st.just("") | job_names,
    labels=st.just({}) | labels,
)
def test_a_delivery_is_what_protobuf_makes(
    queue: str,
    raw_id: bytes,
    job_name: str,
    payload: job_pb2.Payload,
    token: int,
    priority: int,
    attempt: int,
    attempts: int,
    group: str,
    labels: dict[str, str],
) -> None:
    rules = {codec.TAG_UNITS: codec.encode_units(7)}
    if group:
        rules[codec.TAG_GROUP] = group.encode()
    if labels:
        rules[codec.TAG_LABELS] = codec.encode_labels(labels)
    record = header(priority=priority, attempt=attempt, attempts=attempts) + codec.encode_body(
        job_name, payload.SerializeToString(), codec.Backoff(1, 2, 3, 4), 5, rules
    )
    expected = pb.Delivery(
        queue=queue, id=id_to_text(raw_id), job_name=job_name, token=token, attempt=attempt + 1, max_attempts=attempts or 7, priority=priority
    )
    if payload.SerializeToString():
        expected.payload.CopyFrom(payload)
    expected.group = group
    expected.labels.update(labels)
    made = wire.delivery(queue, raw_id, token, record, 7)
    assert pb.Delivery.FromString(made) == expected
    # What stands in keys of its own comes behind the record.
    checkpoint = job_pb2.Payload(json=job_name)
    packed = checkpoint.SerializeToString()
    kept = header(priority=priority, attempt=attempt, attempts=attempts, flags=codec.FLAG_KEPT) + record[codec.HEADER_SIZE :]
    with_checkpoint = wire.delivery(queue, raw_id, token, kept + codec.SECTION.pack(codec.TAG_CHECKPOINT, len(packed)) + packed, 7)
    assert pb.Delivery.FromString(with_checkpoint) == pb.Delivery(checkpoint=checkpoint, **{f.name: v for f, v in expected.ListFields()})
    assert pb.WorkResponse.FromString(wire.jobs_field(made)).jobs == [expected]


@settings(deadline=None)
@given(raw_ids, st.integers(1, (1 << 63) - 1), st.sampled_from(pb.Verdict.values()), st.sampled_from(job_pb2.JobState.values()))
def test_an_ack_is_what_protobuf_makes(raw_id: bytes, token: int, verdict: Any, state: Any) -> None:
    expected = pb.Ack(queue="q", id=id_to_text(raw_id), token=token, verdict=verdict, state=state)
    assert pb.WorkResponse.FromString(wire.acks_field("q", raw_id, token, verdict, state)).acks == [expected]


def timed_record(**values: int) -> bytes:
    """A job with all rules of time."""
    rules = {codec.TAG_EXPIRY: codec.encode_expiry("r", 5_000), codec.TAG_TIMEOUT: codec.encode_ms(1_500), codec.TAG_TOTAL_TIMEOUT: codec.encode_ms(60_000)}
    return header(flags=codec.FLAG_TIMED, **values) + codec.encode_body("work", b"", None, 0, rules)


def test_a_delivery_says_how_long_the_attempt_may_take() -> None:
    plain = header() + codec.encode_body("work", b"", None, 0)
    for record, policy_ms, expected_ms in ((timed_record(), 0, 1_500), (timed_record(), 9_000, 1_500), (plain, 9_000, 9_000)):
        made = pb.Delivery.FromString(wire.delivery("q", b"a", 7, record, 3, policy_ms))
        assert made.timeout.ToMilliseconds() == expected_ms
    assert not pb.Delivery.FromString(wire.delivery("q", b"a", 7, plain, 3)).HasField("timeout")
    assert (codec.timeout_of(timed_record()), codec.timeout_of(plain)) == (1_500, 0)


def test_a_job_shows_its_times_and_its_expiry_until_it_starts() -> None:
    job = codec.job_from_record("q", b"a", timed_record(order=2_000_000))
    assert (job.timeout.ToMilliseconds(), job.total_timeout.ToMilliseconds(), job.expire_time.ToMilliseconds()) == (1_500, 60_000, 7_000)
    assert not codec.job_from_record("q", b"a", timed_record(token=1)).HasField("expire_time")
    assert not codec.job_from_record("q", b"a", timed_record(state=job_pb2.JOB_STATE_EXPIRED)).HasField("expire_time")


@pytest.mark.parametrize(
    ("asked", "heard", "went", "stage"),
    [(5, 0, 0, "REQUESTED"), (5, 6, 0, "DELIVERED"), (5, 6, codec.CANCEL_DONE, "DONE"), (5, 0, codec.CANCEL_FORCED, "FORCED")],
)
def test_a_job_shows_how_far_its_cancel_is(asked: int, heard: int, went: int, stage: str) -> None:
    packed = asked.to_bytes(8, "big") + heard.to_bytes(8, "big") + bytes((went,))
    record = header() + codec.encode_body("work", b"", None, 0) + codec.SECTION.pack(codec.TAG_CANCEL, len(packed)) + packed
    job = codec.job_from_record("q", b"a", record)
    assert (job_pb2.CancelStage.Name(job.cancel_stage), job.cancel_time.ToMicroseconds()) == (f"CANCEL_STAGE_{stage}", 5)
