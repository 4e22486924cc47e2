"""JWTs of an identity provider, or of a service that shares a secret with us.

Which algorithms a token may have follows from the key that verifies it, never from the token: a public key verifies no HMAC, the secret no signature, and
`none` is no algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from jobwire_broker.auth.config import AuthConfig
from jobwire_broker.auth.errors import CredentialsExpired, CredentialsInvalid, KeysAway
from jobwire_broker.auth.identity import Identity, check_tenant, known_scopes
from jobwire_broker.auth.jwks import Jwks

LEEWAY_S = 5
"""How far the clocks of issuer and broker may differ."""

MIN_RSA_BITS = 2048
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_MAX_NAME = 200


@dataclass(frozen=True)
class VerifyingKey:
    """A key, with the algorithms that it may verify."""

    key: Any
    algorithms: frozenset[str]
    kid: str | None = None


class JwtVerifier:
    """Verifies tokens with all keys that are configured."""

    def __init__(self, config: AuthConfig) -> None:
        """Raises ValueError when a key can't be used."""
        self.jwks = Jwks(config.jwt_jwks) if config.jwt_jwks else None
        self._issuer = config.jwt_issuer
        self._audience = config.jwt_audience
        self._fixed: list[VerifyingKey] = []
        self._fetched: tuple[tuple[jwt.PyJWK, ...], list[VerifyingKey]] = ((), [])
        if config.jwt_secret:
            secret = config.jwt_secret.encode()
            # RFC 7518: a key as long as the hash, or longer.
            self._fixed.append(VerifyingKey(secret, frozenset(name for name, size in (("HS256", 32), ("HS384", 48), ("HS512", 64)) if len(secret) >= size)))
        if config.jwt_key_file is not None:
            self._fixed.append(_read_pem(config.jwt_key_file))

    async def verify(self, token: str) -> Identity:
        """Whose token it is.

        Raises:
            CredentialsInvalid: it is malformed, not signed by a key of ours, or not for here.
            CredentialsExpired: its time is over.
            KeysAway: the keys were never fetched.
        """
        algorithm, kid = _header(token)
        keys = self._candidates(algorithm, kid)
        if not keys and self.jwks is not None:
            await self.jwks.look_again()
            keys = self._candidates(algorithm, kid)
            if not keys and not self.jwks.keys and not self._fixed:
                raise KeysAway("the keys that verify tokens can't be fetched now")
        if not keys:
            raise CredentialsInvalid("no key of ours verifies this token", detail="unknown_key")
        return _identity(self._claims(token, algorithm, keys))

    def _candidates(self, algorithm: str, kid: str | None) -> list[VerifyingKey]:
        keys = [*self._fixed, *self._from_jwks()]
        return [key for key in keys if algorithm in key.algorithms and (kid is None or key.kid in (None, kid))]

    def _from_jwks(self) -> list[VerifyingKey]:
        if self.jwks is None:
            return []
        if self._fetched[0] is not self.jwks.keys:
            found = [VerifyingKey(key.key, _algorithms_of(key.key), key.key_id) for key in self.jwks.keys]
            self._fetched = (self.jwks.keys, [key for key in found if key.algorithms])
        return self._fetched[1]

    def _claims(self, token: str, algorithm: str, keys: list[VerifyingKey]) -> dict[str, Any]:
        for key in keys:
            try:
                return dict(
                    jwt.decode(
                        token,
                        key=key.key,
                        algorithms=[algorithm],
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=LEEWAY_S,
                        options={"require": ["exp", "iss", "aud", "sub"]},
                    )
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise CredentialsExpired("the token has expired") from None
            except jwt.PyJWTError as error:
                raise CredentialsInvalid("the token is not valid here", detail=_WORDS.get(type(error), "malformed")) from None
            except (ValueError, TypeError, OverflowError, RecursionError):
                raise CredentialsInvalid("the token is malformed", detail="malformed") from None
        raise CredentialsInvalid("no key of ours verifies this token", detail="signature")


_WORDS: dict[type[Exception], str] = {
    jwt.ImmatureSignatureError: "not_yet_valid",
    jwt.InvalidIssuedAtError: "not_yet_valid",
    jwt.InvalidAudienceError: "audience",
    jwt.InvalidIssuerError: "issuer",
    jwt.MissingRequiredClaimError: "claim_missing",
}


def _header(token: str) -> tuple[str, str | None]:
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise CredentialsInvalid("the token is malformed", detail="malformed") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise CredentialsInvalid("the token is malformed", detail="malformed")
    return algorithm, kid


def _identity(claims: dict[str, Any]) -> Identity:
    scope = claims.get("scope", "")
    words = scope.split() if isinstance(scope, str) else [word for word in scope if isinstance(word, str)] if isinstance(scope, list) else []
    tenant = claims.get("tenant", "")
    try:
        checked = check_tenant(tenant) if tenant != "" else ""
    except (ValueError, TypeError):
        raise CredentialsInvalid("the token's tenant is malformed", detail="tenant") from None
    return Identity(name=str(claims["sub"])[:_MAX_NAME], scopes=known_scopes(words), tenant=checked, expires_at=float(claims["exp"]))


def _read_pem(path: Path) -> VerifyingKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} holds no public key in PEM ({type(error).__name__})") from None
    algorithms = _algorithms_of(key)
    if not algorithms:
        raise ValueError(f"{path} holds a key that verifies none of RS, PS, ES and EdDSA, or an RSA key of fewer than {MIN_RSA_BITS} bits")
    return VerifyingKey(key, algorithms)


def _algorithms_of(key: object) -> frozenset[str]:
    """What a public key may verify. Nothing for keys of other kinds."""
    match key:
        case RSAPublicKey():
            return frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")) if key.key_size >= MIN_RSA_BITS else frozenset()
        case EllipticCurvePublicKey():
            return frozenset(filter(None, [_CURVES.get(key.curve.name)]))
        case Ed25519PublicKey() | Ed448PublicKey():
            return frozenset(("EdDSA",))
        case _:
            return frozenset()
