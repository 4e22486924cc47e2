"""How a broker is reached: over TLS or not, and with which key. Nothing of it appears in a message or a log."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

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
        for path in (self.key_file, self.ca if self.ca not in ("", _SYSTEM) else None, self.certificate, self.certificate_key):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"credentials: {path} is no file")
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

    def channel(self, address: str, options: Sequence[tuple[str, Any]], host: str = "") -> grpc.aio.Channel:
        """A connection to one broker. `host` is the name that its certificate must be of, where `address` is only where that name leads."""
        if not self.ca:
            return grpc.aio.insecure_channel(address, options=options)
        authorities = None if self.ca == _SYSTEM else Path(self.ca).read_bytes()
        chain = Path(self.certificate).read_bytes() if self.certificate is not None else None
        key = Path(self.certificate_key).read_bytes() if self.certificate_key is not None else None
        named = [("grpc.ssl_target_name_override", host)] if host else []
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, chain), options=[*options, *named])


class Bearer:
    """The metadata of calls. The key's file is read at most once a second; while it can't be read, the last key is sent."""

    def __init__(self, credentials: Credentials) -> None:
        """Read it for the first time. Raises ValueError."""
        self._credentials = credentials
        self._metadata = self._read()
        self._read_at = time.monotonic()

    def metadata(self) -> Metadata:
        """What to send with a call."""
        if self._credentials.key_file is not None and time.monotonic() - self._read_at > _REREAD_S:
            self._read_at = time.monotonic()
            try:
                self._metadata = self._read()
            except ValueError:
                return self._metadata
        return self._metadata

    def _read(self) -> Metadata:
        authorization = self._credentials.authorization()
        return (("authorization", authorization),) if authorization else ()
