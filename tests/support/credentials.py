"""Keys, JWTs and their signers, for tests of who may do what."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jobwire_broker.auth.keys import make_key

ISSUER = "https://id.example"
AUDIENCE = "jobwire"
SECRET = "a secret of the tests, which has more than 64 bytes: enough for SHA-512"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Keys:
    """Named keys, and the lines that a broker gets of them."""

    def __init__(self, **scopes: str) -> None:
        """Make a key for each name. The words are scopes, `tenant=` and `expires=`."""
        self.lines: list[str] = []
        self.of: dict[str, str] = {}
        for name, words in scopes.items():
            self.add(name, words)

    def add(self, name: str, words: str) -> str:
        """Make one more key. Returns it."""
        made = make_key(name.replace("_", "-"), " ".join(word for word in words.split() if "=" not in word))
        self.lines.append(" ".join([made.line, *(word for word in words.split() if "=" in word)]))
        self.of[name] = made.key
        return made.key

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def bearer(credentials: str) -> list[tuple[str, str]]:
    """The metadata of a call."""
    return [("authorization", f"Bearer {credentials}")]


def claims(scope: str = "", **more: Any) -> dict[str, Any]:
    """What a good token says; None takes a claim out."""
    now = int(time.time())
    full = {"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": now + 300, "scope": scope, **more}
    return {name: value for name, value in full.items() if value is not None}


def signed(payload: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    """A token."""
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers or None)


def forged(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    """A token that no library would make."""
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (json.dumps(header).encode(), json.dumps(payload).encode(), signature))


def public_pem(key: PrivateKey) -> bytes:
    """The public half."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_jwk(key: PrivateKey, kid: str) -> dict[str, Any]:
    """The public half as it stands in a JWKS."""
    kinds: list[tuple[type[Any], Any]] = [
        (rsa.RSAPrivateKey, jwt.algorithms.RSAAlgorithm),
        (ec.EllipticCurvePrivateKey, jwt.algorithms.ECAlgorithm),
        (ed25519.Ed25519PrivateKey, jwt.algorithms.OKPAlgorithm),
    ]
    algorithm = next(algorithm for kind, algorithm in kinds if isinstance(key, kind))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
