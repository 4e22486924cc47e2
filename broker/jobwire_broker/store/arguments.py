"""The arguments of the calls on one queue, and how they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple

MAX_ITEMS = 128
MAX_BYTES = 1 << 20
#: What takes a group's own limit away.
NO_LIMIT = "none"
#: The wait after a failure, where it is no number of milliseconds.
BY_BACKOFF, PERMANENT = -1, -2
#: The kinds of turn items that end an attempt.
FINISHES = frozenset("CFSRG")


class Ask(NamedTuple):
    """What of a job `enqueue` looks at, beside what every job has. `identity` is its section of the body, empty when it has only a retention of its own."""

    identity: bytes
    signature: bytes = b""


class JobItem(NamedTuple):
    """A job to be made. `due` is empty for now, `+ms` from now, `ms` a date; `priority` None and `attempts` 0 are what the queue says."""

    raw_id: bytes
    due: str
    priority: int | None
    attempts: int
    body: bytes
    ask: Ask | None = None
    flags: int = 0
    """Of its record: what rules it uses. The store looks for none where this is 0."""


class TurnItem(NamedTuple):
    """What a worker says of a job. Kinds and their arguments: lua/lib/finishes.lua; D is not used here, for a C with a result becomes one."""

    kind: str
    raw_id: bytes
    token: int
    a: bytes | str | int = b""
    b: bytes | str | int = b""


class LeaseRequest(NamedTuple):
    """Room for jobs in a session. `payload_bytes` is a hard limit on their payloads; -1: none but that of the call."""

    session: bytes
    epoch: int
    jobs: int
    payload_bytes: int = -1


class Renewal(NamedTuple):
    """A session to renew. `age_ms` since its last frame; -1: it sent nothing since the last pulse."""

    session: bytes
    epoch: int
    age_ms: int


class OwnLimit(NamedTuple):
    """The limit of one group; 0 for what it does not bound."""

    concurrency: int = 0
    starts: int = 0
    period_ms: int = 0
    burst: int = 1


_TAIL_HEAD = Struct(">Hi")
_HEADS: dict[tuple[int, int], bytes] = {}
#: How many arguments follow an item of a turn; ARGUMENTS of lua/lib/finishes.lua.
TURN_ARGUMENTS = {"D": 1, "F": 2, "S": 1, "G": 1, "R": 1, "P": 2, "E": 1, "L": 1, "K": 2}


def _tail_head(attempts: int, priority: int) -> bytes:
    if len(_HEADS) > 1000:
        _HEADS.clear()
    return _HEADS.setdefault((attempts, priority), _TAIL_HEAD.pack(attempts, priority))


def item_args(items: Sequence[JobItem], default: int) -> list[Any]:
    """What `enqueue` says of the jobs to the store, where `default` is the priority of the queue."""
    ids = [item.raw_id for item in items]
    args: list[Any] = [len(items), int(len(set(ids)) < len(ids)), *_dates(ids), ""]
    own: list[Any] = []
    special: list[Any] = []
    asks: list[Any] = []
    for number, (raw_id, due, priority, attempts, body, ask, flags) in enumerate(items, 1):
        if priority is None:
            args[4] = priority = default
        else:
            own += (number, priority)
        args += (raw_id, (_HEADS.get((attempts, priority)) or _tail_head(attempts, priority)) + body)
        if due or flags:
            special += (number, due, flags)
        if ask is not None:
            asks += (number, *ask)
    return [*args, len(own) // 2, *own, len(special) // 3, *special, len(asks) // 3, *asks]


def _dates(ids: Sequence[bytes]) -> tuple[int, int]:
    """The first and the last date in ids that we made, in ms; the first is 0 when one was chosen by its caller."""
    if not ids:
        return 0, 0
    first, last = min(ids), max(ids)
    return (int.from_bytes(first[:6], "big") if last[0] < 0x20 else 0), int.from_bytes(last[:6], "big")


def turn_args(items: Sequence[TurnItem]) -> list[Any]:
    args: list[Any] = [len(items)]
    for kind, raw_id, token, a, b in items:
        if kind == "C":
            if a == b"":
                args.append(b"C" + token.to_bytes(8, "big", signed=True) + raw_id)
            else:
                args += (b"D" + token.to_bytes(8, "big", signed=True) + raw_id, a)
        else:
            args += (kind.encode() + token.to_bytes(8, "big", signed=True) + raw_id, a, b)[: 1 + TURN_ARGUMENTS.get(kind, 0)]
    return args


def lease_args(requests: Sequence[LeaseRequest]) -> list[Any]:
    args: list[Any] = [len(requests)]
    for r in requests:
        args += (r.session, r.epoch, r.jobs, r.payload_bytes)
    return args
