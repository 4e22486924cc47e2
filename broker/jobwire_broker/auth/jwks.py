"""The public keys of an identity provider, fetched without blocking anybody and kept fresh.

1. They are fetched every few minutes, and once more when a token names a key that is unknown: at most once in COOLDOWN_S, however many such tokens come.
2. While the provider is away the last keys hold. Only a broker that never had any can verify nothing.
3. Symmetric keys in a set are passed over: a set is public.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any

import jwt

log = logging.getLogger(__name__)

REFRESH_S = 300.0
COOLDOWN_S = 10.0
TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
MAX_KEYS = 100


class KeysUnavailable(Exception):
    """Raised when no key was ever had."""


class Jwks:
    """A set of keys at an address or in a file. `on_change` is called when the keys are others than before."""

    def __init__(self, source: str, *, refresh_s: float = REFRESH_S, cooldown_s: float = COOLDOWN_S) -> None:
        self.on_change: Callable[[], None] = _nothing
        self.keys: tuple[jwt.PyJWK, ...] = ()
        self._source = source
        self._refresh_s = refresh_s
        self._cooldown_s = cooldown_s
        self._raw = b""
        self._tried_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Fetch now, and again every few minutes."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._keep_fresh(), name="jwks")

    async def stop(self) -> None:
        """Fetch no more."""
        for task in (self._loop, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._loop = None

    async def look_again(self) -> None:
        """Return when the keys are as new as the cooldown lets them be. One fetch serves all who ask meanwhile."""
        if self._refreshing is None or self._refreshing.done():
            if time.monotonic() - self._tried_at < self._cooldown_s:
                return
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.wait([self._refreshing])

    async def _keep_fresh(self) -> None:
        while True:
            await self.look_again()
            await asyncio.sleep(self._refresh_s if self.keys else self._cooldown_s)

    async def _refresh(self) -> None:
        self._tried_at = time.monotonic()
        try:
            raw = await asyncio.to_thread(_fetch, self._source)
            if raw != self._raw:
                self.keys = _parse(raw)
                self._raw = raw
                log.info("auth.jwks_fetched source=%s keys=%d", self._source.partition("?")[0], len(self.keys))
                self.on_change()
        except (OSError, HTTPException, ValueError) as error:
            log.warning("auth.jwks_failed source=%s keys_kept=%d error=%s", self._source.partition("?")[0], len(self.keys), type(error).__name__)


def _fetch(source: str) -> bytes:
    if "://" not in source:
        raw = Path(source).read_bytes()
    else:
        with _OPENER.open(urllib.request.Request(source, headers={"Accept": "application/json"}), timeout=TIMEOUT_S) as answer:
            raw = answer.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError("too large")
    return raw


def _parse(raw: bytes) -> tuple[jwt.PyJWK, ...]:
    document = json.loads(raw)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no list of keys")
    keys = []
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            keys.append(jwt.PyJWK(entry))
        except jwt.PyJWTError:
            continue  # of a kind that we do not verify
    return tuple(keys)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An address that leads elsewhere is to be configured as it is: a redirect could lead from https to http."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> Any:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _nothing() -> None:
    return
