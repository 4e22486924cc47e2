"""The flags that say whom a broker or a gateway lets in, and which certificates a port has.

Secrets have no flags, since every user of the machine can read those: they stand in variables, or in files that variables name.
"""

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
Auth = Annotated[
    bool | None,
    typer.Option("--auth/--no-auth", envvar="JOBWIRE_AUTH", help="Callers must say who they are; the default when the gateway has a key (JOBWIRE_API_KEY)."),
]
AllowedHosts = Annotated[str, typer.Option(envvar="JOBWIRE_ALLOWED_HOSTS", metavar="NAME[,…]", help="Host names that requests may ask for.")]
AllowedOrigins = Annotated[
    str, typer.Option(envvar="JOBWIRE_ALLOWED_ORIGINS", metavar="URL[,…]", help="Other origins whose pages may use this gateway: https://app.example.")
]
TrustedProxies = Annotated[
    str, typer.Option(envvar="JOBWIRE_TRUSTED_PROXIES", metavar="NET[,…]", help="Networks whose X-Forwarded-For is believed: 10.0.0.0/8.")
]
RequestRate = Annotated[str, typer.Option(envvar="JOBWIRE_REQUEST_RATE", metavar="N/UNIT", help="Requests that an identity may make: 100/second.")]
AttemptRate = Annotated[str, typer.Option(envvar="JOBWIRE_ATTEMPT_RATE", metavar="N/UNIT", help="Requests with unknown credentials that one address may make.")]
PerAddress = Annotated[int, typer.Option(envvar="JOBWIRE_MAX_STREAMS_PER_ADDRESS", min=0, help="Open streams of one address; 0 is no limit.")]
PerTenant = Annotated[int, typer.Option(envvar="JOBWIRE_MAX_STREAMS_PER_TENANT", min=0, help="Open streams of one tenant; 0 is no limit.")]
PerIdentity = Annotated[int, typer.Option(envvar="JOBWIRE_MAX_STREAMS_PER_IDENTITY", min=0, help="Open streams of one identity; 0 is no limit.")]


def listed(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def gateway_credentials() -> Any:
    """The gateway's own, from variables. Raises ValueError."""
    from jobwire_gateway.credentials import BrokerCredentials

    return BrokerCredentials.from_environment()


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
