"""Jobs to be made: every bound, and the error that names it."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire_broker.errors import InvalidField
from jobwire_broker.services import specs
from jobwire_broker.services.specs import item_of
from jobwire_broker.store import codec

from tests.support.bad_specs import BAD_SPECS


def spec(**fields: Any) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(**({"queue": "q", "job_name": "work", "id": "a"} | fields))


def sections(**fields: Any) -> dict[int, bytes]:
    body = item_of(spec(**fields))[1].body
    return codec.sections(body, 1 + body[0])


def test_a_plain_job_takes_the_defaults() -> None:
    queue, item = item_of(spec())
    assert (queue, item) == ("q", (b"a", "", None, 0, b"\x04work", None, 0))


def test_an_id_is_minted_where_none_is_given() -> None:
    first, second = (item_of(spec(id=""))[1].raw_id for _ in range(2))
    assert (len(first), first != second) == (16, True)


def test_a_priority_of_zero_is_a_value() -> None:
    assert item_of(spec(priority=0))[1].priority == 0
    assert item_of(spec(priority=-(1 << 31)))[1].priority == -(1 << 31)


@pytest.mark.parametrize(
    ("fields", "due", "delay_ms"),
    [
        ({"delay": Duration()}, "", 0),
        ({"delay": Duration(nanos=1)}, "+1", 1),
        ({"delay": Duration(seconds=2, nanos=500_000_000)}, "+2500", 2500),
        ({"delay": Duration(seconds=3650 * 86400)}, "+315360000000", 315_360_000_000),
        ({"delay_until": Timestamp(seconds=17, nanos=5_000_000)}, "17005", 0),
        ({"delay_until": Timestamp()}, "0", 0),
    ],
)
def test_when_a_job_is_due(fields: dict[str, Any], due: str, delay_ms: int) -> None:
    assert item_of(spec(**fields))[1].due == due
    assert sections(**fields).get(codec.TAG_DELAY, bytes(8)) == delay_ms.to_bytes(8, "big")


def test_absent_fields_of_a_backoff_take_their_defaults() -> None:
    assert codec.TAG_BACKOFF not in sections()
    cases = {
        codec.Backoff(2000, 2000, 86_400_000, 1000): job_pb2.Backoff(),
        codec.Backoff(0, 2000, 86_400_000, 0): job_pb2.Backoff(base=Duration(), jitter=0),
        codec.Backoff(500, 1500, 60_000, 10_000): job_pb2.Backoff(base=Duration(nanos=500_000_000), factor=1.5, max_delay=Duration(seconds=60), jitter=1),
    }
    for packed, backoff in cases.items():
        assert codec._BACKOFF.unpack(sections(backoff=backoff)[codec.TAG_BACKOFF]) == packed


def test_the_rules_that_a_job_uses_stand_in_its_record() -> None:
    fields = {"group": "acme", "labels": {"b": "2", "a": "1"}, "required_labels": {"gpu": ""}, "units": 7}
    assert sections(**fields) == {
        codec.TAG_GROUP: b"acme",
        codec.TAG_LABELS: b"\1a\x011\1b\x012",
        codec.TAG_REQUIRED_LABELS: b"\3gpu\0",
        codec.TAG_UNITS: b"\0\7",
    }
    assert sections(units=1) == sections(units=0) == {}


def test_rules_of_time_stand_in_the_record_and_mark_it() -> None:
    fields: dict[str, Any] = {
        "timeout": Duration(seconds=2),
        "total_timeout": Duration(seconds=365 * 86400),
        "expires_at": Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        "permanent_errors": ["Bad", "Worse", "Bad", "ß" * 128],
        "backoff": job_pb2.Backoff(delays=[Duration(), Duration(seconds=30 * 86400)], jitter=0, max_delay=Duration(seconds=1)),
    }
    assert sections(**fields) == {
        codec.TAG_EXPIRY: b"d" + (253_402_300_799_999).to_bytes(8, "big"),
        codec.TAG_TIMEOUT: (2000).to_bytes(8, "big"),
        codec.TAG_TOTAL_TIMEOUT: (365 * 86_400_000).to_bytes(8, "big"),
        codec.TAG_DELAYS: bytes(10) + (30 * 86_400_000).to_bytes(8, "big"),
        codec.TAG_PERMANENT: b"\3Bad\5Worse\x80" + "ß".encode() * 64,
    }
    assert sections(expires_in=Duration(nanos=100_000_000)) == {codec.TAG_EXPIRY: b"r" + (100).to_bytes(8, "big")}
    for name in ("timeout", "total_timeout", "expires_at"):
        assert item_of(spec(**{name: fields[name]}))[1].flags == codec.FLAG_TIMED
    assert item_of(spec(permanent_errors=["Bad"], backoff=fields["backoff"]))[1].flags == 0


def test_labels_may_have_their_full_size() -> None:
    full = {"k" * 61 + f"{i:02}": "é" * 64 for i in range(16)}
    assert codec.decode_labels(sections(labels=full)[codec.TAG_LABELS]) == full


@pytest.mark.parametrize(("fields", "field"), BAD_SPECS)
def test_a_field_out_of_its_bounds_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        item_of(spec(**fields))
    assert caught.value.field == field
    assert caught.value.message.startswith(field)
    seen_from_outside = caught.value.under("jobs[7]")
    assert (seen_from_outside.field, seen_from_outside.message) == (f"jobs[7].{field}", f"jobs[7].{caught.value.message}")


def test_a_payload_may_have_its_full_size_and_no_byte_more() -> None:
    item_of(spec(payload=job_pb2.Payload(data=bytes(specs.MAX_PAYLOAD_BYTES))))
    item_of(spec(payload=job_pb2.Payload(json="é" * (specs.MAX_PAYLOAD_BYTES // 2))))
    for payload in (job_pb2.Payload(data=bytes(specs.MAX_PAYLOAD_BYTES + 1)), job_pb2.Payload(json="é" * (specs.MAX_PAYLOAD_BYTES // 2 + 1))):
        with pytest.raises(InvalidField, match="enqueue a reference") as caught:
            item_of(spec(payload=payload))
        assert caught.value.reason == "PAYLOAD_TOO_LARGE"
