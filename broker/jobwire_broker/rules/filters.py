"""Which jobs of a queue: a JobFilter, checked once and held against records as they stand in the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.labels import MAX_LABELS, check_labels
from jobwire_broker.names import check_group, check_job_name
from jobwire_broker.store import codec

#: The last second of 9999, where google.protobuf.Timestamp ends.
LAST_DATE_S = 253_402_300_799
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_FAILED = job_pb2.JOB_STATE_FAILED


class Span(NamedTuple):
    """From a date on, and before another; in nanoseconds since 1970."""

    first: int = 0
    end: int = (LAST_DATE_S + 1) * 1_000_000_000

    def holds(self, us: int) -> bool:
        """Whether a date in microseconds is in it."""
        return self.first <= us * 1000 < self.end


ALWAYS = Span()


@dataclass(frozen=True, slots=True)
class Filter:
    """What a job must be like. A field that is empty, None or ALWAYS says nothing."""

    states: frozenset[int]
    """In which states it may be. Never empty."""
    job_name: bytes = b""
    group: bytes = b""
    labels: tuple[bytes, ...] = ()
    """Each as it stands in a record."""
    created: Span = ALWAYS
    finished: Span = ALWAYS
    fingerprint: bytes = b""
    resolved: bool | None = None

    def matches(self, record: bytes) -> bool:
        """Whether it finds the job of a record, which may be without its payload."""
        start = codec.body_start(record)
        if codec.state_of(record) not in self.states or not (self.created is ALWAYS or self.created.holds(codec.created_of(record))):
            return False
        if self.job_name and record[codec.HEADER_SIZE + 1 : start] != self.job_name:
            return False
        return self._looks_at_header_alone or self._matches_sections(record, codec.sections(record, start))

    @property
    def _looks_at_header_alone(self) -> bool:
        return not (self.group or self.labels or self.fingerprint or self.resolved is not None or self.finished != ALWAYS)

    def _matches_sections(self, record: bytes, found: Mapping[int, bytes]) -> bool:
        if self.group and found.get(codec.TAG_GROUP) != self.group:
            return False
        if self.fingerprint and found.get(codec.TAG_FINGERPRINT) != self.fingerprint:
            return False
        if self.resolved is not None and (codec.TAG_RESOLUTION in found) != self.resolved:
            return False
        if self.finished != ALWAYS and not (codec.state_of(record) in codec.FINAL_STATES and self.finished.holds(codec.ended_us(record, found))):
            return False
        return not self.labels or self._has_labels(found.get(codec.TAG_LABELS, b""))

    def _has_labels(self, packed: bytes) -> bool:
        # Few jobs have the bytes of a label without having the label, so what has them not need not be decoded.
        if not all(label in packed for label in self.labels):
            return False
        own = codec.decode_labels(packed)
        return all(codec.decode_labels(label).items() <= own.items() for label in self.labels)


def filter_of(message: pb.JobFilter, states: frozenset[int]) -> Filter:
    """A filter for jobs in these states. A fingerprint and a note are of failed jobs alone, so who asks for them asks for FAILED. Raises InvalidField."""
    fingerprint = b""
    if message.fingerprint:
        if not _FINGERPRINT.fullmatch(message.fingerprint):
            raise InvalidField("filter.fingerprint must be 16 hexadecimal digits in lower case", field="filter.fingerprint")
        fingerprint = bytes.fromhex(message.fingerprint)
    resolved = message.resolved if message.HasField("resolved") else None
    if fingerprint or resolved is not None:
        states &= frozenset((_FAILED,))
    return Filter(
        states,
        check_job_name(message.job_name, "filter.job_name").encode() if message.job_name else b"",
        check_group(message.group, "filter.group").encode() if message.group else b"",
        tuple(sorted(codec.encode_labels({key: value}) for key, value in check_labels(message.labels, "filter.labels", MAX_LABELS).items())),
        _span(message, "created"),
        _span(message, "finished"),
        fingerprint,
        resolved,
    )


def _span(message: pb.JobFilter, what: str) -> Span:
    dates = {field.name: date for field, date in message.ListFields()}
    first, end = (_date_ns(dates[name], f"filter.{name}") if name in dates else None for name in (f"{what}_after", f"{what}_before"))
    if first is None and end is None:
        return ALWAYS
    return Span(ALWAYS.first if first is None else first, ALWAYS.end if end is None else end)


def _date_ns(date: Timestamp, field: str) -> int:
    if not (0 <= date.seconds <= LAST_DATE_S and 0 <= date.nanos < 1_000_000_000):
        raise InvalidField(f"{field} must be a date from 1970 to 9999", field=field)
    return date.seconds * 1_000_000_000 + date.nanos
