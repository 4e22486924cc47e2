"""Tokens of our own: for a page to watch something for minutes, to open one stream once (tickets), or to work with for hours (sessions).

They are JWTs signed with a key that all brokers of one store share, behind a prefix that keeps them apart from those of identity providers. What a token may
do is limited a second time by what its maker may do now: a key that is taken away takes its tokens with it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jobwire_broker.auth.errors import CredentialsExpired, CredentialsInvalid
from jobwire_broker.auth.identity import Identity, Scope, common_scopes, known_scopes
from jobwire_broker.errors import InvalidField

TOKEN_PREFIX = "jobwire_token_"
MAX_CREDENTIALS = 8192
"""No key or token is longer, in characters."""

WATCH_S = 24 * 3600.0
"""How long a stream that a ticket opened may live, when its maker's own time is not over before."""

_ISSUER = "jobwire"


class TokenStore(Protocol):
    """What brokers share about tokens."""

    async def token_key(self) -> bytes:
        """The key that signs. Raises StoreUnavailable."""
        ...

    async def spend_ticket(self, ticket: str, ttl_s: float) -> bool:
        """Whether this is the first use of the ticket. Raises StoreUnavailable."""
        ...


class Tokens:
    """Makes and reads tokens."""

    def __init__(self, store: TokenStore, maker: Callable[[str], Identity | None]) -> None:
        """`maker` finds the identity behind the short name of a key."""
        self._store = store
        self._maker = maker

    async def make(self, caller: Identity, scopes: Sequence[Scope], ttl_s: float, *, single_use: bool = False) -> tuple[str, float]:
        """A token and when it expires, which is never after the caller's own end. Raises InvalidField when it would be too long."""
        now = time.time()
        expires = int(min(now + ttl_s, caller.expires_at or float("inf")))
        claims: dict[str, Any] = {"iss": _ISSUER, "sub": caller.name, "iat": int(now), "exp": expires, "scope": " ".join(map(str, scopes))}
        if caller.tenant:
            claims["tenant"] = caller.tenant
        if caller.root:
            claims["key"] = caller.root
        if single_use:
            claims["jti"] = secrets.token_urlsafe(16)
            claims["until"] = int(min(now + WATCH_S, caller.expires_at or float("inf")))
        token = await self._sign(claims)
        if len(token) > MAX_CREDENTIALS:
            raise InvalidField(f"the scopes make a token of {len(token)} characters; it may have {MAX_CREDENTIALS}", field="names")
        return token, float(expires)

    async def make_stream_token(self, ticket: Identity) -> str:
        """What stands for the stream that a ticket opened. Whoever has it can ask whose stream it is, and whether its maker still stands; it opens nothing."""
        claims = {"iss": _ISSUER, "sub": ticket.name, "exp": int(ticket.stream_until or 0), "scope": " ".join(map(str, ticket.scopes)), "jti": ticket.ticket}
        more = {"tenant": ticket.tenant, "key": ticket.root}
        return await self._sign({**claims, **{name: value for name, value in more.items() if value}, "spent": True})

    async def _sign(self, claims: dict[str, Any]) -> str:
        import jwt  # here, and not when a broker starts that needs no tokens

        return TOKEN_PREFIX + jwt.encode(claims, await self._store.token_key(), algorithm="HS256")

    async def read(self, token: str) -> Identity:
        """Whose token it is. A ticket is not spent by it.

        Raises CredentialsInvalid, CredentialsExpired, StoreUnavailable.
        """
        import jwt

        try:
            claims = jwt.decode(
                token.removeprefix(TOKEN_PREFIX),
                key=await self._store.token_key(),
                algorithms=["HS256"],
                issuer=_ISSUER,
                leeway=1,
                options={"require": ["exp", "iss", "sub"], "verify_aud": False},
            )
            scopes, expires_at = known_scopes(str(claims["scope"]).split()), float(claims["exp"])
            stream_until = float(claims["until"]) if "until" in claims else None
        except jwt.ExpiredSignatureError:
            raise CredentialsExpired("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise CredentialsInvalid("the token is not one of ours", detail="own_token") from None
        root = str(claims.get("key", ""))
        parent = self._maker(root) if root else None
        if root and (parent is None or parent.has_expired()):
            raise CredentialsExpired("the key that made this token is gone", detail="maker_gone")
        tenant = str(claims.get("tenant", ""))
        if parent is not None:
            scopes, tenant = _left_by(parent, scopes, tenant)
        return Identity(
            name=str(claims["sub"]),
            scopes=scopes,
            tenant=tenant,
            expires_at=expires_at,
            root=root,
            parent=parent,
            ticket=str(claims.get("jti", "")),
            is_spent=claims.get("spent") is True,
            stream_until=stream_until,
        )

    async def spend(self, identity: Identity) -> None:
        """Use a ticket up. Raises CredentialsExpired when it was used before."""
        left_s = max(1.0, (identity.expires_at or 0.0) - time.time() + 2.0)
        if not await self._store.spend_ticket(identity.ticket, left_s):
            raise CredentialsExpired("the ticket has been used", detail="ticket_spent")


def _left_by(maker: Identity, scopes: Sequence[Scope], tenant: str) -> tuple[tuple[Scope, ...], str]:
    """The scopes and the tenant of a token, as far as its maker has them now: whoever asks for an identity decides by these alone."""
    if maker.tenant and tenant and maker.tenant != tenant:
        return (), tenant
    return common_scopes(scopes, maker.scopes), tenant or maker.tenant
