"""The flags that say whom a broker knows, and which certificates its port has. Secrets have no flags: every user of the machine can read those."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

Keys = Annotated[
    Path | None,
    typer.Option("--keys", envvar="JOBWIRE_KEYS_FILE", metavar="FILE", help="API keys, as `jobwire key` makes them; JOBWIRE_KEYS holds more lines."),
]
JwtJwks = Annotated[str, typer.Option(envvar="JOBWIRE_JWT_JWKS", metavar="URL|FILE", help="The public keys of an identity provider.")]
JwtKey = Annotated[
    Path | None, typer.Option(envvar="JOBWIRE_JWT_KEY_FILE", metavar="FILE", help="One public key in PEM. A shared secret stands in JOBWIRE_JWT_SECRET.")
]
JwtIssuer = Annotated[str, typer.Option(envvar="JOBWIRE_JWT_ISSUER", metavar="ISS", help="Who must have issued a JWT.")]
JwtAudience = Annotated[str, typer.Option(envvar="JOBWIRE_JWT_AUDIENCE", metavar="AUD", help="Whom a JWT must be for.")]
TlsCert = Annotated[
    Path | None, typer.Option(envvar="JOBWIRE_TLS_CERT", metavar="FILE", help="Serve TLS with this certificate chain; renewed without restart.")
]
TlsKey = Annotated[Path | None, typer.Option(envvar="JOBWIRE_TLS_KEY", metavar="FILE", help="Its key.")]
TlsClientCa = Annotated[
    Path | None, typer.Option(envvar="JOBWIRE_TLS_CLIENT_CA", metavar="FILE", help="Let in only clients with a certificate of these authorities (mTLS).")
]


def auth_config(keys: Path | None, jwt_jwks: str, jwt_key: Path | None, jwt_issuer: str, jwt_audience: str) -> Any:
    """Put the flags and the variables together. Raises ValueError."""
    from jobwire_broker.auth.config import AuthConfig

    return AuthConfig(
        keys_file=keys,
        keys=os.environ.get("JOBWIRE_KEYS", ""),
        jwt_jwks=jwt_jwks,
        jwt_key_file=jwt_key,
        jwt_secret=os.environ.get("JOBWIRE_JWT_SECRET", ""),
        jwt_issuer=jwt_issuer,
        jwt_audience=jwt_audience,
    )


def tls_config(cert: Path | None, key: Path | None, client_ca: Path | None) -> Any:
    """None without a certificate. Raises ValueError when only a part is given."""
    from jobwire_broker.auth.config import TlsConfig

    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise ValueError("TLS needs both --tls-cert and --tls-key")
    return TlsConfig(certificate=cert, key=key, client_ca=client_ca)
