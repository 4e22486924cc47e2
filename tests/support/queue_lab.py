"""One queue of a real store, taken by the hand: short calls with readable names, its whole state, what it publishes, and its clock."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from jobwire.v1 import job_pb2
from jobwire_broker.config import BrokerConfig
from jobwire_broker.names import id_to_text
from jobwire_broker.rules.watching import decode_events
from jobwire_broker.services.identities import debounce_delay_ms
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Lease, Other, Settled, TurnReport
from jobwire_broker.store.arguments import PERMANENT, Ask, JobItem, LeaseRequest, Renewal, TurnItem
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.queue_store import QueueStore

from tests.support.queue_state import QueueState, read_state, session_bytes, state_name
from tests.support.store import Store

SESSION_MS = 5_000
TICK_MS = 1_000
FAR_FUTURE_MS = 9_000_000_000_000


def item(
    raw_id: str,
    *,
    due: str = "",
    priority: int | None = 5,
    attempts: int = 3,
    payload: bytes = b"",
    backoff: codec.Backoff | None = None,
    identity: bytes = b"",
    retention_ms: int | None = None,
) -> JobItem:
    """A job to be made. What an idempotency key's signature is made of is its payload alone."""
    delay_ms = int(due[1:]) if due.startswith("+") else 0
    rules = {codec.TAG_IDENTITY: identity} if identity else {}
    if retention_ms is not None:
        rules[codec.TAG_RETENTION] = codec.encode_ms(retention_ms)
    ask = Ask(identity, b"of " + payload if identity[:1] == b"k" else b"") if rules else None
    if identity[:1] == b"d":
        due = f"+{debounce_delay_ms(identity)}"
    return JobItem(raw_id.encode(), due, priority, attempts, codec.encode_body("work", payload, backoff, delay_ms, rules), ask)


def unique(key: str) -> bytes:
    """One such job at a time."""
    return b"u" + key.encode()


def idempotent(key: str, ttl_ms: int = 60_000) -> bytes:
    """One such job for a time."""
    return struct.pack(">cQ", b"k", ttl_ms) + key.encode()


def throttled(key: str, period_ms: int = 60_000) -> bytes:
    """The first in a window."""
    return struct.pack(">cQ", b"t", period_ms) + key.encode()


def debounced(key: str, delay_ms: int = 60_000, most_ms: int = 0) -> bytes:
    """The last of several."""
    return struct.pack(">cQQ", b"d", delay_ms, most_ms) + key.encode()


def ruled(
    raw_id: str,
    group: str = "",
    *,
    units: int = 1,
    labels: dict[str, str] | None = None,
    name: str = "work",
    priority: int = 5,
    due: str = "",
    payload: bytes = b"",
) -> JobItem:
    """A job with a group, units or required labels."""
    rules = {codec.TAG_GROUP: group.encode()} if group else {}
    if units > 1:
        rules[codec.TAG_UNITS] = codec.encode_units(units)
    if labels:
        rules[codec.TAG_REQUIRED_LABELS] = codec.encode_labels(labels)
    flags = codec.FLAG_COUNTED if rules else 0
    return JobItem(raw_id.encode(), due, priority, 3, codec.encode_body(name, payload, None, 0, rules), flags=flags)


class QueueLab:
    """One queue. Ids and sessions are plain words."""

    def __init__(self, client: StoreClient, raw: Any, queue: str) -> None:
        self.client = client
        self.redis = raw
        self.store = QueueStore(client, queue)
        self.base = client.base(queue)

    async def state(self, *, dates_moved: bool = False) -> QueueState:
        """Everything, checked."""
        return await read_state(self.redis, self.base, dates_moved=dates_moved)

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    async def make(self, *items: JobItem | str, priority: int = 5) -> list[str]:
        """Enqueue; a word stands for a plain job of that id. Where another job stands for one, the word is followed by its id. `priority` is the queue's."""
        words = (await self.store.enqueue([item(x) if isinstance(x, str) else x for x in items], priority=priority)).words
        return [f"{word.word} {id_to_text(word.raw_id)}" if isinstance(word, Other) else word for word in words]

    async def attach(self, session: str, epoch: int = 1, held: Sequence[tuple[str, int]] = (), labels: dict[str, str] | None = None) -> list[Settled] | None:
        """Attach for SESSION_MS."""
        listed = [(raw_id.encode(), token) for raw_id, token in held]
        attached = await self.store.attach(session_bytes(session), epoch, SESSION_MS, b"", listed, labels=codec.encode_labels(labels or {}))
        return None if attached is None else attached.settled

    async def set_policy(self, **policy: object) -> None:
        """Give the queue this policy, in the form of the store, with the mark that the store's function sets for another ageing."""
        before = json.loads(await self.redis.hget(self.base + "m", "policy") or b"{}")
        marks = {"scored": "-1", "scoring": ""} if before.get("ageing") != policy.get("ageing") else {}
        await self.redis.hset(self.base + "m", mapping={"policy": json.dumps(policy), **marks})

    async def lease(self, session: str, jobs: int, epoch: int = 1) -> dict[str, int]:
        """Lease; gives the tokens by id, in the order of the leases."""
        return {raw_id.decode(): token for raw_id, token, _ in (await self.lease_fully(session, jobs, epoch)).jobs}

    async def lease_fully(self, session: str, jobs: int, epoch: int = 1) -> Lease:
        """Lease; gives the whole answer."""
        return (await self.store.turn([], [LeaseRequest(session_bytes(session), epoch, jobs)])).leases[0]

    async def turn(self, kind: str, raw_id: str, token: int, *args: bytes | str | int) -> tuple[str, str]:
        """Settle one item: the word and the state."""
        (settled,) = (await self.store.turn([TurnItem(kind, raw_id.encode(), token, *args)])).settled
        return settled.word, state_name(settled.state)

    async def turn_all(self, items: Sequence[TurnItem], leases: Sequence[LeaseRequest]) -> TurnReport:
        """Settle items, then lease."""
        return await self.store.turn(items, leases)

    async def complete(self, raw_id: str, token: int, result: bytes = b"") -> tuple[str, str]:
        """Complete."""
        return await self.turn("C", raw_id, token, result)

    async def fail(
        self, raw_id: str, token: int, *, permanent: bool = False, retry_after_ms: int = -1, failure: job_pb2.Failure | None = None
    ) -> tuple[str, str]:
        """Fail."""
        said = b"why" if failure is None else failure.SerializeToString()
        return await self.turn("F", raw_id, token, said, PERMANENT if permanent else retry_after_ms)

    async def detach(self, session: str, epoch: int = 1) -> None:
        """Say goodbye."""
        await self.store.detach(session_bytes(session), epoch)

    async def leased(self, *ids: str, session: str = "s") -> dict[str, int]:
        """Make these jobs, attach the session, and lease them to it."""
        await self.make(*ids)
        await self.attach(session)
        return await self.lease(session, len(ids))

    # Time ---------------------------------------------------------------------------------------------------------------------------------------------

    async def pulse(self, *sessions: str, epoch: int = 1, age_ms: int = 0) -> Any:
        """Pulse while the clock stands still."""
        return await self._pulse(FAR_FUTURE_MS, sessions, epoch, age_ms)

    async def tick(self, *sessions: str, epoch: int = 1, age_ms: int = 0) -> Any:
        """Pulse with the clock TICK_MS further: as far as one pulse can take it."""
        return await self._pulse(0, sessions, epoch, age_ms)

    async def _pulse(self, last_pulse: int, sessions: Sequence[str], epoch: int, age_ms: int) -> Any:
        await self.redis.hset(self.base + "m", "last_pulse", last_pulse)
        report = await self.store.pulse(SESSION_MS, [Renewal(session_bytes(session), epoch, age_ms) for session in sessions])
        # Until the next one the clock stands still.
        await self.redis.hset(self.base + "m", "last_pulse", FAR_FUTURE_MS)
        return report

    async def lose(self, session: str) -> None:
        """Let the session's time run out."""
        await self.redis.zadd(self.base + "t", {b"S" + session_bytes(session): 0}, xx=True)
        await self.tick()

    async def come_due(self, *ids: str) -> None:
        """Move the due dates of these jobs into the past, in the record as in the index, and pulse."""
        for member, _ in await self.redis.zrange(self.base + "d", 0, -1, withscores=True):
            if id_to_text(member[8:]) in ids:
                await self.redis.zadd(self.base + "d", {member: 0})
        await self.pulse()

    async def now_ms(self) -> int:
        """The store's date."""
        seconds, us = await self.redis.time()
        return int(seconds) * 1000 + int(us) // 1000

    # What it publishes --------------------------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[Heard]:
        """Listen while the block runs; then the messages are there."""
        pubsub = self.redis.pubsub()
        await pubsub.subscribe(self.store.events_channel, self.store.wake_channel)
        heard = Heard()
        try:
            for _ in range(2):
                await pubsub.get_message(timeout=5)
            yield heard
            await pubsub.ping()
            while (message := await pubsub.get_message(timeout=5)) and message["type"] == "message":
                heard.take(message["channel"].decode() == self.store.wake_channel, message["data"])
        finally:
            await pubsub.aclose()


class Heard:
    """Messages of a queue."""

    def __init__(self) -> None:
        self.wakes: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.sequences: list[tuple[int, int]] = []
        self.records: list[bytes] = []

    def take(self, is_wake: bool, data: bytes) -> None:
        """Note one."""
        if is_wake:
            self.wakes.append(data.decode())
            return
        before, seq, entries = decode_events(data)
        self.sequences.append((before, seq))
        for raw_id, record in entries:
            self.events.append((id_to_text(raw_id), state_name(codec.header_of(record).state)))
            self.records.append(record)


@asynccontextmanager
async def open_lab(store: Store, queue: str) -> AsyncIterator[QueueLab]:
    """A queue of a running store."""
    client = StoreClient(BrokerConfig(store=store.url))
    raw = redis.asyncio.Redis.from_url(store.url)
    await client.start()
    try:
        yield QueueLab(client, raw, queue)
    finally:
        await client.stop()
        await raw.aclose()


def ring_entry(state: int, ended: int, revision: int, token: int) -> bytes:
    """The end of a removed job as the ring keeps it."""
    return struct.pack(">QQBBB", revision, token, ended, state, 0)
