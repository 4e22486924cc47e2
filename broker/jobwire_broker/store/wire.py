"""Deliveries and acks, encoded to their wire form by hand.

A broker makes one of each for every job there is. To build a protobuf message in Python, field by field, costs three times what its bytes cost; and a payload
that is only passed on need not be parsed. tests/unit/broker compares each with what protobuf makes of the same values.
"""

from __future__ import annotations

from binascii import hexlify
from functools import lru_cache
from struct import Struct

from jobwire.v1 import worker_service_pb2

from jobwire_broker.store.codec import FLAG_KEPT, HEADER_SIZE, SECTION, TAG_CHECKPOINT, TAG_GROUP, TAG_LABELS, TAG_PAYLOAD, TAG_TIMEOUT, decode_labels

#: attempt, max_attempts and priority of a record's header.
_HEAD = Struct(">8xH36xHi")
_LOW = [bytes((i & 127 | 128, i >> 7 | 128)) for i in range(1 << 14)]
_BYTE = [bytes((i,)) for i in range(128)]


def varint(number: int) -> bytes:
    """A number from 0 to 2^64 - 1."""
    if number < 128:
        return _BYTE[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_cached_varint = lru_cache(4096)(varint)


def token_varint(token: int) -> bytes:
    """The same for tokens: those of one moment share all but their two lowest bytes."""
    high = token >> 14
    return _LOW[token & 16383] + _cached_varint(high) if high else varint(token)


def _signed(number: int) -> bytes:
    return _cached_varint(number if number >= 0 else number + (1 << 64))


@lru_cache(4096)
def _queue_field(queue: str) -> bytes:
    name = queue.encode()
    return b"\x0a" + bytes((len(name),)) + name


def _id_field(raw_id: bytes) -> bytes:
    if raw_id[0] < 0x20:
        return b"\x12\x20" + hexlify(raw_id)
    return b"".join((b"\x12", varint(len(raw_id)), raw_id))


def delivery(queue: str, raw_id: bytes, token: int, record: bytes, attempts: int, timeout_ms: int = 0) -> bytes:
    """A jobwire.v1.Delivery. `record` is as it was before the lease; `attempts` and `timeout_ms` (0: none) are those of the queue, for a
    record that names none."""
    attempt, max_attempts, priority = _HEAD.unpack_from(record)
    start = HEADER_SIZE + 1 + record[HEADER_SIZE]
    parts = [_queue_field(queue), _id_field(raw_id), b"\x1a", varint(record[HEADER_SIZE]), record[HEADER_SIZE + 1 : start]]
    end, rules, checkpoint = len(record), b"", b""
    while start + 5 <= end:
        tag, size = SECTION.unpack_from(record, start)
        if tag == TAG_PAYLOAD:
            parts += (b"\x22", _cached_varint(size), record[start + 5 : start + 5 + size])
            if not record[2] & FLAG_KEPT:
                break
        elif tag == TAG_CHECKPOINT:
            checkpoint = b"\x4a" + varint(size) + record[start + 5 : start + 5 + size]
        elif tag in (TAG_GROUP, TAG_LABELS):
            rules += _group_or_labels(tag, record[start + 5 : start + 5 + size])
        elif tag == TAG_TIMEOUT:
            timeout_ms = int.from_bytes(record[start + 5 : start + 5 + size], "big")
        start += 5 + size
    parts += (b"\x28", token_varint(token), b"\x30", varint(attempt + 1), b"\x38", varint(max_attempts or attempts))
    if priority:
        parts += (b"\x40", _signed(priority))
    if checkpoint or rules:
        parts += (checkpoint, rules)
    if timeout_ms:
        parts.append(_timeout(timeout_ms))
    return b"".join(parts)


@lru_cache(1024)
def _group_or_labels(tag: int, packed: bytes) -> bytes:
    """Fields 10 and 11. Many jobs have the same, so they are kept."""
    if tag == TAG_GROUP:
        return worker_service_pb2.Delivery(group=packed.decode()).SerializeToString()
    return worker_service_pb2.Delivery(labels=decode_labels(packed)).SerializeToString(deterministic=True)


@lru_cache(1024)
def _timeout(ms: int) -> bytes:
    """Field 12."""
    delivery = worker_service_pb2.Delivery()
    delivery.timeout.FromMilliseconds(ms)
    return delivery.SerializeToString()


def payload_size(record: bytes) -> int:
    """How many bytes the payload of a record has, as it is encoded."""
    start, end = HEADER_SIZE + 1 + record[HEADER_SIZE], len(record)
    while start + 5 <= end:
        tag, size = SECTION.unpack_from(record, start)
        if tag == TAG_PAYLOAD:
            return int(size)
        start += 5 + size
    return 0


def jobs_field(delivery_bytes: bytes) -> bytes:
    """The delivery as an element of WorkResponse.jobs."""
    return b"\x1a" + _cached_varint(len(delivery_bytes)) + delivery_bytes


def acks_field(queue: str, raw_id: bytes, token: int, verdict: int, state: int) -> bytes:
    """A jobwire.v1.Ack as an element of WorkResponse.acks."""
    ack = b"".join((_queue_field(queue), _id_field(raw_id), b"\x18", token_varint(token), b"\x20", _BYTE[verdict], b"\x28", _BYTE[state]))
    return b"\x12" + _cached_varint(len(ack)) + ack
