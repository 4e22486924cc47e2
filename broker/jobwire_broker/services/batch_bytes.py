"""Reads an EnqueueStreamRequest off the wire. Most jobs have one plain form, which is read by hand: protobuf's objects cost three times as much.

The plain form is what every encoder makes of a JobSpec with a queue, an id of ours, a job name and at most a payload, all in the order of their numbers and
each once; queue and name must have been found right before. Everything else is read by protobuf, and so is every message that is not made of whole jobs. So
all ways accept the same messages and make the same items of them, which tests/unit/broker compares.

Jobs that come together are often alike: then all bytes but those of the id and of the payload's text are the same, and many of them are looked at together.
"""

from __future__ import annotations

from binascii import unhexlify
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from google.protobuf.message import DecodeError
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.services.batches import Batch
from jobwire_broker.store.arguments import JobItem
from jobwire_broker.store.codec import SECTION, TAG_PAYLOAD

_JOBS, _DURABILITY, _NUMBER = 0x0A, 0x10, 0x18
_NAME, _PAYLOAD = 0x1A, 0x22
_JSON, _DATA = 0x0A, 0x12
_ID_SIZE = 32
_MAX_ENUM = (1 << 31) - 1
_MAX_REMEMBERED = 10_000
#: Bytes of a payload that are too many for the plain form: far below what a job may have.
_LONG = 1 << 14
#: So many jobs that are alike are looked at together at most: one that differs sends the others to be read again, each for itself.
_TOGETHER = 32
_make_item = tuple.__new__

#: Fields `queue` and the head of `id`, and the name of the queue that they stand for.
_queues: dict[bytes, str] = {}
#: Field `job_name` without its tag: as it stands in a record, too.
_names: set[bytes] = set()


class Message(NamedTuple):
    """One message of the stream. `error` says why `batch` can't be made."""

    number: int
    durability: int
    batch: Batch
    error: InvalidField | None


class _Form(NamedTuple):
    """The bytes of a plain job around its id and its payload's text."""

    layout: Struct
    """The four parts of its bytes: from its tag to the id, the id, from there to the text, the text."""
    head: bytes
    between: bytes
    queue: str
    body: bytes
    """What its record begins with, up to the text."""
    is_json: bool


class Malformed(Exception):
    """Raised when bytes are no EnqueueStreamRequest."""


def read(data: bytes) -> Message:
    """Read and check one message. Raises Malformed."""
    batch = Batch()
    form: _Form | None = None
    number = durability = at = before = 0
    end = len(data)
    try:
        while at < end:
            if form is not None:
                if count := _alike(data, at, form, batch):
                    at += count * form.layout.size
                    continue
                form = None
            tag = data[at]
            if tag == _JOBS:
                first = at
                size, start = _varint(data, at + 1)
                at = start + size
                if at > end:
                    return _by_protobuf(data)
                if not _plain(data, start, at, batch):
                    _add(job_pb2.JobSpec.FromString(data[start:at]), batch)
                elif size == before:
                    form = _form_of(data, first, start, at, batch)
                before = size
            elif tag == _NUMBER:
                number, at = _varint(data, at + 1)
            elif tag == _DURABILITY:
                durability, at = _varint(data, at + 1)
                if durability > _MAX_ENUM:
                    return _by_protobuf(data)
            else:
                return _by_protobuf(data)
    except (IndexError, DecodeError):
        return _by_protobuf(data)
    return _message(number, durability, batch)


def _message(number: int, durability: int, batch: Batch) -> Message:
    try:
        return Message(number, durability, batch.close(), None)
    except InvalidField as error:
        return Message(number, durability, batch, error)


def _by_protobuf(data: bytes) -> Message:
    try:
        request = pb.EnqueueStreamRequest.FromString(data)
    except DecodeError as error:
        raise Malformed(str(error)) from error
    batch = Batch()
    for spec in request.jobs:
        batch.add(spec)
    return _message(request.number, request.durability, batch)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Those of more than 63 bits are left to protobuf."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number, at = byte & 0x7F, at + 1
    byte = data[at]
    if byte < 0x80:
        return number | byte << 7, at + 1
    number |= (byte & 0x7F) << 7
    for shift in range(14, 63, 7):
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
    raise IndexError


def _plain(data: bytes, start: int, stop: int, batch: Batch) -> bool:
    """Add the job between `start` and `stop` when it has the plain form."""
    id_at = start + 4 + data[start + 1]
    queue = _queues.get(data[start:id_at])
    if queue is None:
        return False
    name_at = id_at + _ID_SIZE + 1
    text = data[id_at : name_at - 1]
    end = name_at + 1 + data[name_at]
    body = data[name_at:end]
    if data[name_at - 1] != _NAME or body not in _names or data[id_at] not in b"01" or not text.islower():
        return False
    try:
        raw_id = unhexlify(text)
    except ValueError:
        return False
    if end != stop:
        payload_at = _payload_at(data, end, stop)
        if not payload_at:
            return False
        body += _section(stop - payload_at) + data[payload_at:stop]
    batch.queues.append(queue)
    batch.items.append(_make_item(JobItem, (raw_id, "", None, 0, body, None, 0)))
    batch.size += 1
    return True


def _form_of(data: bytes, first: int, start: int, stop: int, batch: Batch) -> _Form:
    """That of the plain job between `start` and `stop`, which was added last; its tag is at `first`."""
    id_at = start + 4 + data[start + 1]
    name_at = id_at + _ID_SIZE + 1
    text_at = end = name_at + 1 + data[name_at]
    is_json = False
    if end != stop:
        payload_at = _payload_at(data, end, stop)
        is_json = data[payload_at] == _JSON
        _, text_at = _varint(data, payload_at + 1)
    body = batch.items[-1].body
    layout = _layout(id_at - first, text_at - (name_at - 1), stop - text_at)
    return _Form(layout, data[first:id_at], data[name_at - 1 : text_at], batch.queues[-1], body[: len(body) - (stop - text_at)], is_json)


@lru_cache(4096)
def _layout(head: int, between: int, text: int) -> Struct:
    return Struct(f"{head}s{_ID_SIZE}s{between}s{text}s")


def _alike(data: bytes, at: int, form: _Form, batch: Batch) -> int:
    """Add the jobs from `at` on that have this form, and give their number. When one of them is odd, all are left to be read for themselves: 0."""
    layout, head, between, queue, body, is_json = form
    most = min(_TOGETHER, (len(data) - at) // layout.size)
    if not most or not data.startswith(head, at):
        return 0
    heads, ids, betweens, texts = zip(*layout.iter_unpack(data[at : at + most * layout.size]), strict=True)
    count = most
    if heads.count(head) < most or betweens.count(between) < most:
        count = next(i for i in range(most) if heads[i] != head or betweens[i] != between)
        ids, texts = ids[:count], texts[:count]
    digits = b"".join(ids)
    if digits[::_ID_SIZE].strip(b"01") or not digits.islower() or (is_json and not b"".join(texts).isascii() and not all(map(_is_utf8, texts))):
        return 0
    try:
        raw = unhexlify(digits)
    except ValueError:
        return 0
    batch.queues += [queue] * count
    batch.items += [_make_item(JobItem, (raw[16 * i : 16 * i + 16], "", None, 0, body + text, None, 0)) for i, text in enumerate(texts)]
    batch.size += count
    return count


def _payload_at(data: bytes, at: int, stop: int) -> int:
    """Where the message of the payload begins, when a payload that is not long is all that is left; else 0."""
    if data[at] != _PAYLOAD:
        return 0
    size, start = _varint(data, at + 1)
    if start + size != stop or not 0 < size < _LONG:
        return 0
    kind = data[start]
    size, at = _varint(data, start + 1)
    if at + size != stop:
        return 0
    if kind == _JSON:
        text = data[at:stop]
        return start if text.isascii() or _is_utf8(text) else 0
    return start if kind == _DATA else 0


@lru_cache(4096)
def _section(size: int) -> bytes:
    return SECTION.pack(TAG_PAYLOAD, size)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _add(spec: job_pb2.JobSpec, batch: Batch) -> None:
    """Add a job of any form, and remember what those of its queue and name look like when it is right: there are few, and each comes with every job."""
    batch.add(spec)
    if batch.size - 1 in batch.refused:
        return
    if len(_queues) >= _MAX_REMEMBERED or len(_names) >= _MAX_REMEMBERED:
        _queues.clear()
        _names.clear()
    queue, name = spec.queue.encode(), spec.job_name.encode()
    _queues[b"\x0a" + bytes((len(queue),)) + queue + b"\x12" + bytes((_ID_SIZE,))] = spec.queue
    if len(name) < 0x80:
        _names.add(bytes((len(name),)) + name)
