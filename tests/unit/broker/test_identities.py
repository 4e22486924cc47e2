"""What of an identity a caller may ask for, and what a signature tells apart."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire_broker.errors import InvalidField
from jobwire_broker.services.identities import differences
from jobwire_broker.services.specs import item_of
from jobwire_broker.store.arguments import Ask

from tests.support.bad_specs import BAD_ASKS, DAY, SECOND


def asked(**fields: object) -> Ask | None:
    return item_of(job_pb2.JobSpec(queue="q", job_name="work", **fields))[1].ask  # type: ignore[arg-type]  # protobuf checks them


def identity(**fields: object) -> bytes:
    ask = asked(**fields)
    assert ask is not None
    return ask.identity


def test_who_asks_for_nothing_has_nothing() -> None:
    assert asked() is None


def test_identities_stand_in_the_form_of_the_store() -> None:
    assert identity(idempotency=job_pb2.Idempotency(key="k")) == b"k" + (86_400_000).to_bytes(8, "big") + b"k"
    assert identity(idempotency=job_pb2.Idempotency(key="k", ttl=SECOND)) == b"k" + (1000).to_bytes(8, "big") + b"k"
    assert identity(unique=job_pb2.Unique(key="k")) == b"uk"
    assert identity(throttle=job_pb2.Throttle(key="k", period=SECOND)) == b"t" + (1000).to_bytes(8, "big") + b"k"
    debounce = job_pb2.Debounce(key="k", delay=SECOND, max_wait=DAY)
    assert identity(debounce=debounce) == b"d" + (1000).to_bytes(8, "big") + (86_400_000).to_bytes(8, "big") + b"k"
    assert item_of(job_pb2.JobSpec(queue="q", job_name="work", debounce=debounce))[1].due == "+1000"


def test_a_key_made_of_the_job_can_be_chosen_by_nobody() -> None:
    assert identity(unique=job_pb2.Unique())[:2] == b"u\0"


@pytest.mark.parametrize(("fields", "field"), BAD_ASKS)
def test_what_is_out_of_its_bounds_is_refused_by_its_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        asked(**fields)
    assert caught.value.field == field
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(("key", "end"), [("", "it has 0"), ("x" * 256, "it has 256"), ("café", "it is 'café'"), ("a\n", "it is 'a\\n'")])
def test_a_key_that_is_none_is_told_with_what_is_wrong_with_it(key: str, end: str) -> None:
    with pytest.raises(InvalidField, match="must be 1 to 255 printable characters of ASCII; ") as caught:
        asked(throttle=job_pb2.Throttle(key=key, period=SECOND))
    assert caught.value.message.endswith(end)


def signature(**fields: object) -> bytes:
    ask = asked(idempotency=job_pb2.Idempotency(key="k"), **fields)
    assert ask is not None
    return ask.signature


def test_a_signature_tells_apart_all_that_makes_a_job() -> None:
    plain = signature()
    cases: dict[str, dict[str, object]] = {
        "payload": {"payload": job_pb2.Payload(json="1")},
        "backoff": {"backoff": job_pb2.Backoff(factor=3)},
        "delay": {"delay": SECOND},
        "group": {"group": "g"},
        "labels": {"labels": {"a": "b"}},
        "required_labels": {"required_labels": {"a": "b"}},
        "units": {"units": 2},
        "retention": {"retention": SECOND},
        "attempts": {"attempts": 3},
        "priority": {"priority": 5},
    }
    assert {name: differences(signature(**fields), plain) for name, fields in cases.items()} == {name: [name] for name in cases}
    assert differences(signature(id="other"), plain) == []
    assert differences(signature(delay_until=Timestamp(seconds=1)), plain) == []
