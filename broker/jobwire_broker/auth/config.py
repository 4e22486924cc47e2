"""What the authentication of a broker can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from jobwire_broker.auth.keys import parse_keys

MIN_SECRET_BYTES = 32
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class AuthConfig:
    """Whom a broker knows. With none of the fields set it asks nobody who they are."""

    keys_file: Path | None = None
    """Lines of API keys (auth/keys.py). Read again when it changes; one that can't be read then leaves the keys as they are."""

    keys: str = field(default="", repr=False)
    """The same lines as text, from a variable. They are there beside those of the file."""

    jwt_jwks: str = ""
    """Where the public keys of an identity provider are: an https address (http on loopback alone), or the path of a file."""

    jwt_key_file: Path | None = None
    """One public key in PEM: RSA, EC or Ed25519."""

    jwt_secret: str = field(default="", repr=False)
    """A secret of 32 bytes or more for HS256, 48 for HS384, 64 for HS512."""

    jwt_issuer: str = ""
    """What `iss` of a JWT must be. Required with any of the three above."""

    jwt_audience: str = ""
    """What `aud` of a JWT must be or hold. Required with any of the three above."""

    def __post_init__(self) -> None:
        if self.accepts_jwts and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("JWTs need an issuer and an audience: give both --jwt-issuer and --jwt-audience")
        if (self.jwt_issuer or self.jwt_audience) and not self.accepts_jwts:
            raise ValueError("JWTs need a key to verify them: give --jwt-jwks, --jwt-key, or the variable JOBWIRE_JWT_SECRET")
        if self.jwt_secret and len(self.jwt_secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret for JWTs must have at least {MIN_SECRET_BYTES} bytes")
        parts = urlsplit(self.jwt_jwks)
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("the address of the JWKS must be https: who can change what comes over http can sign tokens")
        if parts.scheme not in ("", "http", "https"):
            raise ValueError("the JWKS must be an https address or the path of a file")
        parse_keys(self.keys, "JOBWIRE_KEYS")

    @property
    def accepts_jwts(self) -> bool:
        """Whether JWTs can be verified."""
        return bool(self.jwt_jwks or self.jwt_key_file or self.jwt_secret)

    @property
    def is_on(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self.keys_file or self.keys.strip() or self.accepts_jwts)


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Certificates of a listening port. The files are read again when they change: a new connection gets the new certificate."""

    certificate: Path
    """The chain in PEM, our own certificate first."""

    key: Path
    """Its key in PEM."""

    client_ca: Path | None = None
    """The authorities of client certificates. With it every client must bring one (mTLS). None: no client needs one."""

    def __post_init__(self) -> None:
        for option, path in (("--tls-cert", self.certificate), ("--tls-key", self.key), ("--tls-client-ca", self.client_ca)):
            if path is not None and not path.is_file():
                raise ValueError(f"{option}: {path} is no file")
