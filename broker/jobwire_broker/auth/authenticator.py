"""From credentials to an identity.

What was verified once is remembered under its hash until it expires, so that a call costs one hash and a look into a dictionary. The memory is emptied whenever
a key is added or taken away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jobwire_broker.auth.config import AuthConfig
from jobwire_broker.auth.errors import CredentialsExpired, CredentialsInvalid, CredentialsMissing
from jobwire_broker.auth.identity import Identity
from jobwire_broker.auth.keys import KeyRing, parse_keys
from jobwire_broker.auth.tokens import MAX_CREDENTIALS, TOKEN_PREFIX, Tokens, TokenStore

if TYPE_CHECKING:
    from jobwire_broker.auth.jwts import JwtVerifier

log = logging.getLogger(__name__)

MAX_REMEMBERED = 10_000
RELOAD_S = 1.0
"""How often it is looked whether the file of keys has changed."""

ANYBODY = Identity(name="anybody")
"""Who calls a broker that asks nobody who they are. Its scopes are never looked at."""


class Authenticator:
    """All ways to say who one is. `start` and `stop` may be called twice."""

    def __init__(self, config: AuthConfig, store: TokenStore) -> None:
        """Raises ValueError when a key, or the file of keys, can't be used."""
        self._config = config
        self._file_seen: tuple[int, ...] = ()
        self._keys = self._read_keys()
        self._jwts = _jwt_verifier(config) if config.accepts_jwts else None
        self.tokens = Tokens(store, lambda root: self._keys.by_root(root))
        self._remembered: OrderedDict[bytes, Identity] = OrderedDict()
        self._reloading: asyncio.Task[None] | None = None
        if self._jwts is not None and self._jwts.jwks is not None:
            self._jwts.jwks.on_change = self._forget

    def start(self) -> None:
        """Keep keys fresh."""
        if self._reloading is None and self._config.keys_file is not None:
            self._reloading = asyncio.create_task(self._reload(), name="api keys")
        if self._jwts is not None and self._jwts.jwks is not None:
            self._jwts.jwks.start()

    async def stop(self) -> None:
        """Let go of everything."""
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.wait([self._reloading])
            self._reloading = None
        if self._jwts is not None and self._jwts.jwks is not None:
            await self._jwts.jwks.stop()

    async def identify(self, authorization: str | None, certificate_names: Iterable[str] = ()) -> Identity:
        """Whose credentials these are: what stands behind `Bearer`, else the names in a client certificate.

        Raises Refused, and StoreUnavailable for a token of ours while the store is away.
        """
        if not authorization:
            return self._certified(certificate_names)
        credentials = _bearer(authorization)
        digest = hashlib.sha256(credentials.encode()).digest()
        identity = self._remembered.get(digest)
        if identity is None:
            identity = await self._verify(credentials)
            # A ticket is good once, so there is nothing to remember.
            if not identity.ticket:
                self._remember(digest, identity)
        if identity.has_expired():
            self._remembered.pop(digest, None)
            raise CredentialsExpired("the credentials have expired")
        return identity

    def still_stands(self, identity: Identity) -> bool:
        """Whether the key behind an identity is still there, for streams that live long."""
        return not identity.has_expired() and (not identity.root or self._keys.by_root(identity.root) is not None)

    def _certified(self, names: Iterable[str]) -> Identity:
        for name in names:
            if (identity := self._keys.certified(name)) is not None:
                if identity.has_expired():
                    raise CredentialsExpired("the right of this certificate has expired")
                return identity
        raise CredentialsMissing("say who you are: send the metadata `authorization: Bearer KEY`")

    async def _verify(self, credentials: str) -> Identity:
        if credentials.startswith(TOKEN_PREFIX):
            return await self.tokens.read(credentials)
        if (holder := self._keys.holder_of(credentials)) is not None:
            return holder
        if self._jwts is not None and credentials.count(".") == 2:
            return await self._jwts.verify(credentials)
        raise CredentialsInvalid("the key is unknown here", detail="unknown_key")

    def _remember(self, digest: bytes, identity: Identity) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[digest] = identity

    def _forget(self) -> None:
        self._remembered.clear()

    # The file of keys ---------------------------------------------------------------------------------------------------------------------------------

    def _read_keys(self) -> KeyRing:
        path = self._config.keys_file
        if path is None:
            return parse_keys(self._config.keys, "JOBWIRE_KEYS")
        try:
            self._file_seen = _stamp(path)
            text = path.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"the API keys can't be read: {path}: {type(error).__name__}") from None
        parse_keys(text, str(path))
        return parse_keys(f"{text}\n{self._config.keys}", f"{path} with JOBWIRE_KEYS behind it")

    async def _reload(self) -> None:
        assert self._config.keys_file is not None
        while True:
            await asyncio.sleep(RELOAD_S)
            if _stamp(self._config.keys_file) == self._file_seen:
                continue
            try:
                self._keys = self._read_keys()
            except ValueError as error:
                log.error("auth.keys_not_reloaded keys_kept=%d error=%s", len(self._keys), error)
                continue
            self._forget()
            log.info("auth.keys_reloaded keys=%d", len(self._keys))


def _jwt_verifier(config: AuthConfig) -> JwtVerifier:
    # Imported when JWTs are taken: the cryptography behind it costs a broker a seventh of its start, and memory.
    from jobwire_broker.auth.jwts import JwtVerifier

    return JwtVerifier(config)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with the file; empty when there is none now."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _bearer(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    credentials = credentials.strip()
    if scheme.lower() != "bearer" or not credentials:
        raise CredentialsInvalid("the credentials must be `Bearer KEY`", detail="malformed")
    if len(credentials) > MAX_CREDENTIALS or not credentials.isascii() or not credentials.isprintable() or " " in credentials:
        raise CredentialsInvalid("the credentials are malformed", detail="malformed")
    return credentials
