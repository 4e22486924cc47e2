"""How a broker is reached: over TLS or not, and with which key. Nothing of it appears in a message or a log."""

import logging
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

log = logging.getLogger("jobwire.worker")

_MAX_KEY = 8192
_SYSTEM = "system"
_REREAD_S = 1.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a broker wants of whoever connects to it. The default is plain text and no key, as on one machine."""

    key: str = field(default="", repr=False)
    """An API key or a token."""

    key_file: str | Path | None = None
    """A file that holds one. It is read again when it may have changed, so it can be renewed while the program runs."""

    ca: str | Path = ""
    """TLS: a file with the authorities that the broker's certificate must be of, or `system` for those that this machine trusts. Empty: plain text."""

    certificate: str | Path | None = None
    """A client certificate in PEM, for brokers that want one. Needs `ca` and `certificate_key`."""

    certificate_key: str | Path | None = None
    """Its key."""

    def __post_init__(self) -> None:
        if self.key and self.key_file is not None:
            raise ValueError("credentials: give a key or a key file, not both")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("credentials: a certificate needs its key, and a key its certificate")
        if self.certificate is not None and not self.ca:
            raise ValueError("credentials: a certificate is shown over TLS alone; say which authorities to trust (ca)")
        self.transport()
        self.authorization()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Credentials":
        """From JOBWIRE_API_KEY or JOBWIRE_API_KEY_FILE, JOBWIRE_TLS_CA, JOBWIRE_CLIENT_CERT and JOBWIRE_CLIENT_KEY.

        Raises:
            ValueError: they do not fit, or a file is missing. The message holds no secret.
        """
        return cls(
            key=environment.get("JOBWIRE_API_KEY", ""),
            key_file=environment.get("JOBWIRE_API_KEY_FILE") or None,
            ca=environment.get("JOBWIRE_TLS_CA", ""),
            certificate=environment.get("JOBWIRE_CLIENT_CERT") or None,
            certificate_key=environment.get("JOBWIRE_CLIENT_KEY") or None,
        )

    def authorization(self) -> str | None:
        """What the metadata `authorization` says; None without a key.

        Raises:
            ValueError: the file can't be read, or what it holds can't be sent.
        """
        if not self.key and self.key_file is None:
            return None
        try:
            key = (self.key if self.key_file is None else Path(self.key_file).read_text("utf-8")).strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"credentials: {self.key_file} can't be read: {type(error).__name__}") from None
        if not 1 <= len(key) <= _MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("credentials: the key is empty, too long, or holds characters that can't be sent")
        return f"Bearer {key}"

    def transport(self) -> "Transport":
        """How to connect, with what its files of authorities and certificates hold now.

        Raises:
            ValueError: one can't be read or is of no use. With it gRPC would make a channel that never connects, and end the process where it is empty.
        """
        if not self.ca:
            return Transport(secure=False)
        authorities = None if self.ca == _SYSTEM else _read_certificates(self.ca)
        if self.certificate is None or self.certificate_key is None:
            return Transport(secure=True, authorities=authorities)
        key, chain = _read_pair(self.certificate_key, self.certificate)
        return Transport(secure=True, authorities=authorities, key=key, chain=chain)


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Plain text, or TLS with what it takes, in PEM."""

    secure: bool
    authorities: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    chain: bytes | None = None

    def channel(self, address: str, options: Sequence[tuple[str, Any]], host: str = "") -> grpc.aio.Channel:
        """A connection to one broker. `host` is the name that its certificate must be of, where `address` is only where that name leads."""
        if not self.secure:
            return grpc.aio.insecure_channel(address, options=options)
        named = [("grpc.ssl_target_name_override", host)] if host else []
        credentials = grpc.ssl_channel_credentials(self.authorities, self.key, self.chain)
        return grpc.aio.secure_channel(address, credentials, options=[*options, *named])


class Bearer:
    """What is shown to brokers. Files are read at most once a second; while one can't be read or is of no use, what it held before is shown."""

    def __init__(self, credentials: Credentials) -> None:
        """Read all for the first time. Raises ValueError."""
        self._credentials = credentials
        self._metadata = self._read()
        self._read_at = time.monotonic()
        self._transport = credentials.transport()
        self._transport_read_at = time.monotonic()
        self._trouble = ""

    def metadata(self) -> Metadata:
        """What to send with a call."""
        if self._credentials.key_file is not None and time.monotonic() - self._read_at > _REREAD_S:
            self._read_at = time.monotonic()
            try:
                self._metadata = self._read()
            except ValueError:
                return self._metadata
        return self._metadata

    def transport(self) -> Transport:
        """How to connect now. It is another one when a file of certificates has changed."""
        if self._transport.secure and time.monotonic() - self._transport_read_at > _REREAD_S:
            self._transport_read_at = time.monotonic()
            try:
                self._transport, trouble = self._credentials.transport(), ""
            except ValueError as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                log.warning("credentials.not_renewed error=%r: what was read before stays in use; exchange the files once more", trouble)
            self._trouble = trouble
        return self._transport

    def _read(self) -> Metadata:
        authorization = self._credentials.authorization()
        return (("authorization", authorization),) if authorization else ()


def _read_file(path: str | Path) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"credentials: {path} can't be read: {error.strerror}; name a file that is there and that this user may read") from None
    if not content:
        raise ValueError(f"credentials: {path} is empty; it must hold PEM")
    return content


def _read_certificates(path: str | Path) -> bytes:
    content = _read_file(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:
        raise ValueError(f"credentials: {path} holds no certificate in PEM; it must have lines from BEGIN CERTIFICATE to END CERTIFICATE") from None
    return content


def _read_pair(key: str | Path, certificate: str | Path) -> tuple[bytes, bytes]:
    """What the files of a key and its certificate hold."""
    content = _read_file(key), _read_certificates(certificate)
    try:
        # A key that needs a password would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except OSError:
        raise ValueError(f"credentials: {key} is not the key of {certificate}; it must hold that in PEM and without a password") from None
    return content
