"""API keys: lines of a file or a variable, each with the hash of a key and what its holder may do.

    billing  sha256:3b0c44…  enqueue:billing-* read:billing-*  tenant=acme  expires=2027-01-01T00:00:00Z
    worker-7 cert:worker-7.example  work:*

A key has 256 random bits, so one round of SHA-256 is all that it takes to keep it; whoever reads the file learns no key. `cert:` names a client certificate
(its common name, or a name among its alternatives) in the place of a key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from jobwire_broker.auth.identity import Identity, check_tenant, parse_scopes

KEY_PREFIX = "jobwire_key_"
MAX_LINES = 10_000
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")


class NewKey(NamedTuple):
    """A key that was just made, and its line for the file."""

    key: str
    line: str


class KeyRing:
    """All keys and certificates that are known."""

    def __init__(self, holders: Mapping[str, Identity] | None = None) -> None:
        """Take identities by `sha256:HASH` and `cert:NAME`."""
        self._holders = holders or {}
        self._roots = {identity.root: identity for identity in self._holders.values()}

    def __len__(self) -> int:
        return len(self._holders)

    def holder_of(self, key: str) -> Identity | None:
        """Whose key it is."""
        return self._holders.get(f"sha256:{hash_of(key)}")

    def certified(self, name: str) -> Identity | None:
        """Whose certificate has this name."""
        return self._holders.get(f"cert:{name}")

    def by_root(self, root: str) -> Identity | None:
        """Whose short name it is."""
        return self._roots.get(root)


def hash_of(key: str) -> str:
    """How a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(name: str, scopes: str, *, tenant: str = "", expires: datetime | None = None) -> NewKey:
    """Make a key. Raises ValueError for a name or a scope that is none."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    words = [name, f"sha256:{hash_of(key)}", *scopes.replace(",", " ").split()]
    if tenant:
        words.append(f"tenant={tenant}")
    if expires is not None:
        words.append(f"expires={expires.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}")
    line = " ".join(words)
    parse_keys(line, "the key")
    return NewKey(key, line)


def parse_keys(text: str, source: str) -> KeyRing:
    """Read lines; empty ones and those with a # in front are passed over.

    Raises:
        ValueError: a line is wrong. The message says which, and never repeats what may be a key.
    """
    holders: dict[str, Identity] = {}
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise ValueError(f"{source} has {len(lines)} lines; at most {MAX_LINES} are read")
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            identity = _parse_line(words)
        except ValueError as error:
            raise ValueError(f"{source}, line {number}: {error}") from None
        if holders.setdefault(words[1], identity) is not identity:
            raise ValueError(f"{source}, line {number}: the same key or certificate stands in another line as well")
    return KeyRing(holders)


def _parse_line(words: list[str]) -> Identity:
    if not _NAME_PATTERN.fullmatch(words[0]):
        raise ValueError("a line begins with a name of 1 to 64 of [A-Za-z0-9._@-]")
    if len(words) < 3:
        raise ValueError("a line is NAME sha256:HASH SCOPE…, or NAME cert:NAME SCOPE…")
    kind, _, value = words[1].partition(":")
    if not (kind == "sha256" and _HASH_PATTERN.fullmatch(value)) and not (kind == "cert" and value):
        raise ValueError("the second word must be sha256: with 64 hexadecimal digits, as `jobwire key` makes it, or cert: with the name in a certificate")
    settings = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    if unknown := settings.keys() - {"tenant", "expires"}:
        raise ValueError(f"{sorted(unknown)[0][:40]!r} is unknown; a line may have tenant= and expires=")
    scopes = parse_scopes(scope for word in words[2:] if "=" not in word for scope in word.split(",") if scope)
    return Identity(
        name=words[0],
        scopes=scopes,
        tenant=check_tenant(settings["tenant"]) if "tenant" in settings else "",
        expires_at=_date(settings["expires"]) if "expires" in settings else None,
        # Not the hash itself: it stands in tokens, and a page has no business with it.
        root=hash_of(words[1])[:16],
    )


def _date(text: str) -> float:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expires= must be a date such as 2027-01-01T00:00:00Z") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
