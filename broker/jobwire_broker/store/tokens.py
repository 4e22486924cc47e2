"""What brokers of one store share about tokens: the key that signs them, and which tickets have been used.

Whoever can read the store can do everything anyway, so the key may stand in it; and brokers need no setting for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from redis.exceptions import RedisError

from jobwire_broker.config import BrokerConfig
from jobwire_broker.errors import StoreUnavailable
from jobwire_broker.store.client import CALL_TIMEOUT_S, StoreClient

_KEY_BYTES = 32
_REFRESH_S = 60.0
"""How long the key is taken from memory: a store that was emptied has another."""


class SharedTokens:
    """On a connection of its own, opened when it is first needed."""

    def __init__(self, client: StoreClient, config: BrokerConfig) -> None:
        self._client = client
        self._prefix = f"{config.namespace}:auth:"
        self._redis: Any = None
        self._key = b""
        self._read_at = float("-inf")

    async def token_key(self) -> bytes:
        """The key; made by whoever asks first. While the store is away, the one that was known. Raises StoreUnavailable when there is none."""
        if time.monotonic() - self._read_at < _REFRESH_S:
            return self._key
        name = f"{self._prefix}token-key"
        try:
            key = await self._command("GET", name)
            if key is None:
                await self._command("SET", name, secrets.token_bytes(_KEY_BYTES), "NX")
                key = await self._command("GET", name)
        except StoreUnavailable:
            if not self._key:
                raise
            return self._key
        self._key, self._read_at = bytes(key), time.monotonic()
        return self._key

    async def spend_ticket(self, ticket: str, ttl_s: float) -> bool:
        """Whether this is its first use. Raises StoreUnavailable: a ticket that can't be noted as used is not taken."""
        return await self._command("SET", f"{self._prefix}ticket:{ticket}", b"1", "NX", "PX", int(ttl_s * 1000)) is not None

    async def stop(self) -> None:
        """Close the connection."""
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    async def _command(self, *words: str | bytes | int) -> Any:
        if not self._client.available:
            raise StoreUnavailable("the store is away", accepted="no")
        if self._redis is None:
            self._redis = self._client.connect_for_messages()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._redis.execute_command(*words)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable("the store does not answer", accepted="unknown") from error
