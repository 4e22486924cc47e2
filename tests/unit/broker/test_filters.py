"""A filter held against records says what the same filter says of the jobs that are in them."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb
from jobwire_broker.rules.filters import filter_of
from jobwire_broker.store import codec

EVERY = frozenset(range(1, 9))
FAILED = job_pb2.JOB_STATE_FAILED
# Few words, and such as stand inside of each other's packed form.
words = st.sampled_from(["a", "b", "ab", "a\x01b", "\x01a\x01b", ""])
keys = st.sampled_from(["a", "b", "ab"])
labels = st.dictionaries(keys, words, max_size=3)


def record_of(state: int, labels: dict[str, str], group: str, job_name: str, fingerprint: bytes, note: bool) -> bytes:
    rules: dict[int, bytes] = {codec.TAG_LABELS: codec.encode_labels(labels)} if labels else {}
    if group:
        rules[codec.TAG_GROUP] = group.encode()
    own = b""
    if state == FAILED:
        own = codec.SECTION.pack(codec.TAG_FINGERPRINT, 8) + fingerprint
        own += codec.SECTION.pack(codec.TAG_RESOLUTION, 17) + (5).to_bytes(8, "big") + (9).to_bytes(8, "big") + b"x" if note else b""
    header = codec.Header(state=state, created=3_000_000, revision=7_000_000)
    return codec.HEADER.pack(*header) + codec.encode_body(job_name, b"payload", None, 0, rules) + own


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(EVERY)), labels, labels, st.sampled_from(["", "g", "h"]), st.sampled_from(["", "g", "h"]), st.sampled_from(["", "n", "m"]))
def test_labels_group_and_name(state: int, own: dict[str, str], wanted: dict[str, str], group: str, wanted_group: str, wanted_name: str) -> None:
    record = record_of(state, own, group, "n", b"fprint01", False)
    found = filter_of(pb.JobFilter(labels=wanted, group=wanted_group, job_name=wanted_name), EVERY).matches(record)
    assert found == (wanted.items() <= own.items() and wanted_group in ("", group) and wanted_name in ("", "n"))


@given(st.sampled_from(sorted(EVERY)), st.booleans(), st.sampled_from([None, True, False]), st.sampled_from(["", b"fprint01".hex(), "0" * 16]))
def test_fingerprint_and_note_are_of_failed_jobs_alone(state: int, note: bool, resolved: bool | None, fingerprint: str) -> None:
    record = record_of(state, {}, "", "n", b"fprint01", note)
    found = filter_of(pb.JobFilter(resolved=resolved, fingerprint=fingerprint), EVERY).matches(record)
    asks = resolved is not None or bool(fingerprint)
    assert found == (not asks or (state == FAILED and resolved in (None, note) and fingerprint in ("", b"fprint01".hex())))


def test_dates_are_from_one_on_and_before_another() -> None:
    record = record_of(FAILED, {}, "", "n", b"fprint01", False)

    def found(**dates: Any) -> bool:
        return filter_of(pb.JobFilter(**dates), EVERY).matches(record)

    at = {"created": 3, "finished": 7}
    for what, second in at.items():
        assert found(**{f"{what}_after": {"seconds": second}})
        assert not found(**{f"{what}_after": {"seconds": second, "nanos": 1}})
        assert not found(**{f"{what}_before": {"seconds": second}})
        assert found(**{f"{what}_before": {"seconds": second, "nanos": 1}})
