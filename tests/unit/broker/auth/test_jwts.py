"""JWTs: what is taken, and everything that is not (X11)."""

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jobwire_broker.auth.config import AuthConfig
from jobwire_broker.auth.errors import CredentialsExpired, CredentialsInvalid, KeysAway, Refused
from jobwire_broker.auth.jwks import Jwks
from jobwire_broker.auth.jwts import JwtVerifier

from tests.support.credentials import AUDIENCE, ISSUER, SECRET, PrivateKey, claims, forged, public_jwk, public_pem, signed

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def with_secret() -> JwtVerifier:
    return JwtVerifier(AuthConfig(jwt_secret=SECRET, jwt_issuer=ISSUER, jwt_audience=AUDIENCE))


def with_pem(directory: Path, key: PrivateKey) -> JwtVerifier:
    path = directory / "key.pem"
    path.write_bytes(public_pem(key))
    return JwtVerifier(AuthConfig(jwt_key_file=path, jwt_issuer=ISSUER, jwt_audience=AUDIENCE))


def with_jwks(path: Path, **keys: PrivateKey) -> JwtVerifier:
    path.write_text(json.dumps({"keys": [public_jwk(key, kid) for kid, key in keys.items()]}))
    verifier = JwtVerifier(AuthConfig(jwt_jwks=str(path), jwt_issuer=ISSUER, jwt_audience=AUDIENCE))
    verifier.jwks = Jwks(str(path), cooldown_s=0)
    return verifier


async def refused(verifier: JwtVerifier, token: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token)
    assert token not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_token_with_the_shared_secret_is_taken(algorithm: str) -> None:
    identity = await with_secret().verify(signed(claims("read:mail openid", tenant="acme", sub="ann"), algorithm=algorithm))
    assert (identity.name, identity.tenant, [str(s) for s in identity.scopes]) == ("ann", "acme", ["read:mail"])
    assert identity.expires_at is not None
    assert identity.expires_at > time.time()


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (RSA, "PS512"), (EC, "ES256"), (ED, "EdDSA")])
async def test_a_signed_token_is_taken_with_a_pem_and_with_a_jwks(tmp_path: Path, key: PrivateKey, algorithm: str) -> None:
    token = signed(claims("read:mail"), key, algorithm)
    assert (await with_pem(tmp_path, key).verify(token)).may("read", "mail")
    token = signed(claims("read:mail"), key, algorithm, kid="k1")
    assert (await with_jwks(tmp_path / "jwks.json", k0=rsa.generate_private_key(public_exponent=65537, key_size=2048), k1=key).verify(token)).may(
        "read", "mail"
    )


async def test_scopes_may_be_a_list() -> None:
    assert (await with_secret().verify(signed(claims(scope=["read:mail", 7])))).may("read", "mail")  # type: ignore[arg-type]


class FromNow(int):
    """Seconds from when the test runs, which is minutes after it was collected."""


BAD_CLAIMS: dict[str, tuple[dict[str, Any], type[Refused]]] = {
    "expired": ({"exp": 1}, CredentialsExpired),
    "expired a moment ago": ({"exp": FromNow(-30)}, CredentialsExpired),
    "not yet valid": ({"nbf": FromNow(300)}, CredentialsInvalid),
    "issued in the future": ({"iat": FromNow(300)}, CredentialsInvalid),
    "for others": ({"aud": "others"}, CredentialsInvalid),
    "for nobody": ({"aud": None}, CredentialsInvalid),
    "by others": ({"iss": "https://evil.example"}, CredentialsInvalid),
    "by nobody": ({"iss": None}, CredentialsInvalid),
    "without an end": ({"exp": None}, CredentialsInvalid),
    "an end that is no number": ({"exp": "tomorrow"}, CredentialsInvalid),
    "without a subject": ({"sub": None}, CredentialsInvalid),
    "a tenant that is none": ({"tenant": "a/b"}, CredentialsInvalid),
    "a tenant that is no text": ({"tenant": 7}, CredentialsInvalid),
    "a tenant of null": ({"tenant": {}}, CredentialsInvalid),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
async def test_a_token_whose_claims_are_wrong_is_refused(case: str) -> None:
    changed, kind = BAD_CLAIMS[case]
    changed = {name: int(time.time()) + value if isinstance(value, FromNow) else value for name, value in changed.items()}
    assert type(await refused(with_secret(), signed(claims("*:*", **changed)))) is kind


async def test_alg_none_is_no_algorithm() -> None:
    for name in ("none", "None", "NONE", "nOnE"):
        for signature in (b"", b"x"):
            await refused(with_secret(), forged({"alg": name, "typ": "JWT"}, claims("*:*"), signature))


async def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    """Key confusion: HMAC over the token with the public key's own bytes, which everybody has."""
    verifiers = [with_pem(tmp_path, RSA), with_jwks(tmp_path / "jwks.json", k1=RSA)]
    for kid in ({}, {"kid": "k1"}):
        unsigned = forged({"alg": "HS256", "typ": "JWT", **kid}, claims("*:*")).rstrip(".")
        for text in (public_pem(RSA), public_pem(RSA).strip(), json.dumps(public_jwk(RSA, "k1")).encode()):
            mac = hmac.new(text, unsigned.encode(), hashlib.sha256).digest()
            head, payload = unsigned.split(".")
            token = f"{head}.{payload}.{forged({}, {}, mac).rpartition('.')[2]}"
            for verifier in verifiers:
                await refused(verifier, token)


async def test_a_token_may_not_bring_its_own_key(tmp_path: Path) -> None:
    mallory = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for header in ({"jwk": public_jwk(mallory, "k1")}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/cert"}, {"kid": "../../etc/passwd"}):
        await refused(with_pem(tmp_path, RSA), signed(claims("*:*"), mallory, "RS256", **header))


async def test_a_header_that_must_be_understood_and_is_not_refuses_the_token() -> None:
    await refused(with_secret(), signed(claims("*:*"), crit=["exp2"], exp2=1))


async def test_an_algorithm_that_the_key_is_not_for_is_refused(tmp_path: Path) -> None:
    other_curve = ec.generate_private_key(ec.SECP384R1())
    await refused(with_pem(tmp_path, EC), signed(claims("*:*"), other_curve, "ES384"))
    await refused(with_secret(), signed(claims("*:*"), RSA, "RS256"))
    await refused(with_pem(tmp_path, RSA), signed(claims("*:*")))


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "e30.e30.e30",
        "e30..",
        ".".join(["eyJhbGciOiJIUzI1NiJ9"] * 3),
        "eyJhbGciOiJIUzI1NiJ9.W10.x",
        forged({"alg": ["HS256"]}, {}),
        forged({"alg": "HS256", "kid": 7}, {}),
        forged({"alg": "HS256", "kid": {"a": 1}}, {}),
        forged({"alg": "A" * 3000}, {}),
    ],
)
async def test_what_is_malformed_is_refused(token: str) -> None:
    assert isinstance(await refused(with_secret(), token), CredentialsInvalid)


async def test_every_byte_of_a_token_counts() -> None:
    token = signed(claims("read:mail"))
    for place in range(0, len(token), 7):
        if token[place] != ".":
            changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
            await refused(with_secret(), changed)


async def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    verifier = with_jwks(path, old=EC)
    assert (await verifier.verify(signed(claims("read:a"), EC, "ES256", kid="old"))).name == "somebody"
    new = ec.generate_private_key(ec.SECP256R1())
    path.write_text(json.dumps({"keys": [public_jwk(new, "new")]}))
    assert (await verifier.verify(signed(claims("read:a"), new, "ES256", kid="new"))).name == "somebody"
    assert (await refused(verifier, signed(claims("read:a"), EC, "ES256", kid="old"))).detail == "unknown_key"


async def test_keys_are_kept_while_their_source_is_away_and_said_to_be_missing_when_there_never_were_any(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    verifier = with_jwks(path, k1=EC)
    token = signed(claims("read:a"), EC, "ES256", kid="k1")
    await verifier.verify(token)
    path.unlink()
    await refused(verifier, signed(claims("read:a"), EC, "ES256", kid="k2"))
    await verifier.verify(token)
    never = JwtVerifier(AuthConfig(jwt_jwks=str(path), jwt_issuer=ISSUER, jwt_audience=AUDIENCE))
    assert isinstance(await refused(never, token), KeysAway)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 7}', '{"keys": [7, {}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA"}]}', "{" * 5000])
async def test_a_set_that_holds_no_key_for_us_verifies_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(text)
    jwks = Jwks(str(path))
    await jwks.look_again()
    assert jwks.keys == ()


async def test_unknown_keys_cause_one_fetch_and_not_more(tmp_path: Path) -> None:
    """Otherwise whoever invents key ids makes us hammer the provider."""
    fetched = 0
    hits = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal fetched
        await reader.readuntil(b"\r\n\r\n")
        fetched += 1
        hits.set()
        body = json.dumps({"keys": [public_jwk(EC, "k1")]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        verifier = JwtVerifier(AuthConfig(jwt_jwks=f"http://127.0.0.1:{port}/jwks", jwt_issuer=ISSUER, jwt_audience=AUDIENCE))
        tokens = [signed(claims("read:a"), EC, "ES256", kid=f"invented-{number}") for number in range(20)]
        await asyncio.gather(*(refused(verifier, token) for token in tokens))
        await verifier.verify(signed(claims("read:a"), EC, "ES256", kid="k1"))
    assert fetched == 1


async def test_a_redirect_to_other_keys_is_not_followed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        jwks = Jwks(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await jwks.look_again()
    assert jwks.keys == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"jwt_secret": "short", "jwt_issuer": "i", "jwt_audience": "a"},
        {"jwt_secret": SECRET},
        {"jwt_secret": SECRET, "jwt_issuer": "i"},
        {"jwt_issuer": "i", "jwt_audience": "a"},
        {"jwt_jwks": "http://id.example/jwks", "jwt_issuer": "i", "jwt_audience": "a"},
        {"jwt_jwks": "ftp://id.example/jwks", "jwt_issuer": "i", "jwt_audience": "a"},
    ],
)
def test_a_half_configured_verifier_is_refused_without_saying_the_secret(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"JWT|JWKS") as caught:
        AuthConfig(**settings)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_a_weak_rsa_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2048"):
        with_pem(tmp_path, rsa.generate_private_key(public_exponent=65537, key_size=1024))


def test_secrets_do_not_show_in_a_configuration() -> None:
    config = AuthConfig(jwt_secret=SECRET, jwt_issuer="i", jwt_audience="a")
    assert SECRET not in repr(config)
