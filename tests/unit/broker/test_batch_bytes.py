"""Messages that are read by hand: whatever comes, the same is made of it as protobuf makes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.errors import InvalidField
from jobwire_broker.services import batch_bytes
from jobwire_broker.services.batch_bytes import Malformed, Message, read
from jobwire_broker.services.specs import MAX_PAYLOAD_BYTES

OURS = "019a0b1c2d3e7f4a8b5c6d7e8f901234"


def spec(**fields: Any) -> job_pb2.JobSpec:
    given: dict[str, Any] = {"queue": "q", "id": OURS, "job_name": "work", **fields}
    return job_pb2.JobSpec(**given)


def request(*specs: job_pb2.JobSpec, **fields: Any) -> bytes:
    return pb.EnqueueStreamRequest(jobs=specs, **fields).SerializeToString()


def said(message: Message) -> tuple[object, ...]:
    """Everything that a reader gives, but for the ids that it minted."""
    batch = message.batch
    items = [item._replace(raw_id=b"minted") if place in batch.minted else item for place, item in zip(batch.places or range(2000), batch.items, strict=False)]
    refused = {place: (error.reason, error.field, error.message) for place, error in batch.refused.items()}
    error = message.error and (message.error.reason, message.error.message)
    return message.number, message.durability, error, batch.size, batch.queues, items, list(batch.places), batch.minted, refused


def both(data: bytes) -> Message:
    """Read in both ways, which must agree: once when nothing is remembered, and once more."""
    by_hand = [_outcome(read, data) for _ in range(2)]
    by_protobuf = _outcome(batch_bytes._by_protobuf, data)
    for found in by_hand:
        assert (said(found) if isinstance(found, Message) else found) == (said(by_protobuf) if isinstance(by_protobuf, Message) else by_protobuf)
    if not isinstance(by_protobuf, Message):
        raise Malformed
    return by_protobuf


def _outcome(reader: Any, data: bytes) -> Any:
    try:
        return reader(data)
    except Malformed:
        return "malformed"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"payload": job_pb2.Payload()},
        {"payload": job_pb2.Payload(json="{}")},
        {"payload": job_pb2.Payload(json="")},
        {"payload": job_pb2.Payload(json="größe")},
        {"payload": job_pb2.Payload(data=b"")},
        {"payload": job_pb2.Payload(data=bytes(range(256)))},
        {"payload": job_pb2.Payload(data=bytes(16_380))},
        {"payload": job_pb2.Payload(data=bytes(16_384))},
        {"payload": job_pb2.Payload(data=bytes(MAX_PAYLOAD_BYTES))},
        {"payload": job_pb2.Payload(data=b"x", content_type="image/webp")},
        {"priority": 0},
        {"priority": -1, "attempts": 7},
        {"id": "chosen"},
        {"id": OURS.upper()},
        {"id": "f" * 32},
        {"id": "0" * 32},
        {"id": OURS[:-1] + "g"},
        {"id": " " + OURS[1:]},
        {"queue": "q" * 100, "job_name": "n" * 127},
        {"job_name": "n" * 128},
    ],
)
def test_a_job_is_read_as_protobuf_reads_it(fields: dict[str, Any]) -> None:
    message = both(request(spec(), spec(**fields), spec(), number=300, durability=1))
    assert (message.number, message.durability, message.error) == (300, 1, None)
    assert message.batch.size == 3
    # Of jobs that are alike, the later ones are read in a way of their own.
    alike = [spec(**{"id": other, **fields}) for other in (OURS, OURS[:-1] + "5", OURS[:-1] + "6", OURS[:-1] + "7")]
    assert both(request(*alike, spec(), number=300)).batch.size == 5


@pytest.mark.parametrize("odd", [OURS.upper(), "f" * 32, "0" * 32, OURS[:-1] + "g", " " + OURS[1:], "é" * 16])
def test_an_odd_id_among_jobs_that_are_alike_is_read_as_protobuf_reads_it(odd: str) -> None:
    both(request(*[spec(id=id_) for id_ in (OURS, OURS[:-1] + "5", odd, OURS[:-1] + "6")]))


def test_a_job_without_an_id_gets_one_and_is_noted() -> None:
    message = read(request(spec(), spec(id="")))
    assert message.batch.minted == [1]
    assert len(message.batch.items[1].raw_id) == 16


@pytest.mark.parametrize(
    "fields",
    [{"queue": ""}, {"queue": "a/b"}, {"id": "a b"}, {"job_name": ""}, {"attempts": -1}, {"payload": job_pb2.Payload(data=bytes(MAX_PAYLOAD_BYTES + 1))}],
)
def test_a_bad_job_is_refused_at_its_place_and_the_others_are_not(fields: dict[str, Any]) -> None:
    message = both(request(spec(), spec(**fields), spec()))
    assert (list(message.batch.refused), list(message.batch.places)) == ([1], [0, 2])
    assert message.batch.refused[1].field.startswith("jobs[1].")


def test_no_job_and_too_many_are_errors_of_the_message() -> None:
    for message in (both(b""), both(request(number=5)), both(request(*[spec()] * 1001))):
        assert isinstance(message.error, InvalidField)
        assert message.error.reason == "BATCH_TOO_LARGE"
    assert both(request(*[spec()] * 1000)).error is None


@pytest.mark.parametrize("number", [0, 1, 127, 128, 1 << 28, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_any_number_is_repeated(number: int) -> None:
    assert both(request(spec(), number=number)).number == number


@pytest.mark.parametrize("durability", [2, 77, -1, 1 << 30])
def test_any_durability_is_handed_on(durability: int) -> None:
    assert both(request(spec(), durability=durability)).durability == durability


def test_a_job_split_over_fields_that_come_twice_or_in_another_order_is_what_protobuf_says() -> None:
    plain = spec(payload=job_pb2.Payload(json="1")).SerializeToString()
    more = job_pb2.JobSpec(queue="other").SerializeToString()
    for body in (plain + more, more + plain, plain + plain, plain + job_pb2.JobSpec(payload=job_pb2.Payload(data=b"2")).SerializeToString()):
        both(b"\x0a" + bytes((len(body),)) + body)


def test_text_that_is_not_utf_8_is_no_message() -> None:
    good = request(spec(payload=job_pb2.Payload(json="abc")))
    read(good)
    with pytest.raises(Malformed):
        both(good.replace(b"abc", b"a\xffc"))
    alike = request(*[spec(payload=job_pb2.Payload(json=text)) for text in ("abc", "abd", "abe", "abf")])
    with pytest.raises(Malformed):
        both(alike.replace(b"abf", b"a\xffc"))


def test_unknown_fields_are_passed_over() -> None:
    assert both(request(spec()) + b"\xa2\x06\x03abc").batch.size == 1
    body = spec().SerializeToString() + b"\xa2\x06\x03abc"
    assert both(b"\x0a" + bytes((len(body),)) + body).batch.size == 1


GOOD = request(spec(payload=job_pb2.Payload(json='{"a": 1}')), spec(priority=3), spec(id="x", payload=job_pb2.Payload(data=b"y")), number=70_000, durability=2)


ALIKE = request(*[spec(id=OURS[:-1] + last, payload=job_pb2.Payload(json=f'{{"a": {last}}}')) for last in "123456"])


@pytest.mark.parametrize("whole", [GOOD, ALIKE])
def test_a_message_that_is_cut_off_anywhere_is_what_protobuf_says(whole: bytes) -> None:
    for end in range(len(whole)):
        _outcome(both, whole[:end])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([GOOD, ALIKE]), st.lists(st.tuples(st.integers(0, len(ALIKE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_message_with_flipped_bytes_is_what_protobuf_says(whole: bytes, flips: list[tuple[int, int]]) -> None:
    data = bytearray(whole)
    for at, byte in flips:
        data[at % len(whole)] = byte
    read(whole)  # what is right is known
    message = _outcome(both, bytes(data))
    assert message == "malformed" or isinstance(message, Message)
